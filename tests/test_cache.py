"""A snapshot is read from Parquet once, then mapped; what is mapped is what was read."""

import os
import pickle
import shutil
from threading import Thread
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import StoreCorrupt
from featurestore.sources.listing import SourceOptions
from featurestore.storage import cache
from featurestore.store import view_rows
from featurestore.upkeep import erase

PIXELS = "baseline:pixels#size=2"


class Now(Thread):
    def start(self):
        self.run()


@pytest.fixture(autouse=True)
def all_are_worth_it(monkeypatch):
    """Cache however small, and wait for the thread that writes."""
    monkeypatch.setattr(cache, "WORTH_BYTES", 0)
    monkeypatch.setattr(cache, "Thread", Now)


@pytest.fixture
def view(empty_store, tmp_path, write_image):
    table = tmp_path / "t.csv"
    rows = []
    for i in range(9):
        write_image(tmp_path / f"{i}.png", (i, 2 * i, 255 - i))
        split = ("train", "test", "")[i % 3]
        rows.append(f"{i}.png,{'ab'[i % 2]},{split}")
    table.write_text("\n".join(["path,label,split", *rows]))
    options = SourceOptions(image="path", label=("label",), split="split")
    empty_store.embed([table], dataset="d", encoders=[PIXELS], source_options=options)
    return empty_store.view("d", PIXELS)


def folders(view):
    return sorted(path.name for path in (view.dataset.path / "cache" / view.slug).glob("*"))


def equal(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    assert set(one.columns) == set(other.columns)
    for name in one.columns:
        assert one.column(name).tolist() == other.column(name).tolist()
    return True


def test_rows_are_counted_in_the_cache_where_there_is_one(view, monkeypatch):
    monkeypatch.setattr(view_rows, "count_valid", counted := Mock(wraps=view_rows.count_valid))
    assert view.n_rows == 9
    assert counted.call_count == 1
    view.load()
    counted.reset_mock()
    assert view.n_rows == 9
    assert counted.call_count == 0
    erase.delete(
        view.dataset.folder, pa.array([view.items().column("item_id")[3].as_py()])
    )  # another state: not in the cache
    assert view.n_rows == 8


def test_the_second_load_is_mapped_and_the_same(view):
    first, second = view.load(), view.load()
    (name,) = folders(view)
    assert name.startswith(f"{view.snapshot}-")
    assert equal(first, second)
    assert isinstance(second.vectors.base, np.memmap) or isinstance(second.vectors, np.memmap)
    for one in (first, second):
        with pytest.raises(ValueError, match="read-only"):
            one.vectors[0] = 0
    for options in ({"split": "test"}, {"columns": []}, {"columns": ["label", "absent"]}):
        (view.dataset.path / "cache").rename(view.dataset.path / "aside")
        fresh = view.load(**options)
        assert not (view.dataset.path / "cache").exists()  # some of it is read by itself
        (view.dataset.path / "aside").rename(view.dataset.path / "cache")
        assert equal(fresh, view.load(**options))


def test_a_cache_is_of_one_snapshot_and_few_are_kept(view, write_image):
    old = view.load()
    for value in (100, 101, 102):
        write_image(view.dataset.path.parents[2] / "0.png", (value, value, value))
        view.dataset.store.embed([], dataset="d", encoders=[PIXELS])
        assert view.load().vectors[0, 0] == pytest.approx(value / 255)
    assert len(folders(view)) == cache.N_KEPT
    assert equal(view.load(snapshot=old.snapshot), old)


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: os.truncate(place / "vectors.npy", 40),
        lambda place: (place / "vectors.npy").write_bytes(b"no array"),
        lambda place: (place / "items.arrow").write_bytes(b""),
        lambda place: (place / "items.arrow").unlink(),
    ],
)
def test_a_damaged_cache_is_passed_over(damage, view):
    first = view.load()
    damage(view.dataset.path / "cache" / view.slug / folders(view)[0])
    assert equal(view.load(), first)


def test_a_store_that_cannot_be_written_is_read_all_the_same(view, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", refuse)
    first = view.load()
    assert folders(view) == []
    assert equal(view.load(), first)


def test_batches_are_the_rows_of_a_load(view, write_image):
    write_image(view.dataset.path.parents[2] / "3.png", (77, 77, 77))  # a superseded row
    view.dataset.store.embed([], dataset="d", encoders=[PIXELS])
    whole = view.load()
    parts = list(view.batches(2, columns=["label"]))
    assert max(len(part) for part in parts) == 2
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    assert ids[order].tolist() == whole.ids.tolist()
    np.testing.assert_array_equal(
        np.concatenate([part.vectors for part in parts])[order], whole.vectors
    )
    labels = np.concatenate([part.labels for part in parts])[order]
    assert labels.tolist() == whole.labels.tolist()


def test_a_lost_shard_is_named_where_no_cache_has_its_rows(view):
    view.load()
    next(view.table.path.glob("*.parquet")).unlink()
    assert len(view.load()) == 9  # mapped
    cache.shutil.rmtree(view.dataset.path / "cache")
    with pytest.raises(StoreCorrupt, match=r"cannot read .*\.parquet"):
        view.load()


def test_a_restored_backup_is_not_taken_for_what_came_after_it(view, tmp_path, write_image):
    """Versions repeat; the files that they name do not."""
    dataset, table = view.dataset, view.dataset.path.parents[2] / "t.csv"
    backup, rows = tmp_path / "backup", table.read_text()
    for name in ("items", "views"):
        shutil.copytree(dataset.path / name, backup / name)
    for name in ("new", "other"):
        write_image(table.parent / f"{name}.png", (7, 7, 7))
        table.write_text(f"{rows}\n{name}.png,a,")
        dataset.store.embed([], dataset="d", encoders=[PIXELS])
        assert f"{name}.png" in view.load().ids
        if name == "new":
            for part in ("items", "views"):
                shutil.rmtree(dataset.path / part)
                shutil.copytree(backup / part, dataset.path / part)
    assert "new.png" not in view.load().ids


def test_what_is_erased_while_a_cache_is_written_does_not_come_back(view, monkeypatch):
    write = cache._write

    def later(folder, cached):
        erase.erase(view.dataset.folder, pa.array(["0.png"]))
        write(folder, cached)

    monkeypatch.setattr(cache, "_write", later)
    view.load()
    assert folders(view) == []


def test_a_dropped_data_set_does_not_come_back(view, monkeypatch):
    write = cache._write
    assert view.dataset.label_columns == ["label"]  # known from here on

    def later(folder, cached):
        view.dataset.store.drop("d")
        write(folder, cached)

    monkeypatch.setattr(cache, "_write", later)
    view.load()
    assert not view.dataset.path.exists()


def test_loaded_vectors_travel_to_other_processes(view):
    found = pickle.loads(pickle.dumps(view.load()))
    assert equal(found, view.load())
