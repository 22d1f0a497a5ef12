"""The door: verdicts for the encoders of a data set, with their evidence and advice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import NotEnoughData
from featurestore.values import Embeddings, EncoderSpec, Modality
from heads.bundle import library_versions
from heads.catalogue import HEADS, HeadEntry, best_of, default_heads, head_entries
from heads.compare import check_metric, found_in, runs_folder
from heads.comparison import ComparedHead, Difference
from heads.concat import concat
from heads.folds import is_missing
from heads.materials import (
    Material,
    load_shared,
    of_nothing,
    of_texts_and_heads,
    of_view,
    run_cell,
)
from heads.plan import Plan, make_plan
from heads.tasks import Task
from heads.transfer.advice import Evidence, advise
from heads.transfer.rank import Ranked, agreement, rank_encoders
from heads.transfer.shift import Shift, domain_shift
from heads.transfer.verdict import (
    MARGIN,
    SliceDifference,
    Verdict,
    attribution,
    judge,
    margin_of,
    slice_differences,
)

if TYPE_CHECKING:
    from featurestore.view import View

PIXELS = "baseline:pixels"
WITHOUT_PRETRAINING = ("baseline", "random")
IMPORTED = "import"
LEAST_SEEDS = 3  # of random weights: their mean is to say something
FAR = 0.2  # raw features that are so much worse by themselves are not tried beside an encoder


@dataclass(frozen=True, eq=False)
class Assessment:
    """What is known of transfer to one data set."""

    dataset: str
    label: str
    metric: str
    task: Task
    n_items: int
    estimand: str
    verdicts: tuple[Verdict, ...]
    advice: Mapping[str, tuple[str, ...]]  # encoder → sentences
    pretraining: Mapping[str, tuple[float, float, float]]  # less random weights: Δ, low, high
    layers: tuple[Difference, ...]  # each other layer, and all together, less the last
    blends: tuple[Difference, ...]  # with raw features beside it, less the encoder alone
    slices: Mapping[str, tuple[SliceDifference, ...]]  # encoder → classes or values
    shifts: Mapping[str, Shift]  # encoder → how far the test items or another data set lie
    ranking: tuple[Ranked, ...]
    agreement: Mapping[str, float]  # Kendall's τ of each score with the heads
    notes: tuple[str, ...]
    card: Mapping[str, Any] = field(default_factory=dict)

    def verdict(self, encoder: str) -> Verdict:
        """Return the verdict on one encoder."""
        return next(one for one in self.verdicts if one.encoder == encoder)

    def to_json(self) -> dict[str, Any]:
        """Return everything that was found."""
        return {
            "format": 1,
            "kind": "transfer",
            "dataset": self.dataset,
            "label": self.label,
            "metric": self.metric,
            "task": str(self.task),
            "n_items": self.n_items,
            "estimand": self.estimand,
            "verdicts": [one.to_json() for one in self.verdicts],
            "advice": {name: list(lines) for name, lines in self.advice.items()},
            "pretraining": {name: list(values) for name, values in self.pretraining.items()},
            "layers": [asdict(one) for one in self.layers],
            "blends": [asdict(one) for one in self.blends],
            "slices": {name: [asdict(s) for s in found] for name, found in self.slices.items()},
            "shifts": {name: asdict(shift) for name, shift in self.shifts.items()},
            "ranking": [asdict(one) for one in self.ranking],
            "agreement": dict(self.agreement),
            "notes": list(self.notes),
            "card": dict(self.card),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Assessment:
        """Read what `to_json` gave."""
        return cls(
            data["dataset"],
            data["label"],
            data["metric"],
            Task(data["task"]),
            data["n_items"],
            data["estimand"],
            tuple(Verdict.from_json(one) for one in data["verdicts"]),
            {name: tuple(lines) for name, lines in data["advice"].items()},
            {name: tuple(values) for name, values in data["pretraining"].items()},
            tuple(_difference(one) for one in data["layers"]),
            tuple(_difference(one) for one in data["blends"]),
            {
                name: tuple(SliceDifference(**one) for one in found)
                for name, found in data["slices"].items()
            },
            {name: Shift(**shift) for name, shift in data["shifts"].items()},
            tuple(Ranked(**one) for one in data["ranking"]),
            data["agreement"],
            tuple(data["notes"]),
            data["card"],
        )


def _difference(data: Mapping[str, Any]) -> Difference:
    return Difference(**{**data, "first": tuple(data["first"]), "second": tuple(data["second"])})


def assess_transfer(
    views: View | Sequence[View],
    *,
    reference: View | None = None,
    heads: Sequence[str] | None = None,
    label: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    margin: float = MARGIN,
    evaluation: str = "auto",
    group: bool = True,
    by: str | None = None,
    shift_to: Sequence[View] = (),
    blend: bool = True,
    rank: bool = False,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    save: bool = True,
) -> Assessment:
    """Tell for each encoder whether it helps, against the best baseline without pretraining.

    Δ is the metric of the best head on the encoder less that of the best head on the
    reference, where *best* is chosen within each training part among the same heads: nobody's
    luck counts. The reference is raw pixels or the majority for pictures; for texts it is
    TF-IDF, all terms for ``logistic`` and their first 256 principal directions for the other
    heads, or the majority.

    Parameters
    ----------
    views : View or sequence of View
        Of one data set: the encoders to judge. Views of ``random:`` weights of the same
        architecture among the data set's own attribute the gain and are not judged; other
        layers of the same network are compared with the last.
    reference : View, optional
        In place of the baselines: what the encoders are judged against.
    heads : sequence of str, optional
        Heads to choose among, on both sides; default all of the task.
    margin : float
        The smallest difference that matters, in shares of 1; of errors, in standard
        deviations of the label.
    by : str, optional
        Column whose values are looked at one by one; default the classes.
    shift_to : sequence of View
        Views of another data set, of the same encoders: how far it lies.
    blend : bool
        Also try each encoder side by side with the raw pixels.
    rank : bool
        Also score all views of the data set without training.
    label, task, metric, evaluation, group, seed, progress, save
        As of `heads.compare`.

    Raises
    ------
    NotEnoughData
        If there is no baseline: vectors without their items, or no view of raw pixels.
    """
    views = list(views) if isinstance(views, Sequence) else [views]
    dataset = views[0].dataset
    known = {str(view.spec): view for view in dataset.views()}
    is_text = dataset.modality == Modality.TEXT
    pixels = reference or known.get(PIXELS)
    _check_baseline(views, is_text, pixels, reference)
    judged = [v for v in views if reference is not None or not _is_baseline(v.spec)]
    if not judged:
        raise NotEnoughData("no pretrained encoder among the views: nothing to judge")
    randoms = {str(v.spec): _random_weights(v.spec, known) for v in judged}
    others = [one for found in randoms.values() for one in found]
    loaded = [*judged, *others] if pixels is None else [*judged, *others, pixels]
    loaded = list({str(view.spec): view for view in loaded}.values())
    tables, n_apart = load_shared(loaded)
    plan = make_plan(
        tables[0], label=label, task=task, evaluation=evaluation, use_groups=group, seed=seed
    )
    metric = check_metric(metric, plan.task)
    names = list(head_entries(heads or default_heads(plan.task), plan.task))
    entry = best_of(names, metric) if len(names) > 1 else HEADS[names[0]]
    head = "best" if len(names) > 1 else names[0]
    table = dict(zip((str(view.spec) for view in loaded), tables, strict=True))
    run = _Runner(plan, metric, seed, found_in(dataset) if save else None, progress)
    groups = _layers(judged)
    can_blend = blend and not is_text and pixels is not None
    run.n_cells = 1 + len(judged) + len(others) + can_blend * len(judged) + len(groups)

    stated = {}
    for view in judged:
        spec = str(view.spec)
        stated[spec] = run.cell(of_view(view, table[spec], plan), head, entry)
    against, against_name = _reference(run, pixels, reference, table, tables[0], names)
    n_claims = len(judged)
    size = margin_of(plan.task, metric, plan.target.values, margin)
    verdicts = [
        judge(cell, against, metric, margin=size, n_claims=n_claims, reference_name=against_name)
        for cell in stated.values()
    ]
    pretraining = {}
    for spec, found in randoms.items():
        if len(found) < LEAST_SEEDS:
            continue
        cells = [run.cell(of_view(v, table[str(v.spec)], plan), head, entry) for v in found]
        if (gain := attribution(stated[spec], cells, metric)) is not None:
            pretraining[spec] = gain
    layers, together = _compare_layers(run, groups, stated, plan, head, entry)
    blends = {}
    for view, verdict in zip(judged, verdicts, strict=True) if can_blend else ():
        if verdict.low > FAR:
            continue
        both = concat([view, pixels])  # type: ignore[list-item]
        cell = run.cell(_of_concat(both, plan), head, entry)
        blends[str(view.spec)] = _gain(cell, stated[str(view.spec)], metric, n_claims)
    slices = {
        spec: tuple(_slices(cell, against, plan, table[spec], by)) for spec, cell in stated.items()
    }
    shifts = _shifts(judged, table, plan, shift_to)
    ranking: list[Ranked] = []
    if rank and plan.task is not Task.MULTILABEL:
        ranking = _rank(list(known.values()), plan, stated, against, metric, reference or pixels)
    advice = {}
    for verdict in verdicts:
        spec = verdict.encoder
        evidence = Evidence(
            verdict,
            layers.get(spec),
            together.get(spec),
            blends.get(spec),
            pretraining.get(spec),
            shifts.get(spec),
            slices[spec],
        )
        advice[spec] = tuple(advise(evidence))
    assessment = Assessment(
        dataset.name,
        plan.label,
        metric,
        plan.task,
        len(plan.tested),
        plan.estimand,
        tuple(verdicts),
        advice,
        pretraining,
        (*layers.values(), *together.values()),
        tuple(blends.values()),
        slices,
        shifts,
        tuple(ranking),
        agreement(ranking),
        _notes(plan, n_apart, names, judged),
        {
            "created": datetime.now(UTC).isoformat(),
            "seed": seed,
            "margin": margin,
            "heads": names,
            "search_space": entry.search_space,
            "views": [
                {
                    "encoder": str(view.spec),
                    "fingerprint": view.fingerprint,
                    "snapshot": asdict(one.snapshot) if one.snapshot else None,
                }
                for view, one in zip(loaded, tables, strict=True)
            ],
            "versions": library_versions(),
        },
    )
    if save:
        runs_folder(dataset).write_run("transfer", assessment.to_json())
    return assessment


def assessments(dataset: Any) -> list[Assessment]:
    """Return the stored assessments of a data set (or of its folder), newest first."""
    return [Assessment.from_json(card) for card in runs_folder(dataset).runs("transfer")]


@dataclass
class _Runner:
    """Runs cells of one plan and says how far it is."""

    plan: Plan
    metric: str
    seed: int
    cache_in: Any
    progress: Callable[[int, int, str], None] | None
    n_cells: int = 0
    n_done: int = 0

    def cell(self, material: Material, head: str, entry: HeadEntry) -> ComparedHead:
        return run_cell(
            material,
            head,
            entry,
            self.plan,
            seed=self.seed,
            intervals_of=(self.metric,),
            on_fit=partial(self._count, f"{head} on {material.encoder}"),
            cache_in=self.cache_in,
        )

    def _count(self, what: str) -> None:
        self.n_done += 1
        if self.progress is not None:
            self.progress(self.n_done, self.n_cells * len(self.plan.parts), what)


def _is_baseline(spec: EncoderSpec) -> bool:
    return spec.family in WITHOUT_PRETRAINING


def _check_baseline(
    views: Sequence[View], is_text: bool, pixels: View | None, reference: View | None
) -> None:
    if reference is not None or is_text or pixels is not None:
        return
    name = views[0].dataset.name
    if all(view.spec.family == IMPORTED for view in views):
        raise NotEnoughData(
            f"{name} holds imported vectors without their items, so there is no baseline without "
            "pretraining to judge them against: name a view as reference (--against SPEC)"
        )
    raise NotEnoughData(
        f"{name} has no view of {PIXELS} to judge encoders against: "
        f"featurestore embed --dataset {name} -e {PIXELS}"
    )


def _random_weights(spec: EncoderSpec, known: Mapping[str, View]) -> list[View]:
    """Return the views of random weights of an encoder's architecture, at the same layer."""
    model = str(spec).partition("#")[0]
    options = [one for one in spec.options if one[0] != "seed"]
    return [
        view
        for view in known.values()
        if view.spec.family == "random"
        and view.spec.model == model
        and [one for one in view.spec.options if one[0] != "seed"] == options
    ]


