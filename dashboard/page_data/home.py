"""What Home shows of each data set: where it stands, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dashboard.page_data.classes import class_column
from dashboard.page_data.runnable import RUNNABLE
from dashboard.page_data.wording import NO_LABEL, Row
from featurestore.store.commands import command_line
from featurestore.store.dataset import DataSet
from featurestore.terms.specs import encoder_label
from heads.measures.choice import choose
from heads.measures.comparison import Comparison, metric_of

N_IN_STRIP = 9
MOST_NAMED = 4  # classes


@dataclass(frozen=True)
class Step:
    """What to do next: start a command, or go to a page."""

    title: str
    why: str
    command: str | None = None  # of `RUNNABLE`
    page: str | None = None


@dataclass(frozen=True)
class Summary:
    """Where a data set stands."""

    name: str
    holds: str  # images, texts
    n_items: int
    classes: tuple[str, ...]
    n_unlabelled: int
    encoders: tuple[str, ...]
    n_failed: int
    best: str | None  # head and encoder
    score: str | None  # with its interval
    verdict: str | None  # in one word
    n_issues: int | None  # None: nobody looked
    step: Step
    shown: tuple[str, ...]  # items of the strip
    planned: tuple[str, ...] = ()  # runs that were planned and are not done, in words

    def facts(self) -> str:
        """Say in a line what it holds."""
        named = ", ".join(self.classes[:MOST_NAMED])
        more = len(self.classes) - MOST_NAMED
        said = [f"{self.n_items:,} {self.holds}"]
        if self.classes:
            said.append(
                f"{len(self.classes):,} classes: {named}{f' and {more:,} more' * (more > 0)}"
            )
        if self.n_unlabelled:
            said.append(f"{self.n_unlabelled:,} without a label")
        n = len(self.encoders)
        said.append(f"{n} encoder{'s' * (n != 1)}" if n else "no vectors")
        if self.n_failed:
            said.append(f"{self.n_failed:,} failed")
        if self.n_issues:
            said.append(f"{self.n_issues:,} issues found")
        return " · ".join(said)


def summary(dataset: DataSet) -> Summary:
    """Read where a data set stands, from its items and the runs of its main label."""
    column = class_column(dataset)
    main = next(iter(dataset.label_columns), None)
    items = dataset.items(["item_id", *([column] if column else [])])
    labels = items.column(column).cast(pa.string()) if column else pa.nulls(len(items), pa.string())
    counts = pc.value_counts(labels.drop_null()).to_pylist()
    ordered = sorted(counts, key=lambda one: (-one["counts"], one["values"]))
    compared = _of_label(dataset.runs("compare"), main)
    judged = _of_label(dataset.runs("transfer"), main)
    quality = dataset.runs("quality")
    best, score = best_of(compared)
    planned = tuple(map(str, dataset.unfinished()))
    order = mixed(labels)[:N_IN_STRIP]
    return Summary(
        name=dataset.name,
        holds=f"{dataset.modality}s",
        n_items=len(items),
        classes=tuple(one["values"] for one in ordered),
        n_unlabelled=labels.null_count if main else 0,
        encoders=tuple(encoder_label(str(view.spec)) for view in dataset.views()),
        n_failed=len(dataset.failures()),
        best=best,
        score=score,
        verdict=_verdict(judged),
        n_issues=sum(quality[0].get("found", {}).values()) if quality else None,
        step=_next(dataset, compared, judged, quality)
        if len(items) or not planned
        else _wait(dataset),
        shown=tuple(items.column("item_id").take(order).to_pylist()),
        planned=planned,
    )


def _of_label(cards: Sequence[Mapping[str, Any]], label: str | None) -> list[Mapping[str, Any]]:
    """Return runs on all items by one label, newest first."""
    return [one for one in cards if one.get("label") == label and not _is_of_slice(one)]


def _is_of_slice(one: Mapping[str, Any]) -> bool:
    card = one.get("card", {})
    return bool(card.get("slice") or any(view.get("slice") for view in card.get("views", ())))


def best_of(compared: Sequence[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """Return what to take of the comparison with the best row, as `advise` says it, and its score.

    All comparisons by the newest one's metric are looked at; of rows that are as good as the best
    the cheapest is taken.
    """
    if not compared:
        return None, None
    metric = str(compared[0]["metric"])
    sign = 1 if metric_of(metric).higher_is_better else -1
    alike = [one for one in compared if one["metric"] == metric]
    choice = choose(Comparison.from_json(max(alike, key=lambda one: sign * _best_value(one))))
    encoder, head = choice.taken
    return f"{head} on {encoder_label(encoder)}", choice.score


def _best_value(card: Mapping[str, Any]) -> float:
    return float(card["rows"][0]["value"])


def _verdict(judged: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the newest verdict on the best encoder, in one word."""
    verdicts = judged[0].get("verdicts", ()) if judged else ()
    if not verdicts:
        return None
    return str(max(verdicts, key=lambda one: one["value"])["kind"])


