"""What to take, as a value: the choice, the verdict, labels, cost, and the command to type."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from featurestore.terms.specs import encoder_label
from heads.measures.choice import Choice
from heads.measures.comparison import Comparison, Difference, number, unit_of
from heads.transfer.assessment import Assessment
from heads.transfer.verdict import Kind, Verdict, decide


@dataclass(frozen=True)
class Labels:
    """Whether there are enough labels, and how many more would help."""

    n_labels: int  # that teach now
    n_more: int | None  # 0: enough; None: not known
    reason: str

    def sentence(self) -> str:
        """Say it."""
        if self.n_more is None:
            return f"Labels: {self.reason}."
        if self.n_more == 0:
            return f"Labels: the {self.n_labels:,} that you have are enough: {self.reason}."
        return f"Labels: label about {self.n_more:,} more and ask again: {self.reason}."


@dataclass(frozen=True)
class Cost:
    """What the taken row costs on this machine."""

    items_per_s: float | None  # of the run that embedded last; None where none is known
    bytes_per_item: int  # of the vectors; 0 without an encoder
    fit_s: float  # one fit, its choices included

    def sentence(self) -> str:
        """Say it for 1,000 new items."""
        fit = f"training takes {duration(self.fit_s)}"
        if not self.bytes_per_item:
            return f"Cost: no encoder and no vectors; {fit}."
        size = f"{self.bytes_per_item / 1000:,.1f} MB of vectors"
        if self.items_per_s is None:
            return f"Cost: 1,000 new items take {size}; {fit}."
        seconds = duration(1000 / self.items_per_s)
        return f"Cost: 1,000 new items take about {seconds} to embed here and {size}; {fit}."


@dataclass(frozen=True)
class Advice:
    """What to take for one label of a data set."""

    dataset: str
    label: str | None
    command: str  # to type next
    choice: Choice | None = None  # None where nothing can be taken: `reason` says why
    helps: Verdict | Difference | None = None  # the encoder over what needs no pretraining
    reason: str = ""  # why nothing can be taken, or no verdict given
    labels: Labels | None = None
    cost: Cost | None = None
    left_out: tuple[str, ...] = ()
    estimand: str = ""
    seconds: float = 0.0  # that the advice took
    # What it rests on; not in `to_json`.
    comparison: Comparison | None = field(default=None, compare=False, repr=False)
    assessment: Assessment | None = field(default=None, compare=False, repr=False)
    minutes: float = 0.0  # that it might take
    is_late: bool = False  # whether something was left out for time

    @property
    def encoder(self) -> str | None:
        """Spec of the encoder to take; ``baseline:…`` where none is needed."""
        return None if self.choice is None else self.choice.taken[0]

    @property
    def head(self) -> str | None:
        """Name of the head to take."""
        return None if self.choice is None else self.choice.taken[1]

    @property
    def kind(self) -> Kind | None:
        """Whether the encoder helps; None where it was not judged."""
        if isinstance(self.helps, Difference):
            low, high = self.helps.gain[1:]
            if self.helps.first[0].startswith("baseline:"):  # it is the baseline's gain
                low, high = -high, -low
            return decide(low, high, 0.0)
        return None if self.helps is None else self.helps.kind

    def sentences(self) -> list[str]:
        """Return what to take, whether it helps, labels, cost, and last the command to type."""
        if self.choice is None:
            return [f"{self.reason}.", *self._left_out(), self.command]
        labels = [] if self.labels is None else [self.labels.sentence()]
        cost = [] if self.cost is None else [self.cost.sentence()]
        return [
            " ".join(self.choice.sentences()),
            self._helps(),
            *labels,
            " ".join([*cost, *self._left_out()]),
            self.command,
        ]

    def _helps(self) -> str:
        if self.helps is None:
            return f"Does the encoder help? {self.reason[0].upper()}{self.reason[1:]}."
        return f"{self.helps.sentence()}."

    def _left_out(self) -> list[str]:
        more = f" (--minutes {3 * self.minutes:.3g} runs more)" if self.is_late else ""
        return [f"Left out: {'; '.join(self.left_out)}{more}."] if self.left_out else []

    def __repr__(self) -> str:
        """Return it in a line."""
        if self.choice is None:
            return f"<Advice on {self.dataset}: {self.reason}>"
        encoder, head = self.choice.taken
        return (
            f"<Advice on {self.dataset}: {head} on {encoder_label(encoder)}, {self.choice.score}>"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything in plain values."""
        choice = self.choice
        taken = None if choice is None else {
            "encoder": choice.taken[0], "head": choice.taken[1], "metric": choice.metric,
            "value": choice.value, "low": choice.low, "high": choice.high,
            "n_items": choice.n_items, "n_rows": choice.n_rows,
            "as_good": [list(cell) for cell in choice.as_good],
        }  # fmt: skip
        return {
            "dataset": self.dataset,
            "label": self.label,
            "take": taken,
            "kind": None if self.kind is None else str(self.kind),
            "gain": _gain(self.helps),
            "labels": None if self.labels is None else asdict(self.labels),
            "cost": None if self.cost is None else asdict(self.cost),
            "left_out": list(self.left_out),
            "reason": self.reason,
            "estimand": self.estimand,
            "seconds": self.seconds,
            "minutes": self.minutes,
            "sentences": self.sentences(),
            "command": self.command,
        }


def _gain(helps: Verdict | Difference | None) -> dict[str, Any] | None:
    if helps is None:
        return None
    if isinstance(helps, Verdict):
        value, low, high, against = helps.value, helps.low, helps.high, helps.reference
    else:
        (value, low, high), against = helps.gain, " ".join(reversed(helps.second))
    return {"value": value, "low": low, "high": high, "against": against}


def duration(seconds: float) -> str:
    """Write a duration: ``0.3 s``, ``40 s``, ``3 min``.

    >>> duration(0.26), duration(40.2), duration(200)
    ('0.3 s', '40 s', '3 min')
    """
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(seconds, 0.05):.1f} s"


def amount(x: float, metric: str, sign: str = "") -> str:
    """Write a difference of a metric with its unit."""
    return f"{number(x, metric, sign)} {unit_of(metric)}"
