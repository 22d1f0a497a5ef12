"""Encoders × heads on the same rows, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from featurestore.errors import (
    BadName,
    FeatureStoreError,
    ModalityMismatch,
    NotEnoughData,
    nearest,
)
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.words import counted
from heads.catalogue.entry import HeadEntry
from heads.catalogue.layers import layers_of, no_layers
from heads.catalogue.retraining import TAP, retraining_among, retrains
from heads.catalogue.table import BEST, HEADS, MIX, POOL_HEAD, default_heads, head_entries
from heads.catalogue.words import reads_words
from heads.experiments.cells import (
    HELD_BYTES,
    Progress,
    Runner,
    cell_cache,
    keep_run,
    run_folder,
)
from heads.experiments.inputs import (
    Cell,
    Material,
    baselines,
    ngrams_of,
    of_pool,
    of_tap,
    of_views,
    pool_notes,
)
from heads.experiments.large import cost, sampled
from heads.experiments.leaks import Leak, find_leak
from heads.experiments.metadata import columns_alone, judged, views_with
from heads.experiments.ngrams import Ngrams
from heads.experiments.on_taps import ground_on_taps
from heads.experiments.run_notes import collapsed_notes, stopped_notes
from heads.experiments.together import all_together, mixes_of, several_of
from heads.labels.options import PlanKeywords, PlanOptions, options_from
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.labels.views import AnyDataset, AnyView
from heads.measures.comparison import ComparedHead, Comparison, ComparisonCard
from heads.measures.evaluate import undefined
from heads.measures.metrics import METRICS
from heads.saved.ground import Ground
from heads.saved.mixed import MixView
from heads.saved.provenance import library_versions, machine
from heads.saved.tapped import can_be_cut, no_cut

if TYPE_CHECKING:
    from featurestore.store.view import View

FEW_LABELS = 8  # a class: with so many or fewer the words of the classes gain (docs/heads.md)
WORDS_HEAD = "zero-shot+probe"
LAYERS_HEAD = "layers"
FEW_TO_SPREAD, MANY_UNLABELLED = 4, 15  # labels a class or fewer, unlabelled items a class or more


def compare(
    views: View | Sequence[View],
    heads: Sequence[str | Any] | None = None,
    *,
    metric: str | None = None,
    progress: Progress | None = None,
    minutes: float | None = None,
    preview: Callable[[Comparison], None] | None = None,
    save: bool = True,
    rows: int | None = None,
    columns: Sequence[str] = (),
    **plan: Unpack[PlanKeywords],
) -> Comparison:
    """Compare heads on the encoders of one data set, beside baselines.

    All rows share the items that every view has a vector of, and the same folds. Near-duplicates
    across a given split are counted and left out of a second metric.

    Parameters
    ----------
    views : View or sequence of View, of one data set
    heads : sequence of str or estimator, optional
        Names as of `featurestore train`, or unfitted scikit-learn estimators; by default all that
        do the task, a mix of all inputs, and where they help layers, zero-shot+probe, propagate.
    metric : str, optional
        Of `heads.measures.metrics.METRICS`; default balanced accuracy, macro F1 or R², by task.
    progress : callable, optional
        Called with fits done, fits in all, and what was fitted or is to be.
    minutes : float, optional
        Stop after so long, with whole repeats; an equal call goes on from there.
    preview : callable, optional
        Called with the comparison as it stands after each repeat of the folds but the last.
    save : bool
        Keep it in ``runs/``, and each row in ``cache/heads/``.
    rows : int, optional
        Look at so many labelled items, drawn evenly.
    columns : sequence of str, optional
        As of `heads.concat`: views are compared without and with them, and they alone.
    label : str, optional
        Label column; default the data set's main label.
    task : {"multiclass", "multilabel", "regression"}, optional
        Default what the labels look like.
    evaluation : {"auto", "test", "folds"}
        ``auto``: the test split where there is one, else folds (5 × 5; 1 × 5 above 100,000 items).
    seed : int, default 0
        Of folds and of every drawing within heads.
    group : bool, default True
        Whether items of one group stay together (items of equal content always do).
    apply_reviews : bool, default False
        Let reviewers' decisions change training rows; of test rows they give ``as_reviewed``.
    twins_together : bool, default False
        Keep near-duplicates (`heads.twins`) in one fold, and test none with a twin that teaches.
    repeats : int, optional
        How often the folds are dealt anew; default 5, or 1 where a head retrains a network.

    Raises
    ------
    UnknownHead, MissingColumn, NotEnoughData, BadName, BadSource, TimeIsUp
    """
    known = ("heads", "metric", "progress", "minutes", "preview", "save", "rows", "columns")
    options = once_over(options_from(PlanOptions, plan, "heads.compare", *known), heads or ())
    each = views_with(list(views) if isinstance(views, Sequence) else [views], columns)
    ground = ground_on_taps(each, options, rows, retraining_among(heads or ()))
    dataset, rules = ground.views[0].dataset, ground.plan
    metric = check_metric(metric, rules.task)
    cache = cell_cache(dataset) if save else None
    runner = Runner(options.seed, cache, progress, (metric,), minutes)
    cells, notes = _cells(ground, heads, options.seed, runner)
    asked = dict.fromkeys(name for _, name, entry in cells if not entry.is_baseline)
    made = _Comparing(ground, options, metric, list(asked), cells, datetime.now(UTC), rows)
    runner.on_repeat = None if preview is None else lambda found: preview(made.of(found))
    runner.begin(len(rules.parts) * len(cells), f"{made.work}{cost(cells, rules, options.seed)}")
    found = runner.cells(cells, rules)
    leak, leak_notes = (None, []) if options.twins_together else find_leak(ground.views, rules)
    if all(np.isnan(one.report.estimate(metric).value) for one in found):
        raise NotEnoughData(undefined(metric))
    notes = [*ground.notes(), *notes, *leak_notes, *collapsed_notes(found)]
    notes += stopped_notes(runner, [row.report for row in found], rules)
    return _kept(judged(made.of(found, notes, leak), ground), dataset, save)


def _cells(
    ground: Ground, heads: Sequence[str | Any] | None, seed: int, runner: Runner
) -> tuple[list[Cell], list[str]]:
    """Return all that is compared, and notes on it."""
    entries, ngrams = chosen_heads(heads, ground.plan), ngrams_of(ground)
    cells, notes = cells_of(ground, entries, seed, ngrams=ngrams)
    cells += [*baselines(ground, ngrams), *columns_alone(ground)]
    words, word_notes = words_where_few(ground, runner) if heads is None else ([], [])
    cells += [*words, *(where_several(ground, ngrams) if heads is None else [])]
    cells, sample_notes = sampled(cells, ground.plan)
    return cells, [*notes, *word_notes, *sample_notes]


def once_over(options: PlanOptions, heads: Sequence[str | Any]) -> PlanOptions:
    """Deal the folds once where a head retrains a network and nobody asked for more."""
    is_long = options.repeats is None and any(map(retrains, heads))
    return replace(options, repeats=1) if is_long else options


def _kept(comparison: Comparison, dataset: AnyDataset, save: bool) -> Comparison:
    if save:
        keep_run(dataset, "compare", comparison.to_json())
    return comparison


@dataclass(frozen=True, eq=False)
class _Comparing:
    """What makes a comparison of its rows, at the end and on the way there."""

    ground: Ground
    options: PlanOptions
    metric: str
    heads: list[str]  # asked for
    cells: Sequence[Cell]
    created: datetime
    n_rows: int | None = None  # that were asked for

    @property
    def work(self) -> str:
        """Say what is to be done."""
        n_encoders, n_fits = len(self.ground.views), len(self.ground.plan.parts)
        counts = ((n_encoders, "encoder"), (len(self.heads), "head"), (n_fits, "fit"))
        return " × ".join(counted(n, what) for n, what in counts)

    def of(
        self, rows: Sequence[ComparedHead], notes: Sequence[str] = (), leak: Leak | None = None
    ) -> Comparison:
        """Return the comparison of these rows."""
        plan, metric, twins = self.ground.plan, self.metric, None
        if leak is not None:
            twins = leak.card([leak.without(row.report, metric) for row in rows])
        card = ComparisonCard(
            created=self.created.isoformat(),
            heads=self.heads,
            search_spaces={name: entry.search_space for _, name, entry in self.cells},
            twins=twins,
            rows=self.n_rows,
            **_card_of_ground(self.ground, self.options, rows),
        )
        return Comparison(
            self.ground.views[0].dataset.name,
            plan.label,
            metric,
            rows[0].report.estimand,
            plan.task,
            plan.classes,
            tuple(str(item) for item in plan.ids[plan.tested]),
            tuple(rows),
            tuple(notes),
            card,
        )


def where_several(ground: Ground, ngrams: Ngrams | None) -> list[Cell]:
    """Return what weighs layers on views of several layers, and a mix of several inputs.

    Of inputs too large to be held side by side there is no mix: its members are run together.
    """
    layers = [
        (material, LAYERS_HEAD, HEADS[LAYERS_HEAD])
        for view, material in zip(ground.views, of_views(ground), strict=True)
        if layers_of(view)
    ]
    if sum(table.vectors.nbytes for table in ground.tables) > HELD_BYTES:
        return layers
    return layers + all_together(ground, {MIX: HEADS[MIX]}, ngrams)


def words_where_few(ground: Ground, runner: Runner) -> tuple[list[Cell], list[str]]:
    """Return `zero-shot+probe` on views that read words, where labels are few; and notes on it.

    With eight labels a class or fewer, what a class is called says more than a few examples.
    """
    plan = ground.plan
    if not any(map(_has_letters, plan.classes)) or labels_a_class(plan) > FEW_LABELS:
        return [], []
    cells: list[Cell] = []
    notes = []
    for view, material in zip(ground.views, of_views(ground), strict=True):
        cell = material, WORDS_HEAD, HEADS[WORDS_HEAD]
        if not reads_words(view):
            continue
        try:
            if not runner.is_kept(cell, plan):
                material.build(cell[2])  # encodes the names of the classes
            cells.append(cell)
        except FeatureStoreError as error:  # the vectors are here, and the encoder is not
            notes.append(f"{WORDS_HEAD} was not tried on {material.encoder}: {error}.")
    if cells:
        notes.append(
            f"{WORDS_HEAD} was tried as well: there are {FEW_LABELS} labels a class or fewer, and "
            "the encoder reads the names of the classes."
        )
    return cells, notes


def labels_a_class(plan: Plan) -> float:
    """Return how many labels a class teach, by the median; infinite where there are no classes."""
    if plan.task is not Task.MULTICLASS:
        return float("inf")
    taught = float(np.mean([len(train) for train, _ in plan.parts])) / len(plan.ids)
    return float(np.median(np.bincount(plan.target.values))) * taught


def entries_for(heads: Sequence[str | Any], plan: Plan) -> dict[str, HeadEntry]:
    """Look up heads; `best` is `propagate` where labels are few and unlabelled items many.

    Few labels cannot tell which head is best, and it is the average of several.
    """
    entries = head_entries(heads, plan.task)
    if BEST in entries and (spread := spread_where_few(plan)):
        spreads = spread[POOL_HEAD]
        space = (
            f"{POOL_HEAD}, as labels are few and unlabelled items many: {spreads.search_space}; "
            f"else {entries[BEST].search_space}"  # by which runs that are run again know it
        )
        entries[BEST] = replace(spreads, search_space=space)
    return entries


def spread_where_few(plan: Plan) -> dict[str, HeadEntry]:
    """Return `propagate` where labels are few and unlabelled items many."""
    n = len(plan.unlabelled.positions)
    is_tried = labels_a_class(plan) <= FEW_TO_SPREAD and n >= MANY_UNLABELLED * len(plan.classes)
    return {POOL_HEAD: HEADS[POOL_HEAD]} if is_tried else {}


def _has_letters(name: str) -> bool:
    return any(letter.isalpha() for letter in name)


def _card_of_ground(
    ground: Ground, options: PlanOptions, rows: Sequence[ComparedHead]
) -> dict[str, Any]:
    plan, repeats = ground.plan, rows[0].report.repeats
    never_part = ["content_hash", *(["group"] if options.group else [])]
    return {
        "seed": options.seed,
        "evaluation": "folds" if plan.folds else "test",
        "n_folds": plan.folds.n_folds if plan.folds else 0,
        "n_repeats": 0 if plan.folds is None or repeats is None else len(repeats),
        "never_part": [*never_part, *(["twins"] if options.twins_together else [])],
        "views": ground.read_views(),
        "n_train": len(plan.train) if plan.folds is None else None,
        "n_unlabelled": plan.n_unlabelled,
        "n_without_vector": ground.n_apart,
        "n_leaked": plan.n_leaked,
        "apply_reviews": options.apply_reviews,
        "reviews": None if plan.reviewed is None else plan.reviewed.digest,
        "machine": machine(),
        "versions": library_versions(),
    }


def cells_of(
    ground: Ground,
    entries: Mapping[str, HeadEntry],
    seed: int = 0,
    *,
    ngrams: Ngrams | None = None,
    hides: bool = False,
) -> tuple[list[Cell], list[str]]:
    """Return each view with each head that can read it, mixes of all, and notes on what they read.

    Of a learning curve, which ``hides`` labels, unlabelled items are more than those of the plan.

    Raises
    ------
    ModalityMismatch, BadName
        If a head that knows classes by name is wanted, and no encoder reads words; one that
        weighs layers, and no view has several; or a mix, and there is one input.
    """
    several = several_of(entries)
    mixes = mixes_of(ground, several, ngrams)
    mixed = [view for view in ground.views if isinstance(view, MixView)]
    of_mixed = several | {name: entry for name, entry in entries.items() if entry.among}
    apart = [] if of_mixed or not mixed else list(entries)
    of_mixed = of_mixed or {MIX: HEADS[MIX]}
    entries = {name: entry for name, entry in entries.items() if name not in several}
    named = [name for name, entry in entries.items() if entry.reads == "words"]
    weighing = [name for name, entry in entries.items() if entry.reads == "layers"]
    mute = [view for view in ground.views if named and not reads_words(view)]
    flat = [view for view in ground.views if weighing and not layers_of(view)]
    if len(mute) == len(ground.views):
        specs = ", ".join(str(view.spec) for view in mute)
        raise ModalityMismatch(f"{', '.join(named)}: no encoder reads words among {specs}")
    if len(flat) == len(ground.views):
        raise BadName(no_layers(flat[0]))
    tapping = [name for name, entry in entries.items() if entry.reads == TAP]
    solid = [view for view in ground.views if tapping and not can_be_cut(view)]
    if len(solid) == len(ground.views):
        raise no_cut(solid[0], tapping[0])

    def material_of(view: AnyView, table: Embeddings, vectors: Material, entry: HeadEntry) -> Any:
        if entry.reads.endswith("pool"):
            return of_pool(view, table, ground.plan, entry, seed)
        return of_tap(view, ground.plan, entry) if entry.reads == TAP else vectors

    cells = [
        (material_of(view, table, vectors, entry), name, entry)
        for view, table, vectors in zip(ground.views, ground.tables, of_views(ground), strict=True)
        for name, entry in (of_mixed if isinstance(view, MixView) else entries).items()
        if not (name in named and view in mute)
        and not (name in weighing and view in flat)
        and not (name in tapping and view in solid)
    ]
    words = f"does not read words, so {', '.join(named)} was not tried on it."
    layers = f"holds one layer, so {', '.join(weighing)} was not tried on it."
    return cells + mixes, [
        *(f"{view.spec} {words}" for view in mute),
        *(f"{view.spec} {layers}" for view in flat),
        *(
            f"{view.spec} has no blocks to retrain, so {', '.join(tapping)} was not tried on it."
            for view in solid
        ),
        *(
            f"{view.spec} holds several inputs, which {MIX} reads: {', '.join(apart)} was not "
            "tried on it."
            for view in mixed
            if apart
        ),
        *pool_notes(ground.plan, entries, seed, hides=hides),
    ]


def check_metric(metric: str | None, task: Task) -> str:
    """Return the metric to compare by, the task's main one where none is named.

    Raises
    ------
    BadName
        If it is no metric of the task.
    """
    if metric is None:
        return next(iter(METRICS[task]))
    if metric not in METRICS[task]:
        raise BadName(f"no metric {metric!r} of {task}: {nearest(metric, METRICS[task])}")
    return metric


def chosen_heads(heads: Sequence[str | Any] | None, plan: Plan) -> dict[str, HeadEntry]:
    """Return the heads to compare by name; kNN is always among them, baselines come apart.

    Raises
    ------
    UnknownHead
        If there is no such head, or it does not do the task.
    """
    wanted = default_heads(plan.task) if heads is None else (*heads, "knn")
    entries = entries_for(wanted, plan)
    entries |= spread_where_few(plan) if heads is None else {}
    return {name: entry for name, entry in entries.items() if not entry.is_baseline}


def runs(dataset: AnyDataset) -> list[Comparison]:
    """Return the stored comparisons of a data set (or of its folder), newest first."""
    return [Comparison.from_json(card) for card in run_folder(dataset).runs("compare")]
