"""Which row of a comparison to take: the cheapest of those that are as good as the best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.terms.specs import ALL_TOGETHER, encoder_label
from heads.labels.tasks import Task
from heads.measures.comparison import (
    Cell,
    Comparison,
    Difference,
    metric_of,
    number,
    unit_of,
)
from heads.measures.intervals import level_of_each, likely

MARGIN = 0.01  # the smallest difference that matters: a point; for errors, of the label's spread
MOST_NAMED = 3  # rows that a sentence names
MAJORITY = "majority"
Cost = tuple[float, ...]  # of an encoder; lower is cheaper


@dataclass(frozen=True)
class Choice:
    """What to take, and how sure that is.

    The interval holds for all rows of the comparison at once, so it allows for the row having
    been picked after the fact.
    """

    taken: Cell  # encoder, head
    metric: str
    value: float
    low: float | None  # None where the metric has no interval
    high: float | None
    n_items: int
    n_rows: int
    as_good: tuple[Cell, ...] = ()  # others within the margin and not told from the best
    next_best: Difference | None = None  # `taken` less the best of the remaining rows
    mixed: Difference | None = None  # a mix of all inputs that is not taken, less `taken`

    @property
    def is_guessing(self) -> bool:
        """Whether no head is better than always giving the same answer."""
        return self.taken[1] == MAJORITY

    @property
    def score(self) -> str:
        """The value with its interval: ``98.6 % balanced accuracy (97.5 to 99.7)``."""
        about, name = metric_of(self.metric), self.metric.replace("_", " ")
        said = f"{100 * self.value:.1f} % {name}" if about.is_share else f"{name} {self.value:.3g}"
        if self.low is None or self.high is None:
            return said
        return f"{said} ({number(self.low, self.metric)} to {number(self.high, self.metric)})"

    @property
    def take(self) -> str:
        """Say what to take, with its score."""
        if self.is_guessing:
            what = "the mean" if self.metric in _OF_NUMBERS else "the most frequent class"
            return f"No head is clearly better than always answering with {what}: {self.score}."
        return f"Take {cells_said([self.taken])}: {self.score}."

    @property
    def others(self) -> str:
        """Say how the other rows compare; empty where there is nothing to say."""
        return " ".join(one for one in (self._single(), self._mixed()) if one)

    def _single(self) -> str:
        if self.is_guessing:
            return ""
        if not self.as_good:
            is_said = self.next_best is not None and self.next_best.second[1] != MAJORITY
            return f"Next comes {self._next()}." if is_said else ""
        named, n_more = self.as_good[:MOST_NAMED], len(self.as_good) - MOST_NAMED
        said = cells_said(named, beside=self.taken[0])
        if n_more > 0:
            said += f", and {n_more} other{'s' * (n_more > 1)},"
        verb = "is" if len(self.as_good) == 1 else "are"
        return f"{said} {verb} as good as far as {self.n_items:,} items can tell; {self._why()}."

    def _mixed(self) -> str:
        """Say what a mix of all inputs might add, and why it is not taken."""
        if self.mixed is None:
            return ""
        value, low, high = self.mixed.gain
        unit = unit_of(self.metric)
        return (
            f"{cells_said([self.mixed.first])} might add {number(value, self.metric)} {unit} "
            f"({number(low, self.metric, '+')} to {number(high, self.metric, '+')}): not enough to "
            "be sure, and it needs every encoder."
        )

    def sentences(self) -> list[str]:
        """Return `take` and `others`."""
        return [one for one in (self.take, self.others) if one]

    def _why(self) -> str:
        encoder, head = self.taken
        if all(cell[0] == encoder for cell in self.as_good):
            return f"{head} is the cheapest to run"
        if encoder.startswith("baseline:"):
            return f"{cells_said([self.taken])} is taken because it needs no pretrained encoder"
        return f"{cells_said([self.taken])} is the cheapest to run"

    def _next(self) -> str:
        assert self.next_best is not None
        value, low, high = self.next_best.gain
        metric = self.metric
        name = cells_said([self.next_best.second], beside=self.taken[0])
        unit = "points" if metric_of(metric).is_share else metric.replace("_", " ")
        span = f"{number(low, metric, '+')} to {number(high, metric, '+')}"
        if low > 0:
            return f"{name}: {number(value, metric)} {unit} worse ({span})"
        how = "likely " if likely(value, low, high, self.next_best.n_claims) else ""
        return (
            f"{name}: {how}{number(value, metric)} {unit} worse ({span}; at most "
            f"{number(-low, metric)} {unit} better)"
        )


def cells_said(cells: Sequence[Cell], beside: str = "") -> str:
    """Name rows in a sentence, encoder by encoder; that of ``beside`` is left out.

    >>> cells_said([("timm:x", "lda"), ("timm:x", "knn"), ("baseline:tfidf", "logistic")])
    'lda and knn on timm:x, and TF-IDF with logistic'
    """
    of_encoder: dict[str, list[str]] = {}
    for encoder, head in sorted(cells, key=lambda cell: cell[0] != beside):  # that one first
        of_encoder.setdefault(encoder, []).append(head)
    said = []
    for encoder, heads in of_encoder.items():
        *first, last = heads
        names = f"{', '.join(first)} and {last}" if first else last
        if encoder == TFIDF:
            said.append(f"TF-IDF with {names}")
        elif last == MAJORITY:
            said.append("the most frequent class")
        else:
            said.append(names if encoder == beside else f"{names} on {encoder_label(encoder)}")
    return ", and ".join(said)


TFIDF = "baseline:tfidf"
_OF_NUMBERS = ("r2", "rmse", "mae", "spearman")


def choose(
    comparison: Comparison,
    costs: Mapping[str, Cost] | None = None,
    *,
    margin: float = MARGIN,
    among: Collection[str] | None = None,
) -> Choice:
    """Take the cheapest of the rows that are as good as the best.

    As good is a row whose difference from the best one is at most the margin, and may be 0 (the
    interval is wide enough for all pairs of rows). A baseline is cheaper than an encoder; on one
    encoder the head that is fitted fastest is the cheapest, and kNN, which keeps all training
    vectors, the most expensive. Rows that read columns of the items are not taken where one of
    these tells the label. A mix of all inputs is taken only where its interval says that it
    is better than the best row on one input.

    Parameters
    ----------
    costs : mapping, optional
        Encoder → cost, such as its number of parameters.
    margin : float
        In shares of 1; of errors, in standard deviations of the label.
    among : collection of str, optional
        Encoders whose rows may be taken; default all.
    """
    rows = [row for row in comparison.rows() if np.isfinite(row["value"])]
    rows = [row for row in rows if among is None or row["encoder"] in among]
    columns = comparison.card.with_columns
    if columns is not None and columns.leaks:  # new items will not have what tells the label
        rows = [row for row in rows if not columns.reads(row["encoder"])]
    cells: Sequence[Cell] = [(row["encoder"], row["head"]) for row in rows]
    if not cells and among is not None:  # none of theirs was done in time
        return choose(comparison, costs, margin=margin)
    seconds = {cell: row["seconds"] for cell, row in zip(cells, rows, strict=True)}
    width = margin_of(comparison.task, comparison.metric, comparison.heads[0].report.truth, margin)
    cells, mixed = _without_mixes(comparison, cells, width)
    best, *others = cells
    as_good = [best]
    for cell in others:
        value, low, _ = comparison.difference(best, cell, n_claims=comparison.n_claims).gain
        if low <= 0 and value <= width:
            as_good.append(cell)

    def cost(cell: Cell) -> tuple[Cost, bool, bool, float]:
        encoder, head = cell
        unknown: Cost = () if encoder.startswith("baseline:") or not costs else (np.inf,)
        of_encoder: Cost = () if encoder.startswith("baseline:") else (1.0,)
        of_columns = columns is not None and encoder in columns.encoders
        cost_of = (*of_encoder, *(costs or {}).get(encoder, unknown))
        return cost_of, of_columns, head == "knn", seconds[cell]

    taken = min(as_good, key=cost)
    rest = [cell for cell in others if cell not in as_good]
    estimate = comparison.cell(*taken).report.estimate(
        comparison.metric, level=level_of_each(len(comparison.heads))
    )
    return Choice(
        taken,
        comparison.metric,
        estimate.value,
        estimate.low,
        estimate.high,
        comparison.n_items,
        len(comparison.heads),
        tuple(cell for cell in as_good if cell != taken),
        comparison.difference(taken, rest[0], n_claims=comparison.n_claims) if rest else None,
        None
        if mixed is None
        else comparison.difference(mixed, taken, n_claims=comparison.n_claims),
    )


def _without_mixes(
    comparison: Comparison, cells: Sequence[Cell], width: float
) -> tuple[Sequence[Cell], Cell | None]:
    """Leave out mixes unless one is sure to be better than the best row on one input.

    Returns
    -------
    cells : sequence of (encoder, head)
    mixed : (encoder, head) or None
        One that is left out, and may be better by more than the margin.
    """
    single = [cell for cell in cells if cell[0] != str(ALL_TOGETHER)]
    if not single or cells[0] in single:
        return single or cells, None
    value, low, _ = comparison.difference(cells[0], single[0], n_claims=comparison.n_claims).gain
    if low > 0:
        return cells, None
    return single, cells[0] if value > width else None


def margin_of(task: Task, metric: str, truth: np.ndarray, margin: float = MARGIN) -> float:
    """Return the margin in the metric's unit.

    For errors it is a share of the standard deviation of the labels, ``truth`` of shape (n,).
    """
    if task is Task.REGRESSION and metric in ("rmse", "mae"):
        return margin * float(np.std(truth))
    return margin
