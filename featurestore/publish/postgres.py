"""PostgreSQL with the extension pgvector."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.types.json import Jsonb

from featurestore.errors import BadTarget
from featurestore.publish.marks import MARKS
from featurestore.publish.rows import DIGEST, VECTOR
from featurestore.publish.targets import without_password

_ID_BYTES = 2_600  # of a text in an index of PostgreSQL
_ROWS_AT_ONCE = 65_536
# Arrow's type, as a test of it → PostgreSQL's, as it spells it; anything else becomes jsonb.
_TYPES: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_string, "text"),
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_uint64, "numeric"),
    (pa.types.is_integer, "bigint"),
    (pa.types.is_floating, "double precision"),
    (pa.types.is_decimal, "numeric"),
    (pa.types.is_date, "date"),
    (pa.types.is_binary, "bytea"),
    (pa.types.is_large_binary, "bytea"),
)


@contextmanager
def opened(address: str, table: str) -> Iterator[PostgresTarget]:
    """Connect to a database, ``postgresql://USER@HOST/DATABASE``; one transaction a step."""
    where = without_password(f"pgvector:{address}")
    try:
        connection = psycopg.connect(address, autocommit=True)
    except psycopg.OperationalError as error:
        raise BadTarget(f"cannot reach {where}: {_first_line(error)}") from None
    with connection:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)
        except psycopg.Error as error:
            raise BadTarget(
                f"{where} has no extension pgvector ({_first_line(error)}): install it there, or "
                "ask who may: CREATE EXTENSION vector"
            ) from None
        yield PostgresTarget(connection, table, where)


