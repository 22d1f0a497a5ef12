"""Taps: what lies at a cut, and an upper part that makes the encoder's own vectors of it."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from featurestore.encoders.canary import canary_vectors, check_canary
from featurestore.encoders.loading import known_encoder, load_encoder, load_encoders
from featurestore.encoders.upper_part import upper_of
from featurestore.errors import BadName, EncoderDrift
from featurestore.terms.specs import EncoderSpec, Modality, parse_specs
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


def test_half_precision_is_near_the_whole_one(noise):
    whole, half = load(f"{MOBILENET},tap=5", f"{MOBILENET},tap=5,variants=flip,precision=bf16")
    prepared = [whole.prepare_image(one) for one in noise]
    exact, rounded = whole.encode_images(prepared)[:, 0], half.encode_images(prepared)[:, 0]
    assert rounded.dtype == np.float16
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())
    assert np.abs(rounded - exact).max() > 0
    assert whole.resolved.fingerprint != half.resolved.fingerprint


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


@pytest.mark.parametrize(
    ("spec", "tap"),
    [
        ("random:timm:vit_tiny_patch16_224#size=64", TapShape(8, (17, 192))),
        ("random:timm:resnet10t#size=64", TapShape(2, (128, 8, 8))),
        ("builtin:tiny-image", TapShape(4, (64, 8, 8))),
        ("builtin:tiny-image#decode=fast,tap=2", TapShape(2, (24, 32, 32))),
    ],
)  # fmt: skip
def test_networks_of_other_kinds_are_cut(spec, tap, noise):
    plain = EncoderSpec.parse(spec).untapped
    check_upper(*load(str(plain), str(plain.with_option("tap", tap.cut))), noise)
    (chosen,) = load(spec if "tap" in spec else str(plain.with_option("tap", "auto")))
    assert chosen.tap == tap


def test_a_cut_that_paths_lead_around_is_refused():
    """The vector of builtin:tiny-image holds what lies after its fourth block, too."""
    with pytest.raises(BadName, match="paths lead around the cut; tap=4 can be had"):
        load("builtin:tiny-image#tap=5")


def test_the_image_tower_of_open_clip_is_cut(tiny_clip, noise, tmp_path):
    config = json.loads((tiny_clip / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 6
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(**config["model_cfg"])
    torch.save(network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    plain, tapping = load(
        f"open_clip:local-dir:{tmp_path}", f"open_clip:local-dir:{tmp_path}#tap=2"
    )
    check_upper(plain, tapping, noise)
    assert tapping.resolved.modalities == {Modality.IMAGE}  # its texts have no such tap


@pytest.mark.parametrize("family", ["hf", "st"])
def test_texts_are_held_without_padding(minilm, family):
    """Each as long as it is; four blocks of the real MiniLM lie below the cut."""
    spec = minilm.replace("st:", f"{family}:")
    plain, tapping = load(spec, f"{spec}#tap=auto")
    assert tapping.tap == TapShape(4, (0, 384))
    assert tapping.tap.nbytes == 768  # a token
    assert tapping.resolved.dim == 0
    texts = ["A cat sat.", "a", "The very longest of these three texts. " * 40]
    held = tapping.encode_texts(texts)
    assert [one.shape for one in held] == [(n, 384) for n in plain.tokenize(texts).lengths]
    lengths = torch.tensor([len(one) for one in held])
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in held], True)
    upper = upper_of(tapping)
    with torch.no_grad():
        vectors = upper(padded, lengths).numpy()
        alone = upper(padded[:1, : lengths[0]], lengths[:1]).numpy()
    own = plain.encode_texts(texts)
    scale = np.abs(own).max()
    np.testing.assert_allclose(vectors, own, atol=2e-3 * scale)
    np.testing.assert_allclose(vectors[:1], alone, atol=1e-5 * scale)
    with pytest.raises(BadName, match="only pictures have variants"):
        load(f"{spec}#tap=4,variants=flip")
    with pytest.raises(BadName, match=r"has 6 blocks.*expected 1 to 5"):
        load(f"{spec}#tap=6")


def small(name):
    import transformers as t

    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4}
    words = sizes | {"vocab_size": 30522, "intermediate_size": 64}
    special = {"pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101}
    return {
        "qwen3": lambda: t.Qwen3Model(
            t.Qwen3Config(**words, head_dim=8, num_key_value_heads=2, max_position_embeddings=64)
        ),
        "modernbert": lambda: t.ModernBertModel(
            t.ModernBertConfig(**words, **special, eos_token_id=102)
        ),
        "albert": lambda: t.AlbertModel(t.AlbertConfig(**words, embedding_size=16)),
        "vit": lambda: t.ViTModel(t.ViTConfig(**sizes, intermediate_size=64, image_size=64)),
    }[name]()


@pytest.mark.parametrize("name", ["qwen3", "modernbert", "vit"])
def test_transformers_of_other_kinds_are_cut(name, minilm, noise, tmp_path):
    from transformers import AutoTokenizer, ViTImageProcessor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        small(name).save_pretrained(tmp_path)
    plain = f"hf:local-dir:{tmp_path}"
    if name == "vit":
        ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
        check_upper(*load(plain, f"{plain}#tap=4"), noise)
        return
    AutoTokenizer.from_pretrained(minilm.partition("local-dir:")[2]).save_pretrained(tmp_path)
    encoder, tapping = load(plain, f"{plain}#tap=auto")
    assert tapping.tap == TapShape(4, (0, 32))
    texts = ["A cat sat.", "a", "A text of many more words than both of the others."]
    held, own = tapping.encode_texts(texts), encoder.encode_texts(texts)
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in held], True)
    with torch.no_grad():
        vectors = upper_of(tapping)(padded, torch.tensor([len(one) for one in held])).numpy()
    np.testing.assert_allclose(vectors, own, atol=2e-3 * np.abs(own).max())


def test_blocks_that_share_their_weights_are_none(minilm, tmp_path):
    from transformers import AutoTokenizer

    small("albert").save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm.partition("local-dir:")[2]).save_pretrained(tmp_path)
    with pytest.raises(BadName, match="no blocks to cut between, or they share more"):
        load(f"hf:local-dir:{tmp_path}#tap=auto")
