"""Names that look like groups: ``exp1_001.png``, frames of a video, patients, places."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from featurestore.errors import BadName

_LEAST_MATCHED = 0.9  # of the names
_LEAST_MEAN = 2.0  # items in a group, on average
MOST_NAMES = 20_000  # looked at; frames of one video stand beside each other
_ROW = re.compile(r"\.(?:csv|tsv|jsonl?|parquet|arrow)(?:\.\w+)?:\d+$")  # no name: file:row
PATTERNS = (  # as `re` and DuckDB read them; brackets hold the group
    r"(-?\d{1,3}\.\d\d)\d+_(-?\d{1,3}\.\d\d)\d+[^/]*$",  # longitude_latitude: cells of 0.01 degrees
    r"([^/]*\d[^/]*)[_-]\d+\.\w+$",  # exp1_001.png, clip7_frame_0012.png
    r"([^/]+)[_-](?:frame|slice|tile|patch|crop)[_-]?\d+\.\w+$",  # highway_frame12.png
    r"(?:^|/)([A-Za-z]+\d+)[_-]",  # P012_left.png
    r"([^/]*\d[^/]*)/[^/]+$",  # P012/left.png
)


_FROM_NAMES = "nullif(concat_ws('_', "  # so begin our own expressions


@dataclass(frozen=True)
class NameGroups:
    """What the names of items look like."""

    pattern: str  # for --group-from
    n_groups: int
    examples: tuple[str, ...]  # two names of groups

    def sentence(self, command: str = "") -> str:
        """Say it in a line, with the option that makes groups of them, or the whole command."""
        words = f"{command} --group-from {shlex.quote(self.pattern)}".strip()
        return (
            f"the names look like {self.n_groups:,} groups ({', '.join(self.examples)}, …): where "
            "items of one group are alike, scores are too high unless they stay together: "
            f"`{words}` keeps them together"
        )


def name_groups(names: Sequence[str], labels: Sequence[object] | None = None) -> NameGroups | None:
    """Return the groups that file names look like; None for plain numbers and for classes.

    A pattern counts where nine of ten names have it, the groups hold two items or more on
    average, and they are something else than the labels.

    >>> name_groups(["exp1_1.png", "exp1_2.png", "exp2_1.png", "exp2_2.png"]).n_groups
    2
    >>> name_groups(["img_1.png", "img_2.png", "0003.png", "0004.png"])
    """
    names = [one for one in islice(names, MOST_NAMES) if not _ROW.search(one)]
    for pattern in PATTERNS:
        found = [group_of(pattern, name) for name in names]
        groups = Counter(one for one in found if one is not None)
        n = sum(groups.values())
        if n < _LEAST_MATCHED * len(names) or len(groups) < 2 or n < _LEAST_MEAN * len(groups):
            continue
        if all(re.fullmatch(r"(?:19|20)\d\d", one) for one in groups):
            continue  # 2007_000027.jpg: years
        if labels is not None and _are_labels(found, labels):
            continue
        examples = tuple(name for name, _ in groups.most_common(2))
        return NameGroups(pattern, len(groups), examples)
    return None


def group_of(pattern: str, name: str) -> str | None:
    """Return what a pattern finds in a name: what its brackets hold, or all; None for nothing."""
    match = re.search(pattern, name)
    if match is None:
        return None
    found = "_".join(one or "" for one in match.groups()) if match.groups() else match[0]
    return found if found.strip("_") else None


def as_expression(pattern: str) -> str:
    """Return `group_of` of an item's name as an SQL expression, for ``--group``.

    Raises
    ------
    BadName
        If it is no regular expression.
    """
    try:
        n = re.compile(pattern).groups
    except re.error as error:
        raise BadName(f"{pattern!r} is no regular expression: {error}") from None
    quoted = pattern.replace("'", "''")
    found = [
        f"regexp_extract(coalesce(uri, item_id), '{quoted}', {at})" for at in range(bool(n), n + 1)
    ]
    return f"{_FROM_NAMES}{', '.join(found)}), '{'_' * (len(found) - 1)}')"


def said_of_group(expression: str) -> str:
    """Return what a person reads of the origin of groups."""
    return "their names" if is_from_names(expression) else expression


def is_from_names(expression: str) -> bool:
    """Whether `as_expression` made it."""
    return expression.startswith(_FROM_NAMES)


def _are_labels(groups: Sequence[str | None], labels: Sequence[object]) -> bool:
    """Whether each group has one label, and no label more than one group."""
    pairs = {(group, label) for group, label in zip(groups, labels, strict=False) if group}
    n_groups, n_labels = (len({pair[at] for pair in pairs}) for at in (0, 1))
    return len(pairs) == n_groups and n_groups <= n_labels
