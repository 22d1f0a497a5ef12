"""Look for what is wrong with a data set: the door to `heads.quality`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, MissingColumn, ModalityMismatch, NotEnoughData, StoreBusy
from featurestore.maps.graph import Graph, neighbor_graph
from featurestore.storage.remote import RemotePath
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import is_missing
from heads.catalogue.table import head_entries
from heads.experiments.cells import Progress, keep_run, run_folder
from heads.labels.options import PlanOptions
from heads.labels.plan import Plan, make_plan, task_of
from heads.labels.tasks import Task, texts_of
from heads.labels.views import AnyDataset
from heads.measures.card import ReadView
from heads.measures.evaluate import evaluate
from heads.quality.issues import Issue, Issues, Kind, QualityCard
from heads.quality.labels import judge_labels, neighbor_votes, pooled
from heads.quality.outliers import FAR, outlier_scores
from heads.saved.provenance import library_versions, machine
from heads.twins.duplicates import Pairs
from heads.twins.twins import Twins, find_twins, known_column

if TYPE_CHECKING:
    from featurestore.store.view import View

MOST_KEPT = 5_000  # issues of one kind in a report
N_OTHERS = 8  # neighbors that are named beside a label


def find_issues(
    view: View,
    *,
    label: str | None = None,
    head: str | Any = "logistic",
    seed: int = 0,
    progress: Progress | None = None,
    save: bool = True,
) -> Issues:
    """Look for wrong labels, near-duplicates, leaks and outliers, all on one kNN graph.

    Labels are judged by a head out of fold and by the neighbors' vote together
    (`heads.quality.labels`), and as many are named as there are likely to be errors. Twins are
    proposed by the graph and confirmed on pixels or letters (`pictures`, `duplicates`); a leak
    is one across splits or groups. Outliers lie far from neighbors and classes (`outliers`).

    Parameters
    ----------
    view : View
    label : str, optional
        Label column; default the data set's main label. Without labels the rest is done.
    head : str or estimator
        Whose out-of-fold probabilities judge the labels.
    seed : int
        Of folds and head.
    progress : callable, optional
        Called with things done, things in all, and what is being done.
    save : bool
        Keep it in the data set's ``runs/``.

    Raises
    ------
    NotEnoughData
        With fewer than three items.
    """
    created = datetime.now(UTC)
    view, erased_since = view.now(), view.dataset.folder.watch_erasures()
    tell = progress or (lambda n_done, n, what: None)
    embeddings = view.load()
    if len(embeddings) < 3:
        raise NotEnoughData(f"{view.name} has {len(embeddings)} items: expected 3 or more")
    graph = neighbor_graph(view, progress=lambda done, n: tell(done, n, "neighbors"))
    plan, plan_notes = label_plan(view, embeddings, label, seed)
    issues: list[Issue] = []
    if plan is not None:
        issues += _wrong_labels(plan, embeddings, graph, head, seed, tell)
    twins = find_twins(view, progress=tell)
    issues += _twin_issues(embeddings, twins)
    issues += _outliers(embeddings, graph, None if plan is None else _codes(plan, len(embeddings)))
    name = label or embeddings.label_column
    counts, count_notes = _class_counts(embeddings, name)
    notes = [*plan_notes, *twins.notes(), *_leak_notes(issues, len(embeddings)), *count_notes]
    kept, n_found = _worst(issues)
    report = Issues(
        view.dataset.name,
        str(view.spec),
        name,
        tuple(kept),
        n_found,
        counts,
        (*notes, *_failure_notes(view)),
        QualityCard(
            created=created.isoformat(),
            seed=seed,
            head=head if isinstance(head, str) else repr(head),
            n_items=len(embeddings),
            slice=None if view.slice_ is None else view.slice_.name,
            thresholds={"duplicate": round(twins.same, 4), "outlier": FAR},
            views=(ReadView(str(view.spec), view.fingerprint, embeddings.snapshot),),
            machine=machine(),
            versions=library_versions(),
        ),
        view.dataset,
    )
    if save:
        path = keep_run(view.dataset, "quality", report.to_json())
        if path is not None and erased_since():
            path.unlink(missing_ok=True)
            raise StoreBusy(f"items of {view.dataset.name!r} were erased meanwhile: look again")
    return report


def _leak_notes(issues: Sequence[Issue], n_items: int) -> list[str]:
    n_leaks = sum(issue.kind is Kind.LEAK for issue in issues)
    if not n_leaks:
        return []
    return [
        f"{n_leaks:,} of {n_items:,} items ({n_leaks / n_items:.0%}) have a twin on the other side "
        "of a split or group: this makes scores too high."
    ]


def _failure_notes(view: View) -> list[str]:
    whose = view.dataset.failures().column("fingerprint").to_pylist()
    n = sum(fingerprint in ("", None, view.fingerprint) for fingerprint in whose)
    return [f"{n} items were not read or encoded: see `featurestore info`."] if n else []


def quality_reports(dataset: AnyDataset) -> list[Issues]:
    """Return the stored quality reports of a data set (or of its folder), newest first."""
    found = [Issues.from_json(card) for card in run_folder(dataset).runs("quality")]
    if isinstance(dataset, (str, Path, RemotePath)):
        return found
    return [replace(one, looked_at=dataset) for one in found]


def label_plan(
    view: View, embeddings: Embeddings, label: str | None, seed: int
) -> tuple[Plan | None, list[str]]:
    """Plan one repeat of folds over all labelled rows, with notes.

    The plan is None where labels cannot be judged.
    """
    try:
        options = PlanOptions(label, evaluation="folds", seed=seed)
        plan = make_plan(embeddings, options, recorded=task_of(view.dataset, label))
    except (NotEnoughData, MissingColumn) as error:
        if label is not None and isinstance(error, MissingColumn):
            raise
        return None, [f"Labels were not judged: {error}."]
    if plan.task is not Task.MULTICLASS:
        return None, [f"Labels were not judged: {plan.label!r} is {plan.task}, not one class."]
    assert plan.folds is not None, "asked for"
    once = replace(plan, folds=replace(plan.folds, number=plan.folds.number[:1]))
    return once, list(plan.notes)


def witnesses(
    plan: Plan,
    embeddings: Embeddings,
    graph: Graph,
    head: str | Any = "logistic",
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64], NDArray[np.intp]]:
    """Ask a head out of fold, and the neighbors, about the rows of a plan of one repeat.

    Returns
    -------
    head_proba : ndarray of shape (n, n_classes), or None
        Where the head gives probabilities.
    votes : ndarray of shape (n, n_classes)
    near : ndarray of shape (n, k)
        Neighbors among the plan's rows; -1 for those that are not in it.
    """
    ((_, entry),) = head_entries([head], plan.task).items()
    if entry.reads in ("words", "layers", "blocks", "pool", "witnessed pool"):
        raise BadName(f"{head} does not judge labels: expected a head that learns from vectors")
    reads_texts = entry.reads == "texts"
    if reads_texts and is_missing(embeddings.column("text")).all():
        raise ModalityMismatch(f"{head} reads texts, and these items have none")
    X = texts_of(embeddings) if reads_texts else embeddings.vectors
    builder = entry.builder(plan.task)
    assert builder is not None, "checked by head_entries"
    n_done, n = iter(range(1, 1 + len(plan.parts))), len(plan.parts)
    done = evaluate(
        lambda: builder(seed),
        X[plan.rows],
        plan.target,
        plan.parts,
        estimand=plan.estimand,
        groups=plan.block,
        on_fit=lambda: None if progress is None else progress(next(n_done), n, "folds"),
        seed=seed,
    )
    row_in_plan = _codes(plan, len(embeddings), np.arange(len(plan.ids)))
    near = row_in_plan[graph.rows[plan.rows]]
    votes = neighbor_votes(
        near, graph.scores[plan.rows], plan.target.values, plan.block, len(plan.classes)
    )
    return done.probabilities, votes, near


def _wrong_labels(
    plan: Plan, embeddings: Embeddings, graph: Graph, head: str | Any, seed: int, tell: Progress
) -> list[Issue]:
    said, votes, near = witnesses(plan, embeddings, graph, head, seed=seed, progress=tell)
    codes = plan.target.values
    proba = votes if said is None else pooled(said, votes, codes)
    judged = judge_labels(proba, codes)
    likeliest = judged.likeliest
    issues = []
    for row in np.flatnonzero(judged.is_named):
        given, better = plan.classes[codes[row]], plan.classes[likeliest[row]]
        heard = near[row][(near[row] >= 0)]
        heard = heard[plan.block[heard] != plan.block[row]][:N_OTHERS]
        n_better = int((codes[heard] == likeliest[row]).sum())
        reason = (
            f"labelled {given}, likelier {better}: head and neighbors give {better} "
            f"{proba[row, likeliest[row]]:.0%}, {given} {proba[row, codes[row]]:.0%}; "
            f"{n_better} of the {len(heard)} nearest are {better}"
        )
        others = tuple(plan.ids[heard].astype(str).tolist())
        item = str(plan.ids[row])
        issues.append(
            Issue(Kind.LABEL, item, float(judged.doubt[row]), reason, others, given, better)
        )
    return issues


def _twin_issues(embeddings: Embeddings, twins: Twins) -> Iterator[Issue]:
    """Yield an issue for each row that has a twin: a leak, or else a duplicate."""
    ids, content = embeddings.ids.astype(str), known_column(embeddings, "content_hash")
    crossing: dict[int, tuple[float, int, str, Any]] = {}  # row → likeness, twin, side, its value
    sides = {name: known_column(embeddings, name) for name in ("split", "group")}
    best: dict[int, tuple[float, int]] = {}
    for a, b, likeness in _both_ways(twins.pairs, content, sides):
        best.setdefault(a, (likeness, b))
        for name, values in sides.items():
            if a not in crossing and None not in (values[a], values[b]) and values[a] != values[b]:
                crossing[a] = likeness, b, name, values[b]
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(twins.cluster >= 0).tolist():
        members.setdefault(int(twins.cluster[row]), []).append(row)
    for rows in members.values():
        for row in rows:
            likeness, twin = best[row]
            kind, reason = Kind.DUPLICATE, f"{len(rows) - 1} twin{'s' * (len(rows) > 2)}"
            if row in crossing:
                likeness, twin, name, value = crossing[row]
                kind, reason = Kind.LEAK, f"in {name} {sides[name][row]}, a twin in {value}"
            is_equal = content[row] is not None and content[row] == content[twin]
            how = "equal content" if is_equal else f"likeness {likeness:.2f}"
            rest = [twin, *(other for other in rows[: N_OTHERS + 1] if other not in (row, twin))]
            others = tuple(ids[other] for other in rest[:N_OTHERS])
            yield Issue(kind, str(ids[row]), float(likeness), f"{reason} ({how})", others)


def _both_ways(
    pairs: Pairs, content: NDArray[Any], sides: Mapping[str, NDArray[Any]]
) -> list[tuple[int, int, float]]:
    """Return (row, twin, likeness) from either side, the likest first.

    Rows of equal content are paired with one of each side of a split or group, since
    `Pairs` has each with the first alone.
    """
    ordered = [
        (a, b, float(likeness))
        for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first))
        for a, b, likeness in zip(one.tolist(), other.tolist(), pairs.likeness, strict=True)
    ]
    equal = {content[row] for row in pairs.first[pairs.likeness >= 1].tolist()} - {None}
    witness: dict[Any, dict[Any, int]] = {}
    rows = [row for row, value in enumerate(content.tolist()) if value in equal]
    for row in rows:
        here = tuple(values[row] for values in sides.values())
        witness.setdefault(content[row], {}).setdefault(here, row)
    for row in rows:
        ordered += [(row, twin, 1.0) for twin in witness[content[row]].values() if twin != row]
    return sorted(ordered, key=lambda pair: -pair[2])


def _outliers(
    embeddings: Embeddings, graph: Graph, codes: NDArray[np.intp] | None
) -> Iterator[Issue]:
    scores = outlier_scores(embeddings.vectors, graph.scores, codes)
    for row in np.flatnonzero(scores > FAR).tolist():
        near = embeddings.ids[graph.rows[row][:N_OTHERS]].astype(str)
        reason = (
            f"farther out than nearly all ({scores[row]:.1f} robust standard deviations); "
            f"its nearest neighbor has cosine {graph.scores[row, 0]:.2f}"
        )
        item = str(embeddings.ids[row])
        yield Issue(Kind.OUTLIER, item, float(scores[row]), reason, tuple(near.tolist()))


def _codes(plan: Plan, n: int, values: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
    """Return an array (n,) with values at the plan's rows, by default class numbers; else -1."""
    spread = np.full(n, -1, np.intp)
    spread[plan.rows] = plan.target.values if values is None else values
    return spread


