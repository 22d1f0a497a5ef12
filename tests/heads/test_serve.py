"""Bundles: saved apart from the store, asked about raw files and texts, refused where unsound."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import heads
from featurestore.cli import run
from featurestore.errors import (
    BadName,
    BadSource,
    EncoderDrift,
    EncoderMismatch,
    NotTrusted,
    StoreCorrupt,
    UnknownHead,
)
from featurestore.sources.listing import SourceOptions
from featurestore.storage.files import sha256_of
from featurestore.store.store import open_store
from heads.saved.serve import answer, predict_items, predict_source


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of noisy dark and light pictures with two views, and new pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for name, n in (("photos", 30), ("new", 4)):
        for kind, level in (("dark", 40), ("light", 200)):
            for number in range(n):
                place = folder / name / (kind if name == "photos" else "") / f"{kind}-{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(rng.normal(level, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place)
    store = open_store(folder / "store", create=True)
    store.embed(
        [folder / "photos"], dataset="photos", encoders=["baseline:pixels", "builtin:tiny-image"]
    )
    return folder, store.dataset("photos")


@pytest.fixture
def bundle(world, tmp_path):
    _, dataset = world
    fitted = heads.fit(dataset.view("baseline:pixels"), "prototype", coverage=0.9)
    return fitted, fitted.save(tmp_path / "bundle")


def test_a_bundle_answers_as_the_head_did(world, bundle):
    folder, dataset = world
    fitted, place = bundle
    loaded = heads.load_bundle(place)
    assert sorted(path.name for path in place.iterdir()) == [
        "card.json",
        "encoder.json",
        "head.skops",
        "unlike.safetensors",
    ]
    embeddings = dataset.view("baseline:pixels").load()
    np.testing.assert_array_equal(
        loaded.predict_proba(embeddings), fitted.predict_proba(embeddings)
    )
    files = sorted((folder / "photos").rglob("*.png"))
    found = predict_items(loaded, files)
    by_id = dict(zip(embeddings.ids, fitted.predict_proba(embeddings), strict=True))
    expected = [by_id[str(path.relative_to(folder / "photos"))] for path in files]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


def test_a_source_goes_through_the_pipeline_and_a_bad_file_is_named(world, bundle, tmp_path):
    folder, _ = world
    shutil.copytree(folder / "new", tmp_path / "new")
    (tmp_path / "new" / "broken.png").write_bytes(b"junk")
    found = predict_source(bundle[0], tmp_path / "new")
    assert found.predicted.tolist() == [name.partition("-")[0] for name in found.ids]
    assert len(found.ids) == 8
    assert len(found.failures) == 1
    assert found.failures[0].startswith("broken.png: not an image")
    assert found.in_set.shape == (8, 2)


def test_the_command_writes_each_format_and_ends_with_3_after_failures(
    world, bundle, tmp_path, capsys
):
    folder, _ = world
    place = str(bundle[1])
    assert run(["predict", place, str(folder / "new")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["predicted"] for row in rows] == ["dark"] * 4 + ["light"] * 4
    ours = [
        "item_id",
        "predicted",
        "set",
        "confidence",
        "unlike_training",
        "p:dark",
        "p:light",
        "failed",
    ]
    assert list(rows[0]) == ["path", *ours]
    for name in ("a.parquet", "a.json", "a.csv"):
        assert run(["predict", place, str(folder / "new"), "-o", str(tmp_path / name)]) == 0
    assert pq.read_table(tmp_path / "a.parquet").column("predicted").to_pylist()[0] == "dark"
    assert json.loads((tmp_path / "a.json").read_text())[-1]["predicted"] == "light"
    one = str(folder / "new" / "dark-0.png")
    assert run(["predict", place, one, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["predicted"] == "dark"
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"junk")
    assert run(["predict", place, str(tmp_path / "bad")]) == 3
    assert "failed: x.png" in capsys.readouterr().err
    assert run(["predict", place, one, "-o", "x.xlsx"]) == 2
    assert run(["predict", str(tmp_path), one]) == 1


def test_below_the_least_confidence_it_abstains(bundle):
    grey = np.full((1, 3072), 0.47)
    sure = answer(bundle[0], np.array(["a"], dtype=object), grey)
    assert sure.predicted[0] is not None
    found = answer(bundle[0], np.array(["a"], dtype=object), grey, sure.confidence[0] + 1e-6)
    assert found.predicted.tolist() == [None]
    assert found.to_arrow().column("predicted").to_pylist() == [None]


def test_heads_of_texts_answer_texts_and_tables(tmp_path):
    rows = [{"text": f"{word} {i}", "kind": word} for i in range(20) for word in ("plate", "crack")]
    table = tmp_path / "texts.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(text="text", label=("kind",))
    store.embed([table], dataset="texts", source_options=options)
    view = store.dataset("texts").views()[0]
    for head in ("ridge", "tfidf"):
        fitted = heads.fit(view, head)
        assert fitted.ask(["a crack", "the plate"]).predicted.tolist() == ["crack", "plate"]
        found = predict_source(fitted, table, options=SourceOptions(text="text"))
        by_row = {f"texts.jsonl:{number}": row["kind"] for number, row in enumerate(rows)}
        assert dict(zip(found.ids, found.predicted, strict=True)) == by_row


def test_several_encoders_side_by_side_make_one_bundle(world, tmp_path):
    folder, dataset = world
    both = heads.concat(dataset.views())
    assert both.load().dim == 3072 + 320
    lengths = [
        both.load().vectors[:, part].var(axis=0).sum() for part in (slice(3072), slice(3072, None))
    ]
    np.testing.assert_allclose(lengths, 1, rtol=1e-4)
    fitted = heads.fit(both, "prototype")
    assert str(both.spec) == "concat:baseline:pixels+builtin:tiny-image"
    place = fitted.save(tmp_path / "bundle")
    found = predict_source(heads.load_bundle(place), folder / "new")
    files = [folder / "new" / name for name in found.ids]
    np.testing.assert_allclose(found.probabilities, fitted.ask(files).probabilities, atol=1e-5)
    table = heads.compare([*dataset.views(), both], ["prototype"], save=False)
    assert "concat:baseline:pixels+builtin:tiny-image" in {row["encoder"] for row in table.rows()}


def test_views_side_by_side_are_the_heads_own_after_items_have_come(world, tmp_path):
    from PIL import Image

    folder, _ = world
    shutil.copytree(folder / "photos", tmp_path / "photos")
    store = open_store(tmp_path / "store", create=True)
    encoders = ["baseline:pixels", "builtin:tiny-image"]
    store.embed([tmp_path / "photos"], dataset="photos", encoders=encoders)
    views = [store.view("photos", spec) for spec in encoders]
    fitted = heads.fit(heads.concat(views), "prototype")
    before = fitted.predict(heads.concat(views).load())
    Image.new("RGB", (40, 40), "white").save(tmp_path / "photos" / "light" / "zz.png")
    store.embed([], dataset="photos", encoders=encoders)
    with pytest.raises(EncoderMismatch, match=r"heads\.concat\(views, like=head\)"):
        fitted.predict(heads.concat(views).load())
    after = heads.concat(views, like=fitted).load()
    said = dict(zip(after.ids, fitted.predict(after), strict=True))
    assert said.pop("light/zz.png") == "light"
    assert list(said.values()) == before.tolist()
    asked = fitted.ask([tmp_path / "photos" / one for one in said])
    assert asked.predicted.tolist() == list(said.values())
    with pytest.raises(EncoderMismatch, match="learned from baseline:pixels, builtin:tiny-image"):
        heads.concat(views[::-1], like=fitted)


def test_an_encoder_of_another_fingerprint_or_drifted_is_refused(world, bundle):
    folder, _ = world
    fitted, _ = bundle
    block = dict(fitted.blocks[0])
    other = replace(fitted, blocks=({**block, "fingerprint": "0" * 64},))
    new = sorted((folder / "new").glob("*.png"))
    for ask in (lambda h: predict_items(h, new), lambda h: predict_source(h, folder / "new")):
        with pytest.raises(EncoderMismatch, match="another encoder"):
            ask(other)
    drifted = [[1 - x for x in probe] for probe in block["canary"]["image"]]
    other = replace(fitted, blocks=({**block, "canary": {"image": drifted}},))
    for ask in (lambda h: predict_items(h, new), lambda h: predict_source(h, folder / "new")):
        with pytest.raises(EncoderDrift, match="gives other vectors"):
            ask(other)
    with pytest.raises(EncoderMismatch):
        predict_items(fitted, new, encoder="baseline:pixels#size=16")


def test_a_bundle_that_was_edited_is_not_loaded(bundle, tmp_path):
    _, place = bundle
    (place / "head.skops").write_bytes((place / "head.skops").read_bytes() + b" ")
    with pytest.raises(StoreCorrupt, match=r"head.skops is not what its card describes"):
        heads.load_bundle(place)
    with pytest.raises(UnknownHead, match="not a bundle"):
        heads.load_bundle(tmp_path / "nowhere")


def test_code_of_a_bundle_is_not_run_unasked(world, tmp_path, monkeypatch):
    folder, dataset = world
    (tmp_path / "theirs.py").write_text(
        "import numpy\n"
        "class Theirs:\n"
        "    version = '1'\n"
        "    def encode_images(self, images):\n"
        "        means = [numpy.asarray(one).mean(axis=(0, 1)) for one in images]\n"
        "        return numpy.stack(means).astype('float32')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = "python:theirs:Theirs"
    dataset.store.embed([folder / "photos"], dataset="photos", encoders=[spec])
    fitted = heads.fit(dataset.view(spec), "prototype")
    place = fitted.save(tmp_path / "theirs-bundle")
    monkeypatch.delitem(sys.modules, "theirs")
    new = sorted((folder / "new").glob("*.png"))
    with pytest.raises(NotTrusted, match=f"names the encoder {spec}, which .* --trust"):
        predict_items(heads.load_bundle(place), new)
    blocks = json.loads((place / "encoder.json").read_text())
    blocks["blocks"][0]["spec"] = f" {spec}"  # spelt otherwise, with its sums put right
    (place / "encoder.json").write_text(json.dumps(blocks))
    card = json.loads((place / "card.json").read_text())
    card["encoder_sha256"] = sha256_of(place / "encoder.json")
    del card["card_sha256"]
    (place / "card.json").write_text(json.dumps(card))
    for loaded in (heads.load_bundle(place), heads.load_head(dataset, fitted.head_id)):
        with pytest.raises(NotTrusted, match=spec):
            predict_items(loaded, new)
        with pytest.raises(NotTrusted, match=spec):
            predict_source(loaded, folder / "new")
    assert "theirs" not in sys.modules
    for trust in ([spec], True):
        said = predict_items(heads.load_bundle(place, trust=trust), new)
        assert said.predicted.tolist() == ["dark"] * 4 + ["light"] * 4


def test_saving_over_something_else_is_refused_and_over_a_bundle_is_not(bundle, tmp_path):
    fitted, place = bundle
    assert fitted.save(place) == place
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="something else than a bundle"):
        fitted.save(tmp_path / "mine")


def test_an_encoder_may_have_moved(tmp_path, world, tiny_clip):
    folder, dataset = world
    store = dataset.store
    spec = f"open_clip:local-dir:{tiny_clip}"
    store.embed([folder / "photos"], dataset="photos", encoders=[spec])
    fitted = heads.fit(dataset.view(spec), "prototype", save=False)
    shutil.copytree(tiny_clip, tmp_path / "elsewhere")
    new = sorted((folder / "new").glob("*.png"))
    there = fitted.ask(new, encoder=str(tmp_path / "elsewhere"))
    np.testing.assert_allclose(there.probabilities, fitted.ask(new).probabilities)


def test_one_item_alone_is_put_into_a_list(bundle):
    with pytest.raises(BadSource, match="into a list"):
        bundle[0].ask("photo.png")


def test_a_head_without_probabilities_cannot_abstain(world):
    from sklearn.linear_model import RidgeClassifier

    _, dataset = world
    fitted = heads.fit(dataset.view("baseline:pixels"), RidgeClassifier(), save=False)
    with pytest.raises(BadName, match="cannot abstain"):
        answer(fitted, np.array(["a"], dtype=object), np.zeros((1, 3072)), 0.5)
