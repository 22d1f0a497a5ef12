"""A retrained network as a folder of its own library: from a store, by the command."""

import json
from copy import copy
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from scipy.special import softmax

import heads
from featurestore.cli import run
from featurestore.encoders.loading import load_encoder
from featurestore.errors import BadName, NotEnoughData
from featurestore.store.store import open_store
from featurestore.terms.specs import EncoderSpec
from heads.estimators import finetune
from heads.estimators.logistic import LogisticHead
from heads.estimators.retrain import Recipe, Run
from heads.saved.export_model import export_model

SAVED = {"standardise": ("weight", "bias"), "l2": ("weight", "bias", "shift", "length")}
SPEC = "random:timm:mobilenetv2_050#size=64"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store of stripes, and bundles of heads that retrained two blocks."""
    folder, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for number in range(16):
        pixels = rng.integers(0, 120, (64, 64, 3), np.uint8)
        pixels[(slice(None, None, 8),) if number % 2 else (slice(None), slice(None, None, 8))] = 255
        path = folder / ("across", "down")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    store = open_store(tmp_path_factory.mktemp("store") / "s", create=True)
    store.embed([folder], dataset="d", encoders=[SPEC])
    view, bundles = store.dataset("d").view(SPEC), tmp_path_factory.mktemp("bundles")
    found = {"store": store, "folder": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "steps", lambda self, n_rows: 8)
        patch.setattr(Run, "has_collapsed", lambda self, chance: False)
        for kind in ("standardise", "l2"):
            of_kind = partial(LogisticHead, normalisation=kind)
            patch.setattr(finetune, "LogisticHead", lambda _, make=of_kind, **how: make(**how))
            found[kind] = heads.fit(view, "finetune:blocks=2").save(bundles / kind)
    return found


def scores_of(held, vectors):
    """What the layer in the folder gives for vectors, (n, n_classes)."""
    if "length" in held:
        vectors = vectors - held["shift"]
        vectors *= held["length"] / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ held["weight"].T + held["bias"]


@pytest.mark.parametrize("kind", ["standardise", "l2"])
def test_timm_loads_what_a_head_retrained(trained, kind, tmp_path, capsys):
    """With its classifier, but for a head that scales vectors to one length."""
    import timm

    store, bundle = trained["store"], trained[kind]
    head, out = heads.load_bundle(bundle), tmp_path / "net"
    assert run(["export-model", str(bundle), "-o", str(out), "--run", "1"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "as run 1 of 2 left it" in said
    assert f"-e 'timm:local-dir:{out}#size=64'" in said
    assert "it has seen the labels of d: " in said
    is_within = "its classifier is in the network" in said
    assert is_within == (kind == "standardise")
    first = f"the network in {out} gives vectors, not the head's answers: the head scales each"
    assert said.startswith(first) == (not is_within)
    assert sorted(one.name for one in out.iterdir()) == [
        "README.md", "config.json", "linear.safetensors", "model.safetensors",
    ]  # fmt: skip
    (tmp_path / "any").write_text("a")
    assert {one.stat().st_mode for one in out.iterdir()} == {(tmp_path / "any").stat().st_mode}

    files = sorted(trained["folder"].rglob("*.png"))
    (tap,) = store.dataset("d").taps()
    acts = tap.activations([f"{one.parent.name}/{one.name}" for one in files])
    head.predict(acts)  # opens the encoder
    alone = copy(head.estimator).set_params(alone=True)
    alone.runs_ = head.estimator.runs_[:1]
    expected = alone.predict_proba(acts)

    there = load_encoder(EncoderSpec.parse(f"timm:local-dir:{out}#size=64"))
    prepared = [there.prepare_image(Image.open(one)) for one in files]
    vectors = there.encode_images(prepared)
    with safe_open(out / "linear.safetensors", "numpy") as file:
        held, about = {name: file.get_tensor(name) for name in SAVED[kind]}, file.metadata()
    scores = scores_of(held, vectors)
    np.testing.assert_allclose(softmax(scores, axis=1), expected, atol=2e-3)  # float16 at the cut
    code = (out / "README.md").read_text().split("```")[1].removeprefix("python")
    code = code.replace('folder = "."', f"folder = {str(out)!r}")
    found = {}
    exec(code.replace("picture.jpg", str(files[0])), found)
    its_scores = scores_of(held, there.network.module(found["pixels"]).detach().numpy())
    np.testing.assert_allclose(found["scores"], its_scores, rtol=1e-3, atol=1e-3)
    best = ("across", "down")[its_scores[0].argmax()]
    assert capsys.readouterr().out == f"['{best}']\n"
    assert about["classes"] == "across\ndown"
    assert about["head"] == head.head_id
    network = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert network.num_classes == (2 if is_within else 0)
    if is_within:
        assert json.loads((out / "config.json").read_text())["label_names"] == ["across", "down"]
        with torch.no_grad():
            pixels = there.network.preprocessing.normalize(torch.from_numpy(np.stack(prepared)))
            np.testing.assert_allclose(network(pixels).numpy(), scores, rtol=1e-3, atol=1e-3)


def test_which_run_and_where(trained, tmp_path):
    head = heads.load_bundle(trained["l2"])
    n = len(head.estimator.runs_)
    made = export_model(head, tmp_path / "last")
    assert (made.run, made.n_runs) == (n, n)
    assert made.off < 1e-5
    with pytest.raises(FileExistsError, match="holds something"):
        export_model(head, tmp_path / "last")
    export_model(head, tmp_path / "last", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    with pytest.raises(FileExistsError, match="holds something"):
        export_model(head, tmp_path / "mine", overwrite=True)
    with pytest.raises(BadName, match=f"has {n}, counted from 1"):
        export_model(head, tmp_path / "no", run=n + 1)
    assert not (tmp_path / "no").exists()


def test_a_head_that_retrained_nothing_is_refused(trained, tmp_path):
    head = heads.load_bundle(trained["l2"])
    frozen = heads.fit(trained["store"].dataset("d").view(SPEC), "logistic", save=False)
    with pytest.raises(BadName, match=r"\(logistic\) retrains no network"):
        export_model(frozen, tmp_path / "no")
    empty = copy(head.estimator)
    empty.runs_ = []
    with pytest.raises(NotEnoughData, match="answers as a frozen head"):
        export_model(heads.FittedHead(head.head_id, empty, head.card), tmp_path / "no")
