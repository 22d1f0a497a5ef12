"""The main job on real data, offline: what `make demo` runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.demo.data import write_digits, write_emoji, write_pictographs
from featurestore.demo.sheet import draw_neighbors
from featurestore.encoders.families import BUILTIN
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store
from featurestore.terms.specs import Modality

IMAGE, TEXT, PIXELS = BUILTIN[Modality.IMAGE], BUILTIN[Modality.TEXT], "baseline:pixels"
LOOKED_AT = (
    "animal/tiger face", "transport/bus", "building/house building", "music or sport/guitar",
    "transport/steam locomotive",
)  # fmt: skip
QUESTION = "something to eat for breakfast"


@dataclass(frozen=True)
class Demo:
    """What the parts of the demo share."""

    store: Store
    compare: Callable[..., Any]  # heads.compare: this package does not import heads
    assess: Callable[..., Any]  # heads.assess_transfer
    say: Callable[[str], None]
    progress_bar: Callable[[], AbstractContextManager[Any]]


def run_demo(
    store_path: Path,
    *,
    compare: Callable[..., Any],
    assess: Callable[..., Any],
    say: Callable[[str], None],
    progress_bar: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Build a store from data that installed packages bring, embed it, compare, judge.

    Parameters
    ----------
    store_path : Path
        Where the store goes; its sources go beside it, in ``<store>-data``.
    compare, assess : callable
        `heads.compare` and `heads.assess_transfer`, given by the caller since this package
        does not import heads.
    say, progress_bar : callable
        How to print a line, and how to show progress.
    """
    started = time.perf_counter()
    data = store_path.absolute().with_name(f"{store_path.name}-data")
    demo = Demo(open_store(store_path, create=True), compare, assess, say, progress_bar)
    say("Does a pretrained encoder help? Three data sets, about a minute, no network.")
    _emoji(demo, data)
    _digits(demo, data)
    _names(demo, data)
    say(f"\nDone in {time.perf_counter() - started:.0f} s. Look at it in your browser:")
    say(f"  featurestore dashboard --store {store_path}")


def _emoji(demo: Demo, data: Path) -> None:
    demo.say("\n1. PICTURES OF THINGS: emoji of six kinds (drawn by Twemoji, CC BY 4.0)")
    demo.say("   An encoder turns each picture into numbers, once. Heads, small classifiers, learn")
    demo.say("   the kinds from these numbers: in knn the most similar items vote, ridge draws")
    demo.say("   straight borders, prototype takes the nearest mean, majority always names the")
    demo.say("   largest kind. Raw pixels (baseline:pixels) are the pictures without an encoder.")
    folder = write_emoji(data / "emoji")
    _embed(demo, folder, "emoji", (IMAGE, PIXELS))
    demo.say("   nearest pictures by the encoder, and by raw pixels:")
    encoded, pixels = (demo.store.view("emoji", encoder) for encoder in (IMAGE, PIXELS))
    page = {}
    for item in LOOKED_AT:
        near = [view.neighbors(f"{item}.png", k=4).ids[0] for view in (encoded, pixels)]
        page[folder / f"{item}.png"] = [[folder / one for one in ids] for ids in near]
        first, second = (", ".join(Path(one).stem for one in ids) for ids in near)
        demo.say(f"     {Path(item).name}: {first}\n        by raw pixels: {second}")
    path = draw_neighbors(data / "neighbors.png", page, (f"nearest by {IMAGE}", "by raw pixels"))
    demo.say(f"   the same as pictures: {path}")
    _judge(demo, "emoji", (IMAGE, PIXELS), ("knn", "ridge"))


def _digits(demo: Demo, data: Path) -> None:
    demo.say("\n2. PICTURES UNLIKE ANY PHOTOGRAPH: handwritten digits of 8 × 8 pixels")
    _embed(demo, write_digits(data / "digits", every=3), "digits", (IMAGE, PIXELS))
    _judge(demo, "digits", (IMAGE, PIXELS), ("knn", "prototype"))
    demo.say("   (The head ridge comes closer on these vectors; it does not pass knn on pixels.)")


def _names(demo: Demo, data: Path) -> None:
    demo.say("\n3. TEXTS: the names of the same emoji, such as 'goat' and 'dumpling'")
    table = write_pictographs(data / "names.jsonl")
    options = SourceOptions(text="text", label=("kind",), id="id")
    _embed(demo, table, "names", (TEXT,), options)
    found = demo.store.view("names", TEXT).search_text(QUESTION, k=5)
    demo.say(f"   nearest to {QUESTION!r}: {', '.join(found.column('text')[0])}")
    _judge(demo, "names", (TEXT,), ("knn", "ridge"))


def _embed(
    demo: Demo,
    source: Path,
    dataset: str,
    encoders: Sequence[str],
    options: SourceOptions | None = None,
) -> None:
    with demo.progress_bar() as progress:
        reports = demo.store.embed(
            [source], dataset=dataset, encoders=encoders, progress=progress,
            source_options=options or SourceOptions(),
        )  # fmt: skip
    for report in reports:
        demo.say(f"   {report.describe()}")


def _judge(demo: Demo, dataset: str, encoders: Sequence[str], heads: tuple[str, ...]) -> None:
    """Compare heads on the encoders; by the first head, say whether the first encoder helps."""
    views = [demo.store.view(dataset, encoder) for encoder in encoders]
    demo.say("   right answers on items that the head did not learn from, mean over the kinds:")
    for row in demo.compare(views, heads=heads).rows():
        demo.say(f"     {row['encoder']:<20} {row['head']:<10} {100 * row['value']:>4.0f} %")
    (verdict,) = demo.assess(views[:1], heads=heads[:1], blend=False).verdicts
    demo.say(f"   {_answer(verdict)}")


def _answer(verdict: Any) -> str:
    """Say the verdict and what to take."""
    points, low, high = (100 * one for one in (verdict.value, verdict.low, verdict.high))
    if verdict.kind == "positive":
        answer, taken = f"Yes, {verdict.encoder} helps: {points:.1f} points better", verdict.encoder
    elif verdict.kind == "negative":
        points, low, high = -points, -high, -low
        answer, taken = f"No: {verdict.encoder} is {points:.1f} points worse", verdict.reference
    else:
        answer, taken = f"It makes no clear difference: {points:+.1f} points", verdict.reference
    interval = f"(95 % interval {low:.1f} to {high:.1f})"
    return f"{answer} than {verdict.reference}\n   {interval}. Take {taken}."
