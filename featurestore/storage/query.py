"""DuckDB over Arrow tables: one SELECT, nothing outside the given tables within reach."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import TIMEOUT_MAX
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import BadQuery

# Path allow-lists do not hold in DuckDB (COPY … TO and ATTACH got through them), so a
# connection sees registered tables only, and the statement is parsed before it runs.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # no peeking at Python variables
}


EXPRESSION_S = 60.0  # a condition over a million rows takes a second: longer is a mistake


def select(
    statement: str, tables: Mapping[str, pa.Table], *, limit_s: float | None = None
) -> pa.Table:
    """Run one SELECT over the given tables.

    Every column of the answer has a name of its own: of two called ``label`` the second becomes
    ``label_1``.

    Parameters
    ----------
    statement : str
        One SELECT statement (WITH, UNION and the like included).
    tables : mapping of str to pyarrow.Table
        What the statement may name.
    limit_s : float, optional
        Seconds after which it is stopped, between two blocks of rows: a single call of a function
        is not cut short.

    Raises
    ------
    BadQuery
        If the text is no SQL, not one SELECT, names what is not there, or takes too long.
    """
    connection = duckdb.connect(":memory:", config=_CONFIG)
    try:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute("SET lock_configuration = true")
        statements = connection.extract_statements(statement)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise BadQuery(f"expected one SELECT statement, got: {statement}")
        answer = _answer(connection, statement, limit_s)
        return answer.rename_columns(distinct(answer.column_names))
    except TimeoutError:
        raise BadQuery(
            f"stopped after {limit_s:g} s: {' '.join(statement.split())}; `featurestore sql` has "
            "no limit unless --timeout sets one"
        ) from None
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise BadQuery(f"{reason} in: {' '.join(statement.split())}") from None
    finally:
        connection.close()


def _answer(
    connection: duckdb.DuckDBPyConnection, statement: str, limit_s: float | None
) -> pa.Table:
    """Run a statement in another thread, so that Ctrl-C reaches this one meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="query") as beside:
        answer = beside.submit(lambda: connection.sql(statement).to_arrow_table())
        try:
            return answer.result(None if limit_s is None else min(limit_s, TIMEOUT_MAX))
        except BaseException:
            while not answer.done():  # repeated: a statement about to start misses an interrupt
                connection.interrupt()
                wait([answer], 0.1)
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


def printed(table: pa.Table) -> list[list[str | None]]:
    """Return the rows of a table, each value as DuckDB prints it."""
    return [list(row) for row in _each_value(table, "{}::varchar")]


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table as what JSON knows: what is no number, list or dict is text."""
    return [
        {name: None if value is None else json.loads(value)
         for name, value in zip(table.column_names, row, strict=True)}
        for row in _each_value(table, "to_json({})")
    ]  # fmt: skip


def _each_value(table: pa.Table, expression: str) -> list[tuple[str | None, ...]]:
    """Evaluate an expression on every value; rows keep their order."""
    if not table.column_names:
        return []
    names = [f"c{number}" for number in range(len(table.column_names))]
    connection = duckdb.connect(":memory:", config=_CONFIG)
    try:
        connection.register("answer", table.rename_columns(names))
        values = ", ".join(expression.format(name) for name in names)
        rows: list[tuple[str | None, ...]] = connection.sql(
            f"SELECT {values} FROM answer"
        ).fetchall()
        return rows
    finally:
        connection.close()


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