def _reference(
    run: _Runner,
    pixels: View | None,
    reference: View | None,
    table: Mapping[str, Embeddings],
    any_table: Embeddings,
    names: Sequence[str],
) -> tuple[ComparedHead, str]:
    """Evaluate the best baseline, and name it."""
    plan, metric = run.plan, run.metric
    if reference is not None:
        spec = str(reference.spec)
        entry = best_of(names, metric)
        cell = run.cell(of_view(reference, table[spec], plan), "best", entry)
        return cell, reference.spec.label
    entry = best_of([*names, "majority"], metric)
    if pixels is not None:
        spec = str(pixels.spec)
        return run.cell(of_view(pixels, table[spec], plan), "best", entry), "raw pixels"
    return run.cell(of_texts_and_heads(any_table, plan, names, metric), "best", entry), "TF-IDF"


def _of_concat(both: Any, plan: Plan) -> Material:
    loaded = both.load()
    place = {str(item): row for row, item in enumerate(loaded.ids)}
    rows = np.array([place[str(item)] for item in plan.ids])
    vectors = loaded.vectors[rows]
    found = of_nothing(plan)
    identity = {"fingerprint": both.fingerprint}
    return Material(str(both.spec), identity, lambda: (vectors, 0.0), found.build)


def _gain(first: ComparedHead, second: ComparedHead, metric: str, n_claims: int) -> Difference:
    """Return the difference of two cells, higher is better."""
    found = judge(first, second, metric, margin=0.0, n_claims=n_claims)
    return Difference(
        (first.encoder, first.head),
        (second.encoder, second.head),
        found.value,
        found.low,
        found.high,
        found.estimand,
        metric,
    )


