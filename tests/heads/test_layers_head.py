"""The head `layers`: which layer tells the classes is found, and the last one is not lost."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import heads
from featurestore.cli import run
from featurestore.errors import BadName, ShapeMismatch
from featurestore.store.store import open_store
from heads.catalogue.layers import build_for
from heads.catalogue.table import HEADS
from heads.estimators.layers import LayersHead, LayersRegressor, weigh_layers
from heads.estimators.logistic import LogisticHead
from heads.estimators.per_label import PerLabel
from heads.estimators.regression import RidgeRegressor
from heads.labels.tasks import Task

LAYERS = {"1": 10, "2": 30, "output": 20}


@parametrize_with_checks([LayersHead(), LayersRegressor()])
def test_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


def planted(signals, n=150, seed=0):
    """Rows of three layers; each holds the class in one direction, as strongly as asked for."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    blocks = [rng.normal(size=(n, width)) for width in LAYERS.values()]
    for block, signal in zip(blocks, signals, strict=True):
        block[:, :3] += signal * np.eye(3)[y]
    # Layers come on scales of their own.
    scaled = [block * scale for block, scale in zip(blocks, (100, 1, 0.01), strict=True)]
    return np.hstack(scaled), y


def scores(head, X, y, n_train=90):
    return np.mean(head.fit(X[:n_train], y[:n_train]).predict(X[n_train:]) == y[n_train:])


def test_a_signal_in_a_middle_layer_is_found():
    X, y = planted((0, 4, 1), n=400)
    head = LayersHead(LAYERS)
    alone = scores(LogisticHead(), X[:, -20:], y)
    assert scores(head, X, y) > alone + 0.15
    assert head.names_ == ["1", "2", "output"]
    assert head.layer_weights_[1] > 0.75
    np.testing.assert_allclose(head.weights_, (head.layer_weights_ + np.eye(3)[2]) / 2)
    assert head.chosen_.startswith("output 0.5")
    again = clone(head).fit(X[:90], y[:90])
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
    p = head.predict_proba(X)
    np.testing.assert_array_equal(head.classes_[p.argmax(axis=1)], head.predict(X))


@pytest.mark.parametrize("n_train", [12, 90])
def test_nothing_is_lost_where_the_output_alone_tells(n_train):
    lost = []
    for seed in range(6):
        X, y = planted((0, 0, 3), n=500, seed=seed)
        alone = scores(LogisticHead(), X[:, -20:], y, n_train)
        lost.append(alone - scores(LayersHead(LAYERS), X, y, n_train))
    assert np.mean(lost) < 0.01


def test_scores_are_the_mean_of_both_heads():
    X, y = planted((1, 2, 2))
    head = LayersHead(LAYERS).fit(X, y)
    parts = [X[:, a:b] for a, b in pairwise((0, 10, 40, 60))]
    Z = np.hstack(
        [
            one.transform(part) * weight**0.5
            for one, part, weight in zip(head.normalisers_, parts, head.layer_weights_, strict=True)
        ]
    )
    # The mean squared length of what the second head reads is 1, however many layers.
    np.testing.assert_allclose((Z**2).sum(axis=1), 1, rtol=1e-6)
    p = head.own_.predict_proba(parts[-1]) * head.fused_.predict_proba(Z)
    np.testing.assert_allclose(
        head.predict_proba(X), p**0.5 / (p**0.5).sum(axis=1, keepdims=True), rtol=1e-6
    )


