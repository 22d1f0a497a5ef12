"""Shift, ranking and advice on planted cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from featurestore.errors import NotEnoughData, ShapeMismatch
from heads.labels.tasks import Target, Task
from heads.measures.comparison import Difference
from heads.transfer.advice import RULES, Alternative, Evidence, Way, advise
from heads.transfer.budgets import BudgetVerdict
from heads.transfer.rank import agreement, rank_encoders
from heads.transfer.scores import SCORES, ridge_loo
from heads.transfer.shift import Shift, domain_shift
from heads.transfer.verdict import Kind, SliceDifference, Verdict


def test_two_halves_of_one_set_are_not_shifted_and_two_sets_are():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300, 20))
    same = domain_shift(a, b)
    assert same.a_distance <= same.floor + 0.05
    assert same.beyond == pytest.approx(0.05, abs=0.05)
    moved = domain_shift(a, b + 1.0)
    assert moved.is_shifted
    assert moved.a_distance > 1.5
    assert moved.beyond > 0.2
    a_little = domain_shift(a, b + 0.1)
    assert same.a_distance < a_little.a_distance < moved.a_distance


def test_shift_of_one_class_shows_in_its_own_tail():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 300, 10))
    classes = np.array(["old", "new"])[np.arange(300) % 2]
    b[classes == "new"] += 4 * rng.normal(size=10)
    found = domain_shift(a, b, classes=classes)
    assert found.beyond_of_class["new"] > found.beyond_of_class["old"] + 0.2


def test_a_class_that_is_spread_out_is_no_shift_and_one_that_moved_is():
    """A rare class lies far out in both sets; another has moved in the second."""
    rng = np.random.default_rng(0)

    def draw(n, moved):
        names = np.array(["plain"] * (8 * n) + ["rare"] * n + ["mover"] * n)
        spread = np.where(names == "rare", 3.0, 1.0)[:, None]
        F = spread * rng.normal(size=(10 * n, 6))
        F[names == "mover", 0] += 8 * moved
        return F, names

    (first, known), (second, names) = draw(60, False), draw(40, True)
    found = domain_shift(first, second, classes=names, first_classes=known)
    assert found.beyond_of_class["rare"] > 0.2
    assert found.far_classes == ("mover",)
    same = draw(40, False)
    assert domain_shift(first, same[0], classes=same[1], first_classes=known).far_classes == ()
    assert domain_shift(first, second, classes=names).far_classes == ()  # held against nothing


def test_chance_is_called_a_shift_in_one_of_twenty():
    rng = np.random.default_rng(0)
    found = [domain_shift(*rng.normal(size=(2, 40, 10)), seed=s).is_shifted for s in range(200)]
    assert sum(found) <= 17  # P(more than 17 of 200) = 2 % at a true rate of 5 %


def test_few_groups_cannot_tell():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 5))
    group = np.arange(40) % 3
    with pytest.raises(NotEnoughData, match="3 and 3 groups: a shift needs 5"):
        domain_shift(a, b + 5, groups=(group, group + 3))


def test_groups_do_not_pass_for_a_shift():
    """Each group has a signature; without leaving groups out the sides look different."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(40), 15)
    vectors = 3 * rng.normal(size=(40, 12))[group] + rng.normal(size=(600, 12))
    first = group < 20
    naive = domain_shift(vectors[first], vectors[~first])
    aware = domain_shift(vectors[first], vectors[~first], groups=(group[first], group[~first]))
    assert naive.is_shifted
    assert not aware.is_shifted


def test_what_cannot_be_compared_is_said():
    with pytest.raises(ShapeMismatch, match="one dim"):
        domain_shift(np.zeros((20, 3)), np.zeros((20, 4)))
    with pytest.raises(NotEnoughData, match="ten or more"):
        domain_shift(np.zeros((20, 3)), np.zeros((5, 3)))


def test_encoders_are_ranked_with_an_interval_and_compared_with_heads():
    rng = np.random.default_rng(0)
    codes = np.arange(240) % 3
    means = rng.normal(size=(3, 10))[codes]
    vectors = {
        name: (strength * means + rng.normal(size=(240, 10))).astype(np.float32)
        for name, strength in (("weak", 0.3), ("strong", 2.0), ("fair", 0.9), ("fair too", 0.9))
    }
    heads = {"weak": 0.5, "strong": 1.0, "fair": 0.8, "fair too": 0.8}
    target = Target(Task.MULTICLASS, codes, ("a", "b", "c"))
    found = rank_encoders(vectors, target, head_values=heads)
    assert [found[0].encoder, found[-1].encoder] == ["strong", "weak"]
    assert (found[0].rank_low, found[0].rank_high) == (1, 1)
    twins = [one for one in found if one.encoder.startswith("fair")]
    assert all((one.rank_low, one.rank_high) == (2, 3) for one in twins)
    taus = agreement(found)
    assert taus["ridge_loo"] > 0.8
    assert taus["dim"] == 0
    assert "parameters" not in taus  # nobody counted them
    assert agreement(found[:2]) == {}
    sizes = {"weak": 1, "fair": 20, "fair too": 20, "strong": 300}
    counted = rank_encoders(vectors, target, head_values=heads, n_parameters=sizes)
    assert agreement(counted)["parameters"] == pytest.approx(1)