def _layers(judged: Sequence[View]) -> list[list[View]]:
    """Return the views that are layers of one network, the last layer last."""
    networks: dict[str, list[View]] = {}
    for view in judged:
        networks.setdefault(str(view.spec.network), []).append(view)
    return [sorted(found, key=_depth) for found in networks.values() if len(found) > 1]


def _depth(view: View) -> float:
    layer = view.spec.option("layer", "")
    return float("inf") if layer in ("", "-1") else float(layer)


def _compare_layers(
    run: _Runner,
    groups: Sequence[Sequence[View]],
    stated: Mapping[str, ComparedHead],
    plan: Plan,
    head: str,
    entry: HeadEntry,
) -> tuple[dict[str, Difference], dict[str, Difference]]:
    """Return, under the last layer's spec, the best other layer and all together less the last."""
    best, together = {}, {}
    for found in groups:
        *others, last = found
        spec = str(last.spec)
        gains = [
            _gain(stated[str(one.spec)], stated[spec], run.metric, len(found)) for one in others
        ]
        best[spec] = max(gains, key=lambda gain: gain.value)
        cell = run.cell(_of_concat(concat(found), plan), head, entry)
        together[spec] = _gain(cell, stated[spec], run.metric, len(found))
    return best, together


def _slices(
    cell: ComparedHead, against: ComparedHead, plan: Plan, table: Embeddings, by: str | None
) -> list[SliceDifference]:
    """Compare class by class, or value by value of a column."""
    tested = plan.tested
    masks: dict[str, NDArray[np.bool_]] = {}
    if by is not None:
        values = table.column(by)[plan.rows][tested]
        known = ~is_missing(values)
        texts = values.astype(str)
        masks = {str(v): known & (texts == v) for v in np.unique(texts[known])}
    elif plan.task is Task.MULTICLASS:
        codes = plan.target.values[tested]
        masks = {name: codes == c for c, name in enumerate(plan.classes)}
    elif plan.task is Task.MULTILABEL:
        masks = dict(zip(plan.classes, plan.target.values[tested].T, strict=True))
    place = np.zeros(len(plan.ids), dtype=np.intp)
    place[tested] = np.arange(len(tested))
    parts = [place[test] for _, test in plan.parts]
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    return slice_differences(cell.report, against.report, masks, parts)


