"""Encoders of one's own: an object, a name in a module, a family of another package."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from featurestore.encoders import custom, families
from featurestore.encoders.base import Encoder, LoadOptions
from featurestore.encoders.custom import adopt
from featurestore.encoders.families import Family
from featurestore.encoders.loading import known_encoder, load_encoders
from featurestore.errors import (
    BadName,
    EncoderChanged,
    ModalityMismatch,
    ShapeMismatch,
    UnknownEncoder,
)
from featurestore.sources.listing import SourceOptions
from featurestore.terms.specs import EncoderSpec, Modality, parse_specs

TRUSTED = LoadOptions("cpu", trust=True)


class MeanColour:
    version = "1"

    def encode_images(self, images):
        return np.stack([np.asarray(one, float).mean(axis=(0, 1)) for one in images])


class Lengths:
    version = "1"

    def encode_texts(self, texts):
        return [[len(text), 1.0] for text in texts]


def test_an_object_embeds_images(empty_store, tiny_images):
    (report,) = empty_store.embed([tiny_images], dataset="d", encoders=[MeanColour()])
    assert report.n_encoded == 6
    view = empty_store.dataset("d").views()[0]
    assert view.spec.family == "python"
    found = view.load()
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.vectors[1], [20, 0, 0])
    (again,) = empty_store.embed([tiny_images], dataset="d", encoders=[MeanColour()])
    assert again.n_encoded == 0


def test_another_version_is_another_encoder(empty_store, tiny_images):
    empty_store.embed([tiny_images], dataset="d", encoders=[MeanColour()])
    other = MeanColour()
    other.version = "2"
    with pytest.raises(EncoderChanged, match="changed: version"):
        empty_store.embed([tiny_images], dataset="d", encoders=[other])


def test_a_name_in_a_module_is_imported(empty_store, tiny_images, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "class Corner:\n"
        "    def prepare_image(self, image):\n"
        "        return np.asarray(image)[0, 0]\n"
        "    def encode_images(self, prepared):\n"
        "        return np.stack(prepared)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    empty_store.embed([tiny_images], dataset="d", encoders=["python:mine:Corner"])
    view = empty_store.view("d", "python:mine:Corner", trust=True)
    np.testing.assert_allclose(view.load().vectors[2], [30, 0, 0])
    found = view.search_image(tiny_images / "dark" / "0.png", k=1)  # it is loaded again by name
    assert found.scores.tolist() == [[1.0]]
    # Without a version, the source text stands for it.
    before = view.fingerprint
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "# changed\n")
    del sys.modules["mine"]
    (now,) = load_encoders(parse_specs(["python:mine:Corner"]), TRUSTED)
    assert now.resolved.fingerprint != before


def test_texts_and_errors_of_an_object():
    encoder = adopt(Lengths())
    assert encoder.resolved.modalities == {Modality.TEXT}
    np.testing.assert_array_equal(encoder.encode_texts(["abc"]), np.float32([[3, 1]]))

    class Nothing:
        pass

    with pytest.raises(UnknownEncoder, match="neither encode_images nor encode_texts"):
        adopt(Nothing())

    class Flat:
        def encode_texts(self, texts):
            return np.zeros(len(texts))

    with pytest.raises(ShapeMismatch, match=r"Flat.encode_texts gave shape \(1,\) for 1 items"):
        adopt(Flat())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:no_such_module_here:X", "No module named 'no_such_module_here'"),
        ("python:json:Nothing", "has no attribute 'Nothing'"),
        ("python:json", "names no object: expected python:module:object"),
    ],
)
def test_a_name_that_leads_nowhere_says_so(spec, message):
    with pytest.raises(UnknownEncoder, match=message):
        load_encoders(parse_specs([spec]), TRUSTED)


def test_another_package_adds_a_family(monkeypatch, tmp_path):
    (tmp_path / "their_encoders.py").write_text(
        "from featurestore.encoders import Family\n"
        "from featurestore.encoders.custom import adopt\n"
        "FAMILY = Family('their_encoders', (), frozenset(), 'theirs:lengths', 'of theirs')\n"
        "class Lengths:\n"
        "    version = '1'\n"
        "    def encode_texts(self, texts):\n"
        "        return [[len(one)] for one in texts]\n"
        "def load(specs, how):\n"
        "    return [adopt(Lengths(), spec) for spec in specs]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[featurestore.encoders]\ntheirs = their_encoders:FAMILY\n"
    )
    families.families.cache_clear()
    try:
        assert isinstance(families.families()["theirs"], Family)
        (found,) = load_encoders(parse_specs(["theirs:lengths"]))
        assert found.encode_texts(["abcd"]).tolist() == [[4.0]]
        with pytest.raises(BadName, match="theirs encoders have no option 'layer'"):
            load_encoders(parse_specs(["theirs:lengths#layer=1"]))
    finally:
        families.families.cache_clear()


def test_the_family_that_the_docs_show_embeds(empty_store, monkeypatch, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
    section = text[text.index("## A family from another package") :]
    (module,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    name, target = re.search(r'```toml\n\[.*?\]\n(\w+) = "(.*?)"\n```', section).groups()
    (tmp_path / f"{target.split(':')[0]}.py").write_text(module)
    info = tmp_path / "docs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: docs\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[featurestore.encoders]\n{name} = {target}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, target.split(":")[0], raising=False)
    families.families.cache_clear()
    (tmp_path / "t.csv").write_text("id,text\na,one two\nb,three\n")
    try:
        columns = SourceOptions(text="text", id="id")
        empty_store.embed(
            [tmp_path / "t.csv"],
            dataset="d",
            encoders=[f"{name}:lengths"],
            source_options=columns,
        )
        found = empty_store.view("d", f"{name}:lengths").load()
    finally:
        families.families.cache_clear()
    assert dict(zip(found.ids, found.vectors.tolist(), strict=True)) == {"a": [7, 1], "b": [5, 0]}


def test_an_encoder_that_lacks_a_modality_says_so():
    encoder = adopt(Lengths())
    assert (encoder.decode_px, encoder.preparer, encoder.in_half_precision()) == (None, None, None)
    assert encoder.tokenize(["abcd"]) == (["abcd"], [2], [False])
    plain = Encoder()
    plain.resolved = encoder.resolved
    assert plain.prepare_image(Image.new("RGB", (4, 2))).shape == (2, 4, 3)
    with pytest.raises(ModalityMismatch, match="Lengths cannot read images"):
        plain.encode_images([])
    with pytest.raises(ModalityMismatch, match="cannot read texts"):
        plain.encode_texts([])


def test_a_checkpoint_of_open_clip_by_its_path(tmp_path, monkeypatch, tiny_clip):
    import open_clip

    config = json.loads((tiny_clip / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny.json")
    monkeypatch.chdir(tmp_path)
    spec = "random:open_clip:tiny#seed=1"
    (fresh,) = load_encoders(parse_specs([spec]))
    torch.save(fresh.network.module.state_dict(), tmp_path / "mine@1.pt")
    text = "open_clip:tiny/./mine@1.pt"
    parsed = EncoderSpec.parse(text)
    assert parsed.local_file == tmp_path / "mine@1.pt"
    assert parsed.revision is None
    assert parsed.label == "open_clip:tiny/mine@1.pt"
    (found,) = load_encoders([parsed])
    assert found.resolved.chosen["weights"] == fresh.resolved.chosen["weights"]
    assert known_encoder(parsed).fingerprint == found.resolved.fingerprint
    torch.save({"a": torch.zeros(1)}, tmp_path / "mine@1.pt")
    assert known_encoder(parsed) is None  # the file changed
    with pytest.raises(UnknownEncoder, match="expected a checkpoint of tiny"):
        load_encoders([parsed])
    with pytest.raises(UnknownEncoder, match="is not a file: expected the checkpoint"):
        load_encoders(parse_specs(["open_clip:tiny/./absent.pt"]))


class Bomb:
    def __reduce__(self):
        return open, ("ran", "w")


def test_a_checkpoint_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, tmp_path / "evil.pt")
    with pytest.raises(UnknownEncoder, match="more than tensors, and reading it could run code"):
        load_encoders(parse_specs(["open_clip:RN50/./evil.pt"]))
    assert not (tmp_path / "ran").exists()


class Placed:
    version = "1"

    def __init__(self, device="cpu"):
        self.device, self.asked = "cpu", device

    def encode_texts(self, texts):
        return [[len(text)] for text in texts]


@pytest.mark.parametrize(("device", "given"), [("auto", "cpu"), ("cuda:3", "cuda:3")])
def test_a_class_that_takes_a_device_is_given_the_one_that_is_named(device, given, monkeypatch):
    monkeypatch.setitem(sys.modules, "placed", SimpleNamespace(Placed=Placed))
    (found,) = custom.load([EncoderSpec.parse("python:placed:Placed")], LoadOptions(device=device))
    assert found.inner.asked == given


def test_an_encoder_of_ours_can_be_handed_over_as_an_object():
    """It has both methods by inheritance, and one of its own."""
    (hashing,) = load_encoders(parse_specs(["baseline:hashing#size=16"]))
    adopted = adopt(hashing)
    assert adopted.resolved.modalities == {Modality.TEXT}
    np.testing.assert_array_equal(adopted.encode_texts(["a b"]), hashing.encode_texts(["a b"]))


def test_a_family_that_gives_no_encoder_is_told_so_before_anything_is_written(monkeypatch):
    module = SimpleNamespace(load=lambda specs, options: [SimpleNamespace(device="cpu")])
    monkeypatch.setitem(sys.modules, "theirs", module)
    family = Family("theirs", (), frozenset(), "theirs:x", "", is_remembered=False)
    monkeypatch.setitem(families.FAMILIES, "theirs", family)
    with pytest.raises(UnknownEncoder, match=r"derives from featurestore\.encoders\.Encoder"):
        load_encoders(parse_specs(["theirs:x"]))


def test_an_encoder_may_tell_queries_from_items():
    class Asked(Lengths):
        def encode_queries(self, texts):
            return [[-n, -1.0] for n, _ in self.encode_texts(texts)]

    plain, asked = adopt(Lengths()), adopt(Asked())
    vectors = plain.encode_texts(["a text"])
    np.testing.assert_array_equal(plain.encode_queries(["a text"]), vectors)
    np.testing.assert_array_equal(asked.encode_queries(["a text"]), -vectors)
