"""Heads that retrain the blocks above a cut, on activations in memory and from a store."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.metrics import balanced_accuracy_score

import heads
from featurestore.encoders.upper_part import Upper as UpperPart
from featurestore.errors import (
    BadBundle,
    BadName,
    BadSource,
    EncoderMismatch,
    UnknownHead,
    UnknownItem,
)
from featurestore.storage.files import sha256_of
from featurestore.terms.activations import Activations
from heads.catalogue.table import head_entries, head_entry
from heads.estimators import finetune
from heads.estimators.finetune import FinetuneHead, FinetuneRegressor
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.retrain import Answers, Linear, Recipe, Run, Top, outputs, retrain
from heads.labels import pace
from heads.labels.pace import Pace, pacing
from heads.labels.tasks import Task
from heads.saved.card import digest_of
from heads.saved.serve import answer, predict_source
from heads.saved.tapped import tapped


class Upper(torch.nn.Module):
    """Looks at each place alone; trained, it may look at its neighbours."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.mix = torch.nn.Conv2d(3, 8, 3, padding=1)
        at_place = torch.zeros(3, 3)
        at_place[1, 1] = 1
        self.mix.weight.data *= at_place
        self.norm = torch.nn.BatchNorm2d(8)
        self.eval()

    def train(self, mode=True):
        return super().train(False)

    def forward(self, batch, lengths=None):
        return torch.relu(self.norm(self.mix(batch))).mean(dim=(2, 3))


class OfTexts(torch.nn.Module):
    """The mean over the tokens of a text, through one layer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(5, 8)

    def forward(self, batch, lengths):
        is_there = torch.arange(batch.shape[1]) < lengths[:, None]
        mean = (batch * is_there[..., None]).sum(1) / lengths[:, None]
        return torch.tanh(self.layer(mean))


SHORT = {"rates": (1e-2, 3e-3), "least_steps": 20, "epochs": 1}


def stripes(n, seed, n_classes=2):
    """Pictures of vertical and of horizontal stripes (and of none), equal in the mean."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_classes
    maps = rng.normal(size=(n, 1, 3, 6, 6)) * 0.6
    wave = np.resize([1.0, -1.0], 6)
    maps[codes == 0, :] += wave[:, None]
    maps[codes == 1, :] += wave[None, :]
    return Activations.of(np.concatenate([maps, maps[..., ::-1]], axis=1), ("plain", "flip")), codes


def test_retraining_sees_what_the_frozen_vectors_do_not_hold():
    (X, y), (T, truth) = stripes(48, 0, 3), stripes(90, 1, 3)
    names = np.array(["down", "across", "none"])
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    head = FinetuneHead(Upper, rates=(1e-2, 3e-3)).fit(X, names[y], np.arange(48))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    both = [one.fit(head.vectors(X), names[y]) for one in (LogisticHead(), LdaHead())]
    before = max(balanced_accuracy_score(names[truth], m.predict(head.vectors(T))) for m in both)
    after = balanced_accuracy_score(names[truth], head.predict(T))
    assert before < 0.75 < 0.9 < after
    assert head.retrained_ == "2 runs of 96 steps and the frozen head"
    assert head.note_ == ""
    p = head.predict_proba(T)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    members = [finetune.log_softmax(one, axis=1) for one in head._said(T)]
    expected = np.exp(np.mean(members, axis=0))
    np.testing.assert_allclose(p, expected / expected.sum(axis=1, keepdims=True))
    each = [one.predict_proba(head.vectors(T)) for one in both]
    logs = [np.log(0.999 * p + 0.001 / 3) for p in each]
    np.testing.assert_allclose(
        members[0], finetune.log_softmax(np.mean(logs, axis=0), axis=1), atol=1e-4
    )
    again = FinetuneHead(Upper, rates=(1e-2, 3e-3)).fit(X, names[y])
    np.testing.assert_array_equal(again.predict_proba(T), p)
    other = FinetuneHead(Upper, rates=(1e-2, 3e-3), random_state=1).fit(X, names[y])
    assert not np.array_equal(other.predict_proba(T), p)