def _shifts(
    judged: Sequence[View],
    table: Mapping[str, Embeddings],
    plan: Plan,
    shift_to: Sequence[View],
) -> dict[str, Shift]:
    """Compare training with test items, or with those of another data set."""
    elsewhere = {view.fingerprint: view for view in shift_to}
    shifts = {}
    for view in judged:
        spec = str(view.spec)
        vectors = table[spec].vectors[plan.rows]
        names = np.array(plan.classes)
        if view.fingerprint in elsewhere:
            other = elsewhere[view.fingerprint].load()
            of_class = other.labels if other.label_column is not None else None
            if of_class is not None:
                of_class = np.where(is_missing(of_class), "(no label)", of_class.astype(str))
            shifts[spec] = domain_shift(vectors, other.vectors, classes=of_class)
        elif plan.folds is None and len(plan.test) >= 10 and len(plan.train) >= 10:
            classes = None
            if plan.task is Task.MULTICLASS:
                classes = names[plan.target.values[plan.test]]
            shifts[spec] = domain_shift(
                vectors[plan.train],
                vectors[plan.test],
                groups=(plan.block[plan.train], plan.block[plan.test]),
                classes=classes,
            )
    return shifts


def _rank(
    views: Sequence[View],
    plan: Plan,
    stated: Mapping[str, ComparedHead],
    against: ComparedHead,
    metric: str,
    pixels: View | None,
) -> list[Ranked]:
    """Score all views on the rows that teach."""
    rows = plan.train
    vectors = {}
    for view in views:
        found = view.load()
        place = {str(item): row for row, item in enumerate(found.ids)}
        if all(str(item) in place for item in plan.ids[rows]):
            at = np.array([place[str(item)] for item in plan.ids[rows]])
            vectors[str(view.spec)] = found.vectors[at]
    values = {spec: cell.report.estimate(metric).value for spec, cell in stated.items()}
    if pixels is not None:
        values[str(pixels.spec)] = against.report.estimate(metric).value
    return rank_encoders(
        vectors, plan.target.take(rows), groups=plan.block[rows], head_values=values
    )


def _notes(
    plan: Plan, n_apart: int, names: Sequence[str], judged: Sequence[View]
) -> tuple[str, ...]:
    notes = list(plan.notes)
    if n_apart:
        notes.append(f"Left out for want of a vector in some view: {n_apart} items.")
    if plan.folds is None:
        notes.append("One draw of labels: the verdict is for this training set.")
    if len(names) > 1:
        notes.append(
            f"On both sides the best of {', '.join(names)}, chosen within each training part."
        )
    else:
        notes.append(f"On both sides the head {names[0]}.")
    if len(judged) > 1:
        notes.append(f"The {len(judged)} verdicts hold at once in 95 % (Bonferroni).")
    return tuple(notes)
