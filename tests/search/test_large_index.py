"""Indexes of many items: opened without looking at keys, caught up by embed, of single bits."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa

from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.search.approximate import ApproximateIndex
from featurestore.search.exact import ExactIndex
from featurestore.sources.listing import SourceOptions
from featurestore.store import store as stores
from featurestore.store import view_index
from featurestore.upkeep import erase
from tests.search.conftest import Clustered, write_table


def test_an_index_of_this_state_is_opened_without_its_keys(view, monkeypatch) -> None:
    built = view.build_index(factory="IVF16,SQ8")
    erase.delete(view.dataset.folder, pa.array(view.load().ids[5:9]))
    caught_up = view.index()  # positions are rows no more
    assert isinstance(built, ApproximateIndex)
    assert caught_up.position_rows.min() == -1
    queries = view.load().vectors[:50]
    before = view.search(queries, k=7)

    def never(*_: object) -> None:
        raise AssertionError("keys were made")

    monkeypatch.setattr(view_index, "item_keys", never)
    again = view.search(queries, k=7)
    assert isinstance(view.index(), ApproximateIndex)
    assert (again.ids == before.ids).all()
    np.testing.assert_array_equal(again.scores, before.scores)


def test_rows_that_are_not_the_views_are_not_used(view, caplog) -> None:
    view.build_index(factory="IVF16,SQ8")
    path = view._kept_index.path / "rows.npy"
    np.save(path, np.arange(2000) + 7)
    assert isinstance(view.index(), ExactIndex)
    assert "cannot be read" in caplog.text


def test_a_stale_index_of_many_is_said_and_caught_up_by_embed(
    empty_store, tmp_path, monkeypatch, caplog
) -> None:
    for module in (view_index, stores):
        monkeypatch.setattr(module, "SOON_ROWS", 100)
    options = SourceOptions(text="text", id="id")
    said: list[str] = []

    def embed(n: int):
        table = write_table(tmp_path / "t.csv", range(n))
        empty_store.embed(
            [table], dataset="d", encoders=[Clustered()], source_options=options, say=said.append
        )
        return empty_store.view("d")

    view = embed(1500)
    view.build_index(factory="IVF8,SQ8")
    monkeypatch.setattr(stores, "_caught_up", lambda _: None)
    view = embed(1600)
    queries = view.load().vectors[:20]
    with caplog.at_level(logging.WARNING):
        found = view.search(queries, k=5)
    assert "of an earlier state (1,500 vectors, now 1,600): this search is exact" in caplog.text
    assert view.index_facts["n"] == 1500
    assert (found.ids == view.search(queries, k=5, exact=True).ids).all()
    monkeypatch.undo()
    for module in (view_index, stores):
        monkeypatch.setattr(module, "SOON_ROWS", 100)
    view = embed(1700)
    assert view.index_facts["n"] == 1700
    assert said[-1].endswith("the index is up to date: 1,700 vectors")
    caplog.clear()
    assert isinstance(view._scope().index, ApproximateIndex)
    assert caplog.text == ""


def test_single_bits_scored_again_find_what_is_near(empty_store) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, 64)).astype(np.float32)
    vectors = centres[rng.integers(50, size=6000)] + 0.5 * rng.standard_normal((6000, 64))
    ids = pa.array([f"i{n:05}" for n in range(6000)])
    view = import_vectors(
        empty_store, Incoming(ids, vectors.astype(np.float32), pa.table({"n": np.arange(6000)})),
        dataset="d", name="x", origin="here",
    )  # fmt: skip
    for metric in ("cosine", "ip", "l2"):
        index = view.build_index(memory_bytes=6000 * 30, metric=metric)
        assert index.facts["factory"].endswith("RaBitQ")
        assert index.facts["recall"] >= 0.95
        opened = view.index(metric=metric)
        assert isinstance(opened, ApproximateIndex)
        exact = view.index(metric=metric, exact=True)
        queries = vectors[:100].astype(np.float32) + np.float32(0.1)
        among = rng.random(6000) < 0.3
        for rows in (None, among):
            near = opened.search(queries, k=10, among=rows)
            true = exact.search(queries, k=10, among=rows)
            shared = [len(set(a) & set(b)) for a, b in zip(near.rows, true.rows, strict=True)]
            assert np.mean(shared) > 9
