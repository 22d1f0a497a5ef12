"""The format is what docs/format.md says, and yesterday's stores load."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import heads
from featurestore.sources.listing import SourceOptions
from featurestore.storage.shards import read_shard
from featurestore.store.store import open_store
from featurestore.upkeep.verify import verify
from tests.tapping import Pictures, embed_texts, take_encoders_as_they_are

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "format.md").read_text(), re.DOTALL | re.M
)
KEPT = ROOT / "tests" / "data" / "store-1"
HASHING = "baseline:hashing#size=16"


@pytest.fixture
def view(empty_store, tmp_path):
    """A view with superseded rows, an added column and several files."""
    path = tmp_path / "t.csv"
    options = SourceOptions(text="text", id="id", label=("label",))
    for header, rows in (
        ("id,text,label", ["a,first text,x", "b,second text,y"]),
        ("id,text,label,note", ["a,first text,x,", "b,changed text,y,new", "c,third text,x,new"]),
    ):
        path.write_text("\n".join([header, *rows]))
        empty_store.embed([path], dataset="d", encoders=[HASHING], source_options=options)
    table = empty_store.view("d", HASHING).table
    table.append(read_shard(table.shards()[0].path))  # two writers did the same work
    return empty_store.view("d", HASHING)


def rows_of(frame):
    """Rows by id, whatever the program; null is None."""
    if hasattr(frame, "to_pylist"):
        rows = frame.to_pylist()
    elif hasattr(frame, "to_dicts"):
        rows = frame.to_dicts()
    elif hasattr(frame, "collect"):
        rows = [row.asDict() for row in frame.collect()]
    else:
        frame = frame.astype(object)
        rows = frame.where(frame.notna(), None).to_dict("records")
    return sorted(rows, key=lambda row: row["item_id"])


READERS = ("pyarrow", "duckdb", "distances", "polars", "pandas", "pyspark", "taps")


@pytest.mark.parametrize("reader", [one for one in READERS if one not in ("distances", "taps")])
def test_the_lines_of_the_page_read_a_store_without_us(reader, view):
    pytest.importorskip(reader)
    names = {"DATASET": str(view.dataset.path)}
    blocks = dict(zip(READERS, BLOCKS, strict=True))
    exec(compile(blocks[reader], "docs/format.md", "exec"), names)
    found, expected = rows_of(names["valid"]), view.load()
    assert [row["item_id"] for row in found] == expected.ids.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(np.stack([row["vector"] for row in found]), expected.vectors)
    if reader != "pyarrow":
        assert [row["note"] for row in found] == expected.column("note").tolist()
    if reader == "duckdb":
        exec(compile(blocks["distances"], "docs/format.md", "exec"), names)
        units = expected.vectors / np.linalg.norm(expected.vectors, axis=1, keepdims=True)
        by_id = dict(names["near"])
        np.testing.assert_allclose([by_id[one] for one in "abc"], 1 - units @ units[0], atol=1e-6)


@pytest.mark.parametrize("what", ["pictures", "texts"])
def test_the_lines_of_the_page_read_a_tap(what, empty_store, tiny_images, tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    take_encoders_as_they_are(monkeypatch)
    if what == "texts":
        embed_texts(empty_store, tmp_path / "t.csv")
    else:
        empty_store.embed([tiny_images], dataset="t", encoders=[Pictures(), "baseline:pixels"])
    (tap,) = empty_store.dataset("t").taps()
    tap.table.append(read_shard(tap.table.shards()[0].path))  # two writers did the same work
    names = {"DATASET": str(tap.dataset.path)}
    exec(compile(BLOCKS[READERS.index("taps")], "docs/format.md", "exec"), names)
    assert len(names["valid"]) == tap.n_rows
    acts = tap.activations(names["valid"]["item_id"].tolist())
    for row, found in enumerate(names["activations"]):
        at = np.array([row])
        own = [acts.ragged(at)[0]] if what == "texts" else [acts.batch(at, v)[0] for v in (0, 1)]
        np.testing.assert_array_equal(found, own[0] if what == "texts" else np.stack(own))


def test_a_store_of_format_1_loads(tmp_path):
    """It was written by `write_kept_store` in November 2026 and is never written again."""
    shutil.copytree(KEPT / "store", tmp_path / "store")
    expected = json.loads((KEPT / "expected.json").read_text())
    store = open_store(tmp_path / "store")
    assert store.datasets() == ["texts"]
    dataset = store.dataset("texts")
    assert verify(dataset.folder) == []
    found = store.view("texts", HASHING).load()
    assert found.ids.tolist() == expected["ids"]
    assert found.labels.tolist() == expected["labels"]
    np.testing.assert_allclose(found.vectors, expected["vectors"], atol=1e-6)
    head = heads.load_head(dataset, expected["head_id"])
    assert head.predict(found).tolist() == expected["predicted"]
    (comparison,) = heads.runs(dataset)
    assert [row["head"] for row in comparison.rows()] == expected["compared"]
    earlier = store.view("texts", HASHING).as_of(expected["first_snapshot"])
    assert earlier.n_rows == 6


def write_kept_store(folder):
    """Write tests/data/store-1 (python -c "…; write_kept_store(Path('tests/data/store-1'))")."""
    path = folder / "texts.csv"
    folder.mkdir(parents=True)
    store = open_store(folder / "store", create=True)
    options = SourceOptions(text="text", id="id", label=("label",))
    snapshots = []
    for n in (6, 12):
        rows = [
            f"t{i:02d},{('red apple', 'blue sea')[i % 2]} {'word ' * i},{'fs'[i % 2]}"
            for i in range(n)
        ]
        path.write_text("\n".join(["id,text,label", *rows]))
        store.embed([path], dataset="texts", encoders=[HASHING], source_options=options)
        snapshots.append(str(store.view("texts", HASHING).snapshot))
    view = store.view("texts", HASHING)
    head = heads.fit(view, "prototype")
    compared = heads.compare(view, ["prototype"])
    found = view.load()
    expected = {
        "ids": found.ids.tolist(), "labels": found.labels.tolist(),
        "vectors": found.vectors.tolist(), "head_id": head.head_id,
        "predicted": head.predict(found).tolist(), "first_snapshot": snapshots[0],
        "compared": [row["head"] for row in compared.rows()],
    }  # fmt: skip
    (folder / "expected.json").write_text(json.dumps(expected))
    shutil.rmtree(folder / "store" / "datasets" / "texts" / "locks")
