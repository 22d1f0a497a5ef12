"""What heads read of labelled items, and their evaluation on it, kept so that none runs twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.files import write_json
from featurestore.values import Embeddings, Modality
from heads.bundle import library_versions, texts_of
from heads.catalogue import HEADS, Build, HeadEntry, best_on_counts, counts_builder
from heads.comparison import ComparedHead
from heads.concat import concat
from heads.evaluate import evaluate
from heads.plan import Plan
from heads.shared import Ground, rows_of
from heads.tasks import Task
from heads.words import with_words

if TYPE_CHECKING:
    from featurestore.view import View

CACHE_FORMAT = 7  # a change to how heads learn or are scored makes it one more
TFIDF = "baseline:tfidf"
MAJORITY = "baseline:majority"


@dataclass(frozen=True, eq=False)
class Material:
    """One encoder's vectors of the rows of a plan, or what stands in their place."""

    encoder: str
    identity: Mapping[str, Any]  # what decides the numbers: fingerprint, snapshot
    read: Callable[[], tuple[Any, float]]  # (n, dim) and the seconds that a fit would add
    build: Callable[[HeadEntry], Build]  # how a head is built for it


def of_view(view: View, table: Embeddings, plan: Plan) -> Material:
    """Return a view's vectors; the state tells versions of one number apart."""
    identity = {"fingerprint": view.fingerprint, "state": view.state}
    return of_vectors(str(view.spec), lambda: table.vectors[plan.rows], plan, identity, view)


def of_concat(views: Sequence[View], plan: Plan) -> Material:
    """Return views side by side; they are loaded only if a head is trained on them."""
    both = concat(views)

    def vectors() -> NDArray[np.float32]:
        found = both.load()
        return found.vectors[rows_of(found, plan.ids)]

    identity = {"of": [[view.fingerprint, view.state] for view in views]}
    return of_vectors(str(both.spec), vectors, plan, identity)


def of_vectors(
    encoder: str,
    vectors: Callable[[], Any],
    plan: Plan,
    identity: Mapping[str, Any],
    view: View | None = None,
) -> Material:
    """Return vectors of the plan's rows under an encoder's name; its view knows words."""

    def build(entry: HeadEntry) -> Build:
        found = entry.builder(plan.task)
        assert found is not None, "checked by head_entries"
        return found if entry.reads != "words" else with_words(found, view, plan.classes)

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

    texts = "\0".join(map(str, texts_of(table)[plan.rows]))
    identity = {"texts": hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()}
    return Material(TFIDF, identity, read, lambda entry: build(entry, count()[1]))


def of_views(ground: Ground) -> list[Material]:
    """Return what heads read of each view."""
    return [of_view(v, t, ground.plan) for v, t in zip(ground.views, ground.tables, strict=True)]


def baselines(ground: Ground) -> list[tuple[Material, str, HeadEntry]]:
    """Return what needs no encoder, each with its head: majority and, for texts, TF-IDF."""
    plan = ground.plan
    found = [(of_nothing(plan), "majority", HEADS["majority"])]
    if ground.views[0].dataset.modality == Modality.TEXT:
        head = "ridge" if plan.task is Task.REGRESSION else "logistic"
        found.append((of_texts(ground.tables[0], plan), head, HEADS["tfidf"]))
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
        reviewed=plan.reviewed,
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
