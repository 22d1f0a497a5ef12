"""What heads read of labelled items, and their evaluation on it, kept so that none runs twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import BadSource
from featurestore.user_cache import write_json
from featurestore.values import Embeddings, Modality
from heads.bundle import library_versions, texts_of
from heads.catalogue import HEADS, Build, HeadEntry, best_on_counts, counts_builder
from heads.comparison import ComparedHead
from heads.evaluate import evaluate
from heads.plan import Plan
from heads.tasks import Task

if TYPE_CHECKING:
    from featurestore.view import View

CACHE_FORMAT = 3  # a change to how heads learn or are scored makes it one more
TFIDF = "baseline:tfidf"
MAJORITY = "baseline:majority"


@dataclass(frozen=True, eq=False)
class Material:
    """One encoder's vectors of the rows of a plan, or what stands in their place."""

    encoder: str
    identity: Mapping[str, Any]  # what decides the numbers: fingerprint, snapshot
    read: Callable[[], tuple[Any, float]]  # (n, dim) and the seconds that a fit would add
    build: Callable[[HeadEntry], Build]  # how a head is built for it


def load_shared(views: Sequence[View]) -> tuple[list[Embeddings], int]:
    """Load views of one data set on the items that all have; count the others.

    Raises
    ------
    BadSource
        If the views are of different data sets.
    """
    if not views or len({str(view.dataset.path) for view in views}) > 1:
        raise BadSource(
            "a comparison needs views of one data set, got "
            + (", ".join(view.name for view in views) or "none")
        )
    tables = [view.load() for view in views]
    ids = [table.ids.astype(str) for table in tables]
    shared = reduce(np.intersect1d, ids)
    n_apart = len(reduce(np.union1d, ids)) - len(shared)
    kept = []
    for table, own in zip(tables, ids, strict=True):
        order = np.argsort(own, kind="stable")
        kept.append(table.take(order[np.searchsorted(own[order], shared)]))
    return kept, n_apart


def of_view(view: View, table: Embeddings, plan: Plan) -> Material:
    """Return a view's vectors."""
    identity = {
        "fingerprint": view.fingerprint,
        "snapshot": asdict(table.snapshot) if table.snapshot else None,
        "state": getattr(view, "state", None),
    }
    return of_vectors(str(view.spec), lambda: table.vectors[plan.rows], plan, identity)


def of_vectors(
    encoder: str, vectors: Callable[[], Any], plan: Plan, identity: Mapping[str, Any]
) -> Material:
    """Return vectors of the plan's rows under an encoder's name."""

    def build(entry: HeadEntry) -> Build:
        found = entry.builder(plan.task)
        assert found is not None, "checked by head_entries"
        return found

    return Material(encoder, identity, lambda: (vectors(), 0.0), build)


def of_nothing(plan: Plan) -> Material:
    """Return a constant: what the majority is predicted from."""
    return of_vectors(
        MAJORITY, lambda: np.zeros((len(plan.ids), 1), dtype=np.float32), plan, {"constant": 0}
    )


def of_texts(table: Embeddings, plan: Plan) -> Material:
    """Return the texts' n-grams, counted once for all folds."""
    return _of_counts(table, plan, lambda entry, n_words: counts_builder(n_words, plan.task))


def of_texts_and_heads(
    table: Embeddings, plan: Plan, entries: Mapping[str, HeadEntry], metric: str
) -> Material:
    """Return the texts' n-grams for the best of several heads, chosen in each training part."""
    return _of_counts(
        table, plan, lambda entry, n_words: best_on_counts(entries, n_words, plan.task, metric)
    )


def _of_counts(table: Embeddings, plan: Plan, build: Callable[[HeadEntry, int], Build]) -> Material:

    @cache
    def count() -> tuple[Any, int, float]:
        from heads.estimators.tfidf import count_ngrams

        begin = time.perf_counter()
        counts, n_words = count_ngrams(texts_of(table)[plan.rows].tolist())
        # A head of its own would count the n-grams of its training rows.
        share = np.mean([len(train) for train, _ in plan.parts]) / len(plan.ids)
        return counts, n_words, float((time.perf_counter() - begin) * share)

    def read() -> tuple[Any, float]:
        counts, _, seconds = count()
        return counts, seconds

    identity = {"snapshot": asdict(table.snapshot) if table.snapshot else None}
    return Material(TFIDF, identity, read, lambda entry: build(entry, count()[1]))


def baselines(
    views: Sequence[View], table: Embeddings, plan: Plan
) -> list[tuple[Material, str, HeadEntry]]:
    """Return what needs no encoder, each with its head: majority and, for texts, TF-IDF."""
    found = [(of_nothing(plan), "majority", HEADS["majority"])]
    if views[0].dataset.modality == Modality.TEXT:
        head = "ridge" if plan.task is Task.REGRESSION else "logistic"
        found.append((of_texts(table, plan), head, HEADS["tfidf"]))
    return found


def run_cell(
    material: Material,
    head: str,
    entry: HeadEntry,
    plan: Plan,
    *,
    seed: int = 0,
    intervals_of: Sequence[str] = (),
    on_fit: Callable[[], None] | None = None,
    cache_in: Path | None = None,
) -> ComparedHead:
    """Evaluate one head on one material, or read what an equal run has found.

    Parameters
    ----------
    intervals_of : sequence of str
        Metrics without a closed form that are to have an interval on a test split.
    cache_in : path, optional
        Folder of found results; their names hash everything that decides the numbers.
    """
    decides = {
        "format": CACHE_FORMAT,
        "encoder": material.encoder,
        "identity": dict(material.identity),
        "head": head,
        "search_space": entry.search_space,
        "plan": plan.digest,
        "seed": seed,
        "intervals_of": sorted(intervals_of),
        "versions": library_versions(),
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    # Of an estimator of the user's nobody knows all that decides what it learns.
    file = None if cache_in is None or not entry.is_known else cache_in / f"{key[:32]}.json"
    if file is not None and file.exists():
        found = _read(file, decides, plan)
        if found is not None:
            for _ in plan.parts if on_fit else ():
                on_fit()  # type: ignore[misc]
            return found
    X, more_seconds = material.read()
    build = material.build(entry)
    done = evaluate(
        lambda: build(seed),
        X,
        plan.target,
        plan.parts,
        estimand=plan.estimand,
        groups=plan.block,
        on_fit=on_fit,
        intervals_of=intervals_of,
        seed=seed,
    )
    cell = ComparedHead(
        material.encoder, head, done.report, done.seconds + more_seconds, done.chosen
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"decides": decides, "cell": cell.to_json(repeats=True)}, indent=None)
    return cell


def _read(file: Path, decides: Mapping[str, Any], plan: Plan) -> ComparedHead | None:
    try:
        kept = json.loads(file.read_text())
        if kept["decides"] != json.loads(json.dumps(decides)):
            return None
        truth = plan.target.values[plan.tested]
        return ComparedHead.from_json(kept["cell"], truth, plan.task, plan.estimand)
    except (OSError, ValueError, KeyError, TypeError):  # damaged: it is derived, so make it anew
        return None
