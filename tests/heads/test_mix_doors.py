"""A mix of several inputs: trained, kept, loaded, and asked about raw items."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits

import heads
from featurestore.cli import run
from featurestore.encoders import encode_now
from featurestore.errors import BadBundle, BadName, BadSource, EncoderMismatch, ModalityMismatch
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.estimators.mix import MixHead
from heads.estimators.ridge import RidgeHead
from heads.labels.blocks import Blocks
from heads.labels.folds import blocks as blocks_of_rows
from heads.saved.serve import predict_source
from tests.tutorial_data import SHARED, law

TINY, PIXELS = "builtin:tiny-image", "baseline:pixels"
TEXT = "builtin:tiny-text"
SPLIT = ["train", "train", "train", "test"] * 30


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twelve handwritten digits of three kinds each to learn from, four to test; new ones."""
    folder = tmp_path_factory.mktemp("digits")
    X, y = load_digits(return_X_y=True)
    rows = []
    for kind in range(3):
        for number, at in enumerate(np.flatnonzero(y == kind)[:20]):
            split = "train" if number < 12 else "test" if number < 16 else "new"
            path = folder / split / f"{kind}-{number}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = np.repeat(np.repeat(X[at].reshape(8, 8) * 15.9, 4, 0), 4, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            if split != "new":
                name = f"{split}/{path.name}"
                rows.append({"image": name, "digit": f"digit {kind}", "split": split})
    table = folder / "digits.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    store = open_store(folder / "store", create=True)
    options = SourceOptions(image="image", label=("digit",), split="split")
    store.embed([table], dataset="digits", encoders=[TINY, PIXELS], source_options=options)
    return folder, store.dataset("digits")


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """Messages to a bank about four matters."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    folder = tmp_path_factory.mktemp("messages")
    law(folder)
    table = folder / "messages.csv"
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["matter"]][:80]  # four matters
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "split"])
        writer.writeheader()
        writer.writerows(
            {**row, "split": "train" if at % 4 else "test"} for at, row in enumerate(rows)
        )
    store = open_store(folder / "store", create=True)
    options = SourceOptions(text="text", label=("matter",), split="split")
    store.embed([table], dataset="messages", encoders=[TEXT], source_options=options)
    return table, store.dataset("messages")


# -- pictures ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(digits):
    """A mix of an encoder and the raw pixels, which are added to it."""
    return heads.fit(digits[1].view(TINY), "mix:ridge")


def test_it_is_the_pool_of_heads_on_each_input(digits, mixed):
    dataset, fitted = digits[1], mixed
    views = {spec: dataset.view(spec).load() for spec in (TINY, PIXELS)}
    inputs = Blocks({spec: table.vectors for spec, table in views.items()})
    table = views[TINY]
    rows = np.flatnonzero(table.column("split") == "train")
    members = [(f"ridge on {one}", one, RidgeHead(random_state=0)) for one in views]
    block = blocks_of_rows(table.column("content_hash"), table.column("group"))[rows]
    own = MixHead(members, random_state=0).fit(inputs[rows], table.labels[rows].astype(str), block)
    np.testing.assert_allclose(
        fitted.predict_proba(heads.mix(dataset.view(TINY)).load()),
        own.predict_proba(inputs),
        atol=1e-6,
    )
    assert [one.name for one in fitted.card.members] == [name for name, _, _ in members]
    assert [one.input for one in fitted.card.members] == [TINY, PIXELS]
    np.testing.assert_allclose([one.weight for one in fitted.card.members], own.weights_)
    np.testing.assert_allclose([one.without for one in fitted.card.members], own.left_out_loss_)
    assert fitted.card.encoder == f"mix:{TINY}+{PIXELS}"
    assert fitted.card.reads == "blocks"


def test_its_bundle_answers_pictures_as_stored_vectors_and_decodes_each_once(
    digits, mixed, tmp_path, monkeypatch
):
    folder, dataset = digits
    bundle = heads.load_bundle(mixed.save(tmp_path / "bundle"))
    view = heads.mix(dataset.view(TINY))
    table = view.load()
    stored = bundle.predict_proba(table)
    np.testing.assert_array_equal(stored, mixed.predict_proba(table))
    files = (
        [folder / one for one in table.column("image")]
        if "image" in table.columns
        else [next(folder.glob(f"*/{Path(str(one)).name}")) for one in table.column("uri")]
    )
    decoded = []
    decode = encode_now.decode_image
    monkeypatch.setattr(
        encode_now, "decode_image", lambda *a, **how: decoded.append(1) or decode(*a, **how)
    )
    np.testing.assert_allclose(bundle.predict_proba(files), stored, atol=1e-5)
    assert len(decoded) == len(files)
    assert bundle.predict(files).tolist() == mixed.predict(table).tolist()
    monkeypatch.undo()
    shutil.copytree(folder / "new", tmp_path / "new")
    (tmp_path / "new" / "broken.png").write_bytes(b"junk")
    found = predict_source(bundle, tmp_path / "new")
    assert len(found.ids) == 12
    assert [one.partition(":")[0] for one in found.failures] == ["broken.png"]
    truth = [f"digit {name.partition('-')[0]}" for name in found.ids]
    assert np.mean([a == b for a, b in zip(truth, found.predicted, strict=True)]) > 0.8
    asked = bundle.ask([folder / "new" / str(name) for name in found.ids])
    np.testing.assert_allclose(asked.probabilities, found.probabilities, atol=1e-5)
    np.testing.assert_allclose(asked.unlike.shares, found.unlike.shares, atol=0.02)


def test_a_mix_tells_pictures_that_are_unlike_its_training(digits, mixed, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    assert mixed.unlike_training(sorted(tmp_path.glob("*.png"))).is_unlike.all()


def test_the_command_trains_it_and_says_what_each_member_is_worth(digits, tmp_path, capsys):
    folder, _ = digits
    common = ["train", "digits", "--store", str(folder / "store")]
    bundle = str(tmp_path / "b")
    command = [*common, "-e", PIXELS, "-e", TINY, "--head", "mix:ridge,prototype", "--save", bundle]
    command += ["--coverage", "0.8"]
    assert run(command) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"mix:ridge,prototype on digits@mix:{PIXELS}+{TINY}, label 'digit'\n")
    card = json.loads((tmp_path / "b" / "card.json").read_text())
    names = [f"{head} on {one}" for head in ("ridge", "prototype") for one in (PIXELS, TINY)]
    assert [one["name"] for one in card["members"]] == names
    for one in card["members"]:
        (line,) = [line for line in out.splitlines() if line.strip().startswith(one["name"])]
        assert line.split()[-2:] == [f"{one['weight']:.2f}", f"{one['without']:+.3g}"]
    assert run(["predict", bundle, str(folder / "new"), "-o", str(tmp_path / "said.csv")]) == 0
    with (tmp_path / "said.csv").open() as file:
        said = list(csv.DictReader(file))
    truth = [f"digit {row['item_id'].partition('-')[0]}" for row in said]
    right = [row["predicted"] == kind for row, kind in zip(said, truth, strict=True)]
    assert np.mean(right) > 0.8
    held = [kind in row["set"].split("|") for row, kind in zip(said, truth, strict=True)]
    assert np.mean(held) > 0.8
    assert run(["store", "show", "digits", card["head_id"], "--store", str(folder / "store")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == out.splitlines()[0]


# -- texts ------------------------------------------------------------------------------------


def test_a_mix_of_texts_reads_vectors_and_words(messages, tmp_path):
    table, dataset = messages
    fitted = heads.fit(dataset.views()[0], "mix")
    assert [one.name for one in fitted.card.members] == [f"logistic on {TEXT}", "tfidf"]
    assert [one.input for one in fitted.card.members] == [TEXT, "texts"]
    assert fitted.card.reads == "blocks and texts"
    assert fitted.card.fingerprint == dataset.views()[0].fingerprint
    bundle = heads.load_bundle(fitted.save(tmp_path / "bundle"))
    stored = dataset.views()[0].load()
    texts = stored.column("text").tolist()
    expected = fitted.predict_proba(stored)
    np.testing.assert_allclose(bundle.predict_proba(texts), expected, atol=1e-5)
    found = predict_source(bundle, table, options=SourceOptions(text="text"))
    rows = {item: row for row, item in enumerate(stored.ids)}
    np.testing.assert_allclose(
        found.probabilities, expected[[rows[item] for item in found.ids]], atol=1e-5
    )
    with pytest.raises(BadSource, match="reads texts"):
        bundle.predict(stored.vectors)


# -- several labels, numbers ------------------------------------------------------------------


def test_several_labels_and_numbers_are_mixed_and_kept(make_view, blobs, tmp_path):
    vectors, names = blobs()
    codes = np.array([int(name[-1]) for name in names])
    tags = [["odd"] * (code % 2) + ["high"] * int(code > 1) for code in codes]
    halves = enumerate(np.hsplit(vectors, 2))
    views = [make_view(part, tags, spec=f"timm:{n}", split=SPLIT) for n, part in halves]
    fitted = heads.fit(views, "mix:ridge", save=False)
    both = heads.mix(views).load()
    bundle = heads.load_bundle(fitted.save(tmp_path / "tags"))
    said = bundle.predict(both)
    assert np.mean([a == b for a, b in zip(said, tags, strict=True)]) > 0.8
    assert [one.name for one in fitted.card.members] == ["ridge on timm:0", "ridge on timm:1"]
    np.testing.assert_array_equal(bundle.predict_proba(both), fitted.predict_proba(both))
    X, y = load_diabetes(return_X_y=True)
    split = ["train", "train", "test"] * (len(y) // 3) + ["train"] * (len(y) % 3)
    halves = enumerate(np.hsplit(X, 2))
    views = [make_view(part, y.tolist(), spec=f"timm:{n}", split=split) for n, part in halves]
    fitted = heads.fit(views, "mix", save=False)
    bundle = heads.load_bundle(fitted.save(tmp_path / "numbers"))
    both = heads.mix(views).load()
    np.testing.assert_array_equal(bundle.predict(both), fitted.predict(both))
    alone = [heads.fit(view, "ridge", save=False).card for view in views]
    assert fitted.card.metrics["r2"].value > max(one.metrics["r2"].value for one in alone)
    assert [one.name for one in fitted.card.members] == ["ridge on timm:0", "ridge on timm:1"]


# -- what cannot be mixed ---------------------------------------------------------------------


def test_inputs_that_cannot_be_mixed_are_refused_in_words(make_view, blobs, digits):
    vectors, names = blobs()
    one, two = (make_view(vectors, names, spec=spec) for spec in ("timm:a", "timm:b"))
    with pytest.raises(BadSource, match="timm:a twice"):
        heads.mix([one, two, one])
    other = make_view(vectors, names, spec="timm:b", dataset="others")
    with pytest.raises(BadSource, match="views of one data set: toys@timm:a, others@timm:b"):
        heads.mix([one, other])
    with pytest.raises(BadSource, match="no view"):
        heads.mix([])
    with pytest.raises(BadName, match="head lda reads one input"):
        heads.fit([one, two], "lda")
    with pytest.raises(ModalityMismatch, match="tfidf reads texts"):
        heads.fit([one, two], "mix:ridge,tfidf")
    with pytest.raises(ModalityMismatch, match="no encoder reads words"):
        heads.fit([one, two], "mix:zero-shot")
    with pytest.raises(BadName, match="cannot be a member"):
        heads.fit([one, two], "mix:mix")
    _, dataset = digits
    with pytest.raises(BadSource, match=rf"name another view as well \({TINY}\)"):
        heads.fit(dataset.view(PIXELS), "mix")


def test_items_that_a_view_lacks_are_left_out_and_counted(make_view, blobs):
    vectors, names = blobs()
    whole = make_view(vectors, names, spec="timm:a", split=SPLIT)
    some = make_view(vectors, names, spec="timm:b", split=SPLIT)
    some = replace(some, embeddings=some.embeddings.take(np.arange(100)))
    card = heads.fit([whole, some], "mix:prototype", save=False).card
    assert card.n_items == 100
    assert "20 items lack a vector in some view and are not used." in card.notes


def test_a_member_that_fails_is_left_out_and_named(make_view, blobs):
    vectors, names = blobs()
    texts = ["?!"] * len(names)  # no word in them
    view = make_view(vectors, names, texts=texts, split=SPLIT)
    card = heads.fit(view, "mix:ridge,tfidf", save=False).card
    assert [one.weight for one in card.members] == [1.0, 0.0]
    assert "empty vocabulary" in card.members[1].failed


def test_a_mix_asks_for_its_own_encoders_and_a_bundle_that_was_edited_is_refused(
    make_view, blobs, tmp_path
):
    vectors, names = blobs()
    one, two = (make_view(vectors, names, spec=spec, split=SPLIT) for spec in ("timm:a", "timm:b"))
    fitted = heads.fit([one, two], "mix:prototype", save=False)
    with pytest.raises(EncoderMismatch, match=r"heads.mix\(views\)"):
        fitted.predict(heads.mix([two, one]).load())
    place = fitted.save(tmp_path / "bundle")
    for name, old, new in (
        ("card.json", '"reads": "blocks"', '"reads": "blocks and texts"'),
        ("encoder.json", "timm:a", "timm:c"),
    ):
        kept = (place / name).read_text()
        (place / name).write_text(kept.replace(old, new))
        with pytest.raises(BadBundle):
            heads.load_bundle(place)
        (place / name).write_text(kept)
    heads.load_bundle(place)
