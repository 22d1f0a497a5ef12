"""What heads read of labelled items: vectors of a view, of several, or texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import EncoderSpec, Modality
from heads.catalogue.entry import Build, HeadEntry
from heads.catalogue.layers import build_for
from heads.catalogue.members import with_members
from heads.catalogue.retraining import FINETUNE
from heads.catalogue.table import BEST, HEADS, POOL_HEAD, best_on_counts, counts_builder
from heads.estimators.kept_runs import KeptRuns
from heads.experiments.ngrams import Ngrams
from heads.labels.plan import Plan
from heads.labels.sampling import LARGE_ROWS
from heads.labels.tasks import Task, texts_of
from heads.labels.unlabelled import MOST_ITEMS, Pooled
from heads.labels.views import AnyView, folder_of
from heads.measures.fits import Join
from heads.saved.common_items import positions_in
from heads.saved.concat import concat, stored
from heads.saved.ground import Ground
from heads.saved.mixed import MixView
from heads.saved.provenance import library_versions
from heads.saved.tapped import can_be_cut, no_cut, tapped, wanted_tap

if TYPE_CHECKING:
    from featurestore.store.view import View


TFIDF = "baseline:tfidf"
MAJORITY = "baseline:majority"
_PLAIN = (
    "baseline:",
    "builtin:",
    "random:",
)  # begins the names of encoders that were not trained elsewhere


@dataclass(frozen=True, eq=False)
class Material:
    """One encoder's vectors of the rows of a plan, or what stands in their place."""

    encoder: str
    identity: Mapping[str, Any]  # what decides the numbers: fingerprint, snapshot
    read: Callable[[], tuple[Any, float]]  # (n, dim) and the seconds that a fit would add
    build: Callable[[HeadEntry], Build]  # how a head is built for it
    # Which of some cells are all that a head on it is made of, and how; None: it needs fits.
    joint: Callable[[HeadEntry, Sequence[Cell], int], Joint | None] = lambda *_: None
    forget: Callable[[], None] = lambda: None  # deletes what parts of fits had left to go on from


Cell = tuple[Material, str, HeadEntry]  # what is read, and the head by name
Joint = tuple[list[int], Join]  # numbers of cells, and what makes a head of their fits


def of_view(view: AnyView, table: Embeddings, plan: Plan) -> Material:
    """Return a view's vectors, or several inputs; the state tells versions of one number apart."""
    identity = {"fingerprint": view.fingerprint, "state": view.state}

    def read() -> Any:
        inputs = view.inputs(table) if isinstance(view, MixView) else table.vectors
        is_all = isinstance(inputs, np.ndarray) and len(inputs) == len(plan.rows)
        in_order = is_all and bool((np.diff(plan.rows) == 1).all())
        return inputs if in_order else inputs[plan.rows]

    return of_vectors(str(view.spec), read, plan, identity, view)


def of_concat(views: Sequence[View], plan: Plan) -> Material:
    """Return views side by side; they are loaded only if a head is trained on them."""
    both = concat(views)

    def vectors() -> NDArray[np.float32]:  # (n, dim)
        table = both.load()
        return table.vectors[positions_in(table, plan.ids)]

    identity = {"of": [[view.fingerprint, view.state] for view in views]}
    return of_vectors(str(both.spec), vectors, plan, identity)


def of_vectors(
    encoder: str,
    vectors: Callable[[], Any],
    plan: Plan,
    identity: Mapping[str, Any],
    view: AnyView | None = None,
) -> Material:
    """Return vectors of the plan's rows under an encoder's name; its view knows words, layers."""
    return Material(
        encoder, identity, lambda: (vectors(), 0.0), lambda entry: builder_for(entry, view, plan)
    )


def builder_for(entry: HeadEntry, view: AnyView | None, plan: Plan) -> Build:
    """Return what builds a head for a view: with what it needs of it, or the members of a mix."""
    if isinstance(view, MixView):
        return with_members(entry, view.views, plan.task, plan.classes)
    return build_for(entry, plan.task, view, plan.classes)


