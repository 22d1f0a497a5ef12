"""Advice, each piece with its figure: one table of rules, read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from featurestore.encoders.families import families
from featurestore.terms.specs import EncoderSpec
from heads.labels.tasks import Task
from heads.measures.comparison import Difference, metric_of, number, unit_of
from heads.measures.metrics import METRICS
from heads.transfer.budgets import BudgetVerdict
from heads.transfer.shift import Shift
from heads.transfer.verdict import Kind, SliceDifference, Verdict, decide

MUCH_SHIFT = 1.0  # a proxy A-distance at which a linear classifier errs in a quarter of cases
HEADROOM = 0.05  # errors that are left and that nothing cheap removes
# Of 60, 240 and 400 to 600 labels, those from which on fine-tuning was better than features frozen
# at the encoder's own resolution, on two of three sets of pictures (benchmarks/savings.py).
ENOUGH_ROWS = 240
_FROZEN = "with the best head on frozen features"
FINE_TUNING = "a small network gained 5 to 8 points by it on roofs and hands, and none on steel"


class Way(StrEnum):
    """What may stand in an encoder's place."""

    LAYER = "another layer"
    LAYERS = "layers side by side"
    BLEND = "raw features beside the encoder"  # of releases before 0.3
    MIX = "a mix with the reference"
    WORDS = "the words of the classes to begin from"
    RETRAINED = "its upper blocks retrained"


@dataclass(frozen=True)
class Alternative:
    """Something cheap in the encoder's place, and what it is worth."""

    way: Way
    over_encoder: Difference
    over_reference: Verdict
    seconds: tuple[float, float] | None = None  # of a fit: this, and what it is compared with

    @property
    def wins(self) -> bool:
        """Whether it beats the encoder as it is, and what needs no encoder as well."""
        return self.over_encoder.gain[1] > 0 and self.over_reference.kind is Kind.POSITIVE

    @property
    def over_better(self) -> tuple[str, tuple[float, float, float]]:
        """The better of encoder and reference on these rows, and Δ, low and high over it.

        It is the one that leaves the smaller gain: looking at the same rows for it can only make
        the gain look smaller.
        """
        v, gain = self.over_reference, self.over_encoder.gain
        if v.value <= gain[0]:
            return v.reference, (v.value, v.low, v.high)
        return _name(self.over_encoder.second[0]), gain


@dataclass(frozen=True)
class Evidence:
    """What is known of one encoder; None where it was not looked at."""

    verdict: Verdict
    alternatives: Sequence[Alternative] = ()
    pretraining: tuple[float, float, float] | None = None  # less random weights, higher is better
    shift: Shift | None = None
    slices: Sequence[SliceDifference] = ()
    budgets: Sequence[BudgetVerdict] = ()

    @property
    def best(self) -> Alternative | None:
        """The alternative that wins by most; None where none does."""
        winners = [one for one in self.alternatives if one.wins]
        return max(winners, key=lambda one: one.over_encoder.gain[0], default=None)

    def said(self, x: float, sign: str = "") -> str:
        """Write an amount of the metric with its unit."""
        return f"{number(x, self.verdict.metric, sign)} {unit_of(self.verdict.metric)}"


@dataclass(frozen=True)
class Rule:
    """One piece of advice."""

    name: str
    holds: Callable[[Evidence], bool]
    say: Callable[[Evidence], str]


def _name(spec: str) -> str:
    return EncoderSpec.parse(spec).label


def _encoder(e: Evidence) -> str:
    return _name(e.verdict.encoder)


def _worse_slices(e: Evidence) -> list[SliceDifference]:
    return [one for one in e.slices if one.is_found and one.value < 0]


def _say_best(e: Evidence) -> str:
    assert e.best is not None
    if e.best.way is Way.MIX:
        return _say_mix(e)
    value, low, high = e.best.over_encoder.gain
    what = {
        Way.LAYER: f"Use {_name(e.best.over_encoder.first[0])} instead",
        Way.LAYERS: "Put the layers side by side (heads.concat)",
        Way.BLEND: "Put the raw features beside the encoder (heads.concat)",
        Way.WORDS: "Begin from the words of the classes (--head zero-shot+probe)",
        Way.RETRAINED: "Retrain the upper blocks (--head finetune)",
    }[e.best.way]
    return (
        f"{what}: {e.said(value, '+')} ({e.said(low, '+')} to {e.said(high, '+')}) over "
        f"{_encoder(e)} {_FROZEN if e.best.way is Way.RETRAINED else 'alone'}, and at least "
        f"{e.said(e.best.over_reference.low)} over {e.verdict.reference}."
    )


