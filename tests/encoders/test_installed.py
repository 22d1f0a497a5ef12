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


# One process for all lines: most of its time goes to importing transformers.
LINES = """
import contextlib, io, json, sys
from featurestore.cli import run

said = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = run(words)
    said.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(said))
"""


def test_what_is_cached_is_used_offline_and_what_is_not_says_how_to_get_it(
    hub, tiny_images, tmp_path
):
    specs = ("hf:someone/else", "timm:resnet18.a1_in1k", "st:nobody/nothing")
    lines = [["embed", str(tiny_images), "--dataset", "d", "-e", spec] for spec in specs]
    lines += [["ls", "--json"], ["encoders", "--json"]]
    lines += [[*lines[0][:-1], "hf:someone/tiny-vit", "--json"]]
    done = subprocess.run(
        [sys.executable, "-c", LINES, json.dumps(lines)], capture_output=True, text=True,
        env={
            **os.environ, "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1",
            "FEATURESTORE_STORE": str(tmp_path / "store"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *absent, (_, found, _), (_, listed, _), (code, embedded, said) = json.loads(done.stdout)
    for spec, (refused, _, why) in zip(specs, absent, strict=True):
        assert refused == 1
        assert f"cannot load {spec}" in why
        assert f"or use {spec.partition(':')[0]}:local-dir:/path" in why
        assert "Traceback" not in why
    assert found == ""  # they made nothing: there is no store
    cached = [one for one in json.loads(listed)["encoders"] if one["where"].startswith("cached")]
    assert [(one["spec"], one["reads"], one["dim"], one["licence"]) for one in cached] == [
        ("hf:someone/tiny-vit", "images", 16, "mit")
    ]
    assert code == 0, said
    assert json.loads(embedded)[0]["n_encoded"] == 6
