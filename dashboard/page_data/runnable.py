"""What can be started from a page: commands of ours, what they answer, and with what options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dashboard.page_data.jobs import FOLDER, Job, Request
from featurestore.errors import FeatureStoreError
from featurestore.store.dataset import DataSet
from featurestore.store.default_view import default_view
from featurestore.terms.specs import EncoderSpec, Modality, encoder_label

WITHOUT_PRETRAINING = ("baseline:", "random:")
REPORT = "report.html"


@dataclass(frozen=True)
class Runnable:
    """A command that a page offers."""

    command: str
    title: str  # of the button
    about: str  # what it answers
    page: str | None = None  # where its result is shown
    minutes: float | None = None  # that it may take by default; None: as long as it takes
    takes_encoder: bool = False
    needs_labels: bool = True


RUNNABLE = {
    one.command: one
    for one in (
        Runnable(
            "advise", "Ask what to take",
            "Which encoder and head to take, whether the encoder helps, and whether there are "
            "enough labels.",
            minutes=3,
        ),
        Runnable(
            "compare", "Compare all heads",
            "All heads on all encoders, beside baselines, each with its interval.", "heads",
        ),
        Runnable(
            "transfer", "Does pretraining help?",
            "A verdict on each encoder against what needs no pretraining.", "transfer",
        ),
        Runnable(
            "curve", "How many labels are enough?",
            "The score of a head with 1, 2, 4, … labels a class.", "curves",
        ),
        Runnable(
            "quality", "Look for issues",
            "Labels that may be wrong, near-duplicates, leaks between splits, outliers.",
            "quality", takes_encoder=True, needs_labels=False,
        ),
        Runnable(
            "embed", "Embed with one more encoder",
            "Vectors of all items by another network, to compare it with the others.",
            "overview", takes_encoder=True, needs_labels=False,
        ),
        Runnable(
            "index", "Build a search index",
            "Makes searches of some 30,000 items and more fast; fewer need none.",
            "search", takes_encoder=True, needs_labels=False,
        ),
        Runnable(
            "report", "Write a report",
            "All that was found as one HTML file, for people without this dashboard.",
            minutes=3,
        ),
    )
}  # fmt: skip


def request(
    dataset: DataSet,
    command: str,
    *,
    encoder: str | None = None,
    minutes: float | None = None,
    trust: bool = False,
) -> Request:
    """Return what is to be run for a data set."""
    name, words = dataset.name, [command, dataset.name]
    if command == "embed":
        words = ["embed", "--dataset", name]
    elif command == "index":
        words = ["store", "index", name]
    elif command == "transfer":
        words.append("--rank")
    elif command == "report":
        words += ["-o", f"{FOLDER}/{REPORT}"]
    if encoder:
        words += ["-e", encoder]
    if minutes is not None and command not in ("quality", "embed", "index"):
        words += ["--minutes", f"{minutes:g}"]
    if trust and command != "index":
        words.append("--trust")
    words += ["--store", str(dataset.store.path)]
    return Request(command, name, tuple(words), encoder or "")


def title(job: Job) -> str:
    """Name a job in a line."""
    asked = job.request
    known = RUNNABLE.get(asked.command)
    what = known.title if known else asked.command
    by = f" · {encoder_label(asked.encoder)}" if asked.encoder else ""
    return f"{what} · {asked.dataset}{by}"


def default_spec(dataset: DataSet) -> str | None:
    """Return the encoder that pages take unasked: the best of the last comparison, no baseline.

    None without views.
    """
    specs = [str(view.spec) for view in dataset.views()]
    trained = [one for one in specs if not one.startswith(WITHOUT_PRETRAINING)]
    try:
        best, _ = default_view(dataset, None)
    except FeatureStoreError:
        best = None
    if best is not None and (str(best.spec) in trained or not trained):
        return str(best.spec)
    return next(iter([*trained, *specs]), None)


def more_encoders(dataset: DataSet) -> list[str]:
    """Return encoders to embed a data set with, those that are on this machine first.

    Those that it has are left out, and variants of a network.
    """
    from featurestore.encoders.installed import known_encoders

    have = {str(view.spec) for view in dataset.views()}
    word = "texts" if dataset.modality == Modality.TEXT else "images"
    fits = [
        one
        for one in known_encoders()
        if word in one.reads and one.spec not in have and "#" not in one.spec
        and not one.spec.startswith("random:") and _is_there(one.spec)
    ]  # fmt: skip
    return [one.spec for one in sorted(fits, key=lambda one: not one.where)]


def _is_there(spec: str) -> bool:
    folder = EncoderSpec.parse(spec).local_dir
    return folder is None or Path(folder).is_dir()


def duration(seconds: float) -> str:
    """Write how long something took: ``45 s``, ``3 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def can_run(dataset: DataSet, command: str) -> str | None:
    """Say why a command cannot be run yet; None: it can."""
    if command != "embed" and not dataset.views():
        return "needs vectors: embed it first"
    if RUNNABLE[command].needs_labels and not dataset.label_columns:
        return "needs labels"
    return None


def next_of(steps: Sequence[str], running: Sequence[Job], dataset: str) -> str | None:
    """Return the first step that is not under way."""
    busy = {job.request.command for job in running if job.request.dataset == dataset}
    return next((one for one in steps if one not in busy), None)