def test_identical_encoders_share_a_rank_and_one_group_tells_none():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    target = Target(Task.MULTICLASS, np.arange(60) % 2, ("a", "b"))
    found = rank_encoders({"x": vectors, "y": vectors, "z": vectors}, target)
    assert [(one.rank, one.rank_low, one.rank_high) for one in found] == [(1, 1, 3)] * 3
    worse = rng.normal(size=(60, 5)).astype(np.float32)
    alone = rank_encoders({"x": vectors, "y": worse}, target, groups=np.zeros(60, dtype=int))
    assert {(one.rank_low, one.rank_high) for one in alone} == {(1, 2)}


def test_where_lower_is_better_a_good_score_agrees_all_the_same():
    rng = np.random.default_rng(0)
    t = rng.normal(size=100)
    vectors = {
        str(noise): np.column_stack([t + noise * rng.normal(size=100)] * 2).astype(np.float32)
        for noise in (0.1, 0.5, 2.0)
    }
    errors = {"0.1": 0.1, "0.5": 0.4, "2.0": 0.9}
    found = rank_encoders(vectors, Target(Task.REGRESSION, t), head_values=errors)
    assert agreement(found, higher_is_better=False)["ridge_loo"] == 1


def test_numbers_are_ranked_by_the_scores_that_are_defined_for_them():
    rng = np.random.default_rng(0)
    t = rng.normal(size=100)
    vectors = {
        "good": np.column_stack([t, rng.normal(size=100)]).astype(np.float32),
        "bad": rng.normal(size=(100, 2)).astype(np.float32),
    }
    found = rank_encoders(vectors, Target(Task.REGRESSION, t))
    assert found[0].encoder == "good"
    assert set(found[0].scores) == {"ridge_loo", "knn_loo", "logme"}


def test_several_labels_are_scored_one_by_one():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 3)) < 0.4
    labels[:, 2] = True  # nothing to tell
    vectors = {
        str(strength): (strength * labels[:, :2] @ rng.normal(size=(2, 6))
                        + rng.normal(size=(200, 6))).astype(np.float32)
        for strength in (0.2, 3.0)
    }  # fmt: skip
    target = Target(Task.MULTILABEL, labels, ("a", "b", "c"))
    best = rank_encoders(vectors, target)[0]
    assert (best.encoder, best.rank_low, best.rank_high) == ("3.0", 1, 1)
    assert set(best.scores) == set(SCORES)
    F = vectors["3.0"]
    each = [ridge_loo(F, labels[:, i].astype(int)) for i in (0, 1)]
    assert best.scores["ridge_loo"] == pytest.approx(np.mean(each))
    with pytest.raises(NotEnoughData, match="no label has rows with and without it"):
        rank_encoders(vectors, replace(target, values=np.ones((200, 3), dtype=bool)))


VERDICT = Verdict(
    Kind.POSITIVE, "timm:x", "raw pixels", "balanced_accuracy", 0.1, 0.05, 0.15, 0.01, "folds",
    0.95, 0.85, 2000, 1600,
)  # fmt: skip
OVER = Difference(("timm:x#layer=2", "best"), ("timm:x", "best"), 0.03, 0.01, 0.05, "folds")
SHIFTED = Shift(1.5, 0.2, 0.01, 100, 100, 0.4, {})
WORSE = SliceDifference("cats", 50, -0.2, -0.3, -0.1, 0.001, True)
NEGATIVE = replace(VERDICT, kind=Kind.NEGATIVE, value=-0.1, low=-0.15, high=-0.05)
FEW = BudgetVerdict(24, Kind.POSITIVE, 0.08, 0.04, 0.12)
UNSURE = replace(VERDICT, kind=Kind.INCONCLUSIVE, value=0.01, low=-0.03, high=0.05)


def instead(way, *, over_encoder=0.01, over_reference=0.01):
    """Something in the encoder's place, with the low ends of its two intervals."""
    kind = Kind.POSITIVE if over_reference > 0 else Kind.INCONCLUSIVE
    return Alternative(
        way, replace(OVER, low=over_encoder), replace(VERDICT, kind=kind, low=over_reference)
    )