def of_pool(
    view: AnyView,
    table: Embeddings,
    plan: Plan,
    entry: HeadEntry,
    seed: int = 0,
    *,
    apart: Sequence[int] | NDArray[np.intp] = (),
) -> Material:
    """Return a view's vectors with those of the unlabelled items that heads may look at.

    The rows that are kept ``apart`` are never looked at.
    """
    sample = plan.unlabelled.sample(MOST_ITEMS, seed)
    block = plan.unlabelled.blocks_with(plan.rows, sample)
    at = np.concatenate([plan.rows, sample])
    witness = _witness(view, table, at, plan.task) if entry.reads == "witnessed pool" else None

    def read() -> tuple[Any, float]:
        barred = plan.split == "test"
        if plan.folds is not None:
            barred &= False
        if plan.reviewed is not None:
            barred |= ~plan.reviewed.teaches
        barred[np.asarray(apart, dtype=np.intp)] = True
        pooled = Pooled.of(
            table.vectors[plan.rows],
            table.vectors[sample],
            block,
            barred=np.flatnonzero(barred),
            other=None if witness is None else witness.said,
            kept=lambda: kept_neighbors(view, table, at),
        )
        return pooled, 0.0

    def build(entry: HeadEntry) -> Build:
        builder = entry.builder(plan.task)
        assert builder is not None, "checked by head_entries"
        if witness is None:
            return builder
        return lambda seed: builder(seed).set_params(witness=witness.head(seed))

    seen = hashlib.sha256("\0".join(table.ids[at].astype(str)).encode() + block.tobytes())
    identity = {
        "fingerprint": view.fingerprint,
        "state": view.state,
        "unlabelled": seen.hexdigest(),
        **({} if witness is None else {"witness": witness.identity}),
    }
    return Material(str(view.spec), identity, read, build)


def pool_notes(
    plan: Plan, entries: Mapping[str, HeadEntry], seed: int = 0, *, hides: bool = False
) -> list[str]:
    """Say which unlabelled items heads look at, if they look at any."""
    n = len(plan.unlabelled.positions)
    named = [name for name, entry in entries.items() if entry.reads.endswith("pool")]
    if not named:
        return []
    head = named[0]
    if head == BEST:
        head = f"{BEST} is {POOL_HEAD} here, as labels are few and unlabelled items many: it"
    if hides:
        return [
            f"{head} looks at unlabelled items as well, and at those whose labels were not drawn; "
            "never at test items."
        ]
    if not n:
        return [f"No item is without a label: {head} learns from labelled items alone."]
    if n > MOST_ITEMS:
        return [
            f"{head} looks at {MOST_ITEMS:,} of the {n:,} unlabelled items, drawn at random "
            f"(seed {seed})."
        ]
    return [f"{head} looks at {n:,} unlabelled {'items' if n > 1 else 'item'} as well."]


@dataclass(frozen=True, eq=False)
class _Witness:
    """What another encoder says of items, and the head that reads it."""

    identity: str
    said: Any  # (n, ·)
    head: Build


def _network(spec: EncoderSpec) -> str:
    """Name a network however it is read: by which layer, at which size and precision."""
    return str(spec).partition("#")[0]


def _witness(view: AnyView, table: Embeddings, at: NDArray[np.intp], task: Task) -> _Witness | None:
    """Return another encoder's view of some items of a table; of texts alone their n-grams.

    Views with a pretrained encoder come first. None where no view has all the items.
    """
    own = {_network(one.spec) for one in stored(view)}
    others = [one for one in view.dataset.views() if _network(one.spec) not in own]
    for other in sorted(others, key=lambda one: str(one.spec).startswith(_PLAIN)):
        found = other.load()
        places = positions_in(found, table.ids[at])
        if (places >= 0).all():
            identity = f"{other.fingerprint} {other.state}"
            return _Witness(identity, found.vectors[places], HEADS["ridge"].builder(task))  # type: ignore[arg-type]
    if view.dataset.modality != Modality.TEXT:
        return None
    from heads.estimators.tfidf import count_ngrams

    counts, n_words = count_ngrams(texts_of(table)[at].tolist())
    return _Witness(TFIDF, counts, counts_builder(n_words, task))