def _worst(issues: Sequence[Issue]) -> tuple[list[Issue], dict[str, int]]:
    """Order issues by kind and score; return MOST_KEPT of each kind, and how many there are."""
    kept: list[Issue] = []
    n_found: dict[str, int] = {}
    for kind in Kind:
        own = [one for one in issues if one.kind is kind]
        own.sort(key=lambda one: (-one.score, one.item_id))
        n_found[str(kind)] = len(own)
        kept += own[:MOST_KEPT]
    return kept, n_found


def _class_counts(embeddings: Embeddings, name: str | None) -> tuple[dict[str, int], list[str]]:
    """Count the items of each class, most first, and note what is uneven."""
    if name is None or name not in embeddings.columns:
        return {}, []
    notes = []
    values = embeddings.column(name)
    counts = Counter(str(value) for value in values[~is_missing(values)])
    if len(counts) > 1 and len(counts) < len(values) / 2:
        (most, n_most), *_, (least, n_least) = counts.most_common()
        if n_most >= 10 * n_least:
            notes.append(
                f"Classes are uneven: {n_most:,} of {most}, {n_least:,} of {least}; look at "
                "balanced accuracy, not accuracy."
            )
    groups = known_column(embeddings, "group")
    known = Counter(str(value) for value in groups if value is not None)
    if known:
        group, n = known.most_common(1)[0]
        if n > len(groups) / 2 and len(known) > 1:
            notes.append(f"Group {group} holds {n:,} of {len(groups):,} items: folds are uneven.")
    return dict(counts.most_common()), notes
