"""What a run took the items for, in a line, and what of it looks like an oversight."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.pipeline.counted import Counted
from featurestore.sources.name_groups import MOST_NAMES, NameGroups, name_groups, said_of_group
from featurestore.storage.dataset_file import SourceRecord, task_of
from featurestore.terms.labels import SEPARATOR, class_name
from featurestore.terms.specs import Modality

_ENOUGH_TO_WONDER = 5  # labels that are all alike
_MANY_CLASSES = 20  # so many with one item each are ids, it seems
_SHOWN_LABELS = 3
_BY_PICTURE = "picture: boxes of one stay together in evaluation"
_MISSING = re.compile(
    r"\s*(?:n/?a|nan|null|none|nil|\?+|-+|#n/a|<na>|-1(?:\.0)?|)\s*", re.IGNORECASE
)


def understood(
    found: Counted, modality: Modality, labels: Sequence[str], sources: Mapping[str, SourceRecord]
) -> list[str]:
    """Say in one line which items, classes, groups and splits there are, then what looks odd.

    Parameters
    ----------
    found : Counted
        Of a listing: its label columns, ``source``, ``group`` and ``split``.
    labels : sequence of str
        Its label columns.
    sources : mapping of str to SourceRecord
        With what the user said of each.
    """
    named = found.values("source").to_pylist()
    used = [sources[name] for name in named if name in sources]
    parts, notes = [], []
    for name in labels[:_SHOWN_LABELS]:
        if name in found:
            counts, n_without = class_counts(found[name])
            parts.append(_classes(found.values(name), counts, n_without, _origin(name, used)))
            if task_of(found.values(name)) != "regression":
                notes += _oddities(name, counts)
    if len(labels) > _SHOWN_LABELS:
        parts.append(f"{len(labels) - _SHOWN_LABELS} more label columns")
    groups = group_sizes(found["group"])
    if groups is not None:
        given = (said_of_group(one) for one in map(_group_of, used) if one)
        said = dict.fromkeys(given)
        parts.append(f"{describe_groups(groups)}{' by ' + ', '.join(said) if said else ''}")
    splits = Counter(dict(zip(*(one.to_pylist() for one in found["split"].columns), strict=True)))
    n_unsplit = splits.pop(None, 0)
    if splits:
        notes += _split_by_name(splits, n_unsplit, used)
        shown = [f"{name} {n:,}" for name, n in splits.most_common()]
        shown += [f"none {n_unsplit:,}"] if n_unsplit else []
        parts.append(f"splits {', '.join(shown)}")
    if modality is Modality.TEXT:
        parts += [f"{found.n_copies:,} exact copies"] if found.n_copies else []
    elif labels and groups is None and (names := named_groups(found.first, labels[0])) is not None:
        notes.append(names.sentence())
    kind = "picture" if modality is Modality.IMAGE else "text"
    if used and all(map(_has_boxes, used)):
        kind = "box"
    kind += ("es" if kind == "box" else "s") * (found.n_rows != 1)
    said_first = f"{found.n_rows:,} {kind}: {'; '.join(parts) or 'no labels, groups or splits'}"
    return [said_first, *notes]


def named_groups(rows: pa.Table, label: str) -> NameGroups | None:
    """Return the groups that the names of pictures look like; None where there are groups.

    ``rows`` are items, or a listing; their labels are looked at, lest classes pass for groups.
    """
    if label not in rows.column_names or rows.column("group").null_count < len(rows):
        return None
    rows = rows.slice(0, MOST_NAMES)
    names = pc.coalesce(rows.column("uri"), rows.column("item_id")).to_pylist()
    return name_groups(names, rows.column(label).to_pylist())


def class_counts(values: pa.Table) -> tuple[Counter[str], int]:
    """Return how many items each class has, and how many items have none."""
    counts: Counter[str] = Counter()
    n_without = 0
    for value, n in zip(*(one.to_pylist() for one in values.columns), strict=True):
        if value is None or value == "" or value != value:
            n_without += n
            continue
        names = value.split(SEPARATOR) if isinstance(value, str) else [class_name(value)]
        counts.update({name: n for name in names if name})
    return counts, n_without


def group_sizes(counts: pa.Table) -> dict[str, int] | None:
    """Return how many groups there are, their smallest and largest, and the items in none."""
    has_group = counts["value"].is_valid()
    sizes = counts["n"].filter(has_group)
    if len(sizes) == 0:
        return None
    least, most = pc.min_max(sizes).as_py().values()
    without = pc.sum(counts["n"]).as_py() - pc.sum(sizes).as_py()
    return {"n": len(sizes), "min": least, "max": most, "without": without}


def describe_groups(groups: Mapping[str, int]) -> str:
    """Say it: 60 groups (2–29 items)."""
    without = f", {groups['without']:,} items in none" if groups["without"] else ""
    span = _span(groups["min"], groups["max"])
    is_one = groups["n"] == 1
    return f"{groups['n']:,} group{'' if is_one else 's'} ({span} items{without})"


def _split_by_name(splits: Counter[str], n_unsplit: int, used: Sequence[SourceRecord]) -> list[str]:
    """Say that the name of a file made all items one split: there is nothing else to tell by."""
    by_name = all(one.kind in ("table", "webdataset") and not one.options.get("split")
                  for one in used)  # fmt: skip
    if len(splits) > 1 or n_unsplit or not used or not by_name:
        return []
    return [
        f"all items are in the split {next(iter(splits))!r}, after the name of their file: where "
        "that is wrong, rename the file or name a column of splits with --split"
    ]


def _span(least: int, most: int) -> str:
    return f"{least:,}–{most:,}" if least < most else f"{least:,}"


def _has_boxes(record: SourceRecord) -> bool:
    return bool(record.options.get("boxes") or record.options.get("box"))


def _group_of(record: SourceRecord) -> str | None:
    """Return what groups the items of a source: boxes are grouped by their picture."""
    given = record.options.get("group")
    return str(given) if given else _BY_PICTURE if _has_boxes(record) else None


def _origin(name: str, used: Sequence[SourceRecord]) -> str:
    if name == "label" and used and all(one.options.get("boxes") for one in used):
        return "from the annotations"
    kinds = {one.kind for one in used if not one.options.get("label")}
    if name == "label" and kinds == {"folder"}:
        return "from folder names"
    if name == "label" and kinds == {"webdataset"}:
        return "from .cls"
    return f"in {name}"


def _classes(column: pa.ChunkedArray, counts: Counter[str], n_without: int, origin: str) -> str:
    without = f", {n_without:,} items without" if n_without else ""
    if not counts:
        return f"no classes {origin}"
    task = task_of(column)
    if task == "regression":
        values: Any = pc.min_max(column.drop_null()).as_py()
        return f"numbers {origin} ({values['min']:g} to {values['max']:g}{without})"
    several = ", several an item" if task == "multilabel" else ""
    sizes = _span(min(counts.values()), max(counts.values()))
    kind = "classes" if len(counts) > 1 else "class"
    return f"{len(counts):,} {kind} {origin} (sizes {sizes}{several}{without})"


def _oddities(name: str, counts: Counter[str]) -> list[str]:
    """Say which classes look like oversights; nothing is changed."""
    notes = []
    alike: dict[str, list[str]] = {}
    for one in counts:
        alike.setdefault(" ".join(one.split()).casefold(), []).append(one)
    twice = [names for names in alike.values() if len(names) > 1]
    if twice:
        shown = ", ".join(f"{one!r} ({counts[one]:,})" for one in sorted(twice[0]))
        more = f", and {len(twice) - 1} more such" if len(twice) > 1 else ""
        notes.append(
            f"classes of {name} differ by blanks or case alone: {shown}{more}; they stay apart "
            "unless you write them alike"
        )
    signs = counts.keys() <= {"-1", "1"}  # as some write no and yes
    missing = [one for one in counts if _MISSING.fullmatch(one) and not signs]
    if missing:
        shown = ", ".join(f"{one!r} ({counts[one]:,})" for one in sorted(missing)[:3])
        notes.append(
            f"classes of {name} that look like a missing value: {shown}; they count as classes: "
            "leave the value empty where there is no label"
        )
    n_single = sum(n == 1 for n in counts.values())
    if len(counts) >= _MANY_CLASSES and 2 * n_single > len(counts):
        notes.append(f"{n_single:,} classes of {name} have one item each: is it an id column?")
    if len(counts) == 1 and counts.total() >= _ENOUGH_TO_WONDER:
        notes.append(
            f"all {counts.total():,} labels of {name} are {next(iter(counts))!r}, and heads need "
            "two classes: --limit takes the first items, which may be of one class, --sample "
            "draws them at random"
        )
    return notes
