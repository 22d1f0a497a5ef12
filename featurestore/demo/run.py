"""The main job on real data, offline: what `make demo` runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from featurestore.demo.data import write_digits, write_docstrings, write_pictographs
from featurestore.encoders.families import BUILTIN
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store
from featurestore.terms.specs import Modality

IMAGE, TEXT = BUILTIN[Modality.IMAGE], BUILTIN[Modality.TEXT]
DIGIT_ENCODERS = (IMAGE, "baseline:pixels", f"random:{IMAGE}#seed=0")


def run_demo(
    store_path: Path,
    *,
    compare: Callable[..., Any],
    assess: Callable[..., Any],
    say: Callable[[str], None],
    show: Callable[[Any], None],
    show_verdict: Callable[[Any], None],
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
    say, show, show_verdict, progress_bar : callable
        How to print a line, a comparison, an assessment, and progress.
    """
    started = time.perf_counter()
    data = store_path.absolute().with_name(f"{store_path.name}-data")
    store = open_store(store_path, create=True)

    say("1. Pictures: scikit-learn's handwritten digits, as PNG files in class folders")
    digits = write_digits(data / "digits")
    _embed(store, [digits], "digits", DIGIT_ENCODERS, SourceOptions(), say, progress_bar)
    say("")
    views = [store.view("digits", spec) for spec in DIGIT_ENCODERS]
    show(compare(views, heads=("logistic", "prototype")))

    say("\n2. Texts: scipy's docstrings, labelled by subpackage (package names masked)")
    docstrings = write_docstrings(data / "scipy_docs.jsonl")
    options = SourceOptions(text="text", label=("subpackage",), id="id")
    _embed(store, [docstrings], "scipy_docs", (TEXT,), options, say, progress_bar)
    say("")
    view = store.view("scipy_docs", TEXT)
    show(compare([view], heads=("logistic", "prototype")))

    question = "smooth a noisy time series"
    found = view.search_text(question, k=3)
    say(f"Nearest docstrings to {question!r}:")
    for item_id, score in zip(found.ids[0], found.scores[0], strict=True):
        say(f"  {score:.3f}  {item_id}")

    say("\n3. Does pretraining help? Twice the same question, two answers\n")
    say("   Names of Unicode's pictographs, sorted by what they show:")
    names = write_pictographs(data / "pictographs.jsonl")
    options = SourceOptions(text="text", label=("kind",), id="id")
    _embed(store, [names], "pictographs", (TEXT,), options, say, progress_bar)
    say("")
    show_verdict(assess([store.view("pictographs", TEXT)]))
    say("\n   And the digits, 8 × 8 pixels that look like no photograph:\n")
    view = store.view("digits", IMAGE)
    show_verdict(assess([view], heads=("logistic", "knn"), blend=False))

    say(f"\nDone in {time.perf_counter() - started:.0f} s. Type next:")
    for command in (
        f"featurestore transfer digits --rank --store {store_path}",
        f"featurestore search digits -e {IMAGE} --item 3/0003.png --store {store_path}",
        f"featurestore train digits -e {IMAGE} --head ridge --store {store_path}",
        f"featurestore dashboard --store {store_path}",
    ):
        say(f"  {command}")


def _embed(
    store: Store,
    sources: list[Path],
    dataset: str,
    encoders: tuple[str, ...],
    options: SourceOptions,
    say: Callable[[str], None],
    progress_bar: Callable[[], AbstractContextManager[Any]],
) -> None:
    with progress_bar() as progress:
        reports = store.embed(
            sources, dataset=dataset, encoders=encoders, source_options=options, progress=progress
        )
    for report in reports:
        say(f"   {report.describe()}")