class PostgresTarget:
    """One table of a PostgreSQL database."""

    def __init__(self, connection: psycopg.Connection[Any], table: str, where: str) -> None:
        self._connection, self.name = connection, table
        self.where = f"table {table!r} of {where}"
        self._table, self._marks = sql.Identifier(table), sql.Identifier(MARKS)

    def read_mark(self) -> str | None:
        """Return the mark's JSON; None where there is none."""
        if self._columns(MARKS) is None:
            return None
        found = self._run("SELECT mark FROM {} WHERE name = %s", self._marks, values=[self.name])
        return found[0][0] if found else None

    def write_mark(self, text: str) -> None:
        """Write the mark's JSON."""
        self._do("CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, mark text)", self._marks)
        self._do(
            "INSERT INTO {} VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET mark = excluded.mark",
            self._marks, values=[self.name, text],
        )  # fmt: skip

    def count(self) -> int | None:
        """Return the number of rows; None where there is no table."""
        if self._columns(self.name) is None:
            return None
        return int(self._run("SELECT count(*) FROM {}", self._table)[0][0])

    def digests(self) -> Iterator[pa.Table]:
        """Yield ids and digests of all rows."""
        asked = sql.SQL("SELECT item_id, {} FROM {}").format(sql.Identifier(DIGEST), self._table)
        with (
            self._connection.transaction(),  # a cursor on the server lives in one
            self._connection.cursor("keys") as cursor,
        ):
            cursor.execute(asked)
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                ids, digests = zip(*rows, strict=True)
                yield pa.table({"item_id": pa.array(ids, pa.string()), DIGEST: pa.array(digests)})

    def prepare(self, schema: pa.Schema) -> None:
        """Make the table, or give it these columns."""
        wanted = {one.name: _type(one) for one in schema}
        there = self._columns(self.name)
        with self._connection.transaction():
            if there is None:
                self._do("CREATE TABLE {} (item_id text PRIMARY KEY)", self._table)
                there = {"item_id": "text"}
            for name in there:
                if wanted.get(name) != there[name]:
                    self._do("ALTER TABLE {} DROP COLUMN {}", self._table, sql.Identifier(name))
            for name, kind in wanted.items():
                if there.get(name) != kind:
                    self._do(
                        "ALTER TABLE {} ADD COLUMN {} " + kind, self._table, sql.Identifier(name)
                    )

    def upsert(self, rows: Iterator[pa.Table]) -> None:
        """Write rows, a block a commit; the letter NUL becomes U+FFFD: PostgreSQL has it not."""
        for block in rows:
            self._check_ids(block.column("item_id"))
            names = [sql.Identifier(name) for name in block.column_names]
            kinds = [_type(one) for one in block.schema]
            values = [_values(block.column(one.name), one) for one in block.schema]
            with self._connection.transaction(), self._connection.cursor() as cursor:
                self._do("CREATE TEMP TABLE incoming (LIKE {}) ON COMMIT DROP", self._table)
                columns = sql.SQL(", ").join(names)
                copy = sql.SQL("COPY incoming ({}) FROM STDIN (FORMAT BINARY)").format(columns)
                with cursor.copy(copy) as written:
                    written.set_types([kind.partition("(")[0] for kind in kinds])
                    for row in zip(*values, strict=True):
                        written.write_row(row)
                update = sql.SQL(", ").join(
                    sql.SQL("{0} = excluded.{0}").format(name) for name in names
                )
                self._do(
                    "INSERT INTO {0} ({1}) SELECT {1} FROM incoming "
                    "ON CONFLICT (item_id) DO UPDATE SET {2}",
                    self._table, columns, update,
                )  # fmt: skip

    def delete(self, rows: pa.Table) -> None:
        """Delete rows."""
        ids = rows.column("item_id")
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            some = ids.slice(start, _ROWS_AT_ONCE).to_pylist()
            self._do("DELETE FROM {} WHERE item_id = ANY(%s)", self._table, values=[some])

    def purge(self) -> str:
        """Rewrite the table with its indexes."""
        self._do("VACUUM (FULL) {}", self._table)
        return (
            f"{self.where} was written anew (VACUUM FULL); logs and backups of the database may "
            "hold deleted rows longer"
        )

    def type_next(self) -> str:
        """Return a line of Python that searches the table."""
        table = self._table.as_string(self._connection)
        return (
            f"connection.execute('SELECT item_id FROM {table} ORDER BY {VECTOR} <=> %s LIMIT 10', "
            "[query]).fetchall()"
        )

    def _columns(self, table: str) -> dict[str, str] | None:
        """Return the columns of a table with their types; None where there is no table."""
        asked = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        )
        name = sql.Identifier(table).as_string(self._connection)
        found = self._connection.execute(asked, [name]).fetchall()
        return dict(found) or None

    def _check_ids(self, ids: pa.ChunkedArray) -> None:
        lengths = np.asarray(pc.binary_length(ids))
        if lengths.max(initial=0) > _ID_BYTES:
            long = str(ids[int(lengths.argmax())].as_py())
            raise BadTarget(
                f"{self.where}: an id of {lengths.max():,} bytes does not fit into an index of "
                f"PostgreSQL, which takes {_ID_BYTES:,}: {long[:60]}…"
            )

    def _run(self, text: str, *parts: sql.Composable, values: Sequence[Any] = ()) -> list[Any]:
        found: list[Any] = self._connection.execute(sql.SQL(text).format(*parts), values).fetchall()
        return found

    def _do(self, text: str, *parts: sql.Composable, values: Sequence[Any] = ()) -> None:
        self._connection.execute(sql.SQL(text).format(*parts), values)


def _type(field: pa.Field) -> str:
    """Return the type of a column, as PostgreSQL spells it."""
    kind = field.type
    if field.name == VECTOR:
        return f"vector({kind.list_size})"
    if pa.types.is_timestamp(kind):
        return f"timestamp with{'' if kind.tz else 'out'} time zone"
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return "text[]"
    return next((name for fits, name in _TYPES if fits(kind)), "jsonb")


def _values(column: pa.ChunkedArray, field: pa.Field) -> list[Any]:
    """Return a column as COPY takes it."""
    if field.name == VECTOR:
        return list(np.asarray(column.combine_chunks().flatten()).reshape(len(column), -1))
    found: list[Any] = column.to_pylist()
    kind = _type(field)
    if kind == "jsonb":
        return [None if one is None else Jsonb(one, _as_json) for one in found]
    if kind == "numeric":
        return [None if one is None else Decimal(one) for one in found]
    if kind in ("text", "text[]") and field.name != "item_id":
        return [_without_nul(one) for one in found]
    return found


def _without_nul(value: object) -> object:
    if isinstance(value, list):
        return [_without_nul(one) for one in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _as_json(value: object) -> str:
    return json.dumps(value, default=str).replace("\\u0000", "\\ufffd")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