def _wait(dataset: DataSet) -> Step:
    words = ("embed", "--dataset", dataset.name, "--shard", "0/1", "--commit")
    line = command_line(*words, store=dataset.store.path)
    why = f"Nothing of the plan is in the data set yet. Type: `{line}`"
    return Step("See what runs", why, page="run")


def _next(
    dataset: DataSet,
    compared: Sequence[object],
    judged: Sequence[object],
    quality: Sequence[object],
) -> Step:
    if not dataset.views():
        return Step(RUNNABLE["embed"].title, "It has no vectors yet.", page="run")
    if not dataset.label_columns:
        return Step("Label it", "It has no labels yet.", page="label")
    for command, is_done, why in (
        ("advise", compared, "Nobody has compared heads on it yet."),
        ("transfer", judged, "Nobody has asked whether pretraining helps."),
        ("quality", quality, "Nobody has looked for wrong labels and twins."),
    ):
        if not is_done:
            return Step(RUNNABLE[command].title, why, command)
    if not (dataset.path / "heads").is_dir():
        return Step("Train a head", "No head is kept yet.", page="heads")
    return Step("Try it", "A head is ready for new items.", page="try_it")


def mixed(labels: pa.ChunkedArray | pa.Array) -> NDArray[np.intp]:
    """Return an order of n labelled rows in which the classes take turns, (n,).

    Within a class the order is drawn at random, the same each time.
    """
    n = len(labels)
    if isinstance(labels, pa.ChunkedArray):
        labels = labels.combine_chunks()
    names = labels.cast(pa.string()).fill_null(NO_LABEL)
    codes = np.asarray(names.dictionary_encode().indices)
    drawn = np.random.default_rng(0).permutation(n)
    by_class = drawn[np.argsort(codes[drawn], kind="stable")]
    starts = np.searchsorted(codes[by_class], codes[by_class])
    turn = np.empty(n, np.intp)
    turn[by_class] = np.arange(n) - starts
    return np.asarray(np.lexsort((codes, turn)))


def strip_html(cards: Sequence[Row]) -> str:
    """Return items side by side: pictures, or the beginnings of texts."""
    shown = "".join(
        f'<img src="{escape(one["image"])}" alt="{escape(one["label"])}" '
        f'title="{escape(one["id"])}: {escape(one["label"])}" '
        'style="height:84px;width:84px;object-fit:cover;border-radius:6px">'
        if one.get("image")
        else '<div style="flex:1 1 0;min-width:120px;max-height:84px;overflow:hidden;'
        f'font-size:0.8rem"><b>{escape(one["label"])}</b><br>'
        f"{escape((one['text'] or one.get('reason') or '')[:120])}</div>"
        for one in cards[: (N_IN_STRIP if cards and cards[0].get("image") else 4)]
    )
    return (
        '<div style="display:flex;gap:8px;overflow:hidden;max-height:84px;flex-wrap:wrap">'
        f"{shown}</div>"
    )