def kept_neighbors(
    view: AnyView, table: Embeddings, at: NDArray[np.intp]
) -> NDArray[np.intp] | None:
    """Return the neighbors of items of a table as the snapshot keeps them; -1: not among them.

    None where they are not kept exactly, or of far more items than these.
    """
    if not isinstance(getattr(view, "index", None), Callable) or len(table) > 2 * len(at):  # type: ignore[arg-type]
        return None
    from featurestore.maps.graph import neighbor_graph
    from featurestore.search.exact import ExactIndex

    stored = cast("View", view)
    if not isinstance(stored.index(), ExactIndex):
        return None
    graph, ids = neighbor_graph(stored), stored.load().ids.astype(str)
    place = np.full(len(ids), -1)
    own = table.ids[at].astype(str)
    order = np.argsort(ids, kind="stable")
    rows = order[np.searchsorted(ids[order], own).clip(max=len(ids) - 1)]
    place[rows] = np.arange(len(at))
    return np.asarray(place[graph.rows[rows]])


def of_tap(view: AnyView, plan: Plan, entry: HeadEntry) -> Material:
    """Return whole activations of the plan's items, made where the store lacks them.

    Raises
    ------
    BadName
        If the encoder has no blocks to retrain.
    """
    if not can_be_cut(view):
        raise no_cut(view, FINETUNE)
    (stored_view,) = stored(view)
    found = cache(lambda: tapped(stored_view, entry, plan.ids))

    identity = {
        "fingerprint": view.fingerprint,
        "state": view.state,
        "tap": wanted_tap(view, entry).label,
    }
    folder = DatasetFolder(folder_of(view.dataset)).local / "cache" / "retrained"
    keep = KeptRuns(folder, {**identity, "versions": library_versions()})

    def build(entry: HeadEntry) -> Build:
        builder = entry.builder(plan.task)
        assert builder is not None, "checked by head_entries"

        def made(seed: int) -> Any:
            head = builder(seed).set_params(upper=found().upper, cut=found().cut)
            head.keep = keep
            return head

        return made

    def read() -> tuple[Any, float]:
        return found().activations, 0.0

    return Material(str(view.spec), identity, read, build, forget=keep.forget)


def of_nothing(plan: Plan) -> Material:
    """Return a constant: what the majority is predicted from."""
    return of_vectors(
        MAJORITY, lambda: np.zeros((len(plan.ids), 1), dtype=np.float32), plan, {"constant": 0}
    )


def of_texts(ngrams: Ngrams) -> Material:
    """Return the texts' n-grams, counted once for all folds; of many rows, the texts."""
    task = ngrams.plan.task
    if len(ngrams.plan.ids) > LARGE_ROWS:  # too many to count: heads learn from few
        return Material(
            TFIDF, ngrams.identity, lambda: (ngrams.texts, 0.0), lambda e: built(e, task)
        )
    return _of_counts(ngrams, lambda entry, n_words: counts_builder(n_words, task))


def built(entry: HeadEntry, task: Task) -> Build:
    """Return what builds a head that needs nothing but its task."""
    builder = entry.builder(task)
    assert builder is not None, "checked by head_entries"
    return builder


def of_texts_and_heads(
    table: Embeddings, plan: Plan, entries: Mapping[str, HeadEntry], metric: str
) -> Material:
    """Return the texts' n-grams for the best of several heads, chosen in each training part."""
    return _of_counts(
        Ngrams(table, plan),
        lambda entry, n_words: best_on_counts(entries, n_words, plan.task, metric),
    )


def _of_counts(ngrams: Ngrams, build: Callable[[HeadEntry, int], Build]) -> Material:
    def read() -> tuple[Any, float]:
        counts, _, seconds = ngrams.counted
        return counts, seconds

    return Material(TFIDF, ngrams.identity, read, lambda entry: build(entry, ngrams.counted[1]))


def of_views(ground: Ground) -> list[Material]:
    """Return what heads read of each view."""
    return [of_view(v, t, ground.plan) for v, t in zip(ground.views, ground.tables, strict=True)]


def ngrams_of(ground: Ground) -> Ngrams | None:
    """Return the n-grams of the texts; None of pictures."""
    if ground.views[0].dataset.modality != Modality.TEXT:
        return None
    return Ngrams(ground.tables[0], ground.plan)


def baselines(ground: Ground, ngrams: Ngrams | None) -> list[Cell]:
    """Return what needs no encoder, each with its head: majority and, for texts, TF-IDF."""
    plan = ground.plan
    cells = [(of_nothing(plan), "majority", HEADS["majority"])]
    if ngrams is not None:
        head = "ridge" if plan.task is Task.REGRESSION else "logistic"
        cells.append((of_texts(ngrams), head, HEADS["tfidf"]))
    return cells