def _say_mix(e: Evidence) -> str:
    """Say what a mix is worth beside the better of encoder and reference."""
    mixed = next(one for one in e.alternatives if one.way is Way.MIX)
    better, (value, low, high) = mixed.over_better
    metric = e.verdict.metric
    span = f"{e.said(value, '+')} ({number(low, metric, '+')} to {number(high, metric, '+')})"
    if mixed.wins:
        return (
            f"Use both, {_encoder(e)} and {e.verdict.reference}, in a mix (--head mix): {span} "
            f"over the better of the two, {better}."
        )
    said = f"A mix of {_encoder(e)} and {e.verdict.reference} (--head mix)"
    kind = decide(low, high, e.verdict.margin)
    if kind is Kind.NEGATIVE:
        return f"{said} is worse than {better} alone: {span}."
    if kind is Kind.NEUTRAL:
        return f"{said} is as good as the better of the two: {span} over {better}."
    return f"{said} is not better for sure than the better of the two: {span} over {better}."


def _retrained(e: Evidence) -> Alternative | None:
    return next((one for one in e.alternatives if one.way is Way.RETRAINED), None)


def _say_retrained(e: Evidence) -> str:
    """Say what retraining is worth where it does not win."""
    tried = _retrained(e)
    assert tried is not None
    value, low, high = tried.over_encoder.gain
    what = {
        Kind.NEGATIVE: "is worse than",
        Kind.NEUTRAL: "is as good as",
        Kind.POSITIVE: "is better than",  # but not for sure than what needs no encoder
    }.get(decide(low, high, e.verdict.margin), "is not better for sure than")
    return (
        f"Retraining the upper blocks (--head finetune) {what} the best head on frozen features: "
        f"{e.said(value, '+')} ({e.said(low, '+')} to {e.said(high, '+')})."
    )


def _say_unknown(e: Evidence) -> str:
    v = e.verdict
    begin = f"These {v.n_rows:,} {v.rows_word} are too few to tell"
    if v.rows_needed < 0:
        return f"{begin}: they are of one group; label items of other groups."
    return (
        f"{begin}: a difference of {e.said(v.detectable)} would have shown. About "
        f"{v.rows_needed:,} {v.rows_word} would settle a difference of {e.said(v.margin)}."
    )


def _say_pretraining(e: Evidence) -> str:
    assert e.pretraining is not None
    value, low, high = e.pretraining
    amount = f"{e.said(value, '+')}, {e.said(low, '+')} to {e.said(high, '+')}"
    if decide(low, high, e.verdict.margin) is Kind.INCONCLUSIVE:
        return (
            "Whether pretraining is what helps is open: no difference between pretrained and "
            f"random weights of the architecture can be seen here ({amount})."
        )
    how = "are better than" if high < 0 else "are as good as"
    return (
        f"Pretraining is not what helps: random weights of the architecture {how} the "
        f"pretrained ones ({amount})."
    )


def _is_within(e: Evidence) -> bool:
    """Whether the shift is one between the items that teach and test, where harm is measured."""
    return e.shift is not None and e.shift.between == Shift.between


def _say_slices(e: Evidence) -> str:
    said = []
    for one in _worse_slices(e)[:5]:
        if e.verdict.metric in METRICS[Task.REGRESSION]:
            amount = f"{one.value:+.3g} mean absolute error saved"
        else:
            amount = f"{100 * one.value:+.1f} points of those right"
        if _is_within(e) and e.shift is not None and one.name in e.shift.far_classes:
            amount += f"; {e.shift.beyond_of_class[one.name]:.0%} lie far out: a shift"
        said.append(f"{one.name} ({amount})")
    return (
        f"Look at {', '.join(said)}: the encoder does worse there than {e.verdict.reference} "
        "(exploration: Benjamini-Hochberg at 5 %)."
    )


def _few(e: Evidence, kind: Kind) -> list[BudgetVerdict]:
    return [one for one in e.budgets if one.kind is kind]


def _say_budgets(e: Evidence) -> str:
    v = e.verdict
    said = "; ".join(
        f"with {one.n_labels:,} labels {e.said(one.value, '+')} ({e.said(one.low, '+')} to "
        f"{e.said(one.high, '+')})"
        for one in e.budgets
        if one.kind in (Kind.POSITIVE, Kind.NEGATIVE)
    )
    return (
        f"It depends on the labels: {said} against {v.reference}; with all {v.n_taught:,} "
        f"{e.said(v.value, '+')} (exploration: Benjamini-Hochberg at 5 %)."
    )


def _say_no_shift(e: Evidence) -> str:
    assert e.shift is not None
    return (
        f"No shift between {e.shift.between} explains it: A-distance {e.shift.a_distance:.2f} of "
        f"2; a shift below {e.shift.floor:.2f} cannot be seen."
    )


def _say_shift(e: Evidence) -> str:
    assert e.shift is not None
    first, _, second = e.shift.between.partition(" and ")
    return (
        f"{first.capitalize()} and {second} differ (A-distance {e.shift.a_distance:.2f} of 2, "
        f"chance {e.shift.floor:.2f}): heads trained on the first may do worse on the "
        "second; label some items of the second."
    )


