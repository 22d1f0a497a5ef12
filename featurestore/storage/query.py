"""DuckDB over Arrow tables: one SELECT, nothing outside the given tables within reach."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import TIMEOUT_MAX
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import BadQuery, StoreCorrupt, nearest
from featurestore.storage.memory import memory_limit

Answer = TypeVar("Answer")

# Path allow-lists do not hold in DuckDB (COPY … TO and ATTACH got through them), so a
# connection sees registered tables only, and the statement is parsed before it runs.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # no peeking at Python variables
    "temp_directory": "",
}
# After the start, and in this order: each hides a path of this machine that a setting would tell.
_CLOSED = (
    "SET secret_directory = 'none'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
EXPRESSION_S = 60.0  # a condition over a million rows takes a second: longer is a mistake
# Arrow has no such types: DuckDB hands over other values (-1) without a word, so texts go instead.
_NOT_IN_ARROW = re.compile(r"\b(UHUGEINT|BIT|TIME WITH TIME ZONE)\b")
_NOT_READ = "reading the stream registered as"  # what DuckDB says where Arrow cannot read a file
AS_TEXT, AS_JSON = "{}::varchar", "to_json({})"  # how `select_values` writes a value


def select(statement: str, tables: Mapping[str, Any], *, limit_s: float | None = None) -> pa.Table:
    """Run one SELECT over the given tables.

    Every column of the answer has a name of its own: of two called ``label`` the second becomes
    ``label_1``. What Arrow cannot hold (UHUGEINT, BIT, TIMETZ) comes as text.

    Parameters
    ----------
    statement : str
        One SELECT statement (WITH, UNION and the like included).
    tables : mapping of str to pyarrow.Table or pyarrow.dataset.Dataset
        What the statement may name; of a data set, only the rows and columns asked for are read.
    limit_s : float, optional
        Seconds after which it is stopped, between two blocks of rows: a single call of a function
        is not cut short.

    Raises
    ------
    BadQuery
        If the text is no SQL, not one SELECT, names what is not there, takes too long or needs
        more memory than there is.
    """

    def table(answer: duckdb.DuckDBPyRelation) -> pa.Table:
        if any(_NOT_IN_ARROW.search(str(kind)) for kind in answer.types):
            columns = (
                f"#{i}::varchar" if _NOT_IN_ARROW.search(str(kind)) else f"#{i}"
                for i, kind in enumerate(answer.types, 1)
            )
            return answer.project(", ".join(columns)).to_arrow_table()
        return answer.to_arrow_table()

    names, found = _run(statement, tables, table, limit_s)
    return found.rename_columns(names)


def select_values(
    statement: str,
    tables: Mapping[str, Any],
    write: str,
    *,
    limit_s: float | None = None,
    limit_bytes: int | None = None,
) -> tuple[list[str], list[tuple[str | None, ...]]]:
    """Run one SELECT; return names of columns, and rows of values written by DuckDB.

    Parameters
    ----------
    statement, tables, limit_s
        As for `select`.
    write : str
        ``AS_TEXT`` or ``AS_JSON``.
    limit_bytes : int, optional
        What the query may take of memory, in this whole process: only for a process that does
        nothing else (Linux; elsewhere DuckDB's own limit holds, which a single call can pass).
    """

    def rows(answer: duckdb.DuckDBPyRelation) -> list[tuple[str | None, ...]]:
        values = (write.format(f"#{i}") for i in range(1, len(answer.columns) + 1))
        return answer.project(", ".join(values)).fetchall()

    with memory_limit(limit_bytes):
        return _run(statement, tables, rows, limit_s)


def _run(
    statement: str,
    tables: Mapping[str, Any],
    fetch: Callable[[duckdb.DuckDBPyRelation], Answer],
    limit_s: float | None,
) -> tuple[list[str], Answer]:
    started = time.monotonic()
    connection = duckdb.connect(":memory:", config=_CONFIG)
    try:
        for name, table in tables.items():
            connection.register(name, table)
        for line in _CLOSED:
            connection.execute(line)
        statements = connection.extract_statements(statement)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise BadQuery(f"expected one SELECT statement, got: {statement}")

        def answer() -> tuple[list[str], Answer]:
            relation = connection.sql(statement)
            return distinct(relation.columns), fetch(relation)

        return _interruptible(connection, answer, limit_s)
    except TimeoutError:
        took = time.monotonic() - started
        is_late = limit_s is not None and took > limit_s + 2
        late = f" (it took {took:.0f} s: a single function call cannot be interrupted)"
        raise BadQuery(
            f"stopped after {limit_s:g} s{late if is_late else ''}: "
            f"{' '.join(statement.split())}; `featurestore store sql` has no limit unless "
            "--timeout sets one"
        ) from None
    except (MemoryError, duckdb.OutOfMemoryException):
        raise BadQuery(
            f"out of memory: {' '.join(statement.split())}; ask for fewer rows or shorter values"
        ) from None
    except FileNotFoundError as error:
        raise _unread(f"{error} is gone") from None
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        if _NOT_READ in reason:
            raise _unread(reason) from None
        raise BadQuery(f"{reason} in: {' '.join(statement.split())}") from None
    finally:
        connection.close()


def _unread(reason: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"{reason}; the log names this file, so restore it from a backup (an old version may have "
        "lost it to vacuum): `featurestore store verify` names what is damaged"
    )


def _interruptible(
    connection: duckdb.DuckDBPyConnection, answer: Callable[[], Answer], limit_s: float | None
) -> Answer:
    """Run a statement in another thread, so that Ctrl-C reaches this one meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="query") as beside:
        running = beside.submit(answer)
        try:
            return running.result(None if limit_s is None else min(limit_s, TIMEOUT_MAX))
        except BaseException:
            while not running.done():  # repeated: a statement about to start misses an interrupt
                connection.interrupt()
                wait([running], 0.1)
            raise


