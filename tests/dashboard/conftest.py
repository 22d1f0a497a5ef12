"""A small real store, made once: pictures with splits and a broken file, texts, a comparison."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import heads
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store

SHADES = {"black": 40, "grey": 120, "white": 200}


@pytest.fixture(scope="session", autouse=True)
def one_look_at_the_packages() -> Iterator[None]:
    """Streamlit reads what all installed packages say of themselves, for each app anew."""
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        once = cache(manifest_scanner.scan_component_manifests)
        patch.setattr(manifest_scanner, "scan_component_manifests", once)
        yield


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Data sets ``pictures`` (31 items, one broken) and ``texts`` (4 items, one label missing)."""
    folder = tmp_path_factory.mktemp("dashboard")
    noise = np.random.default_rng(0)
    for label, shade in SHADES.items():
        for number in range(10):
            path = (
                folder / "pictures" / ("test" if number < 3 else "train") / label / f"{number}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(shade + noise.normal(0, 40, (32, 32, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "pictures" / "train" / "white" / "broken.png").write_bytes(b"no picture")
    texts = folder / "texts.csv"
    texts.write_text(
        "name,words,kind\na,red apple,fruit\nb,green apple,fruit\nc,red car,car\nd,sky,\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_CACHE", str(folder / "cache"))
        store = open_store(folder / "store", create=True)
        store.embed([folder / "pictures"], dataset="pictures", encoders=["baseline:pixels"])
        store.embed(
            [texts],
            dataset="texts",
            encoders=["baseline:hashing"],
            source_options=SourceOptions(text="words", label=("kind",), id="name"),
        )
        heads.compare(store.view("pictures", "baseline:pixels"), ["prototype"])
    return store


@pytest.fixture
def store_variable(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the app at the small store."""
    monkeypatch.setenv("FEATURESTORE_STORE", str(small_store.path))


@pytest.fixture
def picture_id() -> str:
    """An item that has neighbors."""
    return str(Path("test", "black", "0.png"))


@pytest.fixture(scope="module")
def full_store(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The pictures with a wrong label and a twin, a head, a comparison and a quality report.

    A module's own: its tests may write into it.
    """
    folder = tmp_path_factory.mktemp("full")
    store = open_store(folder / "store", create=True)
    root = Path(small_store.dataset("pictures").description.sources["pictures"].root)
    shutil.copytree(root, folder / "pictures")
    shutil.copy(folder / "pictures/train/white/5.png", folder / "pictures/train/black/wrong.png")
    with Image.open(folder / "pictures/train/grey/4.png") as one:
        one.save(folder / "pictures/test/grey/twin.png", compress_level=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_CACHE", str(folder / "cache"))
        store.embed([folder / "pictures"], dataset="pictures", encoders=["baseline:pixels"])
        view = store.view("pictures", "baseline:pixels")
        heads.fit(view, "prototype")
        heads.compare(view, ["prototype", "ridge"])
        heads.find_issues(view)
    return store