def test_weights_of_layers_follow_their_losses():
    """Each possibility counts as exp(-√n × loss), the output alone as much as all others."""
    told = {0: 0.9, 1: 0.2, 2: 0.5}  # loss of each layer alone
    layers = [np.full((4, 1), float(i)) for i in told]
    asked = []

    def loss(Z):
        if Z.shape[1] == 1:
            return told[int(Z[0, 0])]
        asked.append((Z[0, 1:] / [1, 2]) ** 2)  # weights of the second and third
        return 0.3

    found = weigh_layers(layers, loss, n_judged=16)
    np.testing.assert_allclose(asked[0], [1 / 3, 1 / 3])
    np.testing.assert_allclose(asked[-1], [1, 0], atol=1e-30)
    attention = np.exp(-np.outer((0, 1, 3, 10, 30, 100, 1000), (0.7, 0, 0.3)))
    attention /= attention.sum(axis=1, keepdims=True)
    share = 1 / (1 + np.exp(-4 * 0.2))  # of the tries; the output alone has exp(-√16 × 0.2)
    expected = share * attention.mean(axis=0) + (1 - share) * np.array([0, 0, 1])
    np.testing.assert_allclose(found, expected)
    # Without a row to judge by, half is the output's and the rest is dealt evenly.
    np.testing.assert_allclose(
        weigh_layers(layers, lambda Z: 0.0, n_judged=0), [1 / 6, 1 / 6, 4 / 6]
    )


def test_one_row_a_class_cannot_be_held_out():
    X, y = planted((0, 1, 1))
    rows = [int(np.flatnonzero(y == c)[0]) for c in range(3)]
    head = LayersHead(LAYERS).fit(X[rows], y[rows])
    np.testing.assert_allclose(head.layer_weights_, [1 / 6, 1 / 6, 4 / 6])


def test_groups_are_left_out_together():
    """A layer that tells whose pictures they are seems to tell the class, until groups part."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(30), 5)
    y = who % 3
    X, _ = planted((0, 0, 0))
    X[:, 10:40] = rng.normal(size=(30, 30))[who] + 0.05 * rng.normal(size=(150, 30))
    X[:, 40:43] += 0.012 * np.eye(3)[y]
    fooled = LayersHead(LAYERS).fit(X, y)
    honest = LayersHead(LAYERS).fit(X, y, groups=who)
    assert fooled.layer_weights_[1] > 0.7
    assert honest.layer_weights_[1] < 0.4


def test_numbers_and_several_labels():
    X, y = planted((0, 4, 0.5), n=300)
    number = 2.0 * y + np.random.default_rng(1).normal(size=len(y)) / 10
    head, plain = LayersRegressor(LAYERS), RidgeRegressor()
    train, test = slice(0, 200), slice(200, None)
    errors = [
        np.mean((one.fit(Z[train], number[train]).predict(Z[test]) - number[test]) ** 2)
        for one, Z in ((head, X), (plain, X[:, -20:]))
    ]
    assert errors[0] < 0.75 * errors[1]
    assert head.layer_weights_[1] > 0.75
    labels = np.eye(3, dtype=int)[y]
    several = PerLabel(LayersHead(LAYERS)).fit(X[train], labels[train])
    assert np.mean(several.predict(X[test]) == labels[test]) > 0.9
    assert several.predict_proba(X[test]).shape == (100, 3)


def test_columns_of_other_layers_are_refused():
    X, y = planted((1, 1, 1))
    with pytest.raises(ShapeMismatch, match="59 columns: expected those of the layers, 1: 10, 2"):
        LayersHead(LAYERS).fit(X[:, 1:], y)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures whose stripes lie or stand, and a store with six layers of them in one view."""
    folder = tmp_path_factory.mktemp("layers")
    rng = np.random.default_rng(0)
    for kind in ("lying", "standing"):
        for number in range(16):
            stripes = 100 * (np.arange(64)[:, None] // (2 + number % 3) % 2) + rng.normal(
                60, 30, (64, 64)
            )
            pixels = np.clip(stripes if kind == "lying" else stripes.T, 0, 255).astype(np.uint8)
            place = folder / "photos" / kind / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).convert("RGB").save(place)
    store = open_store(folder / "store", create=True)
    specs = ["baseline:pixels", "builtin:tiny-image#layer=all"]
    store.embed([folder / "photos"], dataset="photos", encoders=specs)
    return folder, store


