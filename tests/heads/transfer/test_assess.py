"""The door: verdicts on planted cases, through real stores and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import heads
from featurestore.cli import run
from featurestore.errors import BadName, MissingColumn, NotEnoughData
from featurestore.store.store import open_store
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import EncoderSpec
from heads.advice import next_step
from heads.transfer.evidence import _shift_to
from heads.transfer.verdict import Kind
from tests.heads.transfer.conftest import Family


@pytest.fixture
def planted():
    """Raw features that tell the classes, and encoders that keep or drop what tells them."""
    rng = np.random.default_rng(0)
    codes = np.arange(200) % 2
    raw = rng.normal(size=(200, 12))
    raw[:, 0] += 3 * codes
    return raw, [f"class {c}" for c in codes]


HEADS = ("ridge", "prototype")


def test_where_encoder_and_pixels_know_different_halves_the_advice_is_to_use_both(
    family, monkeypatch
):
    rng = np.random.default_rng(0)
    codes = np.arange(600) % 4
    raw, known = rng.normal(size=(2, 600, 6))
    raw[:, 0] += 3 * (codes % 2)
    known[:, 0] += 3 * (codes // 2)
    split = ["train" if at % 3 else "test" for at in range(600)]
    labels = [f"class {code}" for code in codes]
    views = family({"baseline:pixels": raw, "timm:x": known}, labels, split=split)
    found = heads.assess_transfer(views["timm:x"], heads=("prototype",))
    assert found.verdict("timm:x").kind is not Kind.POSITIVE
    (mixed,) = found.alternatives["timm:x"]
    better, (value, low, _) = mixed.over_better
    alone = [found.verdict("timm:x").encoder_value, found.verdict("timm:x").reference_value]
    assert better == ("timm:x" if alone[0] > alone[1] else "raw pixels")
    assert value == pytest.approx(mixed.over_reference.encoder_value - max(alone))
    assert low > 0.1
    both = f"Use both, timm:x and raw pixels, in a mix (--head mix): {100 * value:+.1f} points"
    assert any(line.startswith(both) for line in found.advice["timm:x"])
    monkeypatch.setattr(next_step, "train_command", lambda *_, inputs, **__: " ".join(inputs))
    said, line = next_step.after_assessment(found, views["timm:x"].dataset)
    assert said.startswith("Take a mix of timm:x and raw pixels.")
    assert line == "Type next: timm:x baseline:pixels"
    (kept,) = heads.assessments(views["timm:x"].dataset)
    assert kept.alternatives["timm:x"] == found.alternatives["timm:x"]


def test_an_encoder_that_drops_what_tells_is_found_harmful(family, planted):
    raw, labels = planted
    views = family({"baseline:pixels": raw, "timm:x": raw[:, 1:], "timm:y": 2 * raw}, labels)
    found = heads.assess_transfer(
        [views["timm:x"], views["timm:y"]], heads=HEADS, blend=True, rank=True
    )
    harmful, same = found.verdict("timm:x"), found.verdict("timm:y")
    assert harmful.kind is Kind.NEGATIVE
    assert harmful.is_material
    assert same.kind in (Kind.NEUTRAL, Kind.INCONCLUSIVE)
    (mixed,) = found.alternatives["timm:x"]
    assert (
        mixed.over_encoder.low > 0
    )  # a mix with raw features mends it, but they are as good alone
    assert not mixed.wins
    better, (value, low, high) = mixed.over_better
    assert better == "raw pixels"
    assert (value, low, high) == tuple(
        getattr(mixed.over_reference, name) for name in ("value", "low", "high")
    )
    assert abs(value) < 0.03
    span = f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    assert found.advice["timm:x"][0] == (
        f"Do not transfer timm:x as it is: its heads are {-100 * harmful.value:.1f} points worse "
        "than those on raw pixels. Take raw pixels alone."
    )
    assert found.advice["timm:x"][1].startswith("A mix of timm:x and raw pixels (--head mix) is ")
    assert found.advice["timm:x"][1].endswith(f"{span} over raw pixels.")
    said = [line for line in found.sentences() if line.startswith("A mix of timm:x and raw pixels")]
    assert "minus the better of the two (raw pixels)" in said[0]
    assert all(one.is_found and one.value < 0 for one in found.slices["timm:x"])
    assert [one.encoder for one in found.ranking][-1] == "timm:x"
    assert found.agreement["ridge_loo"] > 0
    (stored,) = heads.assessments(views["timm:x"].dataset)
    again, once = (json.loads(json.dumps(one.to_json())) for one in (stored, found))
    assert again == once


def test_an_encoder_that_adds_what_tells_is_found_helpful(family, planted):
    raw, labels = planted
    rng = np.random.default_rng(1)
    random = {f"random:timm:x#seed={s}": rng.normal(size=(200, 5)) for s in range(3)}
    views = family({"baseline:pixels": raw[:, 1:], "timm:x": raw, **random}, labels)
    found = heads.assess_transfer(views["timm:x"], heads=HEADS, blend=False)
    assert found.verdict("timm:x").kind is Kind.POSITIVE
    value, low, high = found.pretraining["timm:x"]
    assert 0 < low < value < high
    assert found.advice["timm:x"][0].startswith("Use timm:x frozen")


def test_permuted_labels_are_seldom_claimed(family, planted):
    raw, labels = planted
    rng = np.random.default_rng(2)
    claims = 0
    for seed in range(6):
        shuffled = rng.permutation(labels).tolist()
        views = family({"baseline:pixels": raw, "timm:x": rng.normal(size=(200, 6))}, shuffled)
        found = heads.assess_transfer(
            views["timm:x"], heads=("prototype",), seed=seed, save=False, blend=False
        )
        claims += found.verdict("timm:x").kind in (Kind.POSITIVE, Kind.NEGATIVE)
    assert claims <= 1


def test_identical_encoders_are_neutral_against_each_other(family, planted):
    raw, labels = planted
    views = family({"timm:x": raw, "timm:y": raw}, labels)
    found = heads.assess_transfer(
        views["timm:x"], reference=views["timm:y"], heads=HEADS, blend=False
    )
    verdict = found.verdict("timm:x")
    assert verdict.value == 0
    assert verdict.kind in (Kind.NEUTRAL, Kind.INCONCLUSIVE)
    assert verdict.reference == "timm:y"


def test_layers_are_compared_with_the_last(family, planted):
    raw, labels = planted
    views = family(
        {"baseline:pixels": raw[:, 1:], "timm:x#layer=1": raw, "timm:x": raw[:, 1:]}, labels
    )
    found = heads.assess_transfer(
        [views["timm:x"], views["timm:x#layer=1"]], heads=("ridge",), blend=False
    )
    earlier, together = found.alternatives["timm:x"]
    over = earlier.over_encoder
    assert (over.first[0], over.second[0]) == ("timm:x#layer=1", "timm:x")
    assert earlier.wins
    assert [one.encoder for one in found.ranking] == ["timm:x#layer=1", "timm:x"]  # the layers
    assert together.over_encoder.low > 0
    assert any("Use timm:x#layer=1 instead" in line for line in found.advice["timm:x"])
    by_error = heads.assess_transfer(
        [views["timm:x"], views["timm:x#layer=1"]], heads=("ridge",), blend=False, metric="brier"
    )
    over = by_error.alternatives["timm:x"][0].over_encoder
    assert over.gain[1] > 0 > over.high  # less error is better
    assert "ridge on timm:x#layer=1 is better than ridge on timm:x" in over.sentence()


def test_a_test_split_speaks_of_one_training_set_and_shows_its_shift(family, planted):
    raw, labels = planted
    moved = raw.copy()
    moved[120:, 5] += 6
    split = ["train"] * 120 + ["test"] * 80
    views = family({"baseline:pixels": raw[:, 1:], "timm:x": moved}, labels, split=split)
    found = heads.assess_transfer(views["timm:x"], heads=HEADS, blend=False)
    assert "One draw of labels: the verdict is for this training set." in found.notes
    assert found.shifts["timm:x"].is_shifted
    assert any("Training and test items differ" in line for line in found.advice["timm:x"])
    assert found.verdict("timm:x").n_taught == 120


def test_a_shift_to_another_data_set_says_which_and_why_not(family, planted):
    raw, labels = planted
    here = family({"baseline:pixels": raw[:, 1:], "timm:x": raw}, labels)
    far = family({"timm:x": raw + 5, "timm:y": raw}, labels)
    far = {spec: replace(v, dataset=Family(replace(v.dataset.inner, name="far"), ()))
           for spec, v in far.items()}  # fmt: skip
    options = {"heads": ("prototype",), "blend": False, "save": False}
    found = heads.assess_transfer(here["timm:x"], shift_to=[far["timm:x"]], **options)
    assert found.shifts["timm:x"].is_shifted
    assert any("those of far differ" in line for line in found.advice["timm:x"])
    found = heads.assess_transfer(here["timm:x"], shift_to=[far["timm:y"]], **options)
    assert "No shift: far has no view by timm:x." in found.notes


def test_a_wrong_column_is_found_before_anything_is_trained(family, planted):
    raw, labels = planted
    views = family({"baseline:pixels": raw, "timm:x": raw}, labels)
    with pytest.raises(MissingColumn, match="no column 'scaner'"):
        heads.assess_transfer(views["timm:x"], by="scaner")


def test_random_weights_are_matched_by_architecture_revision_and_layer():
    from heads.transfer.cast import random_weights

    def view(spec, fingerprint):
        return SimpleNamespace(spec=EncoderSpec.parse(spec), fingerprint=fingerprint)

    views = [
        view("random:timm:x@abc#seed=0", "a"),
        view("random:timm:x@abc#seed=1", "b"),
        view("random:timm:x@abc", "a"),  # the same network under another name
        view("random:timm:x#seed=0", "c"),
        view("random:timm:x@abc#layer=2,seed=0", "d"),
        view("timm:x@abc", "e"),
    ]
    known = {str(one.spec): one for one in views}
    found = random_weights(EncoderSpec.parse("timm:x@abc"), known)
    assert {one.fingerprint for one in found} == {"a", "b"}
    layer = random_weights(EncoderSpec.parse("timm:x@abc#layer=2"), known)
    assert [one.fingerprint for one in layer] == ["d"]


def test_poolings_of_one_layer_are_no_layers(family, planted):
    raw, labels = planted
    views = family({"baseline:pixels": raw, "hf:m": raw, "hf:m#pool=cls": raw[:, 1:]}, labels)
    found = heads.assess_transfer(
        [views["hf:m"], views["hf:m#pool=cls"]], heads=("prototype",), blend=False
    )
    assert found.alternatives == {}


def test_estimators_of_the_users_own_are_chosen_among_on_both_sides(family, planted):
    from sklearn.naive_bayes import GaussianNB

    raw, labels = planted
    views = family({"baseline:pixels": raw[:, 1:], "timm:x": raw}, labels)
    found = heads.assess_transfer(views["timm:x"], heads=["prototype", GaussianNB()], blend=False)
    assert found.verdict("timm:x").kind is Kind.POSITIVE
    assert not list((views["timm:x"].dataset.path / "cache" / "heads").glob("*.json"))
    with pytest.raises(BadName, match="single ones"):
        heads.assess_transfer(views["timm:x"], heads=["best"])


def test_the_reference_says_when_it_is_the_majority(family):
    rng = np.random.default_rng(0)
    labels = ["common"] * 180 + ["rare"] * 20
    views = family(
        {"baseline:pixels": rng.normal(size=(200, 5)), "timm:x": rng.normal(size=(200, 5))}, labels
    )
    found = heads.assess_transfer(
        views["timm:x"], heads=("prototype",), metric="accuracy", blend=False
    )
    assert found.verdict("timm:x").reference == "the majority class"
    assert found.verdict("timm:x").kind is Kind.NEGATIVE


def test_a_class_of_one_row_does_not_stop_the_choice():
    from sklearn.dummy import DummyClassifier

    from heads.catalogue.best_of import ChosenHead
    from heads.estimators.prototype import PrototypeHead

    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4))
    y = np.array(["common"] * 110 + ["few"] * 9 + ["once"])
    candidates = [("prototype", PrototypeHead()), ("majority", DummyClassifier())]
    head = ChosenHead(candidates, metric="accuracy").fit(X, y)
    assert head.chosen_ == "majority"
    one_group = ChosenHead(candidates, metric="accuracy").fit(X, y, np.zeros(120))
    assert one_group.chosen_ == "prototype"  # nothing can be held out: the first


def test_numbers_get_a_verdict(family):
    rng = np.random.default_rng(0)
    t = rng.normal(size=150)
    good = np.column_stack([t + 0.1 * rng.normal(size=150), rng.normal(size=(150, 4))])
    views = family({"baseline:pixels": rng.normal(size=(150, 6)), "timm:x": good}, t.tolist())
    found = heads.assess_transfer(views["timm:x"], blend=False)
    assert (found.metric, found.verdict("timm:x").kind) == ("r2", Kind.POSITIVE)
    by_error = heads.assess_transfer(views["timm:x"], metric="rmse", blend=False, margin=0.01)
    assert by_error.verdict("timm:x").kind is Kind.POSITIVE
    assert by_error.verdict("timm:x").margin == pytest.approx(0.01 * np.std(t))


def test_texts_are_judged_against_tfidf_with_all_heads(make_view):
    rng = np.random.default_rng(0)
    words = np.array(["plate", "crack", "rust", "dent", "scale", "pit", "roll", "edge"])
    labels = ["a", "b"] * 40
    texts = [
        " ".join(rng.choice(words, 6, p=np.roll([0.2, 0.2] + [0.1] * 6, 3 * (x == "a"))))
        for x in labels
    ]
    view = make_view(rng.normal(size=(80, 3)), labels, spec="st:m", texts=texts)
    view = replace(view, dataset=Family(view.dataset, (view,)))
    found = heads.assess_transfer(view, heads=("logistic", "prototype"))
    verdict = found.verdict("st:m")
    assert verdict.reference == "TF-IDF"
    assert verdict.reference_value > 0.6 > verdict.encoder_value
    assert verdict.kind is Kind.NEGATIVE


@pytest.mark.parametrize(
    ("specs", "judged", "said"),
    [
        (("timm:x",), "timm:x", "no view of baseline:pixels to judge encoders against: .featurest"),
        (("import:clip",), "import:clip", "imported vectors without their items"),
        (("baseline:pixels",), "baseline:pixels", "no pretrained encoder"),
    ],
)
def test_what_cannot_be_judged_is_said(family, planted, specs, judged, said):
    raw, labels = planted
    views = family(dict.fromkeys(specs, raw), labels)
    with pytest.raises(NotEnoughData, match=said):
        heads.assess_transfer(views[judged])


def test_vectors_that_do_not_vary_are_judged_as_no_better_than_nothing(family, planted):
    raw, labels = planted
    views = family({"baseline:pixels": raw, "timm:x": np.ones((200, 3))}, labels)
    found = heads.assess_transfer(views["timm:x"], heads=HEADS, rank=True, save=False, blend=False)
    verdict = found.verdict("timm:x")
    assert verdict.kind is Kind.NEGATIVE
    assert verdict.encoder_value == pytest.approx(0.5)
    assert [one.encoder for one in found.ranking][-1] == "timm:x"


def test_one_group_alone_and_classes_of_another_split_are_said(family, planted):
    raw, labels = planted
    views = family({"baseline:pixels": raw, "timm:x": raw}, labels, group=["a"] * 200)
    with pytest.raises(NotEnoughData, match="group"):
        heads.assess_transfer(views["timm:x"], heads=HEADS, save=False)
    split = ["train"] * 120 + ["test"] * 80
    other = [*labels[:120], *(["class 0", "class 2"] * 40)]
    views = family({"baseline:pixels": raw, "timm:x": raw}, other, split=split)
    found = heads.assess_transfer(views["timm:x"], heads=HEADS, save=False)
    assert any("class 2" in note for note in found.notes)
    views = family({"baseline:pixels": raw, "timm:x": raw}, [*labels[:120], *["class 2"] * 80],
                   split=split)  # fmt: skip
    with pytest.raises(NotEnoughData, match="class 2"):
        heads.assess_transfer(views["timm:x"], heads=HEADS, save=False)


def test_several_labels_have_slices_of_their_own_and_a_ranking(family):
    rng = np.random.default_rng(0)
    told = rng.random((240, 2)) < 0.5
    told[:, 0] |= ~told.any(axis=1)
    labels = ["|".join(np.array(["a", "b"])[row]) for row in told]
    a_alone = 3 * told[:, :1] * np.eye(1, 4) + rng.normal(size=(240, 4))
    both = 3 * told @ np.eye(2, 4) + rng.normal(size=(240, 4))
    views = family({"baseline:pixels": both, "timm:x": a_alone}, labels)
    found = heads.assess_transfer(
        views["timm:x"], heads=("prototype",), rank=True, blend=False, save=False, task="multilabel"
    )
    slices = {one.name: one for one in found.slices["timm:x"]}
    assert slices["b"].is_found
    assert slices["b"].value < -0.1
    assert not slices["a"].is_found  # it knows a as well, whatever it says of b
    assert [one.encoder for one in found.ranking] == ["baseline:pixels", "timm:x"]


def test_too_few_labels_are_inconclusive_with_the_number_that_would_do(family, planted):
    _, labels = planted
    rng = np.random.default_rng(3)
    views = family(
        {"baseline:pixels": rng.normal(size=(24, 4)), "timm:x": rng.normal(size=(24, 4))},
        labels[:24],
    )
    found = heads.assess_transfer(views["timm:x"], heads=("prototype",), blend=False)
    verdict = found.verdict("timm:x")
    assert verdict.kind is Kind.INCONCLUSIVE
    assert verdict.detectable > 0.1
    assert verdict.rows_needed > 24 * (verdict.detectable / 0.01) ** 2
    (line,) = found.advice["timm:x"]
    assert line.startswith("These 24 labelled items are too few to tell")
    assert f"About {verdict.rows_needed:,} labelled items" in line


@pytest.fixture
def pictures(tmp_path):
    """Pictures whose class is the side on which a bright square lies."""
    rng = np.random.default_rng(0)
    for number in range(40):
        side = "left" if number % 2 else "right"
        pixels = rng.integers(0, 60, (48, 48, 3)).astype(np.uint8)
        x = 6 if side == "left" else 30
        y = int(rng.integers(4, 32))
        pixels[y : y + 12, x : x + 12] = 255
        path = tmp_path / "pictures" / side / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


def test_the_command_embeds_what_the_verdict_needs_and_says_what_to_do(pictures, tmp_path, capsys):
    store = str(tmp_path / "store")
    assert run(["embed", str(pictures), "--dataset", "sides", "--store", store]) == 0
    arguments = ["transfer", "sides", "--store", store, "--head", "ridge", "--head", "prototype"]
    assert run([*arguments, "--random", "3", "--rank", "--budgets", "2,4"]) == 0
    out = capsys.readouterr()
    assert "embedding what the verdict needs: random:builtin:tiny-image#seed=0" in out.err
    assert "baseline:pixels: 40 embedded" in out.err
    assert "Transfer to sides, label 'label': balanced accuracy on 40 items" in out.out
    assert "minus random weights of its architecture" in out.out
    assert "minus raw pixels with few labels, points: 4 labels" in out.out
    assert "Kendall's τ is over 5 encoders: even a useless score has" in out.out
    assert "What to do with builtin:tiny-image:" in out.out
    assert "ranked by ridge_loo" in out.out
    assert run([*arguments, "--json"]) == 0
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert found["verdicts"][0]["encoder"] == "builtin:tiny-image"
    assert "embedding" not in out.err
    dataset = open_store(store).dataset("sides")
    assert {str(view.spec) for view in dataset.views()} >= {"baseline:pixels"}
    assert len(heads.assessments(dataset)) == 2


def test_the_command_compares_layers(pictures, tmp_path, capsys):
    store = str(tmp_path / "store")
    assert run(["embed", str(pictures), "--dataset", "sides", "--store", store]) == 0
    arguments = ["transfer", "sides", "--store", store, "--head", "prototype", "--no-blend"]
    assert run([*arguments, "--layers", "2,4"]) == 0
    out = capsys.readouterr().out
    assert "builtin:tiny-image#layer=2" in out
    assert "concat:" in out
    depths = out[out.index("builtin:tiny-image by depth:") :].splitlines()
    shown = [line.split() for line in depths if "█" in line]
    assert [one[0] for one in shown] == ["2", "4", "the"]  # the last one ends it


def test_groups_that_lie_in_both_slices_are_left_out_together():
    rng = np.random.default_rng(0)
    of_patient = rng.normal(size=(40, 6)) * 2
    patients = np.repeat(np.arange(40), 5)

    def slice_of(name, moved):
        vectors = of_patient[patients] + rng.normal(size=(200, 6))
        vectors[:, 0] += moved
        columns = {"group": patients.astype(str).astype(object)}
        ids = np.array([f"{name}{n}" for n in range(200)], object)
        items = Embeddings(ids, vectors.astype(np.float32), "x", columns)
        dataset = SimpleNamespace(name="d", path="p")
        return SimpleNamespace(
            dataset=dataset, slice_=SimpleNamespace(name=name), load=lambda: items
        )  # fmt: skip

    plan = SimpleNamespace(block=patients)
    here = slice_of("a", 0.0)
    alike, moved = (_shift_to(slice_of("b", by), here, here.load(), plan) for by in (0.0, 2.0))
    assert not alike.is_shifted
    assert moved.is_shifted
    assert moved.between == "the items here and those of d:b"


def test_a_handful_of_items_is_never_claimed_on(family):
    """Of noise over six items the corrected t made a verdict in one case of ten."""
    rng = np.random.default_rng(0)
    kinds = set()
    for seed in range(8):
        vectors = {"baseline:pixels": rng.normal(size=(6, 4)), "timm:x": rng.normal(size=(6, 4))}
        views = family(vectors, ["a", "b"] * 3)
        found = heads.assess_transfer(
            views["timm:x"], heads=("prototype",), blend=False, save=False, seed=seed
        )
        kinds.add(found.verdict("timm:x").kind)
    assert kinds == {Kind.INCONCLUSIVE}
    assert "6 independent items are too few for any claim: 30 or more are needed." in found.notes
    groups = [f"g{i % 10}" for i in range(60)]
    codes = np.arange(60) % 2
    told = rng.normal(size=(60, 3)) + 6 * codes[:, None]
    views = family(
        {"baseline:pixels": rng.normal(size=(60, 3)), "timm:x": told},
        [f"class {c}" for c in codes], group=groups,
    )  # fmt: skip
    grouped = heads.assess_transfer(views["timm:x"], heads=("prototype",), blend=False, save=False)
    assert grouped.verdict("timm:x").kind is Kind.INCONCLUSIVE  # ten groups, however many rows
    assert grouped.verdict("timm:x").low > 0.1
