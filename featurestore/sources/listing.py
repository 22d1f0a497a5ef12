"""A listing: the items of a source as an Arrow table, and the options that say how to read one."""

from __future__ import annotations

import difflib
import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource, DuplicateIds, MissingColumn
from featurestore.sources.locations import Location
from featurestore.sources.name_groups import is_from_names
from featurestore.storage.columns import new_columns, without_nan
from featurestore.terms.boxes import picture_of
from featurestore.terms.specs import Modality

LISTING = pa.schema(
    [
        ("item_id", pa.string()),
        ("uri", pa.string()),  # of an image, relative to the root of its source
        ("text", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("split", pa.string()),
        ("group", pa.string()),
    ]
)
# Columns that the store fills itself; a table's own column of such a name gets a "_" behind.
RESERVED = frozenset({*LISTING.names, "source", "content_hash", "vector"})
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class SourceOptions:
    """What the user says of a source; None where the source itself is to tell."""

    image: str | None = None  # column of paths
    text: str | None = None  # column of texts
    label: tuple[str, ...] | None = None
    split: str | None = None
    group: str | None = None  # a column, or an SQL expression over the listing
    id: str | None = None
    columns: tuple[str, ...] | None = None  # names for a table without a header
    follow_links: bool | None = None  # also links that leave the folder
    boxes: str | None = None  # annotations of a folder's pictures, whose boxes are the items
    box: tuple[str, ...] | None = None  # columns of x, y, width, height, in pixels
    box_margin: float | None = None  # share of its sides by which a box grows, at each side

    def over(self, earlier: SourceOptions | None, location: Location) -> SourceOptions:
        """Return these options, with what they leave open taken from an earlier run.

        Raises
        ------
        BadSource
            If they name other contents or ids: every item would become another one.
        """
        said = {name: value for name, value in asdict(self).items() if value is not None}
        if self.boxes is not None:
            said["boxes"] = Location.of(self.boxes).text
        if earlier is None:
            return replace(self, **said)
        for flag in ("image", "text", "id", "box"):
            before = getattr(earlier, flag)
            if said.get(flag, before) != before:
                earlier_flag = f"--{flag} {_said(before)}" if before else f"no --{flag}"
                raise _other_items(location, earlier_flag, f"--{flag} {_said(said[flag])}")
        if self.boxes is not None and earlier.boxes is None:
            raise _other_items(location, "no --boxes", f"--boxes {self.boxes}")
        return replace(earlier, **said)


def _said(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _other_items(location: Location, before: str, now: str) -> BadSource:
    return BadSource(
        f"{location} was embedded with {before}, not with {now}: its items would be others; give "
        "it another --dataset name"
    )


@dataclass(frozen=True, eq=False)
class Listing:
    """The items of a source, one row each, sorted as the source has them."""

    rows: pa.Table
    modality: Modality
    label_columns: tuple[str, ...]
    notes: tuple[str, ...] = ()  # for the user's eyes
    covers: tuple[str, ...] | None = None  # beginnings of uris it looked at; None: all of them
    unread: tuple[str, ...] = ()  # beginnings of uris that it could not look at
    pointed: frozenset[str] = frozenset()  # columns whose whole numbers are written 1.0
    failed: Mapping[str, str] = field(default_factory=dict)  # ids of rows without content → why


class Source(Protocol):
    """A folder, table or collection of shards."""

    @property
    def kind(self) -> str:
        """``folder``, ``table``, ``webdataset`` or ``datasets``."""

    @property
    def root(self) -> str:
        """The folder (or URL) that uris are relative to."""

    @property
    def name(self) -> str:
        """A short name: that of the folder or file."""

    @property
    def location(self) -> Location:
        """What the user named: the folder, file or data set."""

    def listing(self, options: SourceOptions) -> Listing:
        """List the items."""


def checked(rows: pa.Table, source: Source) -> pa.Table:
    """Return the listing's rows, or say why they cannot be items."""
    if len(rows) == 0:
        raise BadSource(f"{source.location} holds no items: {_EXPECTED[source.kind]}")
    repeated = [name for name, n in Counter(rows.column_names).items() if n > 1]
    if repeated:
        raise BadSource(
            f"{source.location.name} has columns of one name: {', '.join(repeated)}; rename them"
        )
    new_columns(rows.schema, rows.schema)  # two names that differ in case alone
    ids = rows.column("item_id")
    if ids.null_count:
        raise BadSource(
            f"{ids.null_count} rows of {source.location} have no id: fill the id column"
        )
    check_once(ids, str(source.location))
    return rows


def check_once(ids: pa.ChunkedArray, where: str) -> None:
    """Raise DuplicateIds for ids of which one stands more than once."""
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        shown = ", ".join(map(repr, repeated.field("values").to_pylist()[:3]))
        raise DuplicateIds(
            f"{len(repeated)} ids stand more than once in {where} (first: {shown}): "
            "they must be unique; name a column of unique values with --id"
        )


def require_column(name: str, known: list[str], flag: str, location: Location) -> str:
    """Return ``name`` where the table has it.

    Raises
    ------
    MissingColumn
        With the columns that there are.
    """
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise MissingColumn(
        f"{location.name} has no column {name!r} ({flag}): {hint}columns: {', '.join(known)}"
    )


def evaluate_group(rows: pa.Table, expression: str) -> pa.Table:
    """Fill the group column from a column name or an SQL expression over the listing.

    ``stem`` is the file name without folder and ending: ``--group "split_part(stem, '_', 1)"``.
    """
    from featurestore.storage.query import evaluate

    if not expression.strip():
        raise BadSource("--group is empty: expected a column or an SQL expression")
    groups = evaluate(expression, with_stem(rows))
    if pa.types.is_nested(groups.type):
        raise BadSource(f"--group {expression} gives {groups.type}: expected one value an item")
    if is_from_names(expression) and len(rows) and groups.null_count == len(rows):
        name = rows.column("uri")[0].as_py() or rows.column("item_id")[0].as_py()
        raise BadSource(
            f"--group-from finds no group in the {len(rows):,} names, such as {name}: expected a "
            "regular expression that is found in them, with the group in brackets; the folder is "
            "part of the name"
        )
    return with_group(rows, groups)


def with_stem(rows: pa.Table) -> pa.Table:
    """Add the column ``stem`` that expressions may use: an image's name without its ending."""
    names = [posixpath.basename(picture_of(one)) for one in rows.column("item_id").to_pylist()]
    stems = [posixpath.splitext(one)[0] for one in names]
    return rows.append_column("stem", pa.array(stems, pa.string()))


def with_group(rows: pa.Table, groups: pa.ChunkedArray) -> pa.Table:
    """Fill the group column."""
    at = rows.schema.get_field_index("group")
    return rows.set_column(at, "group", as_strings(groups))


def as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return plain values as texts; NaN is null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return without_nan(column).cast(pa.string())


def canonical_split(value: object) -> str | None:
    """Name a split as we do; unknown names stay as they are, lower-cased.

    >>> canonical_split("Validation"), canonical_split("fold1"), canonical_split(" ")
    ('val', 'fold1', None)
    """
    if value is None or value != value:
        return None
    lowered = str(value).strip().lower()
    return SPLITS.get(lowered, lowered) or None


_EXPECTED = {
    "folder": "expected image files in it or in folders below it (class folders become labels)",
    "table": "expected at least one row below the header",
    "webdataset": "expected samples of .jpg, .png, .webp or .txt files in the shards",
    "datasets": "expected at least one row",
}
