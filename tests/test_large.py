"""What is large is read in parts and searched where it lies, and says the same as what is small."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import BadQuery, StoreCorrupt
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.search import exact
from featurestore.storage import cache, key_hashes, scan, taking
from featurestore.storage.columns import drop_equal
from featurestore.storage.shards import view_rows as rows_of_view
from featurestore.store import cache_in_parts, view_rows
from featurestore.store.view import View
from featurestore.upkeep import erase

N, DIM = 500, 6


@pytest.fixture
def view(empty_store) -> View:
    """Several shards, items without a vector, rows that are superseded, doubled or of no item."""
    rng = np.random.default_rng(0)
    ids = rng.permutation([f"item-{i:04d}" for i in range(N)])
    vectors = rng.standard_normal((N, DIM)).astype(np.float32)
    for at in range(0, N, 100):
        some = slice(at, at + 100)
        columns = pa.table({
            "text": [f"text {one}" for one in ids[some]],
            "label": [None if i % 7 == 0 else "ab"[i % 2] for i in range(100)],
            **({"late": list(range(100))} if at else {}),
        })  # fmt: skip
        import_vectors(
            empty_store, Incoming(pa.array(ids[some]), vectors[some], columns), dataset="d",
            name="x", origin="here", labels=["label"] if at == 0 else (),
        )  # fmt: skip
    found = empty_store.view("d")
    rows = found.table.read(["item_id", "content_hash"])
    more = [rows.slice(3, 2), pa.table({"item_id": ["none"], "content_hash": ["x"]}), rows[7:8]]
    for number, some in enumerate(more):
        hashes = some["content_hash"].combine_chunks() if number < 2 else pa.array(["stale"])
        found.table.append(
            rows_of_view(some["item_id"].combine_chunks(), hashes,
                         rng.standard_normal((len(some), DIM)).astype(np.float32))
        )  # fmt: skip
    found.dataset.folder.items.append(
        pa.table({"item_id": ["zz", "a"], "content_hash": ["h", "h"], "text": ["", None]})
    )
    erase.delete(found.dataset.folder, pa.array(ids[20:23]))
    return found


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch):
    def make(*, copied: bool = False) -> None:
        monkeypatch.setattr(view_rows, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(view_rows, "MANY", 0)
        monkeypatch.setattr(cache_in_parts, "_ROWS", 64)
        monkeypatch.setattr(key_hashes, "_JOINED_AT_ONCE", 50)
        monkeypatch.setattr(scan, "_LITTLE_BYTES", -1)
        monkeypatch.setattr(taking, "_OPEN", 2)
        monkeypatch.setattr(exact, "COPIED_BYTES", 1 << 30 if copied else 0)
        monkeypatch.setattr(exact, "BLOCK", 64)
        monkeypatch.setattr(exact, "EXACT_FLOATS", 0)

    return make


def everything(view: View) -> list[object]:
    """Return all that readers give, as plain values."""
    found = view.load()
    said: list[object] = [
        found.ids.tolist(), found.vectors.tobytes(), view.n_rows, view.items().to_pylist(),
        view.load(split="train").ids.tolist(), view.load(where="late > 50").vectors.tobytes(),
        view.load(columns=["late", "absent"]).column("late").tolist(),
        view.to_arrow(columns=[]).to_pylist(),
    ]  # fmt: skip
    for sql in (
        "select label, count(*) n, min(late) from d group by 1 order by 1",
        "select item_id, late from d where late > 30 order by item_id",
        'select count(*), sum(vector[1]) from d join "d@import:x" v using (item_id)',
        "select text from d where item_id = 'item-0007'",
    ):
        said.append(view.dataset.store.sql(sql).to_pylist())
    return said


def test_all_readers_say_the_same(view: View, as_large) -> None:
    small = everything(view)
    as_large()
    assert not view._rows(view.snapshot).cache_path.exists()
    assert everything(view) == small
    rows = view._rows(view.snapshot)
    assert isinstance(rows.read().vectors.base, np.memmap) or isinstance(
        rows.read().vectors, np.memmap
    )
    assert everything(view) == small  # from the cache
    assert sorted(path.name for path in rows.cache_path.iterdir()) == [
        "items.arrow", "seen.json", "sums.json", "vectors.npy",
    ]  # fmt: skip


@pytest.mark.parametrize("n", [7, 64, 1000])
def test_batches_hold_each_valid_row_once(view: View, as_large, n: int) -> None:
    whole = view.load()
    as_large()
    kept = view.dataset.save_slice("some", whole.ids[::3].tolist())
    for of_view, ids in ((view, whole.ids), (view.within(kept), whole.ids[::3])):
        parts = list(of_view.batches(n, columns=["text", "late"]))
        assert max(map(len, parts)) <= n
        got = np.concatenate([part.ids for part in parts])
        assert sorted(got) == ids.tolist()
        at = np.searchsorted(whole.ids, got)
        np.testing.assert_array_equal(np.concatenate([p.vectors for p in parts]), whole.vectors[at])
        for name in ("text", "late", "content_hash", "split"):
            column = np.concatenate([part.column(name) for part in parts])
            assert column.tolist() == whole.column(name)[at].tolist()


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_searches_find_the_same(view: View, as_large, metric: str) -> None:
    queries = np.random.default_rng(1).standard_normal((300, DIM)).astype(np.float32)
    asked = [
        lambda: view.search(queries, k=12, metric=metric),
        lambda: view.search(queries, k=5, metric=metric, where="label = 'a'"),
        lambda: view.search(queries[:2], k=10_000, metric=metric, where="late < 9"),
        lambda: view.search(queries[:1], k=4, metric=metric, dedupe=0.9),
        lambda: view.neighbors("item-0100", k=9, metric=metric),
        lambda: view.like(items=["item-0100"], unlike=["item-0101"], k=9, metric=metric),
        *(lambda one=one: view.within_score(queries[:9], -2.0, metric=metric)[one]
          for one in range(9)),
    ]  # fmt: skip
    small = [one() for one in asked]
    for copied in (False, True):
        as_large(copied=copied)
        for one, before in zip(asked, small, strict=True):
            now = one()
            np.testing.assert_allclose(now.scores, before.scores, atol=1e-5)
            assert (now.ids != before.ids).sum() <= 0.001 * now.ids.size  # scores may be equal
            assert now.column("text").tolist() == [
                [f"text {item}" for item in row] for row in now.ids
            ]
    with pytest.raises(Exception, match="no vector of 'gone'"):
        view.neighbors("gone")


def test_a_scanned_table_has_no_way_out(view: View, as_large) -> None:
    as_large()
    shard = view.dataset.folder.items.shards()[0].path
    store = view.dataset.store
    for statement in (f"select * from read_parquet('{shard}'), d", f"select * from '{shard}', d"):
        with pytest.raises(BadQuery):
            store.sql(statement)
    content = shard.read_bytes()
    for damage in (content[:100], None):
        shard.write_bytes(damage) if damage else shard.unlink()
        with pytest.raises(StoreCorrupt, match="restore it from a backup"):
            store.sql("select count(text) from d")
        shard.write_bytes(content)
    assert store.sql("select count(*) n from d").to_pylist() == [{"n": N - 3 + 2}]


def test_without_room_for_the_cache_it_is_read_into_memory(
    view: View, as_large, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = view.load()
    as_large()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_in_parts.os, "posix_fallocate", full)
    monkeypatch.setattr(cache, "WORTH_BYTES", 1 << 40)
    found = view.load()
    assert (found.ids == whole.ids).all()
    assert found.vectors.tobytes() == whole.vectors.tobytes()
    folder = view._rows(view.snapshot).cache_path.parent
    assert not folder.exists() or not list(folder.iterdir())


def test_equal_texts_of_a_long_column_are_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    column = pa.chunked_array([["a", "b", None] * 500, ["c", "a", ""] * 500])
    plain = view_rows.objects(column)
    monkeypatch.setattr(view_rows, "MANY", 1000)
    found = view_rows.objects(column)
    assert found.tolist() == plain.tolist()
    assert found[0] is found[3]


def test_a_view_all_of_whose_items_are_gone_is_empty(view: View, as_large) -> None:
    """As a deletion leaves it that was killed between items and vectors."""
    folder = view.dataset.folder
    folder.items.merge(None, drop=drop_equal(folder.items.read(["item_id"]), ["item_id"]),
                       keys=["item_id"])  # fmt: skip
    as_large()
    empty = view.dataset.store.view("d")
    assert empty.table.shards()
    assert len(empty.load()) == empty.n_rows == len(list(empty.batches())) == 0
