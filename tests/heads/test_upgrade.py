"""From one encoder to another: the trial, the change, the way back; and that nothing is mixed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import heads
from featurestore.cli import run
from featurestore.encoders import encode_now
from featurestore.errors import BadName, EncoderMismatch, FeatureStoreError, NotEnoughData
from featurestore.pipeline.listing_run import Selection
from featurestore.sources.listing import SourceOptions
from featurestore.store.default_view import default_view
from featurestore.store.store import open_store
from featurestore.store.upgrading import begin, finish, roll_back
from heads.experiments.compare import compare
from heads.upgrade.mapping import chosen_map, procrustes
from heads.upgrade.sample import draw
from heads.upgrade.trial import _of_heads, try_encoder
from tests.heads.serving_world import picture

OLD, NEW = "baseline:pixels#size=4", "baseline:pixels#size=8"
N = 120


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 120 pictures, lighter and darker, by one encoder."""
    folder = tmp_path_factory.mktemp("upgrade")
    for n in range(N):
        path = folder / "photos" / ("dark", "light")[n % 2] / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(n, 110 + 8 * (n % 2)))
    store = open_store(folder / "store", create=True)
    store.embed([folder / "photos"], dataset="d", encoders=[OLD])
    return folder


@pytest.fixture
def world(made, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(made, tmp_path / "w")
    store = open_store(tmp_path / "w" / "store")
    from featurestore.upkeep.relocate import relocate

    relocate(store.dataset("d").folder, str(tmp_path / "w" / "photos"))
    return tmp_path / "w"


@pytest.fixture
def dataset(world):
    return open_store(world / "store").dataset("d")


@pytest.fixture
def fs(capsys):
    def call(*words):
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


# -- maps ----------------------------------------------------------------------------------------


def turned(vectors, seed=0):
    """Return vectors under a rotation."""
    dim = vectors.shape[1]
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return vectors @ turn


def test_a_rotation_is_found_again_whole():
    old = np.random.default_rng(1).normal(size=(400, 16))
    new = turned(old)
    found, apply, rows = chosen_map(old, new)
    assert (found.name, found.recall) == ("procrustes", 1.0)
    assert len(rows) == 100
    units = new / np.linalg.norm(new, axis=1, keepdims=True)
    assert np.allclose(apply(old), units, atol=1e-6)


def test_vectors_that_have_nothing_in_common_are_found_by_chance_alone():
    rng = np.random.default_rng(2)
    found, _, _ = chosen_map(rng.normal(size=(800, 16)), rng.normal(size=(800, 16)))
    assert found.recall < 0.05  # chance: 10 of 799


def test_a_linear_map_that_is_no_rotation_is_left_to_ridge():
    rng = np.random.default_rng(3)
    old = rng.normal(size=(600, 24))
    new = old @ (rng.normal(size=(24, 12)) * np.logspace(0, 1, 12))
    found, apply, _ = chosen_map(old, new)
    assert found.name == "ridge"
    assert found.recall > 0.8
    assert apply(old[:3]).shape == (3, 12)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_procrustes_takes_other_widths(shape):
    rng = np.random.default_rng(4)
    old, new = rng.normal(size=(50, shape[0])), rng.normal(size=(50, shape[1]))
    assert procrustes(old, new)(old).shape == new.shape


# -- the trial -----------------------------------------------------------------------------------


def test_a_trial_says_all_that_changes_and_changes_nothing(dataset):
    before = [str(one.spec) for one in dataset.views()]
    found = try_encoder(dataset.view(OLD), NEW)
    assert [str(one.spec) for one in dataset.views()] == before
    assert (found.n_items, found.n_all, found.label) == (N, N, "label")
    assert found.n_bytes == N * 192 * 4
    assert found.seconds > 0
    assert found.difference.first[0] == NEW
    assert found.scores[1] - found.scores[0] == pytest.approx(found.difference.value, abs=0.02)
    flips = found.flips
    assert sum(n for _, _, n in flips.pairs) == flips.n == flips.n_mended + flips.n_broken
    said = "\n".join(found.sentences())
    assert "Searches: of the ten nearest items" in said
    assert "Cost: 0.1 MB" in said
    json.dumps(found.to_json())


def test_what_was_encoded_once_is_not_encoded_again(dataset, monkeypatch):
    first = try_encoder(dataset.view(OLD), NEW)

    def never(*_args, **_keywords):
        raise AssertionError("encoded again")

    monkeypatch.setattr(encode_now, "encode", never)
    again = try_encoder(dataset.view(OLD), NEW)
    assert again.seconds is None
    assert again.scores == first.scores
    assert again.searches == first.searches


def test_the_vectors_of_a_trial_are_those_of_embed(dataset):
    sample = draw(dataset.view(OLD), NEW, 90)
    dataset.store.embed([], dataset="d", encoders=[NEW])
    stored = dataset.view(NEW).load()
    place = {item: n for n, item in enumerate(stored.ids)}
    rows = [place[item] for item in sample.new.table.ids]
    assert np.allclose(sample.new.table.vectors, stored.vectors[rows], atol=1e-5)
    assert len(rows) == 90
    kinds = sample.old.table.column("label").tolist()
    assert kinds.count("dark") == 45  # as they are shared


def test_the_same_vectors_under_a_rotation_flip_no_prediction(dataset):
    sample = draw(dataset.view(OLD), NEW, N)
    old = sample.old
    table = replace(old.table, vectors=turned(old.table.vectors).astype("f4"), encoder="turned")
    new = replace(sample.new, table=table, info={**old.info, "fingerprint": "turned"})
    found = compare([old, new], ["ridge"], save=False, repeats=1)
    difference, scores, flips = _of_heads(found, old.spec, new.spec)
    assert flips.n <= 1  # rounding
    assert abs(difference.value) < 0.01
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_items_without_labels_have_searches_alone(dataset, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for n in range(90):
        (flat / f"{n}.png").write_bytes(picture(n))
    dataset.store.embed([flat], dataset="plain", encoders=[OLD])
    found = try_encoder(dataset.store.dataset("plain").view(OLD), NEW)
    assert (found.verdict, found.flips, found.difference) == ("unknown", None, None)
    assert "no labels" in " ".join(found.sentences())


def test_what_cannot_be_tried_says_why(dataset, fs, world):
    view = dataset.view(OLD)
    with pytest.raises(BadName, match="used now"):
        try_encoder(view, OLD)
    with pytest.raises(FeatureStoreError):
        try_encoder(view, "baseline:hashing")  # reads texts
    dataset.store.embed([world / "photos"], dataset="few", encoders=[OLD],
                        selection=Selection(limit=20))  # fmt: skip
    with pytest.raises(NotEnoughData, match="a trial needs 80"):
        try_encoder(dataset.store.dataset("few").view(OLD), NEW)
    where = ("--store", world / "store")
    assert fs("upgrade", "d", OLD, "nosuch", *where)[0] == 1
    assert fs("upgrade", "d", OLD, *where)[0] == 2
    code, _, err = fs("upgrade", "d", OLD, "baseline:hashing", "--go", *where)
    assert code == 1
    assert dataset.upgrade is None, err  # nothing was begun


def test_items_that_the_new_encoder_cannot_read_are_counted(dataset, world):
    (world / "photos" / "dark" / "000.png").unlink()
    found = try_encoder(dataset.view(OLD), NEW)
    assert found.n_items == N - 1
    assert "1 items of the sample cannot be read" in " ".join(found.notes)


# -- the change ----------------------------------------------------------------------------------


def part_of(dataset, n=30):
    """Begin an upgrade, of which some items are there."""
    begin(dataset, OLD, NEW)
    dataset.store.embed([], dataset="d", encoders=[NEW], selection=Selection(limit=n))


def test_what_is_coming_is_taken_by_nobody_unless_named(dataset, fs, world):
    part_of(dataset)
    where = ("--store", world / "store")
    assert [str(one.spec) for one in dataset.views()] == [OLD]
    view, why = default_view(dataset)
    assert str(view.spec) == OLD
    assert why == "using baseline:pixels#size=4; baseline:pixels#size=8 is coming, 25% is there"
    assert dataset.view(NEW).now().n_rows == 30
    assert len(heads.compare(dataset.views(), ["ridge"], save=False).item_ids) == N
    code, out, _ = fs("ls", *where)
    assert "@2 baseline:pixels#size=8 (coming: 25% is there)" in " ".join(out.split())
    code, _, err = fs("search", "d", "--item", "dark/000.png", *where)
    assert code == 0
    assert "coming, 25%" in err
    assert f"d@{OLD}, cosine" in err
    assert fs("info", "d", *where)[0] == 0
    with pytest.raises(BadName, match="30 of 120 items"):
        finish(dataset)


def test_going_over_makes_the_new_one_the_default_and_back(dataset, fs, world):
    where = ("--store", world / "store")
    (world / "photos" / "dark" / "new.png").write_bytes(picture(999))
    code, out, _ = fs("store", "upgrade", "d", OLD, NEW, "--go", *where)
    assert code == 0
    assert "--rollback" in out
    view, why = default_view(dataset)
    assert str(view.spec) == NEW
    assert "since the upgrade of" in why
    rows = [one.now().n_rows for one in dataset.views()]
    assert rows == [N + 1, N + 1]  # what came meanwhile has both
    assert fs("store", "upgrade", "d", NEW, "--rollback", *where)[0] == 1  # it was from OLD
    code, out, _ = fs("store", "upgrade", "d", OLD, "--rollback", *where)
    assert (code, f"uses {OLD} again" in out) == (0, True)
    assert str(default_view(dataset)[0].spec) == OLD
    assert len(dataset.views()) == 2
    assert fs("store", "upgrade", "d", OLD, "--rollback", *where)[0] == 1
    assert fs("store", "verify", "d", *where)[0] == 0


def test_a_comparison_after_the_upgrade_decides_anew(dataset, monkeypatch):
    part_of(dataset, N)
    finish(dataset)
    assert str(default_view(dataset)[0].spec) == NEW
    heads.compare(dataset.view(OLD), ["ridge"])
    path = next(dataset.path.glob("runs/*-compare.json"))
    later = {**dataset.runs("compare")[0], "when": "2999-01-01T00:00:00+00:00"}
    path.unlink()
    later.pop("sha256", None)
    dataset.folder.write_run("compare", {k: v for k, v in later.items() if k != "kind"})
    assert default_view(dataset)[0] is None  # both are baselines: nothing tells them apart


def test_one_that_was_stopped_goes_on_or_stays_hidden(dataset, fs, world):
    part_of(dataset)
    assert roll_back(dataset).state == "stopped"
    assert [str(one.spec) for one in dataset.views()] == [OLD]
    with pytest.raises(BadName, match="nothing is coming"):
        finish(dataset)
    code, _, _ = fs("store", "upgrade", "d", OLD, NEW, "--go", "--store", world / "store")
    assert code == 0
    assert str(default_view(dataset)[0].spec) == NEW


def test_a_kill_leaves_the_old_one_in_use_and_the_same_line_goes_on(dataset, fs, world):
    words = ["store", "upgrade", "d", OLD, NEW, "--go", "--store", str(world / "store")]
    child = subprocess.Popen(
        [sys.executable, "-m", "featurestore", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (dataset.path / "upgrade.json").exists() and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert str(default_view(dataset)[0].spec) == OLD
    assert [str(one.spec) for one in dataset.views()] == [OLD]
    assert fs(*words)[0] == 0
    assert str(default_view(dataset)[0].spec) == NEW
    assert dataset.view(NEW).now().n_rows == N
    assert fs("store", "verify", "d", "--store", world / "store")[0] == 0


# -- nothing is mixed ----------------------------------------------------------------------------


def test_no_door_takes_vectors_of_one_encoder_for_those_of_another(dataset, tmp_path):
    part_of(dataset, N)
    finish(dataset)
    old, new = dataset.view(OLD), dataset.view(NEW)
    head = heads.fit(old, "ridge", save=False)
    with pytest.raises(EncoderMismatch):
        head.predict(new.load())
    # of the same width: the fingerprint tells them apart, not the shape
    strange = replace(old.load(), encoder=new.fingerprint)
    with pytest.raises(EncoderMismatch):
        head.predict(strange)
    with pytest.raises(EncoderMismatch):
        heads.concat([old, new], like=heads.fit(heads.concat([new, old]), "ridge", save=False))
    assert {one.fingerprint for one in (old, new)} == {
        view.load().encoder for view in dataset.views()
    }
    bundle = heads.load_bundle(head.save(tmp_path / "b"))
    assert [block["fingerprint"] for block in bundle.blocks] == [old.fingerprint]
    before = head.predict(old.load())
    roll_back(dataset)
    assert np.array_equal(bundle.predict(old.load()), before)


def test_every_row_of_a_view_is_by_its_own_encoder(dataset):
    """After each step of an upgrade, both views hold what their encoders give, and nothing else."""
    alone = {}
    for spec in (OLD, NEW):
        vectors = [
            encode_now.encode(
                encode_now.load_encoder(encode_now.EncoderSpec.parse(spec)),
                [dataset.read_bytes(item)],
            )[0]
            for item in ("dark/000.png", "light/001.png")
        ]
        alone[spec] = np.stack(vectors)
    for step in (lambda: part_of(dataset), lambda: part_of(dataset, N), lambda: finish(dataset)):
        step()
        for spec in (OLD, NEW):
            items = dataset.view(spec).load()
            place = {item: n for n, item in enumerate(items.ids)}
            rows = [place[one] for one in ("dark/000.png", "light/001.png") if one in place]
            assert np.allclose(items.vectors[rows], alone[spec][: len(rows)], atol=1e-5)


def test_options_of_sources_are_kept(world):
    """The upgrade reads the sources as they were given: a table with its columns."""
    store = open_store(world / "store")
    table = world / "t.csv"
    table.write_text("words,kind\n" + "".join(f"a {n} b {n % 3},k{n % 2}\n" for n in range(90)))
    options = SourceOptions(text="words", label=("kind",))
    store.embed([table], dataset="t", source_options=options, encoders=["baseline:hashing"])
    words = ("store", "upgrade", "t", "baseline:hashing", "builtin:tiny-text", "--go")
    assert run([*words, "--store", str(world / "store")]) == 0
    assert [one.now().n_rows for one in store.dataset("t").views()] == [90, 90]
