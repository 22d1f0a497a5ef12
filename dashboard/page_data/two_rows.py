"""Two rows of a comparison: where their difference lies, and the items that only one gets right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dashboard.page_data.leaderboard import row_name
from dashboard.page_data.wording import Row
from featurestore.store.dataset import DataSet
from featurestore.store.view import View
from heads import Comparison
from heads.labels.tasks import Task
from heads.measures.intervals import newcombe

MOST_PARTS = 200  # values of a column that are looked at one by one


def view_of_cell(dataset: DataSet, *encoders: str) -> View | None:
    """Return the view of the first of some encoders that has one, else any; None without views."""
    views = {str(view.spec): view for view in dataset.views()}
    own = [views[encoder] for encoder in encoders if encoder in views]
    return next(iter([*own, *views.values()]), None)


def cells_of(run: Comparison) -> dict[str, tuple[str, str]]:
    """Return the rows of a comparison by name, best first."""
    return {row_name(row): (row["encoder"], row["head"]) for row in run.rows()}


def only_right(run: Comparison, first: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """Return the items that the first row gets right and the second does not.

    Over folds, as the first repeat has it.
    """
    a, b = run.cell(*first).report, run.cell(*second).report
    wins = _rows_right(a.truth, a.predicted) & ~_rows_right(b.truth, b.predicted)
    return [run.item_ids[i] for i in np.flatnonzero(wins)]


def part_rows(
    run: Comparison,
    first: tuple[str, str],
    second: tuple[str, str],
    parts: Mapping[str, NDArray[np.bool_]],
) -> list[Row]:
    """Return how both rows do on parts of the tested items, the largest gap first; in percent.

    Each part is a mask over the tested items, (n_items,).

    On a test split the interval is Newcombe's of the paired difference; over folds there is
    none, as one repeat gives no valid one.
    """
    a, b = run.cell(*first).report, run.cell(*second).report
    is_a, is_b = _rows_right(a.truth, a.predicted), _rows_right(b.truth, b.predicted)
    on_test = len(a.scores[run.metric]) == 1 and a.n_blocks is None
    rows = []
    for name, mask in parts.items():
        n = int(mask.sum())
        if not n:
            continue
        x, y = is_a[mask], is_b[mask]
        row = {
            "part": name,
            "items": n,
            "first right": 100 * float(x.mean()),
            "second right": 100 * float(y.mean()),
            "difference": 100 * float(x.mean() - y.mean()),
            "only the first": int((x & ~y).sum()),
            "only the second": int((y & ~x).sum()),
        }
        if on_test:
            low, high = newcombe((x & y).mean(), (x & ~y).mean(), (y & ~x).mean(), n)
            row |= {"from": 100 * low, "to": 100 * high}
        rows.append(row)
    return sorted(rows, key=lambda row: -abs(row["difference"]))


def parts_by_class(run: Comparison) -> dict[str, NDArray[np.bool_]]:
    """Return a mask of the tested items of each class, (n_items,)."""
    truth = run.heads[0].report.truth
    if run.task is Task.MULTILABEL:
        return dict(zip(run.classes, truth.T, strict=True))
    return {name: truth == code for code, name in enumerate(run.classes)}


def parts_by_value(run: Comparison, items: pa.Table, column: str) -> dict[str, NDArray[np.bool_]]:
    """Return a mask of the tested items, (n_items,), of each of a column's largest values."""
    rows = pc.index_in(pa.array(run.item_ids), value_set=items.column("item_id"))
    values = items.column(column).take(rows).cast(pa.string()).combine_chunks()
    encoded = values.dictionary_encode()
    codes = np.asarray(pc.fill_null(encoded.indices, -1))
    counts = np.bincount(codes[codes >= 0], minlength=len(encoded.dictionary))
    largest = np.argsort(-counts, kind="stable")[:MOST_PARTS]
    names = encoded.dictionary.to_pylist()
    return {str(names[code]): codes == code for code in largest.tolist()}


def parts_by_slice(
    run: Comparison, slices: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.bool_]]:
    """Return a mask of the tested items of each named slice, (n_items,)."""
    ids = np.array(run.item_ids)
    return {name: np.isin(ids, list(members)) for name, members in slices.items()}


def _rows_right(truth: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.bool_]:
    same = np.asarray(truth == predicted)
    return np.asarray(same if same.ndim == 1 else same.all(axis=1))
