"""A mix of all inputs as one more row of a comparison, and what is said of it."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest

import heads
from featurestore.errors import BadName, EncoderMismatch
from heads.advice.next_step import train_command
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.mix import MixHead, MixRegressor
from heads.estimators.ridge import RidgeHead
from heads.experiments import cells
from heads.labels.blocks import Blocks
from heads.measures import fits
from heads.measures.choice import choose

ALL = "mix:all"


@pytest.fixture
def halves(make_view):
    """Two views, each of which knows one of two halves of what tells four classes apart."""

    def make(n=480, apart=3.0, **columns):
        rng = np.random.default_rng(0)
        codes = np.arange(n) % 4
        low, high = codes % 2, codes // 2
        split = ["train" if at % 5 else "test" for at in range(n)]
        names = [f"class {code}" for code in codes]

        def view(spec, bit):
            vectors = rng.normal(size=(n, 6))
            vectors[:, 0] += apart * bit
            return make_view(vectors, names, spec=spec, **{"split": split, **columns})

        return view("timm:low", low), view("timm:high", high)

    return make


def test_the_mix_of_all_is_a_row_and_is_taken_where_it_is_surely_better(halves, monkeypatch):
    views = halves()
    found = heads.compare(views, ["lda", "mix"])
    mixes = [cell for cell in found.heads if cell.encoder == ALL]
    assert [cell.head for cell in mixes] == ["mix"]
    tables = [view.load() for view in views]
    inputs = Blocks(
        {str(view.spec): table.vectors for view, table in zip(views, tables, strict=True)}
    )
    members = [
        (f"{name} on {view.spec}", str(view.spec), head(random_state=0))
        for name, head in (("logistic", LogisticHead), ("lda", LdaHead), ("ridge", RidgeHead))
        for view in views
    ]
    is_test = tables[0].column("split") == "test"
    labels = tables[0].labels.astype(str)
    taught = np.flatnonzero(~is_test)
    own = MixHead(members, random_state=0).fit(
        inputs[taught], labels[taught], np.arange(480)[taught]
    )
    said = np.array(found.classes)[mixes[0].report.predicted]
    assert (said == own.predict(inputs[np.flatnonzero(is_test)])).all()
    choice = choose(found)
    assert choice.taken == (ALL, "mix")
    assert choice.take.startswith("Take mix on all encoders together: ")
    assert choice.next_best.gain[1] > 0
    assert "Next comes " in choice.others
    assert any(one.sentence().startswith("mix on all encoders together is better than ")
               for one in found.claims())  # fmt: skip
    monkeypatch.setattr(MixHead, "fit", lambda *_: pytest.fail("it was kept"))
    again = heads.compare(views, ["lda", "mix"])
    assert again.rows() == found.rows()


def test_one_encoder_is_taken_where_the_mix_is_not_surely_better(make_view, blobs):
    vectors, names = blobs(n=150, noise=3.0)
    copy = vectors + 0.1 * np.random.default_rng(1).normal(size=vectors.shape)
    split = ["train", "train", "train", "train", "test"] * 30
    views = [
        make_view(one, names, spec=spec, split=split)
        for one, spec in ((vectors, "timm:a"), (copy, "timm:b"))
    ]
    found = heads.compare(views, ["ridge", "mix"])
    choice = choose(found)
    assert ALL in {cell.encoder for cell in found.heads}
    assert choice.taken[0] in ("timm:a", "timm:b")


def test_only_where_there_are_two_inputs(make_view, blobs):
    vectors, names = blobs(n=60)
    split = ["train", "train", "train", "test"] * 15
    view = make_view(vectors, names, split=split)
    found = heads.compare(view, ["prototype"], save=False)
    assert ALL not in {cell.encoder for cell in found.heads}
    with pytest.raises(BadName, match="mix needs two inputs"):
        heads.compare(view, ["mix"])
    words = [f"{name} of {'odd' if at % 2 else 'even'}" for at, name in enumerate(names)]
    texts = make_view(vectors, names, split=split, texts=words)
    found = heads.compare(texts, ["mix", "prototype"], save=False)
    assert {(cell.encoder, cell.head) for cell in found.heads} >= {(ALL, "mix")}


def test_a_mix_can_be_named_as_an_input_of_a_comparison_and_of_a_curve(halves):
    views = halves(n=120)
    found = heads.compare(heads.mix(views), ["mix:prototype"], save=False)
    assert ("mix:timm:low+timm:high", "mix:prototype") in {
        (cell.encoder, cell.head) for cell in found.heads
    }
    drawn = heads.curve(views, "mix:prototype", per_class=(2, 8), n_draws=3, save=False)
    assert drawn.encoders == [ALL]
    few, many = drawn.of(ALL)
    assert many.mean > few.mean


def test_the_command_trains_what_was_taken(tmp_path):
    class Named:
        name, store, slice_, label_columns = "toys", type("S", (), {"path": tmp_path}), None, ()

        def views(self):
            return []

        def spec_named(self, name):
            return name

    line = train_command(Named(), (ALL, "mix"), inputs=["timm:a", "baseline:pixels"])
    assert line.startswith(
        "featurestore train toys -e timm:a -e baseline:pixels --head mix --store"
    )


def test_the_best_of_several_inputs_may_be_a_mix_or_a_head_on_one(halves, make_view, tmp_path):
    low, high = halves()
    both = heads.fit([low, high], "best", save=False)
    assert both.card.chosen["chosen"] == "mix"
    rng = np.random.default_rng(0)
    names = low.load().labels.tolist()
    split = low.load().column("split").tolist()
    codes = np.array([int(name[-1]) for name in names])
    whole = make_view(
        np.eye(4)[codes] * 4 + rng.normal(size=(480, 4)), names, spec="timm:whole", split=split
    )
    noise = make_view(rng.normal(size=(480, 4)), names, spec="timm:noise", split=split)
    one = heads.fit([noise, whole], "best", save=False)
    assert one.card.chosen["chosen"].endswith(" on timm:whole")
    assert one.card.encoder == "mix:timm:whole"  # new items need the one encoder alone
    bundle = heads.load_bundle(one.save(tmp_path / "bundle"))
    assert (bundle.predict(whole.load()) == names).mean() > 0.9


def test_several_inputs_are_read_by_a_mix_or_the_best_and_by_nothing_silently(halves):
    both = heads.mix(list(halves(n=120)))
    name = str(both.spec)

    def compared(names):
        found = heads.compare(both, names, save=False)
        return [(one.encoder, one.head) for one in found.heads[:-1]], found.notes

    assert compared(None)[0] == [(name, "mix")]
    assert compared(["best"])[0] == [(name, "best")]
    rows, notes = compared(["logistic"])
    assert rows == [(name, "mix")]
    assert any("which mix reads: logistic, knn was not tried on it." in note for note in notes)
    with pytest.raises(BadName, match="logistic reads one input, and there are several"):
        heads.curve(both, "logistic", per_class=(2,), n_draws=2, save=False)
    drawn = heads.curve(both, "mix", per_class=(2, 4), n_draws=2, save=False)
    assert drawn.encoders == [name]
    with pytest.raises(BadName, match="propagate cannot be a member of a mix"):
        heads.compare(both, ["mix:propagate"], save=False)


def test_blocks_of_other_widths_or_encoders_are_refused(halves):
    low, high = halves(n=120)
    head = heads.fit([low, high], "mix", save=False)
    vectors = {str(view.spec): view.load().vectors for view in (low, high)}
    assert head.predict(Blocks(vectors)).shape == (120,)
    with pytest.raises(EncoderMismatch, match=r"reads timm:high \(6 numbers\), and these blocks"):
        head.predict(Blocks({**vectors, "timm:high": vectors["timm:high"][:, :4]}))


@pytest.mark.parametrize("kind", ["pictures", "texts", "copies", "several labels", "numbers"])
def test_a_mix_of_compared_heads_is_made_of_their_fits(kind, halves, make_view, monkeypatch):
    """Weights and answers are those of a mix that fits its members itself."""
    low, high = halves(n=160, apart=2.0)
    names, group = low.load().labels.astype(str), [f"g{at // 2}" for at in range(160)]
    vectors = [one.load().vectors for one in (low, high)]
    texts = [f"{name} {'odd' if at % 3 else 'even'} {at % 7}" for at, name in enumerate(names)]
    labels, split = names.tolist(), ["train" if at % 8 > 1 else "test" for at in range(160)]
    columns = {"group": group, "split": [None] * 160 if kind == "copies" else split}
    if kind == "copies":
        vectors = [np.repeat(one[::2], 2, axis=0) for one in vectors]
        labels = np.repeat(names[::2], 2).tolist()
    if kind == "several labels":
        labels = [["a"] * (at % 4 > 1) + ["b"] * (at % 2) for at in range(160)]
    if kind == "numbers":
        labels = (vectors[0][:, 0] + vectors[1][:, 0] + 0.01 * np.arange(160)).tolist()
    of_texts = {"texts": texts} if kind == "texts" else {}
    views = [
        make_view(one, labels, spec=spec, **of_texts, **columns)
        for one, spec in zip(vectors, ("timm:low", "timm:high"), strict=True)
    ]
    itself = heads.compare(views, ["mix"], save=False)
    with monkeypatch.context() as patch:
        patch.setattr(MixHead, "fit", lambda *_: pytest.fail("its members are fitted already"))
        patch.setattr(MixRegressor, "fit", lambda *_: pytest.fail("its members are fitted"))
        found = heads.compare(views, save=False)
    (own,) = (one for one in itself.heads if one.encoder == ALL)
    (mixed,) = (one for one in found.heads if one.encoder == ALL)
    assert mixed.head == "mix"
    np.testing.assert_array_equal(mixed.report.predicted, own.report.predicted)
    for metric, scores in mixed.report.scores.items():
        np.testing.assert_allclose(scores, own.report.scores[metric], rtol=1e-9)
    assert mixed.seconds > max(one.seconds for one in found.heads if one.head == "ridge")


def test_a_stopped_comparison_goes_on_with_its_mix(halves, monkeypatch):
    """Wherever it stops, within a part as well, little is done again.

    That part, and what the thread that fits had begun of the next ones before it heard of the stop:
    two fits of logistic each.
    """
    monkeypatch.setattr(fits.os, "cpu_count", lambda: 1)  # parts are done in their order
    views = halves(n=60, split=[None] * 60)
    whole = heads.compare(views, save=False)
    n_fits = Counter()
    fit = LogisticHead.fit

    def counted(self, *args, **kwargs):
        n_fits["logistic"] += 1
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(LogisticHead, "fit", counted)
    for n_before in (41, 130, 141):
        shutil.rmtree(cells.cell_cache(views[0].dataset), ignore_errors=True)
        n_fits.clear()

        def stop(done, *_, at=n_before):
            if done >= at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            heads.compare(views, progress=stop)
        again = heads.compare(views)
        assert again.rows() == [{**row, "seconds": mine["seconds"]} for row, mine in
                                zip(whole.rows(), again.rows(), strict=True)]  # fmt: skip
        assert 50 <= n_fits["logistic"] <= 56
    n_fits.clear()
    third = heads.compare(views[:1])  # what is kept of one serves another comparison
    assert n_fits["logistic"] == 0
    known = {(one.encoder, one.head): one for one in whole.heads}
    for one in third.heads:
        if one.encoder == "timm:low":
            np.testing.assert_array_equal(
                one.report.repeats, known[one.encoder, one.head].report.repeats
            )


def test_a_mix_that_comes_later_takes_no_row_away(halves, monkeypatch):
    views = halves(n=60, split=[None] * 60)
    for view in views:
        heads.compare(view, ["logistic", "lda", "ridge"])
    monkeypatch.setattr(RidgeHead, "fit", lambda *_: pytest.fail("the time is up before"))
    found = heads.compare(views, ["logistic", "lda", "ridge", "mix"], minutes=1e-9)
    assert {(one.encoder, one.head) for one in found.heads} >= {
        (str(view.spec), head) for view in views for head in ("logistic", "lda", "ridge")
    }
    assert "left out: mix on mix:all" in found.notes[-1]
    monkeypatch.undo()
    later = heads.compare(views)  # the mix fits its members itself
    once = heads.compare(views, save=False)
    (mixed,), (other,) = ([r for r in run.heads if r.head == "mix"] for run in (later, once))
    np.testing.assert_array_equal(mixed.report.repeats, other.report.repeats)
