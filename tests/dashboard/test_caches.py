"""Cached reads follow the store: never what was there before, never what was erased."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import heads
from dashboard import caches
from featurestore.errors import StoreCorrupt
from featurestore.store.store import Store, open_store
from featurestore.upkeep.erase import erase, select_ids


@pytest.fixture
def own_store(small_store: Store, tmp_path: Path) -> Store:
    """A copy of the small store that a test may write into."""
    return open_store(shutil.copytree(small_store.path, tmp_path / "store"))


def test_a_value_is_read_again_when_its_stamp_or_an_argument_changes(own_store: Store) -> None:
    version, reads = [0], []

    @caches.follows(lambda store: (str(store.path), version[0]), max_entries=2)
    def first(store: Store, word: str) -> str:
        reads.append(word)
        return f"{word} {version[0]}"

    @caches.follows(lambda store: (str(store.path), version[0]), max_entries=2)
    def second(store: Store, word: str) -> str:
        return f"second {word}"

    assert [first(own_store, "a"), first(own_store, "a"), first(own_store, "b")] == [
        "a 0", "a 0", "b 0",
    ]  # fmt: skip
    version[0] = 1
    assert first(own_store, "a") == "a 1"
    assert reads == ["a", "b", "a"]
    assert second(own_store, "a") == "second a"  # functions share no entries
    first(own_store, "c"), first(own_store, "d"), first(own_store, "a")
    assert reads == ["a", "b", "a", "c", "d", "a"]  # two entries are kept


def test_an_error_of_the_stamp_comes_as_it_is(own_store: Store) -> None:
    def damaged(_: Store) -> object:
        raise StoreCorrupt("damaged")

    @caches.follows(damaged, max_entries=2)
    def read(store: Store) -> None: ...

    with pytest.raises(StoreCorrupt, match="damaged"):
        read(own_store)


def test_an_erased_item_is_served_by_no_cache(own_store: Store, picture_id: str) -> None:
    dataset = own_store.dataset("pictures")
    view = own_store.view("pictures", "baseline:pixels")
    head = heads.fit(view, "prototype").head_id
    run = heads.compare(view, ["prototype"])

    def served() -> list[bool]:
        """Whether the item is in what each cache gives; a missing file holds nothing."""
        tables = [
            caches.items(dataset),
            caches.item_columns(dataset, ("split",)),
            caches.view_items(view),
            caches.predictions(dataset, head) if (folder / "predictions.parquet").exists() else {},
        ]
        ids = [table["item_id"].to_pylist() if table else [] for table in tables]
        ids += [caches.known_ids(dataset), caches.index(view).ids]
        ids += [one.item_ids for one in caches.comparisons(dataset)]
        return [picture_id in some for some in ids]

    folder = dataset.path / "heads" / head
    assert all(served())
    assert run.card["created"] in {one.card["created"] for one in caches.comparisons(dataset)}
    erase(dataset.folder, select_ids(dataset.folder, [picture_id], None))
    assert not any(served())
