"""Work that is stopped after some minutes, goes on from there, and says how far it is."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

import heads
from featurestore.cli import watching
from featurestore.cli.watching import Watch
from featurestore.errors import TimeIsUp
from heads.experiments import cells
from heads.labels.shared import once, sharing
from heads.measures import fits


@pytest.fixture
def view(make_view, blobs):
    vectors, labels = blobs(n=60, noise=3)
    return make_view(vectors, labels)


@pytest.fixture
def stop_after(monkeypatch):
    """Let the time be up after so many looks at the clock; 0: never."""

    monkeypatch.setattr(fits.os, "cpu_count", lambda: 1)  # parts are done in their order

    def after(n_looks):
        looks = iter(range(n_looks + 1))
        now = lambda: 0.0 if next(looks, n_looks) < n_looks else 1e9  # noqa: E731
        monkeypatch.setattr(
            cells, "time", SimpleNamespace(monotonic=now if n_looks else lambda: 0.0)
        )

    return after


def test_on_a_test_split_the_heads_that_were_done_are_kept_one_by_one(make_view, blobs, stop_after):
    vectors, labels = blobs(n=80, noise=3)
    view = make_view(vectors, labels, split=["train", "train", "train", "test"] * 20)
    whole = heads.compare(view, ["ridge", "lda"], save=False)
    stop_after(2)  # fits: ridge and lda
    part = heads.compare(view, ["ridge", "lda"], minutes=3)
    assert [one.head for one in part.heads] == ["ridge", "lda"]
    assert "left out: knn on timm:x, majority on baseline:majority" in part.notes[-1]
    for one in part.heads:
        [same] = [other for other in whole.heads if other.head == one.head]
        assert one.report.scores == same.report.scores
        np.testing.assert_array_equal(one.report.predicted, same.report.predicted)
    stop_after(0)
    seen = []
    again = heads.compare(view, ["ridge", "lda"], progress=lambda *now: seen.append(now[2]))
    assert [one.head for one in again.heads] == [one.head for one in whole.heads]
    assert sum(what.startswith("kept: ") for what in seen) == 2


def test_a_stopped_comparison_has_whole_repeats_and_goes_on_from_there(view, stop_after):
    whole = heads.compare(view, ["ridge", "lda"], save=False)
    stop_after(60)  # fits of ridge, lda, knn and the majority, side by side
    part = heads.compare(view, ["ridge", "lda"], minutes=3)
    assert part.estimand == "the learning procedure, 2 × 5 folds"
    assert part.card.n_repeats == 2
    assert "Stopped after 3 minutes: 10 of 25 folds were done" in part.notes[-1]
    for one, other in zip(part.heads, whole.heads, strict=True):
        for metric, scores in one.report.scores.items():
            np.testing.assert_array_equal(scores, other.report.scores[metric][:10])
    stop_after(0)
    seen = []
    again = heads.compare(view, ["ridge", "lda"], progress=lambda *now: seen.append(now))
    assert sum(not what.startswith("kept: ") for _, _, what in seen[1:]) <= 100 - 4 * 12
    assert seen[-1][:2] == (100, 100)
    for one, other in zip(again.heads, whole.heads, strict=True):
        for metric, scores in one.report.scores.items():
            np.testing.assert_array_equal(scores, other.report.scores[metric])
        np.testing.assert_array_equal(one.report.repeats, other.report.repeats)
    assert not list(cells.cell_cache(view.dataset).glob(f"*{cells.PART}"))


def test_too_few_minutes_for_anything_are_an_error_that_keeps_what_was_done(view, stop_after):
    stop_after(7)
    with pytest.raises(TimeIsUp, match=r"3 minutes were not enough: .* of 75 fits .* kept"):
        heads.compare(view, ["ridge"], minutes=3)
    stop_after(0)
    seen = []
    heads.compare(view, ["ridge"], progress=lambda *now: seen.append(now))
    assert seen[1][2].startswith("kept: ")


def test_a_stopped_curve_has_the_small_budgets_and_a_stopped_head_fewer_repeats(view, stop_after):
    stop_after(25)
    drawn = heads.curve(view, "ridge", per_class=(1, 2, 4), n_draws=10, minutes=3)
    assert [one.per_class for one in drawn.budgets] == [1, 2]
    assert "left out are 4 labels a class" in drawn.notes[-1]
    stop_after(13)
    fitted = heads.fit(view, "ridge", minutes=3)
    assert fitted.card["evaluation"]["n_repeats"] == 2
    stop_after(0)
    whole = heads.fit(view, "ridge", save=False)
    np.testing.assert_array_equal(fitted.estimator.weights_, whole.estimator.weights_)


def test_each_repeat_of_the_folds_is_shown(view):
    seen = []
    found = heads.compare(view, ["ridge"], preview=seen.append, save=False)
    assert [one.card.n_repeats for one in seen] == [1, 2, 3, 4]
    for one, other in zip(seen[1].heads, found.heads, strict=True):
        np.testing.assert_array_equal(one.report.predicted, other.report.predicted)


def test_rows_that_were_kept_are_shown_beside_the_new_ones(view):
    heads.compare(view, ["ridge"])
    seen = []
    heads.compare(view, ["ridge", "prototype"], preview=seen.append)
    assert [one.card.n_repeats for one in seen] == [1, 2, 3, 4]
    assert all({"ridge", "prototype"} <= {row.head for row in one.heads} for one in seen)


def test_what_heads_share_is_made_once_and_its_seconds_count_for_each():
    rows, made = np.zeros(3), []

    def make():
        time.sleep(0.02)
        made.append(1)
        return rows.copy()

    with sharing() as kept:
        first = once("copy", (rows,), make)
        assert once("copy", (rows,), make) is first
        assert once("copy", (np.zeros(3),), make) is not first  # other rows, though equal
        assert kept.saved_s >= 0.02
    assert once("copy", (rows,), make) is not first  # nobody shares any more
    assert len(made) == 3


def test_progress_is_told_in_lines_or_in_a_log(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(watching, "EVERY_S", 0.01)
    monkeypatch.setattr(watching, "WORTH_SAYING_S", 0.0)
    log = tmp_path / "work.log"
    with Watch(log=log) as watch:
        watch.fits(0, 50, "1 encoder × 2 heads × 25 fits")
        for n in range(1, 26):
            watch.fits(n, 50, "ridge on timm:x")
        watch.finish()
    said = capsys.readouterr().err
    assert "about " in said
    assert "1 encoder × 2 heads × 25 fits" in said
    assert said in "\n".join(line.split(" ", 2)[2] for line in log.read_text().splitlines()) + "\n"
    clock = iter([0.0, *[100.0] * 9])
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(clock))
    with Watch(minutes=0.5) as watch:
        watch.fits(0, 50, "1 encoder")
        watch.fits(25, 50, "ridge")
        watch.finish()
    monkeypatch.undo()
    monkeypatch.setattr(watching, "EVERY_S", 0.01)
    assert "about 3 min, of which 0.5 min at most: 1 encoder" in capsys.readouterr().err
    with Watch():
        time.sleep(0.5)
    assert "reading and loading, since 1 s" in capsys.readouterr().err
    with Watch(quiet=True) as watch:
        watch.fits(0, 50, "1 encoder")
        watch.fits(50, 50, "ridge")
    assert capsys.readouterr().err == ""
