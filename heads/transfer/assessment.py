"""What is known of transfer to one data set: verdicts, evidence, advice; JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from featurestore.errors import StoreCorrupt
from featurestore.terms.shown import Tabular
from featurestore.terms.specs import encoder_label
from heads.charts.charts import Spans
from heads.charts.plotted import Plotted
from heads.charts.results import verdict_chart
from heads.labels.tasks import Task
from heads.measures.card import ABSENT, RunCard
from heads.measures.comparison import Difference, number, unit_of
from heads.measures.metrics import METRICS
from heads.transfer.advice import Alternative, Evidence, Way
from heads.transfer.budgets import BudgetVerdict
from heads.transfer.rank import Ranked
from heads.transfer.shift import Shift
from heads.transfer.verdict import Kind, SliceDifference, Verdict

FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class AssessmentCard(RunCard):
    """What decided an assessment."""

    margin: float  # as asked: shares of 1, or of the label's standard deviation
    heads: list[str]  # to choose among
    search_spaces: Mapping[str, str]  # by head, in words
    # Columns whose equal values stay together; not in 0.1.
    never_part: list[str] | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, eq=False, repr=False)
class Assessment(Tabular, Plotted):
    """Verdicts on the encoders of a data set, with their evidence; all by encoder."""

    dataset: str
    label: str
    metric: str
    task: Task
    n_items: int
    estimand: str
    verdicts: tuple[Verdict, ...]
    advice: Mapping[str, tuple[str, ...]]
    pretraining: Mapping[str, tuple[float, float, float]]  # less random weights: Δ, low, high
    alternatives: Mapping[str, tuple[Alternative, ...]]  # layers, mixes
    slices: Mapping[str, tuple[SliceDifference, ...]]  # classes, or values of a column
    shifts: Mapping[str, Shift]  # how far the test items or another data set lie
    ranking: tuple[Ranked, ...]
    agreement: Mapping[str, float]  # Kendall's τ of each score with the heads
    notes: tuple[str, ...]
    card: AssessmentCard
    budgets: Mapping[str, tuple[BudgetVerdict, ...]] = field(default_factory=dict)  # few labels
    # With few labels the upper blocks retrained, less the best head on frozen features.
    retraining: Mapping[str, tuple[BudgetVerdict, ...]] = field(default_factory=dict)

    def verdict(self, encoder: str) -> Verdict:
        """Return the verdict on one encoder."""
        return next(one for one in self.verdicts if one.encoder == encoder)

    def evidence(self, encoder: str) -> Evidence:
        """Return all that advice on one encoder looks at."""
        return Evidence(
            self.verdict(encoder),
            self.alternatives.get(encoder, ()),
            self.pretraining.get(encoder),
            self.shifts.get(encoder),
            self.slices[encoder],
            self.budgets.get(encoder, ()),
        )

    def about(self) -> str:
        """Name the data set and the verdicts."""
        kinds = ", ".join(f"{encoder_label(one.encoder)} {one.kind}" for one in self.verdicts)
        return f"of {self.dataset}, label {self.label!r}: {kinds}"

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of verdicts; differences are higher where the encoder is better."""
        names = (
            "encoder", "kind", "metric", "encoder_value", "reference", "reference_value", "value",
            "low", "high", "margin", "n_rows",
        )  # fmt: skip
        rows = [{name: getattr(one, name) for name in names} for one in self.verdicts]
        return [{**row, "kind": str(row["kind"])} for row in rows]

    def chart(self) -> Spans:
        """Return what is drawn: the interval of each verdict, 0 and the margin."""
        is_share = METRICS[self.task][self.metric].is_share
        return verdict_chart(self.rows(), is_share, unit_of(self.metric))

    def sentences(self) -> list[str]:
        """Say what stands beside the verdicts: random weights, layers, mixes, few labels."""
        pretraining = [
            f"{encoder_label(spec)} minus random weights of its architecture: "
            f"{self._said(value)} {unit_of(self.metric)} ({self._said(low)} to "
            f"{self._said(high)}); this is what pretraining adds."
            for spec, (value, low, high) in self.pretraining.items()
        ]
        tried = [one for of_one in self.alternatives.values() for one in of_one]
        said = {Way.MIX: self._mixed, Way.RETRAINED: self._retrained}
        alternatives = [
            said[one.way](one) if one.way in said else f"{one.over_encoder.sentence()}."
            for one in tried
        ]
        return pretraining + alternatives + self.budget_sentences() + self.retraining_sentences()

    def _mixed(self, one: Alternative) -> str:
        """Say what a mix of an encoder and the reference is worth."""
        spec, reference = one.over_encoder.second[0], one.over_reference.reference
        better, (value, low, high) = one.over_better
        return (
            f"A mix of {encoder_label(spec)} and {reference} minus the better of the two "
            f"({better}): {self._said(value)} {unit_of(self.metric)} ({self._said(low)} to "
            f"{self._said(high)}; {one.over_encoder.estimand})."
        )

    def _retrained(self, one: Alternative) -> str:
        """Say what retraining the upper blocks is worth, and what it takes."""
        v, (value, low, high) = one.over_reference, one.over_encoder.gain
        before, unit = v.encoder_value - one.over_encoder.value, unit_of(self.metric)
        seconds = ""
        if one.seconds is not None:
            seconds = " a fit takes {:.1f} s, frozen {:.1f} s;".format(*one.seconds)
        return (
            f"{encoder_label(v.encoder)} with its upper blocks retrained (finetune) minus its best "
            f"head when frozen: {self._said(value)} {unit} ({self._said(low)} to "
            f"{self._said(high)}), from {number(before, self.metric)} to "
            f"{number(v.encoder_value, self.metric)};{seconds} {one.over_encoder.estimand}."
        )

    def retraining_sentences(self) -> list[str]:
        """Say from how many labels on retraining pays, a sentence for each encoder."""
        said = self._said
        found = []
        for spec, budgets in self.retraining.items():
            each = "; ".join(
                f"{one.n_labels:,} labels {said(one.value)} ({said(one.low)} to {said(one.high)})"
                for one in budgets
            )
            pays = [one.n_labels for one in budgets if one.kind is Kind.POSITIVE]
            first = f"it begins to pay at {min(pays):,} labels" if pays else "it does not pay yet"
            found.append(
                f"{encoder_label(spec)} retrained minus frozen with few labels, "
                f"{unit_of(self.metric)}: {each}; {first} (exploration, Benjamini-Hochberg at 5 %)."
            )
        return found

    def shift_sentence(self, encoder: str) -> str:
        """Say how far the test items, or another data set, lie in one encoder's space."""
        return f"Shift in {encoder_label(encoder)} {self.shifts[encoder].sentence()}."

    def _said(self, difference: float) -> str:
        return number(difference, self.metric, "+")

    def budget_sentences(self) -> list[str]:
        """Say the verdicts with few labels, a sentence for each encoder."""
        said = self._said
        return [
            f"{encoder_label(spec)} minus {self.verdicts[0].reference} with few labels, "
            f"{unit_of(self.metric)}: "
            + "; ".join(
                f"{one.n_labels:,} labels {said(one.value)} ({said(one.low)} to {said(one.high)}) "
                f"{one.kind}"
                for one in found
            )
            + " (other labels and items; exploration, Benjamini-Hochberg at 5 %)."
            for spec, found in self.budgets.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything that was found."""
        return {
            "format": FORMAT,
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
            "alternatives": {
                name: [
                    {
                        "way": str(one.way),
                        "over_encoder": asdict(one.over_encoder),
                        "over_reference": one.over_reference.to_json(),
                        **({} if one.seconds is None else {"seconds": list(one.seconds)}),
                    }
                    for one in found
                ]
                for name, found in self.alternatives.items()
            },
            "slices": {name: [asdict(s) for s in found] for name, found in self.slices.items()},
            "shifts": {name: asdict(shift) for name, shift in self.shifts.items()},
            "ranking": [asdict(one) for one in self.ranking],
            "agreement": dict(self.agreement),
            "notes": list(self.notes),
            "card": self.card.to_json(),
            "budgets": _budgets_json(self.budgets),
            **({"retraining": _budgets_json(self.retraining)} if self.retraining else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Assessment:
        """Read what `to_json` gave.

        Raises
        ------
        StoreCorrupt
            If it is something else, or of a newer format.
        """
        try:
            if data["format"] > FORMAT or data["kind"] != "transfer":
                raise StoreCorrupt(f"no assessment of format {FORMAT} or older")
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
                {
                    name: tuple(_alternative(one) for one in found)
                    for name, found in data["alternatives"].items()
                },
                {
                    name: tuple(SliceDifference(**one) for one in found)
                    for name, found in data["slices"].items()
                },
                {
                    name: Shift(**{**shift, "far_classes": tuple(shift.get("far_classes", ()))})
                    for name, shift in data["shifts"].items()
                },
                tuple(Ranked(**one) for one in data["ranking"]),
                data["agreement"],
                tuple(data["notes"]),
                AssessmentCard.from_json(data["card"]),
                _budgets(data.get("budgets", {})),  # absent from assessments of 0.1
                _budgets(data.get("retraining", {})),  # and of 0.2
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"this is not a stored assessment: {error!r}") from error


def _alternative(data: Mapping[str, Any]) -> Alternative:
    over = data["over_encoder"]
    return Alternative(
        Way(data["way"]),
        Difference(**{**over, "first": tuple(over["first"]), "second": tuple(over["second"])}),
        Verdict.from_json(data["over_reference"]),
        tuple(data["seconds"]) if "seconds" in data else None,
    )


def _budgets_json(budgets: Mapping[str, tuple[BudgetVerdict, ...]]) -> dict[str, Any]:
    return {
        name: [asdict(one) | {"kind": str(one.kind)} for one in found]
        for name, found in budgets.items()
    }


def _budgets(data: Mapping[str, Any]) -> dict[str, tuple[BudgetVerdict, ...]]:
    return {
        name: tuple(BudgetVerdict(**{**one, "kind": Kind(one["kind"])}) for one in found)
        for name, found in data.items()
    }
