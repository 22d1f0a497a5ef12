"""Code that a model's folder brings, or names: refused by name; pickles are never opened."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch

from featurestore.cli import run
from featurestore.encoders.base import LoadOptions
from featurestore.encoders.loading import load_encoders
from featurestore.errors import FeatureStoreError, NotTrusted, UnknownEncoder
from featurestore.store.store import open_store
from featurestore.terms.specs import parse_specs

MARKS = "from pathlib import Path\nPath({mark!r}).touch()\nraise RuntimeError('it ran')\n"


class Evil:
    """A pickle of it touches a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def model(folder: Path, **files: object) -> Path:
    """Write a model's folder: JSON files by name, and a module that leaves a mark."""
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "theirs.py").write_text(MARKS.format(mark=str(folder.parent / "mark")))
    return folder


def auto_map(tmp_path):
    where = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}
    return f"hf:local-dir:{model(tmp_path / 'hf', config={'model_type': 'x', 'auto_map': where})}"


def modules(kind):
    def made(tmp_path):
        parts = [{"idx": 0, "name": "0", "path": "", "type": kind}]
        return f"st:local-dir:{model(tmp_path / 'st', modules=parts)}"

    return made


def activation(tmp_path):
    parts = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Dense"}]
    config = {"in_features": 2, "out_features": 2, "activation_function": "beside.Theirs"}
    return f"st:local-dir:{model(tmp_path / 'st', modules=parts, config=config)}"


def text_tower(tmp_path):
    """An open_clip folder whose text tower is one of transformers, with code."""
    inner = auto_map(tmp_path).removeprefix("hf:local-dir:")
    text = {"hf_model_name": inner, "hf_tokenizer_name": inner, "hf_model_pretrained": False}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}
    return f"open_clip:local-dir:{model(tmp_path / 'clip', open_clip_config=config)}"


CODE = {  # kind → (a folder with it, what is named, whether it is ours to run with --trust)
    "auto_map": (auto_map, "theirs.Config, theirs.Model (auto_map of config.json)", True),
    "a class in modules.json": (
        modules("theirs.Theirs"), "the class theirs.Theirs (modules.json)", True,
    ),
    "a class of the working folder": (
        modules("beside.Theirs"), "the class beside.Theirs (modules.json)", True,
    ),
    "an activation": (activation, "the activation beside.Theirs (config.json)", True),
    "a text tower": (text_tower, "code of its own", False),
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a module of its own, and a store that was embedded before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FEATURESTORE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside.py").write_text(MARKS.format(mark=str(tmp_path / "mark")))
    yield tmp_path
    for name in ("theirs", "beside"):
        sys.modules.pop(name, None)


def forged(here: Path, spec: str) -> None:
    """Make a store whose view names another encoder than the one that made it."""
    (here / "t.csv").write_text("words\none\ntwo\n")
    store = open_store(here / "store", create=True)
    from featurestore.sources.listing import SourceOptions

    options = SourceOptions(text="words")
    store.embed(
        [here / "t.csv"], dataset="d", encoders=["baseline:hashing"], source_options=options
    )
    (path,) = store.path.glob("datasets/d/views/*/encoder.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "spec": spec}))


@pytest.mark.parametrize("kind", CODE)
def test_code_of_a_model_runs_only_with_trust(kind, here, capsys):
    make, name, is_run = CODE[kind]
    spec, mark = make(here), here / "mark"
    (parsed,) = parse_specs([spec])
    with pytest.raises(NotTrusted) as caught:
        load_encoders([parsed])
    assert f"the model of {parsed} names {name}, which is code" in str(caught.value)
    with pytest.raises(NotTrusted):
        load_encoders([parsed], LoadOptions(trust=["python:other:Thing"]))
    forged(here, str(parsed))
    assert run(["search", "d", "--text", "one"]) == 1
    assert run(["search", "d", "-e", spec, "--text", "one"]) == 1  # a folder that is typed, too
    assert capsys.readouterr().err.count("--trust") == 2
    assert run(["verify", "d"]) == 0
    assert run(["embed", "t.csv", "--dataset", "e", "--text", "words", "-e", spec]) == 1
    assert "--trust" in capsys.readouterr().err
    assert not mark.exists()
    if is_run:
        with pytest.raises((FeatureStoreError, RuntimeError), match="it ran"):
            load_encoders([parsed], LoadOptions(trust=True))
        assert mark.exists()


def pickled(folder: Path, name: str) -> None:
    torch.save({"weight": Evil(folder.parent / "mark")}, folder / name)


def timm_folder(tmp_path):
    config = {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 32, 32]}}
    pickled(model(tmp_path / "timm", config=config), "pytorch_model.bin")
    return f"timm:local-dir:{tmp_path / 'timm'}"


def hf_folder(tmp_path):
    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 16}
    config = {"model_type": "vit", "architectures": ["ViTModel"], "patch_size": 16, **tower}
    pickled(model(tmp_path / "hf", config=config), "pytorch_model.bin")
    return f"hf:local-dir:{tmp_path / 'hf'}"


def clip_folder(tmp_path):
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}
    pickled(model(tmp_path / "clip", open_clip_config=config), "open_clip_pytorch_model.bin")
    return f"open_clip:local-dir:{tmp_path / 'clip'}"


def plain_pickle(tmp_path):
    spec = timm_folder(tmp_path)
    content = pickle.dumps(Evil(tmp_path / "mark"), protocol=2)
    (tmp_path / "timm" / "pytorch_model.bin").write_bytes(content)
    return spec


@pytest.mark.parametrize("make", [timm_folder, hf_folder, clip_folder, plain_pickle])
@pytest.mark.parametrize("trust", [False, True])
def test_pickles_are_never_opened(make, trust, here):
    specs = parse_specs([make(here)])
    with pytest.raises(UnknownEncoder, match="cannot load"):
        load_encoders(specs, LoadOptions(trust=trust))
    assert not (here / "mark").exists()
