"""Networks of one channel see gray, as their library gives it; others are refused in one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from featurestore.encoders.base import LoadOptions
from featurestore.encoders.loading import load_encoders
from featurestore.errors import UnknownEncoder
from featurestore.terms.specs import parse_specs

ARCHITECTURE = "test_efficientnet.r160_in1k"
TOWER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 64, "patch_size": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def photos():
    return [Image.fromarray(one) for one in load_sample_images().images]


def timm_folder(folder, n_channels, **pretrained):
    """Write a folder as timm's `save_for_hf` does; return the network, too."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(ARCHITECTURE, num_classes=0, in_chans=n_channels).eval()
    folder.mkdir()
    facts = {"input_size": [n_channels, 64, 64], "interpolation": "bilinear", "crop_pct": 0.9,
             "num_classes": 0} | pretrained  # fmt: skip
    config = {
        "architecture": ARCHITECTURE.split(".")[0], "num_features": network.num_features,
        "num_classes": 0, "pretrained_cfg": facts, "model_args": {"in_chans": n_channels},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")
    return network


def load(spec):
    return load_encoders(parse_specs([spec]), LoadOptions(device="cpu"))[0]


@pytest.mark.parametrize("mean", [[0.4], [0.5, 0.4, 0.3]])
def test_timm_networks_of_one_channel_see_gray(mean, tmp_path, photos):
    import timm

    network = timm_folder(tmp_path / "m", 1, mean=mean, std=[0.25] * len(mean))
    config = timm.data.resolve_data_config(
        pretrained_cfg={"input_size": (1, 64, 64), "interpolation": "bilinear", "crop_pct": 0.9,
                        "mean": (0.4,), "std": (0.25,)}
    )  # fmt: skip
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        expected = network(torch.stack([transform(one.convert("L")) for one in photos])).numpy()
    encoder = load(f"timm:local-dir:{tmp_path / 'm'}")
    prepared = [encoder.prepare_image(one) for one in photos]
    assert {(one.dtype.name, one.shape[2]) for one in prepared} == {("uint8", 1)}
    np.testing.assert_allclose(encoder.encode_images(prepared), expected, rtol=1e-3, atol=1e-4)


def test_hf_networks_of_one_channel_see_gray(tmp_path, photos):
    import transformers as t

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = t.ViTModel(t.ViTConfig(**TOWER, num_channels=1)).eval()
    processor = t.ViTImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.4], image_std=[0.2]
    )
    network.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    inputs = processor(images=[one.convert("L") for one in photos], return_tensors="pt")
    with torch.inference_mode():
        expected = network(**inputs).last_hidden_state[:, 0].numpy()
    encoder = load(f"hf:local-dir:{tmp_path / 'm'}")
    found = encoder.encode_images([encoder.prepare_image(one) for one in photos])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-2)


def test_other_channels_are_refused_in_one_line(tmp_path):
    import transformers as t

    timm_folder(tmp_path / "timm", 4, mean=[0.5] * 4, std=[0.25] * 4)
    t.ViTModel(t.ViTConfig(**TOWER, num_channels=4)).save_pretrained(tmp_path / "hf")
    t.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "hf")
    for family in ("timm", "hf"):
        with pytest.raises(UnknownEncoder, match=r"takes pictures of 4 channels.*expected a netw"):
            load(f"{family}:local-dir:{tmp_path / family}")


def test_a_processor_that_does_not_fit_its_network_is_refused_in_one_line(tmp_path):
    import transformers as t

    t.ViTModel(t.ViTConfig(**TOWER, num_channels=1)).save_pretrained(tmp_path / "m")
    t.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "m")
    with pytest.raises(UnknownEncoder, match=r"does not fit a gray picture|does not take"):
        load(f"hf:local-dir:{tmp_path / 'm'}")
