"""A bundle in an object store: pushed with its page, used where it is, fetched."""

from __future__ import annotations

import pytest

import heads
from featurestore.cli import run
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from tests.heads.serving_world import TEXTS, write_world


def test_a_bundle_goes_through_an_object_store(s3, tmp_path, capsys):
    table, _ = write_world(tmp_path)
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(text="words", label=("topic",), id="id")
    store.embed([table], dataset="texts", encoders=["baseline:hashing"], source_options=options)
    head = heads.fit(store.dataset("texts").views()[0], "ridge", save=False)
    head.save(tmp_path / "bundle")
    place = f"{s3}/topics"
    assert run(["store", "push", str(tmp_path / "bundle"), place, "--licence", "mit"]) == 0
    assert f"featurestore predict {place} NEW" in capsys.readouterr().out
    names = {one.name for one in (s3 / "topics").iterdir()}
    assert names == {"README.md", "card.json", "encoder.json", "head.skops", "unlike.safetensors"}
    page = (s3 / "topics" / "README.md").read_text()
    assert f'heads.load_bundle("{place}")' in page
    said = head.predict(TEXTS).tolist()
    assert heads.load_bundle(place).predict(TEXTS).tolist() == said
    (s3 / "topics" / "model.pkl").write_bytes(b"cos\nsystem\n")
    assert run(["store", "pull", place, "-o", str(tmp_path / "in")]) == 0
    assert "model.pkl" not in {one.name for one in (tmp_path / "in").iterdir()}
    assert heads.load_bundle(tmp_path / "in").predict(TEXTS).tolist() == said
    with pytest.raises(FileExistsError, match="something else than a bundle"):
        heads.load_bundle(tmp_path / "in").save(s3 / "topics")