@pytest.mark.parametrize("kind", ["centre", "l2", "standardise"])
def test_a_run_begins_where_the_frozen_head_stands(kind, monkeypatch):
    monkeypatch.setattr(finetune, "LogisticHead", lambda auto, **rest: LogisticHead(kind, **rest))
    X, y = stripes(40, 0)
    head = FinetuneHead(Upper, rates=(1e-30,), least_steps=1, epochs=1).fit(X, y)
    head.runs_ = [Top(Upper(), head._layer()).learned()]  # one that learned nothing
    head.beside_ = None  # a run begins from the other
    frozen, run = head._said(X)
    p = np.exp(finetune.log_softmax(run, axis=1))
    np.testing.assert_allclose(p, np.exp(frozen), atol=2e-3)


class WithADeadColumn(Upper):
    """One number hardly varies, as in MiniLM."""

    def forward(self, batch, lengths=None):
        found = super().forward(batch)
        return torch.cat([found, found[:, :1] * 1e-33], dim=1)


def test_a_column_that_hardly_varies_does_no_harm(monkeypatch):
    monkeypatch.setattr(
        finetune, "LogisticHead", lambda auto, **rest: LogisticHead("standardise", **rest)
    )
    X, y = stripes(40, 0, 3)
    head = FinetuneHead(WithADeadColumn, **SHORT).fit(X, y)
    assert np.abs(head._layer().weights).max() < 1e6
    assert len(head.runs_) == 2, head.note_


def test_a_collapsed_run_is_left_out_and_said(monkeypatch):
    X, y = stripes(40, 0)
    usual = FinetuneHead._run

    def run(self, X, answers, rate, *rest):
        found = usual(self, X, answers, rate, *rest)
        return Run(found.weights, np.inf) if rate == max(self.rates) else found

    monkeypatch.setattr(FinetuneHead, "_run", run)
    head = FinetuneHead(Upper, rates=(1e-2, 3e-3), least_steps=40).fit(X, y)
    assert len(head.runs_) == 1
    assert head.note_ == (
        "Retraining at a rate of 0.01 collapsed (it learned little more than how frequent the "
        "labels are) and is left out."
    )
    assert head.retrained_ == "1 run of 40 steps and the frozen head, 1 left out"


def test_chance_is_the_loss_of_the_frequencies():
    assert Answers("classes", np.array([0, 0, 0, 1])).chance() == pytest.approx(0.5623, abs=1e-4)
    assert Answers("numbers", np.array([[-1.0], [1.0]])).chance() == 1
    assert Answers("labels", np.array([[0, 1], [1, 1]])).chance() == pytest.approx(
        np.log(2) / 2, abs=1e-6
    )
    assert Run({}, 0.6).has_collapsed(0.5)
    assert Run({}, float("nan")).has_collapsed(0.5)


class Flat(torch.nn.Module):
    """A layer on all numbers of a map; blind, it sees none of them."""

    def __init__(self, sees=1.0):
        super().__init__()
        self.layer, self.sees = torch.nn.Linear(12, 24), sees
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 288).view(24, 12).sin())

    def forward(self, batch, lengths=None):
        return self.layer(batch.flatten(1) * self.sees)


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_rare_ones_that_are_told_apart_are_no_collapse(kind):
    """Smoothed labels alone keep the loss above that of whoever knows the frequencies."""
    y = np.zeros((810, 1), np.float32)
    y[::135] = 1  # 6
    maps = np.random.default_rng(0).normal(size=(810, 1, 3, 2, 2)) * 0.3
    maps[y[:, 0] == 1] += 2
    X = Activations.of(maps)
    n_out = 2 if kind == "classes" else 1
    answers = Answers(kind, y[:, 0].astype(int) if kind == "classes" else y)
    for sees in (1.0, 0.0):
        top = Top(Flat(sees), Linear(np.zeros(24), np.zeros((24, n_out)), np.zeros(n_out)))
        run = retrain(top, X, answers, 1e-2, Recipe(), seed=0)
        assert run.has_collapsed(answers.chance()) == (sees == 0)
    assert run.loss == pytest.approx(answers.chance(), rel=0.1)


def test_the_order_of_texts_needs_no_text_read(monkeypatch):
    X, read = Activations.of([np.ones((n % 7 + 1, 5)) for n in range(200)]), []
    usual = Activations.ragged
    monkeypatch.setattr(
        Activations, "ragged", lambda self, rows: read.append(len(rows)) or usual(self, rows)
    )
    outputs(OfTexts(), X)
    assert read == [64, 64, 64, 8]


