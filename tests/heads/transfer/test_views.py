"""The views that a verdict needs are made from Python as from the command line."""

import numpy as np
import pytest
from PIL import Image

from featurestore.store.store import open_store
from heads.transfer.views import embed_views


@pytest.fixture
def dataset(tmp_path):
    """Four pictures by the built-in encoder."""
    for number in range(4):
        path = tmp_path / "pictures" / ("a" if number < 2 else "b") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    store = open_store(tmp_path / "store", create=True)
    store.embed([tmp_path / "pictures"], dataset="d", encoders=["builtin:tiny-image"])
    return store.dataset("d")


def test_layers_random_weights_and_pixels_are_embedded_once(dataset):
    said = []
    views = embed_views(dataset, layers=("2", "4"), n_random=2, say=said.append)
    judged = [f"builtin:tiny-image{layer}" for layer in ("", "#layer=2", "#layer=4")]
    assert [str(view.spec) for view in views] == judged
    random = {
        f"random:{spec}{',' if '#' in spec else '#'}seed={seed}"
        for spec in judged
        for seed in range(2)
    }
    specs = {str(view.spec) for view in dataset.views()}
    assert specs == {*judged, *random, "baseline:pixels"}
    assert said[0].startswith("embedding what the verdict needs: builtin:tiny-image#layer=2")
    said.clear()
    again = embed_views(dataset, ["builtin:tiny-image"], layers=("2", "4"), n_random=2,
                        say=said.append)  # fmt: skip
    assert [str(view.spec) for view in again] == judged
    assert said == []


def test_an_encoder_without_random_weights_is_named_and_left_out(dataset):
    said = []
    dataset.store.embed([], dataset="d", encoders=["baseline:pixels"])
    views = embed_views(dataset, ["baseline:pixels"], n_random=1, pixels=False, say=said.append)
    assert [str(view.spec) for view in views] == ["baseline:pixels"]
    assert any(line.startswith("not embedded: ") for line in said)
