"""Taps: what lies at a cut, and an upper part that makes the encoder's own vectors of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from featurestore.encoders.canary import canary_vectors, check_canary
from featurestore.encoders.loading import known_encoder, load_encoder, load_encoders
from featurestore.encoders.upper_part import upper_of
from featurestore.errors import BadName, EncoderDrift
from featurestore.terms.specs import EncoderSpec, parse_specs
from featurestore.terms.taps import TapShape

MOBILENET = "random:timm:mobilenetv2_050#size=64"


def load(*texts):
    return load_encoders(parse_specs(texts))


def exact(encoder, prepared):
    """What lies at the cut in float32, which a tap stores in float16."""
    network = encoder.network
    pixels = network.preprocessing.normalize(torch.from_numpy(np.stack(prepared)))
    with torch.no_grad():
        return network.tap.stop(
            lambda: network.forward_images(network.module, pixels, encoder.depths)
        )


@pytest.fixture(scope="module")
def noise():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 80, 100, 3), np.uint8)
    return [Image.fromarray(one) for one in pixels]


def check_upper(plain, tapping, pictures):
    """``upper(tap(x))`` is the encoder's own vector: exactly, and to float16's rounding."""
    prepared = [tapping.prepare_image(one) for one in pictures]
    own, held = plain.encode_images(prepared), tapping.encode_images(prepared)
    upper = upper_of(tapping)
    shape = tapping.tap.shape
    assert held.shape == (len(pictures), len(tapping.tap.variants), *shape)
    assert held.dtype == np.float16
    assert tapping.resolved.dim == np.prod(shape)
    assert upper.dim == own.shape[1] == plain.resolved.dim
    with torch.no_grad():
        scale = np.abs(own).max()
        np.testing.assert_allclose(
            upper(exact(tapping, prepared)).numpy(), own, rtol=1e-5, atol=1e-5 * scale
        )
        stored = upper(torch.from_numpy(held[:, 0])).numpy()
    cosine = (stored * own).sum(1) / np.linalg.norm(stored, axis=1) / np.linalg.norm(own, axis=1)
    assert cosine.min() > 0.9999
    return held, upper


def test_the_upper_part_of_the_real_mobilenet_gives_its_own_vectors(mobilenet, noise):
    plain, tapping = load(mobilenet, f"{mobilenet}#tap=auto,variants=flip")
    assert str(tapping.resolved.spec) == f"{mobilenet}#tap=5,variants=flip"
    assert tapping.tap == TapShape(5, (96, 14, 14), ("plain", "flip"))
    assert tapping.tap.nbytes == 2 * 37_632  # a variant: the bar is 40 KB
    held, upper = check_upper(plain, tapping, noise)
    with torch.no_grad():
        flipped = upper(torch.from_numpy(held[:, 1])).numpy()
    mirrored = [tapping.prepare_image(one.transpose(0)) for one in noise]
    np.testing.assert_allclose(flipped, plain.encode_images(mirrored), rtol=0.1, atol=0.05)
    assert sum(one.numel() for one in upper.parameters()) < 2_100_000  # of 2.2 million
    lower = {one.data_ptr() for one in tapping.network.module.parameters()}
    assert not lower & {one.data_ptr() for one in upper.parameters()}  # a copy


@pytest.mark.parametrize("cut", [1, -2])
def test_the_upper_part_of_random_weights(noise, cut):
    plain, tapping = load(MOBILENET, EncoderSpec.parse(MOBILENET).with_option("tap", cut).__str__())
    assert tapping.tap.cut == cut % 7
    check_upper(plain, tapping, noise)


def test_training_moves_the_copy_alone_and_no_statistics(noise):
    (tapping,) = load(f"{MOBILENET},tap=5")
    prepared = [tapping.prepare_image(one) for one in noise]
    before = tapping.encode_images(prepared)
    upper = upper_of(tapping).train()
    buffers = {name: one.clone() for name, one in upper.named_buffers()}
    batch = torch.from_numpy(before[:, 0])
    first = upper(batch)
    trained = [one for one in upper.parameters() if one.requires_grad]
    torch.optim.SGD(trained, 0.1).zero_grad()
    first.square().mean().backward()
    with torch.no_grad():
        for one in trained:
            one -= 0.1 * one.grad
    assert not torch.allclose(upper(batch), first, atol=1e-6)
    assert torch.equal(upper_of(tapping)(batch), first)
    np.testing.assert_array_equal(tapping.encode_images(prepared), before)
    for name, one in upper.named_buffers():
        torch.testing.assert_close(one, buffers[name], msg=name)
    assert all(one.grad is not None for one in trained)


def test_variants_are_the_pictures_moved_and_mirrored(noise):
    tapping, flip = load(
        f"{MOBILENET},tap=3,variants=shift+flip", f"{MOBILENET},tap=3,variants=flip"
    )
    assert tapping.tap.variants == ("plain", "flip", "shift")
    prepared = [tapping.prepare_image(one) for one in noise]
    held = tapping.encode_images(prepared)
    np.testing.assert_array_equal(held[:, :2], flip.encode_images(prepared))
    mirrored = np.stack(prepared)[:, :, ::-1]
    np.testing.assert_array_equal(held[:, 1], flip.encode_images(mirrored.copy())[:, 0])
    moved = np.pad(np.stack(prepared), ((0, 0), (3, 0), (3, 0), (0, 0)), "reflect")[:, :64, :64]
    np.testing.assert_array_equal(held[:, 2], flip.encode_images(moved)[:, 0])


def test_a_tap_by_any_name_of_its_cut_is_one_view():
    named = [f"{MOBILENET},tap={one}" for one in ("auto", "5", "-2")]
    encoders = load(*named)
    assert {str(one.resolved.spec) for one in encoders} == {
        "random:timm:mobilenetv2_050#tap=5,size=64"
    }
    assert len({one.resolved.fingerprint for one in encoders}) == 1
    remembered = known_encoder(EncoderSpec.parse(named[0]))
    assert remembered == encoders[0].resolved
    assert remembered.tap == encoders[0].tap
    others = load(f"{MOBILENET},tap=4", f"{MOBILENET},tap=5,variants=flip", MOBILENET)
    assert len({one.resolved.fingerprint for one in (*others, *encoders)}) == 4
    assert remembered.spec.untapped == EncoderSpec.parse(MOBILENET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "tap=7",
            "has 7 blocks, and one at least lies above the cut: expected 1 to 6, or -1 to -6",
        ),
        ("tap=0", "expected 1 to 6"),
        ("tap=top", "expected a number of blocks such as 5, such as -2 counted from the end, or"),
        ("tap=5,layer=3", "leave layer out"),
        ("variants=flip", "add tap=auto"),
        ("tap=5,variants=turn", r"expected flip, shift or flip\+shift"),
    ],
)
def test_a_cut_that_cannot_be(options, message):
    with pytest.raises(BadName, match=message):
        load(f"{MOBILENET},{options}")


@pytest.mark.parametrize("spec", ["baseline:pixels", "builtin:tiny-text", "import:elsewhere"])
def test_an_encoder_without_blocks_says_which_have(spec):
    with pytest.raises(BadName, match=r"no blocks .* hf, open_clip, .*tiny-image"):
        load_encoder(EncoderSpec.parse(f"{spec}#tap=auto"))


def test_an_upper_part_needs_a_tap():
    (plain,) = load(MOBILENET)
    with pytest.raises(BadName, match=r"has no tap: expected a spec such as .*#tap=5,size=64"):
        upper_of(plain)


def test_the_canary_of_a_tap_is_short(noise):
    (tapping,) = load(f"{MOBILENET},tap=5,variants=flip")
    canary = canary_vectors(tapping)
    assert np.shape(canary["image"]) == (2, 2 * 48)  # two probes; two variants of 48 channels
    check_canary(tapping, canary)
    (other,) = load(f"{MOBILENET},tap=5,variants=flip,seed=1")
    with pytest.raises(EncoderDrift, match="other vectors"):
        check_canary(other, canary)