def mixed(value, low, high, over_encoder=0.2):
    """A mix with raw pixels, by its gain over them, and that over the encoder."""
    kind = Kind.POSITIVE if low > 0 else Kind.INCONCLUSIVE
    return Alternative(
        Way.MIX,
        replace(OVER, value=over_encoder, low=over_encoder - 0.02, high=over_encoder + 0.02),
        replace(VERDICT, kind=kind, value=value, low=low, high=high),
    )


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (Evidence(VERDICT), ["Use timm:x frozen: at least 5.0 points better than raw pixels."]),
        (
            Evidence(replace(VERDICT, low=0.004)),
            ["timm:x is better than raw pixels, perhaps by as little as 0.4 points"],
        ),
        (
            Evidence(NEGATIVE),
            [
                "Do not transfer timm:x as it is: its heads are 10.0 points worse than those on "
                "raw pixels. Take raw pixels alone."
            ],
        ),
        (
            Evidence(NEGATIVE, (instead(Way.LAYER),)),
            [
                "Do not transfer timm:x as it is",
                "Use timm:x#layer=2 instead: +3.0 points (+1.0 points to +5.0 points) over timm:x "
                "alone, and at least 1.0 points over raw pixels.",
            ],
        ),
        # Beside raw features even noise beats itself: it must also beat the raw features.
        (
            Evidence(NEGATIVE, (instead(Way.BLEND, over_reference=-0.01),)),
            ["Do not transfer timm:x as it is"],
        ),
        (
            Evidence(VERDICT, (instead(Way.BLEND, over_encoder=-0.01),)),
            ["Use timm:x frozen"],
        ),
        (
            Evidence(VERDICT, (instead(Way.BLEND),)),
            ["Use timm:x frozen", "Put the raw features beside"],
        ),
        (
            Evidence(VERDICT, (instead(Way.LAYERS), instead(Way.BLEND))),
            ["Use timm:x frozen", "Put the layers side"],
        ),
        (
            Evidence(NEGATIVE, (mixed(0.006, 0.002, 0.01),)),
            [
                "Do not transfer timm:x as it is: its heads are 10.0 points worse than those on "
                "raw pixels.",
                "Use both, timm:x and raw pixels, in a mix (--head mix): +0.6 points (+0.2 to "
                "+1.0) over the better of the two, raw pixels.",
            ],
        ),
        (
            Evidence(NEGATIVE, (mixed(0.001, -0.004, 0.006),)),
            [
                "Do not transfer timm:x as it is: its heads are 10.0 points worse than those on "
                "raw pixels. Take raw pixels alone.",
                "A mix of timm:x and raw pixels (--head mix) is as good as the better of the two: "
                "+0.1 points (-0.4 to +0.6) over raw pixels.",
            ],
        ),
        (
            Evidence(NEGATIVE, (mixed(-0.02, -0.03, -0.01),)),
            ["Do not transfer", "A mix of timm:x and raw pixels (--head mix) is worse than raw"],
        ),
        (  # better than raw pixels, and the encoder is better than both
            Evidence(UNSURE, (mixed(0.03, 0.01, 0.05, over_encoder=0.001),)),
            [
                "A mix of timm:x and raw pixels (--head mix) is not better for sure than the "
                "better of the two: +0.1 points (-1.9 to +2.1) over timm:x.",
                "These 2,000 labelled items are too few",
            ],
        ),
        (
            Evidence(UNSURE),
            [
                "These 2,000 labelled items are too few to tell: a difference of 5.7 points "
                "would have shown. About 8"
            ],
        ),
        (
            Evidence(replace(UNSURE, low=-1.0, high=float("inf"))),
            ["These 2,000 labelled items are too few to tell: they are of one group"],
        ),
        (
            Evidence(replace(VERDICT, kind=Kind.NEUTRAL, low=-0.005, high=0.005, value=0.0)),
            ["The encoder makes no difference that matters (within ±1.0 points)"],
        ),
        (
            Evidence(VERDICT, pretraining=(0.0, -0.02, 0.02)),
            [
                "Use timm:x frozen",
                "Whether pretraining is what helps is open: no difference between pretrained and "
                "random weights of the architecture can be seen here (+0.0 points, -2.0 points to "
                "+2.0 points).",
            ],
        ),
        (  # 20 points, and an interval that barely holds 0: no sign that pretraining does nothing
            Evidence(VERDICT, pretraining=(0.2, -0.01, 0.41)),
            ["Use timm:x frozen", "Whether pretraining is what helps is open"],
        ),
        (
            Evidence(VERDICT, pretraining=(0.0, -0.005, 0.005)),
            [
                "Use timm:x frozen",
                "Pretraining is not what helps: random weights of the architecture are as "
                "good as the pretrained ones",
            ],
        ),
        (
            Evidence(VERDICT, (instead(Way.WORDS),)),
            ["Use timm:x frozen", "Begin from the words of the classes (--head zero-shot+probe)"],
        ),
        (
            Evidence(NEGATIVE, shift=replace(SHIFTED, a_distance=0.1, p=0.6)),
            [
                "Do not transfer timm:x",
                "No shift between training and test items explains it: A-distance 0.10 of 2; a "
                "shift below 0.20 cannot be seen.",
            ],
        ),
        (  # how far another data set lies says nothing of harm measured here
            Evidence(NEGATIVE, shift=replace(SHIFTED, a_distance=0.1, p=0.6, between="a and b")),
            ["Do not transfer timm:x"],
        ),
        (
            Evidence(NEGATIVE, budgets=(FEW, replace(FEW, n_labels=240, kind=Kind.NEUTRAL))),
            [
                "Do not transfer timm:x",
                "It depends on the labels: with 24 labels +8.0 points (+4.0 points to +12.0 "
                "points) against raw pixels; with all 1,600 -10.0 points",
            ],
        ),
        (Evidence(VERDICT, budgets=(FEW,)), ["Use timm:x frozen"]),
        (
            Evidence(VERDICT, budgets=(replace(FEW, kind=Kind.NEGATIVE, value=-0.08),)),
            ["Use timm:x frozen", "It depends on the labels: with 24 labels -8.0 points"],
        ),
        (
            Evidence(
                VERDICT,
                slices=(WORSE,),
                shift=replace(
                    SHIFTED, beyond_of_class={"cats": 0.4}, far_classes=("cats",), a_distance=0.5
                ),
            ),
            ["Use timm:x frozen", "Look at cats (-20.0 points of those right; 40% lie far out: a "],
        ),
        (
            Evidence(
                replace(VERDICT, metric="mae", value=0.4, low=0.3, high=0.5, margin=0.02),
                slices=(replace(WORSE, name="site A", value=-2.3),),
            ),
            ["Use timm:x frozen", "Look at site A (-2.3 mean absolute error saved)"],
        ),
        (
            Evidence(VERDICT, pretraining=(-0.15, -0.2, -0.1)),
            [
                "Use timm:x frozen",
                "Pretraining is not what helps: random weights of the architecture are better",
            ],
        ),
        (Evidence(VERDICT, pretraining=(0.1, 0.05, 0.15)), ["Use timm:x frozen"]),
        (
            Evidence(VERDICT, slices=(WORSE,)),
            ["Use timm:x frozen", "Look at cats (-20.0 points of those"],
        ),
        (Evidence(VERDICT, slices=(replace(WORSE, is_found=False),)), ["Use timm:x frozen"]),
        (
            Evidence(VERDICT, shift=SHIFTED),
            ["Use timm:x frozen", "Training and test items differ (A-distance 1.50 of 2"],
        ),
        (
            Evidence(VERDICT, shift=replace(SHIFTED, between="the items here and those of far")),
            ["Use timm:x frozen", "The items here and those of far differ"],
        ),
        (
            Evidence(replace(VERDICT, encoder_value=0.6)),
            ["Use timm:x frozen", "Frozen features reach 60.0 % balanced accuracy: with 1,600"],
        ),
        (
            Evidence(replace(VERDICT, encoder_value=0.6), (instead(Way.BLEND, over_encoder=-1),)),
            ["Use timm:x frozen", "Frozen features reach 60.0 % balanced accuracy, and nothing"],
        ),
        (
            Evidence(replace(VERDICT, encoder_value=0.6), (instead(Way.BLEND),)),
            ["Use timm:x frozen", "Put the raw features beside"],
        ),
        (
            Evidence(replace(VERDICT, metric="rmse", low=2.05, margin=0.02)),
            ["Use timm:x frozen: at least 2.05 in rmse better than raw pixels."],
        ),
    ],
)
def test_each_planted_case_gets_its_advice(evidence, expected):
    lines = advise(evidence)
    assert len(lines) == len(expected), lines
    for line, begin in zip(lines, expected, strict=True):
        assert line.startswith(begin)


def test_every_sentence_names_a_figure():
    blend = mixed(0.03, 0.01, 0.05, over_encoder=0.001)
    tried = instead(Way.LAYER), blend, instead(Way.RETRAINED)
    everything = Evidence(VERDICT, tried, (0.0, -0.1, 0.1), SHIFTED, (WORSE,), (FEW,))
    for rule in RULES:
        assert any(character.isdigit() for character in rule.say(everything)), rule.name
