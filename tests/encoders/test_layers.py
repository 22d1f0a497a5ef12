"""Layers: what the network's own library gives at that depth, several from one pass."""

import numpy as np
import pytest
import torch
from PIL import Image

from featurestore.encoders.loading import load_encoders
from featurestore.errors import BadName
from featurestore.terms.specs import Modality, parse_specs

VIT = "random:timm:vit_tiny_patch16_224"


def load(*texts):
    return load_encoders(parse_specs(texts))


def together(encoders, prepared):
    stage, launch, fetch = encoders[0].runner(encoders, Modality.IMAGE)
    return fetch(launch(stage(prepared)))


@pytest.fixture(scope="module")
def noise():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 240, 300, 3), np.uint8)
    return [Image.fromarray(one) for one in pixels]


def test_layers_of_a_transformer_are_its_blocks(noise):
    options = ("", "#layer=1", "#layer=6", "#layer=-1", "#layer=6,pool=mean", "#pool=mean")
    encoders = load(*(f"{VIT}{one}" for one in options))
    own, first, sixth, last, mean, pooled = encoders
    assert len({id(one.network) for one in encoders}) == 1
    prepared = [own.prepare_image(one) for one in noise]
    found = together(encoders, prepared)
    seen = []
    module = own.network.module
    hooks = [block.register_forward_hook(lambda *a: seen.append(a[2])) for block in module.blocks]
    with torch.inference_mode():
        pixels = own.network.preprocessing.normalize(torch.from_numpy(np.stack(prepared)))
        whole = module(pixels)
    for hook in hooks:
        hook.remove()
    expected = [
        whole, seen[0][:, 0], seen[5][:, 0], seen[-1][:, 0], seen[5][:, 1:].mean(1),
        module.norm(seen[-1])[:, 1:].mean(1),
    ]  # fmt: skip
    for one, vectors, tensor in zip(encoders, found, expected, strict=True):
        np.testing.assert_allclose(vectors, tensor.detach().numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.encode_images(prepared), vectors, rtol=1e-4, atol=1e-5)
        assert one.resolved.dim == vectors.shape[1]
    assert len({one.resolved.fingerprint for one in encoders}) == 6
    assert last.resolved.chosen["layer"] == 12  # -1 and 12 have one fingerprint
    assert {first.resolved.chosen["layer"], sixth.resolved.chosen["layer"]} == {1, 6}
    assert "layer" not in pooled.resolved.chosen
    assert mean.resolved.chosen["pool"] == "mean"