def test_what_a_run_learned_fits_or_is_refused():
    top = Top(Flat(), Linear(np.zeros(24), np.zeros((24, 2)), np.zeros(2)))
    learned = top.learned()
    top.take(learned)
    bias = "upper.layer.bias"
    for odd in ({bias: learned[bias][:1]}, {"upper.other": np.zeros(3, np.float32)}):
        with pytest.raises(BadBundle, match="fit the head again"):
            top.take(learned | odd)
    with pytest.raises(BadBundle, match=f"differ in {bias}"):
        top.take({name: one for name, one in learned.items() if name != bias})


def test_several_labels_and_numbers():
    X, y = stripes(60, 0)
    T, truth = stripes(60, 1)
    both = np.stack([y, 1 - y, np.ones_like(y)], axis=1)
    head = FinetuneHead(Upper, rates=(1e-2,)).fit(X, both)
    said = head.predict(T)
    assert said.shape == (60, 3)
    assert (said[:, 0] == truth).mean() > 0.9
    assert (said[:, 2] == 1).all()
    assert head.predict_proba(T).shape == (60, 3)


def test_numbers():
    (X, y), (T, truth) = stripes(60, 0, 3), stripes(60, 1, 3)
    numbers = FinetuneRegressor(Upper, rates=(1e-2,)).fit(X, 100.0 + 20 * (y == 2))
    assert len(numbers.runs_) == 1
    assert np.abs(numbers.predict(T) - (100 + 20 * (truth == 2))).mean() < 5


def test_texts_are_padded_and_come_back_in_their_order():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 2
    texts = [rng.normal(size=(rng.integers(1, 9), 5)) + 2 * c for c in y]
    X = Activations.of([one.astype(np.float16) for one in texts])
    head = FinetuneHead(OfTexts, rates=(1e-2,)).fit(X, y)
    assert (head.predict(X) == y).mean() > 0.9
    order = rng.permutation(90)
    np.testing.assert_allclose(
        head.predict_proba(X[order]), head.predict_proba(X)[order], atol=1e-5
    )


def test_one_label_a_class_and_a_thousand_classes():
    X, y = stripes(2, 0)
    assert FinetuneHead(Upper, **SHORT).fit(X, y).predict(X).tolist() == y.tolist()
    X, _ = stripes(1000, 0)
    head = FinetuneHead(Upper, epochs=1, least_steps=2).fit(X, np.arange(1000))
    assert head.predict_proba(X[:3]).shape == (3, 1000)
    with pytest.raises(ValueError, match="two classes or more"):
        FinetuneHead(Upper).fit(X[:4], np.zeros(4))


def test_classes_weigh_as_asked(monkeypatch):
    X, y = stripes(40, 0)
    rows = np.flatnonzero((y == 0) | (np.arange(40) < 10))
    seen = []
    usual = FinetuneHead._learn
    monkeypatch.setattr(
        FinetuneHead,
        "_learn",
        lambda self, X, answers, groups: seen.append(answers) or usual(self, X, answers, groups),
    )
    for weight in (None, "balanced", {0: 1, 1: 3}):
        FinetuneHead(Upper, class_weight=weight, **SHORT).fit(X[rows], y[rows])
    rare = y[rows] == 1
    assert seen[0].weights is None
    assert seen[1].weights[rare].sum() == pytest.approx(seen[1].weights[~rare].sum())
    np.testing.assert_array_equal(seen[2].weights, np.where(rare, 3.0, 1.0))


def test_ctrl_c_keeps_what_was_done(monkeypatch):
    X, y = stripes(40, 0)
    told = []

    def tell(how_far):
        told.append(how_far)
        if how_far.startswith("step 30 "):
            raise KeyboardInterrupt

    monkeypatch.setattr(pace, "TOLD_EVERY_S", 0)
    with pytest.raises(KeyboardInterrupt), pacing(Pace(tell)):  # as one of many fits
        FinetuneHead(Upper, **SHORT).fit(X, y)
    told.clear()
    with pacing(Pace(tell, may_stop=True)):
        head = FinetuneHead(Upper, **SHORT).fit(X, y)
    assert told[0].startswith("step 1 of 40, about ")
    assert len(head.runs_) == 1
    assert head.note_ == (
        "Stopped by Ctrl-C after 30 of 40 steps: the answer is without the last run."
    )
    head.predict(X)


