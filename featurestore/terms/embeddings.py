"""Vectors with what is known of their items: numpy only, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import MissingColumn, ShapeMismatch
from featurestore.terms.shown import Shown
from featurestore.terms.snapshots import Snapshot

if TYPE_CHECKING:
    import pyarrow as pa


class LazyColumns(Mapping[str, NDArray[Any]]):
    """Columns that are made on first use; most of them never are."""

    def __init__(self, names: Iterable[str], make: Callable[[str], NDArray[Any]]) -> None:
        self._names = tuple(names)
        self._make = make
        self._made: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # pickled with all columns made


class _Late:
    """A field that may be given as a function, which is called on first use."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        value = instance.__dict__[self.name]
        if callable(value):
            value = instance.__dict__[self.name] = value()
        return value

    def __set__(self, instance: object, value: object) -> None:
        instance.__dict__[self.name] = value


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings(Shown):
    """Vectors of one encoder with what is known of their items; row i belongs to ids[i].

    Rows are sorted by id, so that equal snapshots give equal arrays.
    """

    ids: NDArray[np.str_]  # (n,), object dtype holding str
    vectors: NDArray[np.float32]  # (n, dim), as the encoder returned them, not normalized
    encoder: str  # fingerprint
    columns: Mapping[str, NDArray[Any]]  # each (n,), object dtype; None where nothing is known
    label_column: str | None = None  # the data set's main label
    snapshot: Snapshot | None = None  # what was read

    def __post_init__(self) -> None:
        given = self.__dict__["ids"]
        n = len(self.vectors) if callable(given) else len(given)
        if self.vectors.ndim != 2 or len(self.vectors) != n:
            raise ShapeMismatch(
                f"{n} ids, but vectors of shape {self.vectors.shape}: expected one row for each id"
            )
        checked = {} if isinstance(self.columns, LazyColumns) else self.columns
        for name, values in checked.items():
            if len(values) != n:
                raise ShapeMismatch(f"{n} ids, but {len(values)} values of {name!r}")

    def __len__(self) -> int:
        return len(self.vectors)

    def about(self) -> str:
        """Count vectors and their numbers."""
        return f"of {len(self):,} items, {self.dim:,} numbers each, encoder {self.encoder[:8]}"

    def to_arrow(self) -> pa.Table:
        """Return ids, columns and vectors as an Arrow table."""
        import pyarrow as pa

        vectors = pa.array(np.ascontiguousarray(self.vectors, np.float32).reshape(-1))
        known = {name: pa.array(values.tolist()) for name, values in self.columns.items()}
        rest = {name: values for name, values in known.items() if name not in ("item_id", "vector")}
        return pa.table(
            {
                "item_id": pa.array(self.ids.tolist(), pa.string()),
                **rest,
                "vector": pa.FixedSizeListArray.from_arrays(vectors, self.dim),
            }
        )

    def first_rows(self, n: int) -> list[dict[str, Any]]:
        """Return the first items, without their vectors."""
        found: list[dict[str, Any]] = (
            self.take(np.arange(min(n, len(self)))).to_arrow().drop_columns("vector").to_pylist()
        )
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ids": self.ids}  # pickled with the ids made

    @property
    def dim(self) -> int:
        """Length of one vector."""
        return int(self.vectors.shape[1])

    def column(self, name: str) -> NDArray[Any]:
        """Return one column, shape (n,), in the order of ``ids``."""
        try:
            return self.columns[name]
        except KeyError:
            raise MissingColumn(
                f"no column {name!r}; known: {', '.join(sorted(self.columns))}"
            ) from None

    @property
    def labels(self) -> NDArray[Any]:
        """The main label of each item, shape (n,); None where an item has none."""
        if self.label_column is None:
            raise MissingColumn(
                "this data set has no labels: embed it from class folders, or with --label COLUMN"
            )
        return self.column(self.label_column)

    @property
    def splits(self) -> NDArray[Any]:
        """``train``, ``val``, ``test`` or None for each item, shape (n,)."""
        return self.column("split")

    @property
    def groups(self) -> NDArray[Any]:
        """The group of each item, shape (n,); items of one group stay together in evaluation."""
        return self.column("group")

    @property
    def content_hashes(self) -> NDArray[Any]:
        """SHA-256 (hex) of each item's bytes, shape (n,); equal content has equal hashes."""
        return self.column("content_hash")

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Embeddings:
        """Return the chosen rows; ``rows`` are positions (n_chosen,) or a mask (n,)."""
        return Embeddings(
            self.ids[rows],
            self.vectors[rows],
            self.encoder,
            LazyColumns(self.columns, lambda name: self.columns[name][rows]),
            self.label_column,
            self.snapshot,
        )


# Ids may be given as a function; they are read on first use (200,000 take as long as the vectors).
Embeddings.ids = _Late("ids")  # type: ignore[assignment]


@dataclass(frozen=True, eq=False, repr=False)
class Neighbors(Shown):
    """The closest items of each query, best first."""

    ids: NDArray[np.str_]  # (n_queries, k), object dtype holding str
    scores: NDArray[np.float32]  # (n_queries, k), cosines in [-1, 1]
    rows: NDArray[np.intp]  # (n_queries, k), positions in the embeddings that were searched
    look_up: Callable[[str, NDArray[np.intp]], NDArray[Any]] | None = None  # column, rows (n,)
    draw: Callable[[Sequence[str]], str] | None = None  # items as HTML

    def about(self) -> str:
        """Count queries and neighbors."""
        n, k = self.ids.shape
        span = (
            f", scores {self.scores.max():.3f} to {self.scores.min():.3f}" if self.ids.size else ""
        )
        return f"of {n:,} {'query' if n == 1 else 'queries'}: {k:,} each{span}"

    def to_arrow(self) -> pa.Table:
        """Return a row for each neighbor: query (its number), rank, item_id, score."""
        import pyarrow as pa

        n, k = self.ids.shape
        return pa.table(
            {
                "query": np.repeat(np.arange(n), k),
                "rank": np.tile(np.arange(1, k + 1), n),
                "item_id": pa.array(self.ids.reshape(-1).tolist(), pa.string()),
                "score": self.scores.reshape(-1),
            }
        )

    def strip(self) -> str:
        """Return the first neighbors as HTML."""
        return "" if self.draw is None else self.draw(self.ids.reshape(-1).tolist())

    def column(self, name: str) -> NDArray[Any]:
        """Return what is known of the neighbors, (n_queries, k), object dtype; read when asked.

        Raises
        ------
        MissingColumn
            If the items have no such column, or only vectors were searched.
        """
        if self.look_up is None:
            raise MissingColumn(f"no column {name!r}: vectors were searched, without their items")
        return self.look_up(name, self.rows.reshape(-1)).reshape(self.rows.shape)
