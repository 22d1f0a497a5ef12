"""What a verdict says of retraining the upper blocks."""

from dataclasses import replace

import pytest

import heads
from featurestore.errors import NoRoom
from heads.advice import next_step
from heads.estimators.finetune import FinetuneHead
from heads.estimators.retrain import Recipe
from heads.transfer import budgets
from heads.transfer.advice import Way, advise
from heads.transfer.verdict import Kind
from tests.heads.test_finetune import pictures

assert pictures  # a fixture


@pytest.fixture
def few_steps(monkeypatch):
    """Two steps a run: what is tested is the row, not what is learned."""
    monkeypatch.setattr(Recipe, "steps", lambda self, n_rows: 2)
    monkeypatch.setattr(FinetuneHead, "seconds_a_step", lambda *_: 1e-3)


@pytest.mark.usefixtures("few_steps")
def test_a_row_says_what_retraining_is_worth(pictures, monkeypatch):
    dataset, _ = pictures
    monkeypatch.setattr(budgets, "N_DRAWS", 5)
    told = []
    found = heads.assess_transfer(
        dataset.view("builtin:tiny-image"), heads=("prototype",), finetune=True, per_class=(2,),
        blend=False, progress=lambda *now: told.append(now),
    )  # fmt: skip
    spec = "builtin:tiny-image"
    assert found.verdict(spec).estimand == "the learning procedure, 5 × 5 folds"
    (tried,) = found.alternatives[spec]
    assert tried.way is Way.RETRAINED
    gain, over = tried.over_encoder, tried.over_reference
    assert gain.estimand == "the learning procedure, 1 × 5 folds"
    assert tried.over_reference.estimand == gain.estimand
    retrained, frozen = tried.seconds
    assert retrained > frozen
    (few,) = found.retraining[spec]
    assert few.n_labels == 4
    said = "\n".join(found.sentences())
    assert "builtin:tiny-image with its upper blocks retrained (finetune) minus its best" in said
    assert "builtin:tiny-image retrained minus frozen with few labels, points: 4 labels" in said
    assert any("--head finetune" in line for line in found.advice[spec])
    assert told[-1][0] == told[-1][1], "all fits were counted"
    (kept, *_) = heads.assessments(dataset)
    assert kept.alternatives == found.alternatives
    assert kept.retraining == found.retraining

    sure = replace(gain, value=0.2, low=0.1, high=0.3)
    better = replace(over, value=0.2, low=0.1, high=0.3)
    won = replace(tried, over_encoder=sure, over_reference=replace(better, kind=Kind.POSITIVE))
    verdict = replace(found.verdict(spec), value=0.1, low=0.05, high=0.15, kind=Kind.POSITIVE)
    other = replace(found, alternatives={spec: (won,)}, verdicts=(verdict,))
    lines = advise(other.evidence(spec))
    first = (
        "Retrain the upper blocks (--head finetune): +20.0 points (+10.0 points to +30.0 points)"
    )
    assert any(line.startswith(first) for line in lines)
    monkeypatch.setattr(next_step, "train_command", lambda _, cell, **__: " ".join(cell))
    said, line = next_step.after_assessment(other, dataset)
    assert said.startswith("Take builtin:tiny-image with its upper blocks retrained.")
    assert line == "Type next: builtin:tiny-image finetune"


def test_what_cannot_be_retrained_is_said(pictures, monkeypatch):
    dataset, _ = pictures

    def no_room(*_, **__):
        raise NoRoom("the tap takes 5 GB")

    monkeypatch.setattr("heads.experiments.inputs.tapped", no_room)
    dataset.store.embed([], dataset="d", encoders=["baseline:pixels#size=2"])
    found = heads.assess_transfer(
        [dataset.view("builtin:tiny-image"), dataset.view("baseline:pixels#size=2")],
        reference=dataset.view("baseline:pixels"), heads=("prototype",), finetune=True,
        blend=False, save=False,
    )  # fmt: skip
    assert found.alternatives == {}
    assert "Retraining was not tried with builtin:tiny-image: the tap takes 5 GB." in found.notes
    assert "baseline:pixels#size=2 has no blocks to retrain." in found.notes
