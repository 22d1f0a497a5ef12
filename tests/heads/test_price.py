"""What retraining takes is said before it begins, and what was done is not done again."""

import numpy as np
import pytest

import heads
from featurestore.errors import TimeIsUp
from featurestore.terms.words import in_time
from heads.estimators import finetune, kept_runs, retrain
from heads.estimators.finetune import FinetuneHead
from heads.estimators.kept_runs import KeptRuns
from heads.estimators.retrain import Recipe
from heads.experiments import price
from heads.experiments.price import Price
from heads.labels.pace import Pace, Work, pacing
from heads.saved.bundle import heads_folder
from tests.heads.test_finetune import SHORT, Upper, pictures, stripes

assert pictures  # a fixture


@pytest.fixture
def costly(monkeypatch):
    """Two steps a run, of which each is said to take ten seconds."""
    monkeypatch.setattr(Recipe, "steps", lambda self, n_rows: 2)
    monkeypatch.setattr(FinetuneHead, "seconds_a_step", lambda *_: 10.0)
    monkeypatch.setattr(price, "n_at_once", lambda _: 2)


def test_a_step_is_timed_on_the_blocks_themselves():
    X, _ = stripes(40, 0)
    head = FinetuneHead(Upper)
    assert 0 < head.seconds_a_step(X, 3) < 60
    assert head.n_steps(40) == 2 * 96
    assert head.n_steps(800) == 2 * 300
    assert not hasattr(head, "runs_")


def test_what_fits_take_counts_those_side_by_side():
    asked = Price("finetune on x", [192] * 5 + [192], 0.5, 2, n_alone=192)
    assert asked.seconds == (5 * 192 / 2 + 192) * 0.5
    assert str(asked) == (
        "finetune on x: retraining takes about 6 min (6 fits of 192 steps, 2 at a time; "
        "0.5 s a step)"
    )
    assert asked.enough_minutes == 7
    assert in_time(5500) == "1.5 h"


def test_the_time_left_is_that_of_all_fits(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("heads.labels.pace.time.monotonic", lambda: now[0])
    work, told = Work(40), []
    work.begin()
    for _ in range(10):
        now[0] += 2.0
        work.step(told.append)
    assert told[-1] == "step 10 of 40, about 60 s left"
    work.drop(20)  # a run was kept
    assert str(work) == "step 10 of 20, about 20 s left"


@pytest.mark.usefixtures("costly")
def test_train_says_what_it_takes_and_refuses_what_cannot_be(pictures):
    view = pictures[0].view("builtin:tiny-image")
    said = []
    with pacing(Pace(say=said.append)):
        heads.fit(view, "finetune:plain", save=False)
    (line,) = [one for one in said if "retraining takes" in one]
    assert "6 fits of 4 steps" in line
    assert "5 fits are to judge the head, the last one is kept" in line
    assert "featurestore split DATASET` first, for 1 fit in place of 6" in line
    assert "--head finetune:blocks=1" in line
    kept = heads_folder(pictures[0])
    before = sorted(kept.iterdir()) if kept.exists() else []
    with pytest.raises(TimeIsUp, match=r"too short to retrain anything.*--minutes 3 .*logistic"):
        heads.fit(view, "finetune:plain", minutes=0.1)
    assert (sorted(kept.iterdir()) if kept.exists() else []) == before


@pytest.mark.usefixtures("costly")
def test_transfer_leaves_out_what_the_time_is_too_short_for(pictures, monkeypatch):
    def late(*_, **__):
        raise TimeIsUp("0.5 minutes were not enough")

    monkeypatch.setattr(FinetuneHead, "fit", late)
    said = []
    with pacing(Pace(say=said.append)):
        found = heads.assess_transfer(
            pictures[0].view("builtin:tiny-image"), heads=("prototype",), finetune=True,
            blend=False, save=False, minutes=0.5, seed=3,
        )  # fmt: skip
    assert found.alternatives == {}
    assert any(
        "Retraining builtin:tiny-image is left out: 0.5 minutes" in one for one in found.notes
    )
    (line,) = [one for one in said if "retraining takes" in one]
    assert "the same command goes on from there (--minutes 3 or more" in line


def test_a_second_fit_goes_on_where_the_first_was_interrupted(tmp_path, monkeypatch):
    X, y = stripes(40, 0)
    expected = FinetuneHead(Upper, **SHORT).fit(X, y).predict_proba(X)
    usual, made = finetune._Retrained._run, []

    def head():
        found = FinetuneHead(Upper, **SHORT)
        found.keep = KeptRuns(tmp_path, {"fingerprint": "a"})
        return found

    def counted(self, X, answers, rate, number, *rest):
        made.append(number)
        return usual(self, X, answers, rate, number, *rest)

    def stops(self, X, answers, rate, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        return counted(self, X, answers, rate, number, *rest)

    monkeypatch.setattr(finetune._Retrained, "_run", stops)
    with pytest.raises(KeyboardInterrupt):
        head().fit(X, y)
    monkeypatch.setattr(finetune._Retrained, "_run", counted)
    second = head().fit(X, y)
    assert made == [0, 1], "the first run was read"
    np.testing.assert_array_equal(second.predict_proba(X), expected)
    assert second.retrained_ == "2 runs of 20 steps and the frozen head"
    head().fit(X, 1 - y)
    assert made == [0, 1, 0, 1], "other labels are another run"
    second.keep.forget()
    assert len(list(tmp_path.iterdir())) == 2
    bare, _ = second.apart()
    assert bare.keep is None


def test_kept_runs_stay_small_and_damage_is_no_harm(tmp_path, monkeypatch):
    keep = KeptRuns(tmp_path / "runs", {})
    run = retrain.Run({"a": np.ones(1000, np.float32)}, 0.5)
    files = [keep.folder / f"{n}.safetensors" for n in range(3)]
    monkeypatch.setattr(kept_runs, "MOST_BYTES", 9000)
    for file in files:
        keep.write(file, run)
    assert sorted(keep.folder.iterdir()) == files[1:]
    found = keep.read(files[2])
    np.testing.assert_array_equal(found.weights["a"], run.weights["a"])
    assert found.loss == 0.5
    files[2].write_bytes(b"something else")
    assert keep.read(files[2]) is None