def test_layers_of_a_convolutional_network_are_its_stages(mobilenet, noise):
    import timm

    encoders = load(mobilenet, f"{mobilenet}#layer=2", f"{mobilenet}#layer=5")
    prepared = [encoders[0].prepare_image(one) for one in noise]
    found = together(encoders, prepared)
    name = mobilenet.removeprefix("timm:")
    reference = timm.create_model(name, pretrained=True, features_only=True).eval()
    whole = timm.create_model(name, pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        pixels = encoders[0].network.preprocessing.normalize(torch.from_numpy(np.stack(prepared)))
        maps = reference(pixels)
        expected = [whole(pixels), maps[1].mean((2, 3)), maps[4].mean((2, 3))]
    for vectors, tensor in zip(found, expected, strict=True):
        np.testing.assert_allclose(vectors, tensor.numpy(), rtol=1e-3, atol=1e-3)


def test_several_layers_stand_side_by_side_in_one_vector(noise):
    """By class token and by mean, the network's own output last; from one pass."""
    encoders = load(f"{VIT}#layer=1+-1", *(f"{VIT}#layer={n},pool={p}" for n in (1, 12)
                                          for p in ("cls", "mean")), VIT)  # fmt: skip
    several, *alone = encoders
    own = alone[-1]
    passes = []
    hook = own.network.module.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    prepared = [several.prepare_image(one) for one in noise]
    vectors = several.encode_images(prepared)
    assert len(passes) == 1
    found = together(encoders, prepared)  # a plain view made beside it costs no second one
    hook.remove()
    assert len(passes) == 2
    np.testing.assert_allclose(vectors, np.hstack(found[1:]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], vectors, rtol=1e-4, atol=1e-5)
    assert several.resolved.dim == 5 * 192
    assert several.resolved.chosen["layers"] == [
        {"layer": 1, "pool": "cls", "dim": 192}, {"layer": 1, "pool": "mean", "dim": 192},
        {"layer": 12, "pool": "cls", "dim": 192}, {"layer": 12, "pool": "mean", "dim": 192},
        {"dim": 192},
    ]  # fmt: skip
    same, other = load(f"{VIT}#layer=1+12", f"{VIT}#layer=12+1")
    assert same.resolved.fingerprint == several.resolved.fingerprint
    assert other.resolved.fingerprint != several.resolved.fingerprint


def test_all_layers_of_a_network_without_class_tokens(mobilenet, noise):
    (several,) = load(f"{mobilenet}#layer=all")
    layers = several.resolved.chosen["layers"]
    assert [one.get("layer") for one in layers] == [1, 2, 3, 4, 5, None]
    assert [one["dim"] for one in layers] == [16, 24, 32, 96, 320, 1280]
    assert not any("pool" in one for one in layers)
    (means,) = load(f"{VIT}#layer=all,pool=mean")
    assert [one["dim"] for one in means.resolved.chosen["layers"]] == [192] * 13


def test_an_output_that_the_last_layer_gives_is_not_kept_twice(noise):
    plain, several = load("random:timm:resnet10t", "random:timm:resnet10t#layer=4+-1")
    layers = several.resolved.chosen["layers"]
    assert [one.get("layer") for one in layers] == [4, None]  # timm pools the fifth as we do
    prepared = [plain.prepare_image(one) for one in noise]
    np.testing.assert_allclose(
        several.encode_images(prepared)[:, -plain.resolved.dim :], plain.encode_images(prepared),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_layers_of_the_image_tower_of_open_clip(tiny_clip, noise):
    spec = f"open_clip:local-dir:{tiny_clip}"
    own, layer, mean = load(spec, f"{spec}#layer=-1", f"{spec}#layer=1,pool=mean")
    assert own.resolved.modalities == {Modality.IMAGE, Modality.TEXT}
    assert layer.resolved.modalities == {Modality.IMAGE}  # a layer shares no space with texts
    prepared = [own.prepare_image(one) for one in noise]
    found = together([own, layer, mean], prepared)
    module = own.network.module
    with torch.inference_mode():
        pixels = own.network.preprocessing.normalize(torch.from_numpy(np.stack(prepared)))
        tokens = module.visual.forward_intermediates(
            pixels, output_fmt="NLC", output_extra_tokens=True
        )
        expected = [
            module.encode_image(pixels),
            tokens["image_intermediates_prefix"][0][:, 0],
            tokens["image_intermediates"][0].mean(1),
        ]
    for vectors, tensor in zip(found, expected, strict=True):
        np.testing.assert_allclose(vectors, tensor.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("layer=13", r"layer=13 .*: expected 1 to 12, or -1 to -12"),
        ("layer=0", r"layer=0 .*expected 1 to 12"),
        ("layer=last", "expected a whole number such as 6 or -1"),
        ("layer=3+13", r"layer=13 .*: expected 1 to 12"),
        ("layer=3+", "expected a whole number such as 6 or -1"),
        ("layer=3+6,pool=max", "expected one of cls, mean"),
        ("pool=max", "expected one of cls, mean"),
        ("decode=quick", "expected full or fast"),
    ],
)
def test_a_depth_that_is_not_there_says_what_is(options, message):
    with pytest.raises(BadName, match=message):
        load(f"{VIT}#{options}")


def test_a_network_without_a_class_token_has_none_to_pool(mobilenet):
    with pytest.raises(BadName, match="no class token; use pool=mean"):
        load(f"{mobilenet}#layer=2,pool=cls")


def test_fast_decoding_is_another_view_of_nearly_the_same_vectors(mobilenet, tmp_path):
    from featurestore.encoders.images import decode_image

    pixels = np.random.default_rng(0).random((30, 40, 3))
    photo = Image.fromarray((pixels * 255).astype(np.uint8)).resize((1600, 1200), 3)
    photo.save(tmp_path / "p.jpg", quality=95)
    content = (tmp_path / "p.jpg").read_bytes()
    full, fast = load(mobilenet)[0], load(f"{mobilenet}#decode=fast")[0]
    assert (full.decode_px, fast.decode_px) == (None, 224)
    assert full.resolved.fingerprint != fast.resolved.fingerprint
    assert decode_image(content).size == (1600, 1200)
    assert decode_image(content, at_least_px=fast.decode_px).size == (400, 300)
    vectors = [
        one.encode_images([one.prepare_image(decode_image(content, at_least_px=one.decode_px))])[0]
        for one in (full, fast)
    ]
    cosine = float(vectors[0] @ vectors[1] / np.prod([np.linalg.norm(v) for v in vectors]))
    assert 0.9 < cosine < 0.99999


def test_precision_is_another_view(mobilenet, noise):
    full, half = load(mobilenet)[0], load(f"{mobilenet}#precision=bf16")[0]
    prepared = [full.prepare_image(one) for one in noise]
    a, b = full.encode_images(prepared), half.encode_images(prepared)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert 0.98 < cosine.min() < 1 - 1e-6
    assert full.resolved.fingerprint != half.resolved.fingerprint
