"""Encoders × heads on the same rows, with intervals; what users read and runs keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurestore.errors import BadName, BadSource, StoreCorrupt, UnknownHead, nearest
from featurestore.layout import DatasetFolder
from featurestore.values import Embeddings, EncoderSpec, Modality
from heads.bundle import library_versions, texts_of
from heads.catalogue import counts_head, head_entry
from heads.evaluate import METRICS, Evaluation, Report, evaluate
from heads.intervals import LEVEL
from heads.plan import Plan, make_plan

if TYPE_CHECKING:
    from featurestore.view import View

RUN_FORMAT = 1
DEFAULT_HEADS = ("logistic", "ridge", "prototype", "knn")
Cell = tuple[str, str]  # encoder, head


@dataclass(frozen=True)
class Difference:
    """How much better one head on one encoder is than another, in shares of 1."""

    first: Cell
    second: Cell
    value: float
    low: float
    high: float
    estimand: str

    def sentence(self) -> str:
        """Say what the interval says, in percentage points.

        >>> a, b = ("timm:x", "logistic"), ("baseline:pixels", "logistic")
        >>> Difference(a, b, 0.021, 0.004, 0.039, "the learning procedure, 5 × 5 folds").sentence()
        'logistic on timm:x is better than logistic on baseline:pixels by 2.1 points \
(0.4 to 3.9; the learning procedure, 5 × 5 folds)'
        """
        first, second = _cell_name(self.first), _cell_name(self.second)
        value, low, high = (100 * share for share in (self.value, self.low, self.high))
        if low > 0:
            said = f"{first} is better than {second} by {value:.1f} points ({low:.1f} to {high:.1f}"
        elif high < 0:
            said = (
                f"{first} is worse than {second} by {-value:.1f} points ({-high:.1f} to {-low:.1f}"
            )
        else:
            said = (
                f"{first} and {second} are not separable at this size: "
                f"{value:+.1f} points ({low:+.1f} to {high:+.1f}"
            )
        return f"{said}; {self.estimand})"


@dataclass(frozen=True, eq=False)
class ComparedHead:
    """One row of a comparison."""

    encoder: str
    head: str
    report: Report
    seconds: float  # median of one fit, choices included
    chosen: tuple[Mapping[str, Any], ...] = ()  # what each fit chose


@dataclass(frozen=True, eq=False)
class Comparison:
    """Heads on encoders, all taught and tested on the same rows."""

    dataset: str
    label: str
    metric: str
    estimand: str
    classes: tuple[str, ...]
    item_ids: tuple[str, ...]  # tested items, in the order of every report
    heads: tuple[ComparedHead, ...]
    notes: tuple[str, ...]
    card: Mapping[str, Any]  # seed, snapshots, fingerprints, versions, created …

    @property
    def n_items(self) -> int:
        """Number of items that heads were tested on."""
        return len(self.item_ids)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, best first.

        Each row has encoder, head, metric, value, low, high (shares of 1, 95 % interval) and
        seconds (median of one fit, its choices included).
        """
        rows = []
        for cell in self.heads:
            found = cell.report.estimate(self.metric)
            rows.append(
                {
                    "encoder": cell.encoder,
                    "head": cell.head,
                    "metric": self.metric,
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "seconds": cell.seconds,
                }
            )
        return sorted(rows, key=lambda row: -row["value"])

    def cell(self, encoder: str, head: str) -> ComparedHead:
        """Return one row's report; `Report.confusion` is in it.

        Raises
        ------
        UnknownHead
            With the nearest rows.
        """
        for cell in self.heads:
            if (cell.encoder, cell.head) == (encoder, head):
                return cell
        known = [f"{cell.encoder} {cell.head}" for cell in self.heads]
        raise UnknownHead(f"no {head!r} on {encoder!r} here: {nearest(f'{encoder} {head}', known)}")

    def difference(self, first: Cell, second: Cell, *, n_claims: int = 1) -> Difference:
        """Compare two rows, each an (encoder, head), paired over rows or folds.

        Parameters
        ----------
        n_claims : int
            How many differences will be claimed together: Bonferroni widens each interval
            so that all of them hold at once in 95 %.
        """
        found = self.cell(*first).report.difference(
            self.cell(*second).report, self.metric, level=1 - (1 - LEVEL) / n_claims
        )
        assert found.low is not None
        assert found.high is not None
        return Difference(first, second, found.value, found.low, found.high, found.estimand)

    def claims(self) -> list[Difference]:
        """Compare the best row with the best of each other encoder.

        They are picked after the fact, so each interval is widened until those of all pairs
        of rows would hold at once in 95 % (Bonferroni).
        """
        best: dict[str, Cell] = {}
        for row in self.rows():
            best.setdefault(row["encoder"], (row["encoder"], row["head"]))
        first, *others = best.values()
        return [self.difference(first, other, n_claims=self.n_pairs) for other in others]

    @property
    def n_pairs(self) -> int:
        """How many pairs of rows there are: what simultaneous intervals allow for."""
        return max(1, len(self.heads) * (len(self.heads) - 1) // 2)

    def to_json(self) -> dict[str, Any]:
        """Return everything that is needed to draw it again."""
        return {
            "format": RUN_FORMAT,
            "kind": "compare",
            "dataset": self.dataset,
            "label": self.label,
            "metric": self.metric,
            "estimand": self.estimand,
            "rows": self.rows(),  # for other readers: from_json computes them anew
            "notes": list(self.notes),
            "card": dict(self.card),
            "classes": list(self.classes),
            "item_ids": list(self.item_ids),
            "codes": self.heads[0].report.codes.tolist(),
            "heads": [
                {
                    "encoder": cell.encoder,
                    "head": cell.head,
                    "seconds": cell.seconds,
                    "chosen": [dict(chosen) for chosen in cell.chosen],
                    "predicted": cell.report.predicted.tolist(),
                    "scores": {name: s.tolist() for name, s in cell.report.scores.items()},
                    "test_ratio": cell.report.test_ratio,
                }
                for cell in self.heads
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises
        ------
        StoreCorrupt
            If it is something else, or of a newer format.
        """
        try:
            if data["format"] > RUN_FORMAT or data["kind"] != "compare":
                raise StoreCorrupt(f"no comparison of format {RUN_FORMAT} or older")
            codes = np.array(data["codes"], dtype=np.intp)
            heads = tuple(
                ComparedHead(
                    h["encoder"],
                    h["head"],
                    Report(
                        codes,
                        np.array(h["predicted"], dtype=np.intp),
                        {name: np.array(values) for name, values in h["scores"].items()},
                        data["estimand"],
                        h["test_ratio"],
                    ),
                    h["seconds"],
                    tuple(h["chosen"]),
                )
                for h in data["heads"]
            )
            return cls(
                data["dataset"],
                data["label"],
                data["metric"],
                data["estimand"],
                tuple(data["classes"]),
                tuple(data["item_ids"]),
                heads,
                tuple(data["notes"]),
                data["card"],
            )
        except (KeyError, TypeError) as error:
            raise StoreCorrupt(f"this is no stored comparison: {error!r}") from error


def compare(
    views: View | Sequence[View],
    heads: Sequence[str] = DEFAULT_HEADS,
    *,
    label: str | None = None,
    metric: str = "balanced_accuracy",
    evaluation: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    save: bool = True,
    group: bool = True,
) -> Comparison:
    """Compare heads on the encoders of one data set.

    The table always holds the baselines: knn, majority, and for texts TF-IDF + logistic.
    All rows share the items that every view has a vector of, and the same folds.

    Parameters
    ----------
    views : View or sequence of View
        Of one data set.
    heads : sequence of str
        Names from `heads.catalogue`.
    label : str, optional
        Label column; default the data set's main label.
    metric : {"balanced_accuracy", "accuracy"}
    evaluation : {"auto", "test", "folds"}
        ``auto``: the test split where there is one, else 5 × 5 folds.
    seed : int
        Of folds and of every drawing within heads.
    progress : callable, optional
        Called with fits done, fits in all, and what is being fitted.
    save : bool
        Keep it in the data set's ``runs/``.
    group : bool
        Whether items of one group stay together (items of equal content always do).

    Raises
    ------
    UnknownHead, MissingColumn, NotEnoughData
    BadSource
        If the views are of different data sets.
    """
    views = list(views) if isinstance(views, Sequence) else [views]
    if metric not in METRICS:
        raise BadName(f"no metric {metric!r} to compare by: {nearest(metric, METRICS)}")
    names = [name for name in dict.fromkeys([*heads, "knn"]) if not head_entry(name).is_baseline]
    if not views or len({str(view.dataset.path) for view in views}) > 1:
        raise BadSource(
            "a comparison needs views of one data set, got "
            + (", ".join(view.name for view in views) or "none")
        )
    created = datetime.now(UTC)
    tables, n_apart = _shared_items([view.load() for view in views])
    plan = make_plan(tables[0], label=label, evaluation=evaluation, use_groups=group, seed=seed)
    jobs = list(_jobs(views, tables, names, plan, seed))
    n_fits = len(plan.parts) * len(jobs)
    n_done = 0

    def count(what: str, n: int = 1) -> None:
        nonlocal n_done
        n_done += n
        if progress is not None:
            progress(n_done, n_fits, what)

    compared = []
    for job in jobs:
        what = f"{job.head} on {job.encoder}"
        count(what, 0)
        found, more_seconds = job.run(partial(count, what))
        compared.append(
            ComparedHead(
                job.encoder, job.head, found.report, found.seconds + more_seconds, found.chosen
            )
        )
    comparison = Comparison(
        views[0].dataset.name,
        plan.label,
        metric,
        plan.estimand,
        plan.classes,
        tuple(str(i) for i in plan.ids[plan.tested]),
        tuple(compared),
        _notes(plan, n_apart, compared, metric),
        {
            "created": created.isoformat(),
            "seed": seed,
            "evaluation": "folds" if plan.folds else "test",
            "n_folds": plan.folds.n_folds if plan.folds else 0,
            "n_repeats": plan.folds.n_repeats if plan.folds else 0,
            "never_part": ["content_hash", "group"] if group else ["content_hash"],
            "search_spaces": {
                name: head_entry(name).search_space for name in (*names, "majority", "tfidf")
            },
            "views": [
                {
                    "encoder": str(view.spec),
                    "fingerprint": view.fingerprint,
                    "snapshot": asdict(table.snapshot) if table.snapshot else None,
                }
                for view, table in zip(views, tables, strict=True)
            ],
            "n_train": len(plan.train) if plan.folds is None else None,
            "n_unlabelled": plan.n_unlabelled,
            "n_without_vector": n_apart,
            "n_leaked": plan.n_leaked,
            "versions": library_versions(),
        },
    )
    if save:
        _folder(views[0].dataset).write_run("compare", comparison.to_json())
    return comparison


def runs(dataset: Any) -> list[Comparison]:
    """Return the stored comparisons of a data set (or of its folder), newest first."""
    return [Comparison.from_json(card) for card in _folder(dataset).runs("compare")]


def _folder(dataset: Any) -> DatasetFolder:
    return DatasetFolder(Path(getattr(dataset, "path", dataset)))


# Calls its argument after each fit; returns what it found and further seconds of one fit.
_Run = Callable[[Callable[[], None]], tuple[Evaluation, float]]


@dataclass(frozen=True, eq=False)
class _Job:
    """One row of the table to be."""

    encoder: str
    head: str
    run: _Run


def _jobs(
    views: Sequence[View],
    tables: Sequence[Embeddings],
    names: Sequence[str],
    plan: Plan,
    seed: int,
) -> Iterator[_Job]:
    run = partial(
        evaluate,
        codes=plan.codes,
        parts=plan.parts,
        classes=plan.classes,
        estimand=plan.estimand,
        groups=plan.block,
    )

    def on_vectors(name: str, vectors: Any) -> _Run:
        build = partial(head_entry(name).build, seed)
        return lambda on_fit: (run(build, vectors, on_fit=on_fit), 0.0)

    def on_texts(on_fit: Callable[[], None]) -> tuple[Evaluation, float]:
        from heads.estimators.tfidf import count_ngrams

        begin = time.perf_counter()
        counts, n_words = count_ngrams(texts_of(tables[0])[plan.rows].tolist())
        # A head of its own would count the n-grams of its training rows.
        share = np.mean([len(train) for train, _ in plan.parts]) / len(plan.ids)
        counting = float((time.perf_counter() - begin) * share)
        return run(partial(counts_head, n_words, seed), counts, on_fit=on_fit), counting

    for view, table in zip(views, tables, strict=True):
        vectors = table.vectors[plan.rows]
        for name in names:
            yield _Job(str(view.spec), name, on_vectors(name, vectors))
    yield _Job(
        "baseline:majority",
        "majority",
        on_vectors("majority", np.zeros((len(plan.ids), 1), dtype=np.float32)),
    )
    if views[0].dataset.modality == Modality.TEXT:
        yield _Job("baseline:tfidf", "logistic", on_texts)


def _shared_items(tables: Sequence[Embeddings]) -> tuple[list[Embeddings], int]:
    """Keep the items that every table has, in one order; count the others."""
    ids = [table.ids.astype(str) for table in tables]
    shared = reduce(np.intersect1d, ids)
    n_apart = len(reduce(np.union1d, ids)) - len(shared)
    kept = []
    for table, own in zip(tables, ids, strict=True):
        order = np.argsort(own, kind="stable")
        kept.append(table.take(order[np.searchsorted(own[order], shared)]))
    return kept, n_apart


def _notes(
    plan: Plan, n_apart: int, compared: Sequence[ComparedHead], metric: str
) -> tuple[str, ...]:
    notes = list(plan.notes)
    if n_apart:
        notes.append(f"Left out for want of a vector in some view: {n_apart} items.")
    best = max(compared, key=lambda cell: cell.report.estimate(metric).value)
    notes.append(
        f"{_cell_name((best.encoder, best.head))} is the best of {len(compared)} rows: "
        "its own interval does not allow for having been picked."
    )
    return tuple(notes)


def _cell_name(cell: Cell) -> str:
    encoder, head = cell
    return f"{head} on {EncoderSpec.parse(encoder).label}"