def distinct(names: Sequence[str]) -> list[str]:
    """Return names that differ, also without regard to case, the first of each as it was.

    >>> distinct(["label", "label", "label_1", "Label"])
    ['label', 'label_2', 'label_1', 'Label_3']
    """
    taken = {name.lower() for name in names}
    kept: set[str] = set()
    found = []
    for name in names:
        free, number = name, 0
        while free.lower() in (kept if number == 0 else taken):
            number += 1
            free = f"{name}_{number}"
        taken.add(free.lower())
        kept.add(free.lower())
        found.append(free)
    return found


def evaluate(expression: str, table: pa.Table) -> pa.ChunkedArray:
    """Evaluate an SQL expression for each row; a plain column name needs no quotes.

    Returns
    -------
    pyarrow.ChunkedArray
        One value a row, in the order of ``table``.
    """
    if expression in table.column_names:
        return table.column(expression)
    row_column = "__row"
    taken = {name.lower() for name in table.column_names}  # SQL does not tell cases apart
    while row_column in taken:
        row_column += "_"
    numbered = table.append_column(row_column, pa.array(np.arange(len(table))))
    # The line break ends a comment in the expression, which would swallow what follows it.
    statement = f"SELECT ({expression}\n) AS value FROM items ORDER BY items.{row_column}"
    if not expression.strip():
        raise BadQuery(f"no expression; columns: {', '.join(table.column_names)}")
    try:
        result = select(statement, {"items": numbered}, limit_s=EXPRESSION_S)
    except BadQuery as error:
        reason = str(error).split(" in: SELECT")[0]  # of our own making
        if "not found" in reason and expression.strip().isidentifier():
            known = [name for name in table.column_names if name != "stem"]
            raise BadQuery(f"no column {expression!r}: {nearest(expression, known)}") from None
        if "not found" in reason:
            reason += f" (columns: {', '.join(table.column_names)})"
        if "type VARCHAR and type" in reason:
            reason += " (try_cast(COLUMN as double) reads a column of texts as numbers)"
        raise BadQuery(f"{reason} in: {expression}") from None
    if len(result) != len(table):
        raise BadQuery(f"expected one value for each of {len(table)} rows from: {expression}")
    return result.column("value")


def fulfils(condition: str, table: pa.Table) -> NDArray[np.bool_]:
    """Mark the rows that fulfil an SQL condition, (n,); null counts as no.

    Raises
    ------
    BadQuery
        If it is no condition.
    """
    values = evaluate(condition, table)
    if not pa.types.is_boolean(values.type):
        raise BadQuery(f"{condition} gives {values.type}: expected a condition, true or false")
    return np.asarray(pc.fill_null(values, False))
