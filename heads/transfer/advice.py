"""What to do, and which figure says so: one table of rules, read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from featurestore.values import EncoderSpec
from heads.comparison import Difference
from heads.transfer.shift import Shift
from heads.transfer.verdict import Kind, SliceDifference, Verdict

MUCH_SHIFT = 1.0  # a proxy A-distance at which a linear classifier errs in a quarter of cases
HEADROOM = 0.1  # errors that are left and that nothing cheap removes
ENOUGH_ROWS = 1000  # for fine-tuning to be worth a try


@dataclass(frozen=True)
class Evidence:
    """What is known of one encoder; None where it was not looked at. Higher is better."""

    verdict: Verdict
    layer: Difference | None = None  # the best other layer, less the last one
    layers_together: Difference | None = None  # all layers side by side, less the last one
    blend: Difference | None = None  # side by side with the raw features, less the encoder
    pretraining: tuple[float, float, float] | None = None  # less random weights: Δ, low, high
    shift: Shift | None = None
    slices: Sequence[SliceDifference] = ()

    @property
    def helps_more(self) -> bool:
        """Whether something cheap beats the encoder as it is."""
        return any(
            one is not None and one.low > 0
            for one in (self.layer, self.layers_together, self.blend)
        )


@dataclass(frozen=True)
class Rule:
    """One piece of advice."""

    name: str
    holds: Callable[[Evidence], bool]
    say: Callable[[Evidence], str]


def points(x: float, sign: str = "+") -> str:
    """Write a share as percentage points: ``+2.1``."""
    return f"{100 * x:{sign}.1f}"


def _range(one: Difference | None) -> str:
    assert one is not None
    return f"{points(one.value)} points, {points(one.low)} to {points(one.high)}"


def _name(spec: str) -> str:
    return EncoderSpec.parse(spec).label


def _found(e: Evidence) -> list[SliceDifference]:
    return [one for one in e.slices if one.is_found and one.value < 0]


RULES: tuple[Rule, ...] = (
    Rule(
        "do not transfer",
        lambda e: e.verdict.kind is Kind.NEGATIVE and not e.helps_more,
        lambda e: (
            f"Do not transfer: heads on {_name(e.verdict.encoder)} are "
            f"{points(-e.verdict.value, '')} points worse than {e.verdict.reference}; use that."
        ),
    ),
    Rule(
        "use frozen",
        lambda e: e.verdict.kind is Kind.POSITIVE and e.verdict.is_material,
        lambda e: (
            f"Use {_name(e.verdict.encoder)} frozen: at least {points(e.verdict.low, '')} points "
            f"better than {e.verdict.reference}."
        ),
    ),
    Rule(
        "use frozen, though it gains little",
        lambda e: e.verdict.kind is Kind.POSITIVE and not e.verdict.is_material,
        lambda e: (
            f"{_name(e.verdict.encoder)} is better than {e.verdict.reference}, perhaps by as "
            f"little as {points(e.verdict.low, '')} points: below the margin of "
            f"{points(e.verdict.margin, '')}, so cost may decide."
        ),
    ),
    Rule(
        "neutral",
        lambda e: e.verdict.kind is Kind.NEUTRAL,
        lambda e: (
            f"The encoder makes no difference that matters (within ±{points(e.verdict.margin, '')} "
            f"points): take whichever is cheaper, {e.verdict.reference} needs no encoder."
        ),
    ),
    Rule(
        "use another layer",
        lambda e: e.layer is not None and e.layer.low > 0,
        lambda e: f"Use {_name(e.layer.first[0])}: {_range(e.layer)} over the last layer.",  # type: ignore[union-attr]
    ),
    Rule(
        "use the layers together",
        lambda e: e.layers_together is not None and e.layers_together.low > 0,
        lambda e: (
            f"Put the layers side by side (heads.concat): {_range(e.layers_together)} over the "
            "last one."
        ),
    ),
    Rule(
        "concatenate with raw features",
        lambda e: e.blend is not None and e.blend.low > 0,
        lambda e: (
            f"Put the raw features beside the encoder (heads.concat): {_range(e.blend)} over the "
            "encoder alone."
        ),
    ),
    Rule(
        "label more to know",
        lambda e: e.verdict.kind is Kind.INCONCLUSIVE,
        lambda e: (
            f"These {e.verdict.n_rows:,} items cannot tell: a difference of "
            f"{points(e.verdict.detectable, '')} points would have shown. About "
            f"{e.verdict.rows_needed:,} labelled items would show one of "
            f"{points(e.verdict.margin, '')}."
        ),
    ),
    Rule(
        "pretraining is not what helps",
        lambda e: (
            e.pretraining is not None
            and e.verdict.kind is Kind.POSITIVE
            and e.pretraining[1] <= 0 <= e.pretraining[2]
        ),
        lambda e: (
            "The gain may come from the architecture: random weights of it are not separable from "
            f"the pretrained ones ({points(e.pretraining[0])} points, "  # type: ignore[index]
            f"{points(e.pretraining[1])} to {points(e.pretraining[2])})."  # type: ignore[index]
        ),
    ),
    Rule(
        "hidden negatives",
        lambda e: e.verdict.kind is not Kind.NEGATIVE and bool(_found(e)),
        lambda e: (
            "Look at "
            + ", ".join(f"{s.name} ({points(s.value)} points)" for s in _found(e)[:5])
            + ": the encoder is worse there (exploration: Benjamini-Hochberg at 5 %)."
        ),
    ),
    Rule(
        "the split is shifted",
        lambda e: e.shift is not None and e.shift.is_shifted and e.shift.a_distance > MUCH_SHIFT,
        lambda e: (
            f"Training and test items differ (A-distance {e.shift.a_distance:.2f} of 2, chance "  # type: ignore[union-attr]
            f"{e.shift.floor:.2f}): label some items like those of the test side."  # type: ignore[union-attr]
        ),
    ),
    Rule(
        "try fine-tuning",
        lambda e: (
            e.verdict.kind in (Kind.POSITIVE, Kind.NEUTRAL)
            and e.verdict.metric in ("balanced_accuracy", "accuracy", "macro_f1")
            and e.verdict.encoder_value < 1 - HEADROOM
            and e.verdict.n_rows >= ENOUGH_ROWS
            and not e.helps_more
        ),
        lambda e: (
            f"Frozen features leave {points(1 - e.verdict.encoder_value, '')} % wrong, and no "
            f"layer or blend that was tried helps: with {e.verdict.n_rows:,} labels fine-tuning, "
            "or a larger encoder, is worth a try."
        ),
    ),
)


def advise(evidence: Evidence) -> list[str]:
    """Return what to do, most important first; each sentence names its figure."""
    return [rule.say(evidence) for rule in RULES if rule.holds(evidence)]