@pytest.mark.parametrize(("per_step", "runs"), [(0.01, "2 runs of 45"), (10.0, "0 runs of 0")])
def test_minutes_are_kept(per_step, runs, monkeypatch):
    X, y = stripes(40, 0)
    clock = [0.0]

    def run(self, X, answers, rate, number, n_steps, *_):
        clock[0] += per_step * n_steps
        return Run({}, 0.0)

    monkeypatch.setattr(FinetuneHead, "_run", run)
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(finetune.time, name, lambda: clock[0])
    with pacing(Pace(until=1.03)):
        head = FinetuneHead(Upper, least_steps=40, epochs=100).fit(X, y)
    assert head.retrained_.startswith(runs)
    assert head.retrained_.endswith(", cut short by the time")
    assert "time" in head.note_


def test_names_of_the_head():
    head = head_entry("finetune:blocks=2,alone,balanced,plain")
    assert (head.reads, head.tap, head.variants) == ("tap", "-2", "")
    built = head.builder(Task.MULTICLASS)(3)
    assert (built.alone, built.class_weight, built.random_state) == (True, "balanced", 3)
    plain = head_entry("finetune")
    assert (plain.tap, plain.variants) == ("auto", "flip")
    assert isinstance(plain.builder(Task.REGRESSION)(0), FinetuneRegressor)
    assert set(head_entries(["finetune"], Task.MULTILABEL)) == {"finetune"}
    with pytest.raises(UnknownHead, match="alone"):
        head_entry("finetune:alon")
    with pytest.raises(BadName, match="number of blocks"):
        head_entry("finetune:blocks=none")
    with pytest.raises(BadName, match="cannot be a member"):
        head_entry("mix:logistic,finetune")


