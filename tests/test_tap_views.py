"""A tap: whole activations of items, kept as vectors are and read where they lie."""

import shutil

import numpy as np
import pytest

from featurestore.errors import (
    UnknownItem,
    UnknownView,
)
from featurestore.upkeep.verify import verify
from tests.tapping import Pictures, embed_texts, picture, take_encoders_as_they_are, words


@pytest.fixture
def encoder(monkeypatch):
    take_encoders_as_they_are(monkeypatch)
    return Pictures()


@pytest.fixture
def tapped(empty_store, tiny_images, write_image, encoder):
    """A data set of six pictures and a copy of one, with vectors and a tap."""
    for number, path in enumerate(sorted(tiny_images.rglob("*.png"))):
        write_image(path, number)
    shutil.copy(tiny_images / "dark" / "0.png", tiny_images / "light" / "twin.png")
    empty_store.embed([tiny_images], dataset="d", encoders=[encoder, "baseline:pixels"])
    return empty_store.dataset("d")


def tap_of(dataset):
    (tap,) = dataset.store.dataset(dataset.name).taps()
    return tap


def check(tap, folder):
    """The tap holds what its encoder gives for the files there are, and is sound."""
    acts = tap.activations()
    rows = np.arange(len(acts))
    expected = np.stack([picture(folder / one) for one in acts.ids])
    for variant in (0, 1):
        np.testing.assert_array_equal(acts.batch(rows, variant), expected[:, variant])
    assert tap.items().column("item_id").to_pylist() == acts.ids.tolist()
    assert tap.n_rows == len(acts)
    assert verify(tap.dataset.folder, canary=False) == []
    return acts


def test_pictures_come_back_as_the_encoder_gave_them(tapped, tiny_images, encoder):
    tap = tap_of(tapped)
    acts = check(tap, tiny_images)
    assert (len(acts), acts.shape, acts.variants) == (7, (3, 4, 4), ("plain", "flip"))
    assert encoder.n_encoded == 6 + 2, "six contents and two probes"
    some = tap.activations(["light/2.png", "dark/1.png"])
    assert some.ids.tolist() == ["light/2.png", "dark/1.png"]
    np.testing.assert_array_equal(some.batch(np.array([1])), acts.batch(np.array([1])))
    with pytest.raises(UnknownItem, match=r"no activations of 1 of 2 items \(first: nobody\)"):
        tap.activations(["dark/1.png", "nobody"])
    with pytest.raises(UnknownView, match="holds vectors, no activations"):
        tapped.view("baseline:pixels").activations()


def test_texts_come_back_each_of_its_length(empty_store, tmp_path, monkeypatch):
    take_encoders_as_they_are(monkeypatch)
    embed_texts(empty_store, tmp_path / "t.csv")
    dataset = empty_store.dataset("t")
    acts = tap_of(dataset).activations()
    texts = {one["item_id"]: one["text"] for one in dataset.items().to_pylist()}
    expected = [words(texts[one]) for one in acts.ids]
    flat, lengths = acts.ragged(np.arange(len(acts))[::-1])
    np.testing.assert_array_equal(flat, np.concatenate(expected[::-1]))
    assert lengths.tolist() == [len(one) for one in expected[::-1]]
    assert verify(dataset.folder, canary=False) == []