def test_from_pictures_to_a_bundle_that_reads_pictures(world, tmp_path, capsys):
    folder, store = world
    view = store.view("photos", "builtin:tiny-image#layer=all")
    assert list(view.layers) == ["1", "2", "3", "4", "5", "6", "output"]
    assert sum(view.layers.values()) == view.dim
    alone = store.embed([folder / "photos"], dataset="alone", encoders=["tiny-image#layer=2"])
    assert alone[0].n_encoded == 32
    begin = view.layers["1"]
    np.testing.assert_allclose(
        view.load().vectors[:, begin : begin + view.layers["2"]],
        store.view("alone").load().vectors, rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    where = ["--store", str(folder / "store")]
    name = "photos@builtin:tiny-image#layer=all"
    assert run(["train", name, "--head", "layers", *where, "--save", str(tmp_path / "bundle")]) == 0
    capsys.readouterr()
    bundle = heads.load_bundle(tmp_path / "bundle")
    assert bundle.card.head == "layers"
    assert bundle.card.chosen["chosen"].startswith(("output ", "1 ", "2 ", "3 "))
    files = sorted((folder / "photos").rglob("*.png"))
    by_id = dict(zip(view.load().ids, bundle.predict_proba(view.load()), strict=True))
    expected = [by_id[str(one.relative_to(folder / "photos"))] for one in files]
    np.testing.assert_allclose(bundle.predict_proba(files), expected, atol=1e-4)
    # How far out a picture lies, the network's output alone says.
    unlike = bundle.unlike_training(view.load())
    output = view.load().vectors[:, -view.layers["output"] :]
    alone = replace(bundle.familiar, whole_dim=None)
    np.testing.assert_array_equal(unlike.shares, alone(output).shares)
    assert bundle.familiar.whole_dim == view.dim
    encoder = json.loads((tmp_path / "bundle" / "encoder.json").read_text())
    assert "builtin:tiny-image#layer=all" in json.dumps(encoder)


def test_compare_and_curve_take_it_where_there_are_layers(world):
    _, store = world
    views = store.dataset("photos").views()
    found = heads.compare(views, ("layers",), save=False)
    tried = {(row["encoder"], row["head"]) for row in found.rows()}
    assert ("builtin:tiny-image#layer=all", "layers") in tried
    assert ("baseline:pixels", "layers") not in tried
    assert "baseline:pixels holds one layer, so layers was not tried on it." in found.notes
    curve = heads.curve(views[1:], "layers", per_class=[2], n_draws=2, save=False)
    assert "layers" in {one.head for one in curve.budgets}


@pytest.mark.parametrize("task", Task)
def test_each_task_gets_a_head_that_knows_the_layers_of_the_view(world, task):
    _, store = world
    view = store.view("photos", "builtin:tiny-image#layer=all")
    X, rng = view.load().vectors, np.random.default_rng(0)
    y = {
        Task.MULTICLASS: rng.integers(0, 2, len(X)),
        Task.MULTILABEL: rng.integers(0, 2, (len(X), 2)),
        Task.REGRESSION: rng.normal(size=len(X)),
    }[task]
    head = build_for(HEADS["layers"], task, view, ("a", "b"))(3).fit(X, y)
    inner = head.heads_[0] if task is Task.MULTILABEL else head
    assert inner.names_ == list(view.layers)
    assert inner.random_state == 3
    np.testing.assert_allclose(inner.weights_.sum(), 1)
    assert head.predict(X).shape == y.shape


def test_a_view_of_one_layer_says_what_to_embed(world, make_view):
    _, store = world
    with pytest.raises(BadName, match=r"photos@baseline:pixels has one; encoders of baseline: "):
        heads.fit(store.view("photos", "baseline:pixels"), "layers")
    view = make_view(np.zeros((8, 3)), ["a", "b"] * 4, spec="timm:resnet18")
    with pytest.raises(BadName, match=r"embed --dataset toys -e 'timm:resnet18#layer=all'"):
        heads.compare([view], ("layers",), save=False)
    view = make_view(np.zeros((8, 3)), ["a", "b"] * 4, spec="st:all-MiniLM-L6-v2")
    with pytest.raises(BadName, match=r"its folder can be read with hf:local-dir:…#layer=all"):
        heads.compare([view], ("layers",), save=False)