def _has_headroom(e: Evidence) -> bool:
    v = e.verdict
    return (
        v.kind in (Kind.POSITIVE, Kind.NEUTRAL)
        and metric_of(v.metric).is_share
        and metric_of(v.metric).higher_is_better
        and v.encoder_value < 1 - HEADROOM
        and v.n_taught >= ENOUGH_ROWS
        and e.best is None
        and _retrained(e) is None
    )


def _say_fine_tuning(e: Evidence) -> str:
    v = e.verdict
    tried = ", and nothing cheap that was tried is better" if e.alternatives else ""
    way = "retraining its upper blocks (--head finetune)" if _has_blocks(e) else "fine-tuning"
    return (
        f"Frozen features reach {100 * v.encoder_value:.1f} % {v.metric.replace('_', ' ')}{tried}: "
        f"with {v.n_taught:,} labels {way}, or a larger encoder, is worth a try ({FINE_TUNING})."
        f"{' `transfer --finetune` tells what it gains here.' if _has_blocks(e) else ''}"
    )


def _has_blocks(e: Evidence) -> bool:
    family = families().get(e.verdict.encoder.partition(":")[0])
    return family is not None and "tap" in family.options


RULES: tuple[Rule, ...] = (
    Rule(
        "do not transfer",
        lambda e: e.verdict.kind is Kind.NEGATIVE,
        lambda e: (
            f"Do not transfer {_encoder(e)} as it is: its heads are {e.said(-e.verdict.value)} "
            f"worse than those on {e.verdict.reference}."
            + ("" if e.best is not None else f" Take {e.verdict.reference} alone.")
        ),
    ),
    Rule(
        "use frozen",
        lambda e: e.verdict.kind is Kind.POSITIVE and e.verdict.is_material,
        lambda e: (
            f"Use {_encoder(e)} frozen: at least {e.said(e.verdict.low)} better than "
            f"{e.verdict.reference}."
        ),
    ),
    Rule(
        "use frozen, though it gains little",
        lambda e: e.verdict.kind is Kind.POSITIVE and not e.verdict.is_material,
        lambda e: (
            f"{_encoder(e)} is better than {e.verdict.reference}, perhaps by as little as "
            f"{e.said(e.verdict.low)}: below the margin of {e.said(e.verdict.margin)}, so cost "
            "may decide."
        ),
    ),
    Rule(
        "neutral",
        lambda e: e.verdict.kind is Kind.NEUTRAL,
        lambda e: (
            f"The encoder makes no difference that matters (within ±{e.said(e.verdict.margin)}): "
            f"take the cheaper one, the encoder or {e.verdict.reference}."
        ),
    ),
    Rule("use something beside it", lambda e: e.best is not None, _say_best),
    Rule(
        "whether to use both",
        lambda e: (
            any(one.way is Way.MIX for one in e.alternatives)
            and (e.best is None or e.best.way is not Way.MIX)
        ),
        _say_mix,
    ),
    Rule(
        "retrain the upper blocks",
        lambda e: _retrained(e) is not None and (e.best is None or e.best.way is not Way.RETRAINED),
        _say_retrained,
    ),
    Rule("label more to know", lambda e: e.verdict.kind is Kind.INCONCLUSIVE, _say_unknown),
    Rule(
        "pretraining is not what helps",
        lambda e: (
            e.pretraining is not None and e.verdict.kind is Kind.POSITIVE and e.pretraining[1] <= 0
        ),
        _say_pretraining,
    ),
    Rule(
        "few labels are another case",
        lambda e: (
            (e.verdict.kind in (Kind.NEUTRAL, Kind.NEGATIVE) and bool(_few(e, Kind.POSITIVE)))
            or (e.verdict.kind in (Kind.NEUTRAL, Kind.POSITIVE) and bool(_few(e, Kind.NEGATIVE)))
        ),
        _say_budgets,
    ),
    Rule(
        "hidden negatives",
        lambda e: e.verdict.kind is not Kind.NEGATIVE and bool(_worse_slices(e)),
        _say_slices,
    ),
    Rule(
        "harm without shift",
        lambda e: (
            e.verdict.kind is Kind.NEGATIVE
            and _is_within(e)
            and e.shift is not None
            and not e.shift.is_shifted
        ),
        _say_no_shift,
    ),
    Rule(
        "shifted",
        lambda e: e.shift is not None and e.shift.is_shifted and e.shift.a_distance > MUCH_SHIFT,
        _say_shift,
    ),
    Rule("try fine-tuning", _has_headroom, _say_fine_tuning),
)


def advise(evidence: Evidence) -> list[str]:
    """Return what to do, most important first; each sentence names its figure."""
    return [rule.say(evidence) for rule in RULES if rule.holds(evidence)]
