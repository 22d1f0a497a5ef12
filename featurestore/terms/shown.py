"""How values look in Python: a line as text, a table in notebooks, and as data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

from featurestore.errors import MissingExtra

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow as pa

MOST_ROWS = 20  # of a table in a notebook
MOST_LETTERS = 200  # of a cell


class Shown:
    """A value that is a line as text, and a table in a notebook."""

    def about(self) -> str:
        """Say in a line what it is; nothing is read for it."""
        raise NotImplementedError

    def to_arrow(self) -> pa.Table:
        """Return it as an Arrow table."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """Return it as a data frame of pandas.

        Raises
        ------
        MissingExtra
            If pandas is not installed.
        """
        _optional("pandas")
        frame: pandas.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_polars(self) -> polars.DataFrame:
        """Return it as a data frame of polars.

        Raises
        ------
        MissingExtra
            If polars is not installed.
        """
        frame: polars.DataFrame = _optional("polars").from_arrow(self.to_arrow())
        return frame

    def first_rows(self, n: int) -> list[dict[str, Any]]:
        """Return the first rows, as a notebook shows them."""
        found: list[dict[str, Any]] = self.to_arrow().slice(0, n).to_pylist()
        return found

    def strip(self) -> str:
        """Return pictures or texts of the first items as HTML; nothing where there are none."""
        return ""

    def __repr__(self) -> str:
        """Return it in a line."""
        return f"<{type(self).__name__} {self.about()}>"

    def _repr_html_(self) -> str:
        rows = self.first_rows(MOST_ROWS + 1)
        more = f"<p>The first {MOST_ROWS} rows.</p>" if len(rows) > MOST_ROWS else ""
        title = f"<p><b>{type(self).__name__}</b> {escape(self.about())}</p>"
        return f"{title}{self.strip()}{html_table(rows[:MOST_ROWS])}{more}"


class Tabular(Shown):
    """A value that is rows: a list of dicts with the same keys."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the table."""
        raise NotImplementedError

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        import pyarrow as pa

        return pa.Table.from_pylist(self.rows())

    def first_rows(self, n: int) -> list[dict[str, Any]]:
        """Return the first rows, as a notebook shows them."""
        return self.rows()[:n]


def _optional(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise MissingExtra(f"this needs {package}: pip install {package}") from None


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table; whatever they hold is text in it.

    >>> html_table([{"class": "<b>", "recall": 0.91234}])
    '<table><tr><th>class</th><th>recall</th></tr><tr><td>&lt;b&gt;</td><td>0.9123</td></tr></table>'
    """
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    said = f"{value:.4g}" if isinstance(value, float) else str(value)
    return said if len(said) <= MOST_LETTERS else f"{said[:MOST_LETTERS]}…"


def html_strip(items: Sequence[tuple[str, str | None, str | None]]) -> str:
    """Return items side by side: id, picture as a data URI, text."""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:8px">'
        + "".join(
            '<figure style="margin:0;width:112px;font-size:11px;overflow-wrap:anywhere">'
            + (f'<img src="{escape(picture)}" width="96" alt="">' if picture else "")
            + (f"<div>{escape(_cell(text))}</div>" if text else "")
            + f"<figcaption>{escape(item_id)}</figcaption></figure>"
            for item_id, picture, text in items
        )
        + "</div>"
    )
