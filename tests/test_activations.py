"""Activations at a cut: in memory, taken by rows without a copy."""

import pickle

import numpy as np
import pytest

from featurestore.errors import ShapeMismatch
from featurestore.terms.activations import Activations
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder
from featurestore.terms.taps import TapShape

MAPS = np.random.default_rng(0).normal(size=(7, 2, 3, 4, 5)).astype(np.float16)
TEXTS = [np.full((n, 6), n, np.float16) for n in (3, 1, 0, 5)]


def test_pictures_come_batch_by_batch_and_variant_by_variant():
    acts = Activations.of(MAPS, ("plain", "flip"), ids=[f"i{n}" for n in range(7)])
    rows = np.array([5, 0, 5])
    assert (len(acts), acts.shape, acts.is_ragged) == (7, (3, 4, 5), False)
    assert acts.nbytes == MAPS.nbytes
    np.testing.assert_array_equal(acts.batch(rows), MAPS[rows, 0])
    np.testing.assert_array_equal(acts.batch(rows, 1), MAPS[rows, 1])
    assert acts.batch(rows).dtype == np.float16
    part = acts[np.array([6, 2, 3])][1:]
    np.testing.assert_array_equal(part.batch(np.arange(2), 1), MAPS[[2, 3], 1])
    assert part.ids.tolist() == ["i2", "i3"]
    assert part.blocks == acts.blocks  # nothing was copied
    np.testing.assert_array_equal(
        acts[np.arange(7) % 3 == 0].batch(np.arange(3)), MAPS[[0, 3, 6], 0]
    )
    again = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(again.batch(np.arange(2)), part.batch(np.arange(2)))
    assert acts.batch(np.array([], np.intp)).shape == (0, 3, 4, 5)
    with pytest.raises(IndexError):
        acts.batch(rows, 2)


def test_texts_come_one_below_another():
    acts = Activations.of(TEXTS)
    assert (acts.shape, acts.is_ragged, acts.lengths.tolist()) == ((0, 6), True, [3, 1, 0, 5])
    flat, lengths = acts[1:].ragged(np.array([2, 0]))
    assert lengths.tolist() == [5, 1]
    np.testing.assert_array_equal(flat, np.concatenate([TEXTS[3], TEXTS[1]]))


def test_what_does_not_fit_is_said():
    with pytest.raises(ShapeMismatch, match="expected \\(items, 1"):
        Activations.of(MAPS)
    with pytest.raises(ShapeMismatch, match="widths"):
        Activations.of([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(ShapeMismatch, match="ragged"):
        Activations.of(TEXTS).batch(np.array([0]))
    with pytest.raises(ShapeMismatch, match="batch"):
        Activations.of(MAPS, ("plain", "flip")).ragged(np.array([0]))
    with pytest.raises(ShapeMismatch, match="2 ids"):
        Activations.of(TEXTS, ids=["a", "b"])
    whole = Activations.of(MAPS, ("plain", "flip"))
    with pytest.raises(ShapeMismatch, match="240 bytes of an item do not fit"):
        Activations(whole.blocks, whole.places, (3, 4, 6), ("plain", "flip"))


def test_a_resolved_encoder_knows_its_tap():
    tap = TapShape(5, (3, 4, 5), ("plain", "flip"))
    assert (tap.nbytes, tap.dim, tap.is_ragged) == (240, 60, False)
    texts = TapShape(2, (0, 6))
    assert (texts.nbytes, texts.dim, texts.is_ragged) == (12, 0, True)
    spec = EncoderSpec.parse("timm:resnet18")
    for one in (tap, texts):
        chosen = {"tap": one.chosen}
        assert ResolvedEncoder(spec, 60, frozenset({Modality.IMAGE}), chosen).tap == one
    assert ResolvedEncoder(spec, 60, frozenset({Modality.IMAGE}), {}).tap is None
