"""A head as an ONNX graph: the same answers by onnxruntime, without anything of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import heads
from featurestore.cli import run
from featurestore.errors import BadName, MissingExtra
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.saved.serve import predict_items
from tests.heads.serving_world import TEXTS, picture, write_world

onnxruntime = pytest.importorskip("onnxruntime")

TINY_IMAGE, TINY_TEXT, PIXELS = "builtin:tiny-image", "builtin:tiny-text", "baseline:pixels"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Texts of three topics, also with several tags and a number; pictures of two kinds."""
    folder = tmp_path_factory.mktemp("onnx")
    table, photos = write_world(folder)
    head, *rows = table.read_text().splitlines()
    more = [f"{row},{'a|b' if n % 2 else 'a' if n % 3 else 'b'},{0.37 * n + 0.1:.2f}"
            for n, row in enumerate(rows)]  # fmt: skip
    table.write_text("\n".join([f"{head},tags,size", *more]) + "\n")
    store = open_store(folder / "store", create=True)
    labels = ("topic", "tags", "size")
    options = SourceOptions(text="words", label=labels, id="id")
    store.embed([table], dataset="texts", encoders=[TINY_TEXT], source_options=options)
    store.embed([photos], dataset="photos", encoders=[TINY_IMAGE, PIXELS])
    return store


def asked(folder: Path, name: str, *changes: tuple[str, str]) -> str:
    """Run the lines of README.md in a process that has nothing of ours; return what they print."""
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(lines.splitlines()) <= 20
    assert "import featurestore" not in lines
    assert "import heads" not in lines
    for old, new in changes:
        assert old in lines
        lines = lines.replace(old, new)
    blocked = "import sys\nfor one in ('featurestore', 'heads', 'torch'): sys.modules[one] = None\n"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", blocked + lines], cwd=folder, env=env,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_pictures_go_through_encoder_and_head_as_here(store, tmp_path, monkeypatch, capsys):
    head = heads.fit(store.view("photos", TINY_IMAGE), "logistic", save=False)
    head.save(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    assert run(["store", "export-onnx", "bundle", "-o", "onnx"]) == 0
    assert "the head and its encoder" in capsys.readouterr().err
    folder = tmp_path / "onnx"
    contents = [picture(n, level) for n in range(3) for level in (60, 190)]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["featurestore"])
    assert about["classes"] == ["dark", "light"]
    assert about["fingerprint"] == head.card.fingerprint
    assert about["preprocessing"]["squash"] == [128, 128]
    expected = predict_items(head, contents)
    for content, said in zip(contents[:2], expected.predicted, strict=False):
        (folder / "picture.png").write_bytes(content)
        assert asked(folder, "picture.png") == f"['{said}']"
    assert run(["store", "export-onnx", "bundle", "-o", "onnx"]) == 1


def test_texts_go_from_their_tokens_to_the_answer(store, tmp_path):
    head = heads.fit(store.view("texts", TINY_TEXT), "ridge", label="topic", save=False)
    made = heads.export_onnx(head, tmp_path / "onnx")
    assert made.has_encoder
    assert made.off <= 1e-4
    expected = predict_items(head, TEXTS).predicted.tolist()
    lines = ('[how["prompt"] + "a text"]', repr(TEXTS))
    assert asked(tmp_path / "onnx", "", lines) == str(expected)


@pytest.mark.parametrize(("label", "kind"), [("tags", "lda"), ("size", "ridge")])
def test_several_labels_and_numbers(store, tmp_path, label, kind):
    task = "multilabel" if label == "tags" else "regression"
    view = store.view("texts", TINY_TEXT)
    head = heads.fit(view, kind, label=label, task=task, save=False)
    assert heads.export_onnx(head, tmp_path / "onnx").off <= 1e-4
    expected = predict_items(head, TEXTS[:6]).predicted.tolist()
    said = asked(tmp_path / "onnx", "", ('[how["prompt"] + "a text"]', repr(TEXTS[:6])))
    if label == "tags":
        assert said == str(expected)
    else:
        np.testing.assert_allclose(json.loads(said), expected, atol=1e-4)


def test_a_head_alone_takes_vectors(store, tmp_path):
    view = store.view("photos", PIXELS)
    head = heads.fit(view, "prototype", save=False)
    made = heads.export_onnx(head, tmp_path / "onnx")
    assert not made.has_encoder
    assert "not a network of torch" in made.why_not
    vectors = view.load().vectors
    np.save(tmp_path / "onnx" / "vectors.npy", vectors)
    assert asked(tmp_path / "onnx", "") == str(head.predict(vectors).tolist())
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    found = session.run(None, {"vectors": vectors})[0]
    np.testing.assert_allclose(found, head.predict_proba(vectors), atol=1e-4)


def test_what_cannot_be_a_graph_is_said(store, tmp_path, monkeypatch):
    view = store.view("photos", PIXELS)
    knn = heads.fit(view, "knn", save=False)
    with pytest.raises(BadName, match="logistic, ridge, lda and prototype can"):
        heads.export_onnx(knn, tmp_path / "onnx")
    tfidf = heads.fit(store.view("texts", TINY_TEXT), "tfidf", label="topic", save=False)
    with pytest.raises(BadName, match="reads texts"):
        heads.export_onnx(tfidf, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    (tmp_path / "other" / "model.onnx").write_bytes(b"mine, too")
    with pytest.raises(FileExistsError):
        heads.export_onnx(knn, tmp_path / "other", overwrite=True)
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnx" else found(name)
    )
    with pytest.raises(MissingExtra, match=r"featurestore\[onnx\]"):
        heads.export_onnx(knn, tmp_path / "onnx")


def test_real_networks(store, tmp_path, mobilenet, minilm, shared):
    """MobileNetV2 of timm on pictures of steel, MiniLM on texts, to 1e-4 on real items."""
    steel = sorted(shared("data", "neu_steel").rglob("*.jpg"))
    files = [one for one in steel if one.parent.name in ("crazing", "scratches")][::20]
    for path in files:
        place = tmp_path / "steel" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    store.embed([tmp_path / "steel"], dataset="steel", encoders=[mobilenet])
    head = heads.fit(store.dataset("steel").views()[0], "logistic", save=False)
    assert heads.export_onnx(head, tmp_path / "steel-onnx").has_encoder
    contents = [path.read_bytes() for path in files[:4]]
    (tmp_path / "steel-onnx" / "picture.png").write_bytes(contents[0])
    (said,) = predict_items(head, contents[:1]).predicted
    assert asked(tmp_path / "steel-onnx", "") == f"['{said}']"

    store.embed([store.path.parent / "texts.csv"], dataset="texts", encoders=[minilm])
    head = heads.fit(store.view("texts", minilm), "logistic", label="topic", save=False)
    assert heads.export_onnx(head, tmp_path / "texts-onnx").has_encoder
    expected = predict_items(head, TEXTS).predicted.tolist()
    lines = ('[how["prompt"] + "a text"]', repr(TEXTS))
    assert asked(tmp_path / "texts-onnx", "", lines) == str(expected)
