"""What sources list, gathered: in memory as long as it is little, else on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.storage.columns import common_type, converted
from featurestore.storage.remote import StorePath
from featurestore.storage.spill import RowSpill

LARGE_ROWS = 1 << 18  # more rows go to the disk
CHUNK_ROWS = 1 << 16


class Gathered:
    """Listed rows, with a ``source`` column, in the order in which they came."""

    def __init__(self, near: StorePath) -> None:
        self.n_rows = 0
        self.sources: list[str] = []
        self._near = near
        self._tables: list[pa.Table] | RowSpill = []
        self._pointed: list[frozenset[str]] = []  # of each table; see `Listing`
        self._shown: dict[str, dict[pa.DataType, pa.ChunkedArray]] = {}  # values that tell a type

    def add(self, rows: pa.Table, source: str, pointed: frozenset[str]) -> None:
        """Take in the next rows of a source; ``pointed`` as in `Listing`."""
        names = pa.array([source], pa.string()).take(pa.array([0] * len(rows), pa.int8()))
        rows = rows.append_column("source", names)
        if source not in self.sources:
            self.sources.append(source)
        for name in rows.column_names:
            self._note(name, rows.column(name))
        self.n_rows += len(rows)
        if isinstance(self._tables, RowSpill):
            self._spill(self._tables, rows, pointed)
            return
        self._tables.append(rows)
        self._pointed.append(pointed)
        if self.n_rows > LARGE_ROWS:
            spill = RowSpill(self._near)
            tables, self._tables = zip(self._tables, self._pointed, strict=True), spill
            self._pointed = []
            for table, of_table in tables:
                self._spill(spill, table, of_table)

    def _spill(self, spill: RowSpill, rows: pa.Table, pointed: frozenset[str]) -> None:
        for start in range(0, len(rows), CHUNK_ROWS):
            spill.add(rows.slice(start, CHUNK_ROWS))
            self._pointed.append(pointed)

    def _note(self, name: str, column: pa.ChunkedArray) -> None:
        """Keep of each type of a column the values that decide which type holds all of them."""
        of_column = self._shown.setdefault(name, {})
        before = of_column.get(column.type)
        if column.null_count == len(column):  # it has the type of the others
            if before is None:
                of_column[column.type] = pa.chunked_array([pa.nulls(0, column.type)])
            return
        if not pa.types.is_integer(column.type):
            of_column[column.type] = column.drop_null().slice(0, 1)
            return
        ends = [*pc.min_max(column).as_py().values()]
        if before is not None and len(before):
            ends += pc.min_max(before).as_py().values()
        of_column[column.type] = pa.chunked_array([pa.array([min(ends), max(ends)], column.type)])

    @property
    def is_large(self) -> bool:
        """Whether it lies on the disk."""
        return isinstance(self._tables, RowSpill)

    def schema(self, stored: Mapping[str, pa.ChunkedArray]) -> pa.Schema:
        """Return columns of types that hold all values.

        Parameters
        ----------
        stored : mapping of str to ChunkedArray
            Values of columns that the store has with other types; they count.

        Raises
        ------
        BadSource
            If no type holds the values of a column.
        """
        fields = []
        for name, shown in self._shown.items():
            columns = [one for one in shown.values() if len(one)] or [*shown.values()][:1]
            if name in stored:
                columns.append(stored[name])
            fields.append(pa.field(name, common_type(name, columns)))
        return pa.schema(fields)

    def schemas(self) -> list[pa.Schema]:
        """Return schemas that have between them all types that a column has in some part."""
        return [pa.schema([(name, kind)]) for name, shown in self._shown.items() for kind in shown]

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield all rows, with the columns of a schema."""
        for rows, pointed in zip(self._tables, self._pointed, strict=True):
            columns = [
                converted(rows.column(field.name), field.type, has_point=field.name in pointed)
                if field.name in rows.column_names
                else pa.chunked_array([pa.nulls(len(rows), field.type)])
                for field in schema
            ]
            yield pa.Table.from_arrays(columns, names=schema.names)
