"""LanceDB: a folder, or an address in an object store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain

import lancedb
import pyarrow as pa

from featurestore.publish.marks import MARKS
from featurestore.publish.rows import DIGEST
from featurestore.publish.targets import without_password

_ROWS_A_COMMIT = 1_000_000  # a kill loses so many at most
_ROWS_AT_ONCE = 5_000  # in one condition
_MARK = pa.schema([pa.field("name", pa.string()), pa.field("mark", pa.string())])


@contextmanager
def opened(address: str, table: str) -> Iterator[LanceTarget]:
    """Open a table of the database in a folder."""
    yield LanceTarget(address, table)


class LanceTarget:
    """One table of a LanceDB database."""

    def __init__(self, address: str, table: str) -> None:
        self.address, self.name = address, table
        self.where = f"table {table!r} of {without_password(f'lancedb:{address}')}"
        self._database = lancedb.connect(address)

    def read_mark(self) -> str | None:
        """Return the mark's JSON; None where there is none."""
        marks = self._open(MARKS)
        if marks is None:
            return None
        found = marks.search().where(f"name = {_quoted(self.name)}").to_arrow()
        return found.column("mark")[0].as_py() if len(found) else None

    def write_mark(self, text: str) -> None:
        """Write the mark's JSON."""
        marks = self._database.create_table(MARKS, schema=_MARK, exist_ok=True)
        row = pa.table({"name": [self.name], "mark": [text]}, schema=_MARK)
        _merge(marks, "name", row)

    def count(self) -> int | None:
        """Return the number of rows; None where there is no table."""
        table = self._open(self.name)
        return None if table is None else int(table.count_rows())

    def digests(self) -> Iterator[pa.Table]:
        """Yield ids and digests of all rows."""
        found = self._table.search().select(["item_id", DIGEST]).to_batches()
        return (pa.table(batch) for batch in found)

    def prepare(self, schema: pa.Schema) -> None:
        """Make the table, or give it these columns."""
        table = self._open(self.name)
        if table is None:
            self._database.create_table(self.name, schema=schema)
            return
        other = [one.name for one in table.schema if one not in schema]
        if other:
            table.drop_columns(other)
        if new := [one for one in schema if one.name not in table.schema.names]:
            table.add_columns(pa.schema(new))

    def upsert(self, rows: Iterator[pa.Table]) -> None:
        """Write rows, a million a commit."""
        schema = self._table.schema
        while (first := next(rows, None)) is not None:
            some = _up_to(_ROWS_A_COMMIT, first, rows)
            batches = (batch for block in some for batch in block.select(schema.names).to_batches())
            _merge(self._table, "item_id", pa.RecordBatchReader.from_batches(schema, batches))

    def delete(self, rows: pa.Table) -> None:
        """Delete rows by their digests: LanceDB keeps the condition, where an id would stay."""
        digests = rows.column(DIGEST).drop_null()
        for start in range(0, len(digests), _ROWS_AT_ONCE):
            some = map(str, digests.slice(start, _ROWS_AT_ONCE).to_pylist())
            self._table.delete(f"{DIGEST} IN ({', '.join(some)})")
        if len(digests) < len(rows):  # not ours
            self._table.delete(f"{DIGEST} IS NULL")

    def purge(self) -> str:
        """Write the table anew, and delete all versions but this one; its indexes go, too."""
        batches = self._table.search().to_batches()
        self._database.create_table(self.name, batches, mode="overwrite")
        with warnings.catch_warnings():  # it warns of just this
            warnings.filterwarnings("ignore", message="optimize", category=UserWarning)
            self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
        return f"{self.where} was written anew, without old versions: an index is to be made again"

    def type_next(self) -> str:
        """Return a line of Python that searches the table."""
        place = f"lancedb.connect({self.address!r}).open_table({self.name!r})"
        return f'{place}.search(query).distance_type("cosine").limit(10).to_pandas()'

    @property
    def _table(self) -> lancedb.table.Table:
        return self._database.open_table(self.name)

    def _open(self, name: str) -> lancedb.table.Table | None:
        page, tables = None, []
        while True:
            found = self._database.list_tables(page_token=page)
            tables += found.tables
            if not (page := found.page_token):
                return self._database.open_table(name) if name in tables else None


def _merge(table: lancedb.table.Table, key: str, rows: pa.Table | pa.RecordBatchReader) -> None:
    written = table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
    written.execute(rows)


def _up_to(n: int, first: pa.Table, rows: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield blocks until they have ``n`` rows."""
    for block in chain([first], rows):
        yield block
        n -= len(block)
        if n <= 0:
            return


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
