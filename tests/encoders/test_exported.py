"""Exported networks: other libraries load them, and get the vectors of the retrained network."""

import numpy as np
import pytest
import torch
from PIL import Image

from featurestore.encoders import exported
from featurestore.encoders.exported import Classifier, export_network
from featurestore.encoders.loading import load_encoder
from featurestore.encoders.upper_part import upper_of
from featurestore.errors import BadName, EncoderMismatch
from featurestore.terms.specs import EncoderSpec


def retrained(spec):
    """An encoder with a tap, what was learned above it, and an upper part that learned it."""
    encoder = load_encoder(EncoderSpec.parse(spec))
    upper, learned, rng = upper_of(encoder), {}, np.random.default_rng(0)
    with torch.no_grad():
        for name, one in upper.named_parameters():
            if one.requires_grad:
                one *= torch.from_numpy(1 + 0.1 * rng.standard_normal(one.shape)).float()
                learned[name.removeprefix("network.")] = one.numpy()
    return encoder, learned, upper


@pytest.mark.parametrize("spec", ["mobilenet", "random:timm:vit_tiny_patch16_224#size=64"])
def test_timm_loads_a_retrained_network(spec, mobilenet, tmp_path):
    import timm

    spec = EncoderSpec.parse(mobilenet if spec == "mobilenet" else spec)
    encoder, learned, upper = retrained(str(spec.with_option("tap", -2)))
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((3, upper.dim)).astype(np.float32)
    classes = Classifier(["a", "b", "c"], weight, np.arange(3, dtype=np.float32))
    there, off, has_classifier = export_network(encoder, learned, tmp_path / "net", classes)
    assert off < 1e-5
    assert has_classifier
    family, size = there.family, there.option("size", "")
    assert (family, there.local_dir, size) == ("timm", tmp_path / "net", spec.option("size", ""))
    assert {one.name for one in (tmp_path / "net").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    noise = Image.fromarray(rng.integers(0, 256, (90, 90, 3), np.uint8))
    network = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    bare = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, num_classes=0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    with torch.no_grad():
        pixels = transform(noise)[None]
        vectors, scores = bare.eval()(pixels).numpy(), network(pixels).numpy()
        held = encoder.network.tap.stop(lambda: encoder.network.module(pixels))
        expected = upper(held).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(vectors, expected, atol=1e-4 * scale)
    np.testing.assert_allclose(scores, expected @ weight.T + np.arange(3), rtol=1e-3, atol=1e-3)
    assert network.pretrained_cfg["label_names"] == ["a", "b", "c"]
    prepared = [encoder.prepare_image(noise)]
    ours = load_encoder(there).encode_images(prepared)
    np.testing.assert_allclose(ours, expected, atol=2e-2 * scale)  # pixels of 8 bits, other resize
    assert np.abs(load_encoder(spec).encode_images(prepared) - expected).max() > 0.05 * scale


@pytest.mark.parametrize("case", ["pool", "other scores"])
def test_no_classifier_where_it_would_give_other_scores(case, monkeypatch, tmp_path):
    """With ``#pool=`` timm's classifier comes after its own pooling."""
    import timm

    spec = "random:timm:test_vit#pool=mean,tap=-1"
    if case == "other scores":
        spec = "random:timm:test_vit#tap=-1"
        usual = timm.create_model

        def create(name, **how):
            made = usual(name, **how)
            return made if how.get("num_classes") == 0 else _Off(made)

        monkeypatch.setattr(timm, "create_model", create)
    encoder, learned, upper = retrained(spec)
    classes = Classifier(["a", "b"], np.ones((2, upper.dim), np.float32), np.ones(2, np.float32))
    *_, has_classifier = export_network(encoder, learned, tmp_path / "net", classes)
    assert not has_classifier
    monkeypatch.undo()
    network = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    assert network.num_classes == 0


class _Off(torch.nn.Module):
    """Another network than was written."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        return self.network(pixels) * 1.5


@pytest.mark.parametrize("family", ["st", "hf"])
def test_texts_are_read_by_a_retrained_network(family, minilm, tmp_path):
    from sentence_transformers import SentenceTransformer

    spec = minilm.replace("st:", f"{family}:")
    encoder, learned, upper = retrained(f"{spec}#tap=4")
    there, off, _ = export_network(encoder, learned, tmp_path / "net")
    assert off < 1e-5
    texts = ["A cat sat.", "A longer text about something else."]
    held = encoder.encode_texts(texts)
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in held], True)
    with torch.no_grad():
        expected = upper(padded, torch.tensor([len(one) for one in held])).numpy()
    scale = np.abs(expected).max()
    found = load_encoder(there).encode_texts(texts)
    np.testing.assert_allclose(found, expected, atol=2e-3 * scale)  # float16 at the cut
    if family == "st":
        vectors = SentenceTransformer(str(tmp_path / "net"), device="cpu").encode(texts)
        np.testing.assert_allclose(vectors, found, atol=1e-4 * scale)


def test_what_no_library_loads_or_does_not_fit_is_refused(tmp_path):
    encoder, learned, _ = retrained("builtin:tiny-image#tap=4")
    with pytest.raises(BadName, match="no network of another library: those of hf, st, timm"):
        export_network(encoder, learned, tmp_path / "net")
    encoder, learned, _ = retrained("random:timm:mobilenetv2_050#size=64,tap=5")
    with pytest.raises(EncoderMismatch, match=r"has no blocks.9.weight of shape \(2,\)"):
        export_network(encoder, {"blocks.9.weight": np.zeros(2)}, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_pictures_are_prepared_as_before_whatever_the_crop(tmp_path):
    """A network that takes whole pictures (crop_pct 1) still does at another size."""
    import timm

    encoder = load_encoder(EncoderSpec.parse("random:timm:mobilenetv2_050#size=64"))
    network = encoder.network.module.to(memory_format=torch.contiguous_format)
    network.pretrained_cfg = {**network.pretrained_cfg, "crop_pct": 1.0, "crop_mode": "squash"}
    exported._write_timm(network, EncoderSpec.parse("timm:mobilenetv2_050#size=64"), tmp_path, None)
    there = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0)
    found = timm.data.resolve_model_data_config(there)
    assert (found["crop_pct"], found["input_size"]) == (1.0, (3, 64, 64))
