"""What the hub's cache holds is listed, and used with no network."""

import json
import os
import subprocess
import sys

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache as the hub's library leaves it, with one tiny model."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    home = tmp_path_factory.mktemp("hf_home")
    repository = home / "hub" / "models--someone--tiny-vit"
    snapshot = repository / "snapshots" / SHA
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=16,
    )  # fmt: skip
    ViTModel(config).save_pretrained(snapshot)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(snapshot)
    (snapshot / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# A model\n")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(SHA)
    return home


@pytest.fixture
def fs(hub, tmp_path):
    environment = {
        **os.environ, "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1",
        "FEATURESTORE_STORE": str(tmp_path / "store"),
    }  # fmt: skip

    def command(*arguments, module=True):
        return subprocess.run(
            [sys.executable, *["-m", "featurestore.cli"][: 2 * module], *map(str, arguments)],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip

    return command


def test_a_cached_model_is_listed_with_its_licence_and_embeds_offline(fs, tiny_images):
    listed = json.loads(fs("encoders", "--json").stdout)["encoders"]
    (cached,) = [one for one in listed if one["where"].startswith("cached")]
    assert (cached["spec"], cached["reads"], cached["dim"], cached["licence"]) == (
        "hf:someone/tiny-vit", "images", 16, "mit",
    )  # fmt: skip
    done = fs("embed", tiny_images, "--dataset", "d", "-e", "hf:someone/tiny-vit", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["n_encoded"] == 6


def test_what_is_not_cached_says_how_to_get_it_and_makes_nothing(fs, tiny_images, tmp_path):
    specs = ("hf:someone/else", "timm:resnet18.a1_in1k", "st:nobody/nothing")
    tried = [["embed", str(tiny_images), "--dataset", "d", "-e", spec] for spec in specs]
    # One process for all: most of its time goes to importing transformers.
    program = "import json, sys; from featurestore.cli import run\n"
    program += "sys.exit([run(one) for one in json.loads(sys.argv[1])] != [1, 1, 1])"
    done = fs("-c", program, json.dumps(tried), module=False)
    assert done.returncode == 0, done.stderr
    for spec in specs:
        family = spec.partition(":")[0]
        assert f"cannot load {spec}" in done.stderr
        assert f"or use {family}:local-dir:/path" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()