@pytest.fixture
def few_steps(monkeypatch):
    """Two steps a run: what is tested is the way through the store."""
    monkeypatch.setattr(Recipe, "steps", lambda self, n_rows: 2)
    monkeypatch.setattr(FinetuneHead, "seconds_a_step", lambda *_: 1e-3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A store of small pictures of stripes, by the built-in encoder."""
    from PIL import Image

    from featurestore.store.store import open_store

    folder = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = np.zeros((32, 32), np.uint8)
        if number % 2:
            pixels[::4] = 255
        else:
            pixels[:, ::4] = 255
        pixels = np.clip(pixels + rng.integers(0, 120, pixels.shape), 0, 255).astype(np.uint8)
        path = folder / ("across", "down")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).convert("RGB").save(path)
    store = open_store(tmp_path_factory.mktemp("store") / "s", create=True)
    store.embed([folder], dataset="d", encoders=["builtin:tiny-image", "baseline:pixels"])
    return store.dataset("d"), folder


@pytest.mark.usefixtures("few_steps")
def test_train_makes_the_tap_and_keeps_a_bundle(pictures, tmp_path):
    dataset, folder = pictures
    said, told = [], []
    with pacing(Pace(say=said.append)):
        fitted = heads.fit(
            dataset.view("builtin:tiny-image"),
            "finetune:blocks=3",
            progress=lambda *now: told.append(now),
        )
    (tap,) = dataset.taps()
    assert len(tap.activations()) == 20
    assert any("is a tap: " in line and "for 20 items" in line for line in said)
    card = fitted.card
    assert card.reads == "tap"
    assert card.cut == tap.tap.cut
    assert card.estimand == "the learning procedure, 1 × 5 folds"
    assert card.metrics["balanced_accuracy"].value > 0.9
    assert card.metrics["balanced_accuracy"].low is not None
    assert told[-1][:2] == (6, 6)
    assert any("step " in what for _, _, what in told)
    some = [folder / "across" / "0.png", folder / "down" / "1.png"]
    expected = fitted.predict_proba(tap.activations(["across/0.png", "down/1.png"]))
    np.testing.assert_allclose(fitted.predict_proba(some), expected, atol=2e-3)
    with pytest.raises(BadSource, match="reads activations after block"):
        fitted.predict(dataset.view("builtin:tiny-image").load())

    bundle = fitted.save(tmp_path / "bundle")
    assert sorted(one.name for one in bundle.iterdir()) == [
        "card.json", "encoder.json", "head.skops", "top.safetensors", "unlike.safetensors",
    ]  # fmt: skip
    loaded = heads.load_bundle(bundle)
    assert loaded.predict(some).tolist() == ["across", "down"]
    np.testing.assert_allclose(loaded.predict_proba(some), expected, atol=2e-3)
    assert loaded.unlike_training(some).shares.shape == (2,)
    frozen = heads.load_bundle(bundle)  # nothing but activations: it opens its encoder
    np.testing.assert_allclose(
        frozen.predict_proba(tap.activations(["across/0.png", "down/1.png"])), expected, atol=1e-6
    )
    passes, usual = [], UpperPart.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UpperPart, "forward", lambda *given: passes.append(1) or usual(*given))
        acts = tap.activations(["across/0.png", "down/1.png"])
        asked = answer(loaded, acts.ids, acts)
    n_runs = len(loaded.estimator.runs_)
    assert len(passes) == 2 + n_runs, "one settles the copy, one is frozen"
    np.testing.assert_allclose(asked.probabilities, expected, atol=1e-5)
    assert asked.predicted.tolist() == ["across", "down"]
    np.testing.assert_allclose(asked.unlike.shares, loaded.unlike_training(some).shares, atol=0.11)
    found = predict_source(loaded, folder)
    assert (found.predicted == [one.split("/")[0] for one in found.ids]).all()
    learned = load_file(bundle / "top.safetensors")
    learned.pop("0/linear.bias")
    save_file(learned, bundle / "top.safetensors")
    card = json.loads((bundle / "card.json").read_text())
    card["top_sha256"] = sha256_of(bundle / "top.safetensors")
    card["card_sha256"] = digest_of(card)
    (bundle / "card.json").write_text(json.dumps(card))
    with pytest.raises(BadBundle, match=r"top\.safetensors.* no linear\.bias"):
        heads.load_bundle(bundle)
    (bundle / "top.safetensors").write_bytes(b"something else")
    with pytest.raises(BadBundle, match=r"top\.safetensors"):
        heads.load_bundle(bundle)


@pytest.mark.usefixtures("few_steps")
def test_compare_and_curve_take_it(pictures):
    dataset, _ = pictures
    views = dataset.views()
    found = heads.compare(views, ["logistic", "finetune:blocks=3"])
    rows = {(row["encoder"], row["head"]) for row in found.rows()}
    assert ("builtin:tiny-image", "finetune:blocks=3") in rows
    assert ("baseline:pixels", "logistic") in rows
    assert ("baseline:pixels", "finetune:blocks=3") not in rows
    assert any("baseline:pixels has no blocks to retrain" in note for note in found.notes)
    assert found.estimand == "the learning procedure, 1 × 5 folds"
    told = []
    heads.compare(
        views, ["logistic", "finetune:blocks=3"], progress=lambda *now: told.append(now[2])
    )
    assert "kept: finetune:blocks=3 on builtin:tiny-image" in told
    with pytest.raises(BadName, match="pixels has none"):
        heads.compare(dataset.view("baseline:pixels"), ["finetune"])
    said = []
    with pacing(Pace(say=said.append)):
        drawn = heads.curve(
            dataset.view("builtin:tiny-image"), "finetune:blocks=3", per_class=[2], n_draws=2
        )
    assert said == [], "blocks=3 is the cut that is there: nothing goes through embed again"
    assert drawn.budgets[0].scores.shape == (2,)


@pytest.mark.usefixtures("few_steps")
def test_what_the_time_cut_short_is_not_kept(pictures, monkeypatch):
    view = pictures[0].view("builtin:tiny-image")
    usual = FinetuneHead._affordable
    monkeypatch.setattr(FinetuneHead, "_affordable", lambda self, *rest: (1, self.rates[:1]))
    found = heads.compare(view, ["finetune:blocks=3"], seed=5)
    assert {one.chosen[0].get("retrained", "") for one in found.heads} >= {
        "1 run of 1 step and the frozen head, cut short by the time"
    }
    monkeypatch.setattr(FinetuneHead, "_affordable", usual)
    told = []
    heads.compare(view, ["finetune:blocks=3"], seed=5, progress=lambda *now: told.append(now[2]))
    assert "kept: knn on builtin:tiny-image" in told
    assert not any(one.startswith("kept: finetune") for one in told)


@pytest.mark.usefixtures("few_steps")
def test_labels_that_came_after_the_tap(pictures, tmp_path):
    import pyarrow as pa

    dataset, _ = pictures
    ids = dataset.items(["item_id"]).column("item_id").to_pylist()
    some = pa.table({"item_id": ids[:6] + ids[-6:], "kind": ["a"] * 6 + ["b"] * 6})
    dataset.attach(some)
    view = dataset.store.dataset("d").view("builtin:tiny-image")
    fitted = heads.fit(view, "finetune:blocks=3,plain", label="kind", save=False)
    taps = {str(one.spec): one.n_rows for one in dataset.taps()}
    made = next(n for spec, n in taps.items() if "variants" not in spec)
    assert made == 12, "only the labelled ones"
    assert fitted.card.n_items == 12
    dataset.attach(pa.table({"item_id": ids[6:9], "kind": ["a"] * 3}))
    view = dataset.store.dataset("d").view("builtin:tiny-image")
    assert heads.fit(view, "finetune:blocks=3,plain", label="kind", save=False).card.n_items == 15


@pytest.fixture
def own(pictures, tmp_path):
    """A data set of the same pictures that a test may change."""
    import shutil

    from featurestore.store.store import open_store

    folder = shutil.copytree(pictures[1], tmp_path / "stripes")
    store = open_store(tmp_path / "s", create=True)
    store.embed([folder], dataset="d", encoders=["builtin:tiny-image"])
    return store.dataset("d"), folder


@pytest.mark.usefixtures("few_steps")
def test_a_snapshot_is_retrained_on_what_its_items_were(own):
    dataset, folder = own
    old = dataset.view("builtin:tiny-image").now()
    content = (folder / "down" / "1.png").read_bytes()
    for name in ("0.png", "2.png"):
        (folder / "across" / name).write_bytes(content)
    dataset.store.embed([folder], dataset="d", encoders=["builtin:tiny-image"])
    with pytest.raises(UnknownItem, match=r"2 of 20 items .*first: across/0\.png") as raised:
        heads.fit(old, "finetune:blocks=3,plain", save=False)
    assert "featurestore embed --dataset d -e builtin:tiny-image" in str(raised.value)
    assert dataset.taps() == [], "seen before anything is embedded"


@pytest.mark.usefixtures("few_steps")
def test_a_tap_that_has_what_items_were_is_read(own):
    dataset, folder = own
    old = dataset.view("builtin:tiny-image").now()
    tap = dataset.embed_tap("builtin:tiny-image#tap=auto")
    content = (folder / "down" / "1.png").read_bytes()
    (folder / "across" / "0.png").write_bytes(content)
    dataset.store.embed([folder], dataset="d", encoders=["builtin:tiny-image"])
    read = tapped(old, head_entry("finetune:plain"), old.load().ids)
    expected = tap.as_of(str(old.snapshot).split(".")[0] + f".{tap.table.version()}").activations()
    np.testing.assert_array_equal(
        read.activations.batch(np.arange(20)), expected.batch(np.arange(20))
    )


@pytest.mark.usefixtures("few_steps")
def test_a_second_comparison_reads_the_first_where_auto_chose_the_cut(own):
    view, told = own[0].view("builtin:tiny-image"), []
    for _ in range(2):
        told.clear()
        heads.compare(view, ["finetune"], progress=lambda *now: told.append(now[2]))
    assert "kept: finetune on builtin:tiny-image" in told


@pytest.mark.usefixtures("few_steps")
def test_items_that_a_tap_cannot_hold_are_left_out_and_named(own):
    dataset, folder = own
    view = dataset.view("builtin:tiny-image")
    (folder / "across" / "0.png").unlink()
    (folder / "down" / "1.png").write_bytes(b"no picture any more")
    dataset.store.embed([folder], dataset="d", encoders=["builtin:tiny-image"])
    view = dataset.view("builtin:tiny-image")
    fitted = heads.fit(view, "finetune:blocks=3,plain", save=False)
    assert fitted.card.n_items == 18
    note = next(one for one in fitted.card.notes if "activations" in one)
    assert note.startswith("1 of 19 items has no activations in d@builtin:tiny-image#tap=3 and is")
    assert "across/0.png (it is gone from its source)" in note
    assert "--retry-failed" in note
    found = heads.compare([view], ["finetune:blocks=3,plain", "logistic"], save=False)
    assert note in found.notes
    assert {len(row.report.truth) for row in found.heads} == {18}, "all rows on the same items"
    for one in folder.rglob("*.png"):
        one.unlink()
    with pytest.raises(BadSource, match=r"holds no items"):
        heads.fit(view, "finetune:blocks=2,plain", save=False)


@pytest.mark.usefixtures("few_steps")
def test_a_tap_of_other_weights_is_refused(own):
    dataset, _ = own
    view = dataset.view("builtin:tiny-image")
    view.info["chosen"]["weights"] = "of before"
    with pytest.raises(EncoderMismatch, match=r"different networks.*weights") as raised:
        heads.fit(view, "finetune:blocks=3,plain", save=False)
    (tap,) = dataset.taps()
    assert f"-e builtin:tiny-image -e {tap.spec} --overwrite" in str(raised.value).replace("'", "")
