"""What several machines do to one store in an object store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.cli import run
from featurestore.curation import reviews as reviews_module
from featurestore.curation import slices as slices_module
from featurestore.curation.reviews import Action, Review, add_reviews, read_reviews
from featurestore.curation.slices import read_slice
from featurestore.errors import BadName
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.sources.listing import SourceOptions
from featurestore.storage import tables as tables_module
from featurestore.storage.remote import RemotePath
from featurestore.storage.shards import write_shard
from featurestore.storage.tables import Table
from featurestore.storage.user_cache import local_side
from featurestore.store.dataset import DataSet
from featurestore.store.store import open_store
from featurestore.upkeep.erase import delete, erase, select_ids
from featurestore.upkeep.verify import verify
from featurestore.upkeep.versions import compact, vacuum
from tests.remote.conftest import PIXELS, at_once, embed


def _embed_part(url, source):
    embed(open_store(url, create=True), source)


def test_four_machines_on_one_view_make_no_wrong_and_no_double_row(s3, tmp_path, write_image):
    for name, n in (("one", 16), ("two", 4), ("three", 4)):
        for number in range(n):
            write_image(tmp_path / name / f"of-{name}" / f"{number}.png", number)
    open_store(s3, create=True)
    sources = [tmp_path / name for name in ("one", "one", "two", "three")]  # two have the same
    at_once(_embed_part, [(str(s3), source) for source in sources])
    store = open_store(s3)
    dataset = store.dataset("d")
    assert set(dataset.description.sources) == {"one", "two", "three"}
    found = store.view("d", PIXELS).load()
    assert len(set(found.ids)) == len(found) == dataset.n_items == 24
    here = open_store(tmp_path / "here", create=True)
    for source in sources[1:]:
        embed(here, source)
    alone = here.view("d", PIXELS).load()
    assert found.ids.tolist() == alone.ids.tolist()
    np.testing.assert_array_equal(found.vectors, alone.vectors)
    for item_id in found.ids[::7]:
        assert dataset.read_bytes(str(item_id))
    assert verify(dataset.folder, canary=False) == []


@pytest.mark.parametrize("after_s", [1.6, 2.8])
def test_kill_9_loses_nothing(s3, tmp_path, write_image, after_s):
    for number in range(40):
        write_image(tmp_path / "src" / "a" / f"{number:02d}.png", number)
    words = [sys.executable, "-m", "featurestore.cli", "embed", str(tmp_path / "src"), "--dataset",
             "d", "-e", PIXELS, "--store", str(s3)]  # fmt: skip
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after_s)
    child.kill()
    child.wait()
    store = open_store(s3, create=True)
    embed(store, tmp_path / "src")
    found = store.view("d", PIXELS).load()
    here = open_store(tmp_path / "here", create=True)
    embed(here, tmp_path / "src")
    whole = here.view("d", PIXELS).load()
    assert found.ids.tolist() == whole.ids.tolist()
    np.testing.assert_array_equal(found.vectors, whole.vectors)
    assert verify(store.dataset("d").folder, canary=False) == []


def test_what_one_machine_erases_no_other_one_keeps(s3, tiny_images, another_machine, monkeypatch):
    first = os.environ["FEATURESTORE_CACHE"]
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    dataset = store.dataset("d")
    dataset.thumbnail("dark/0.png")
    store.view("d", PIXELS).load()
    here = local_side(dataset.path)
    before = {one.name for one in here.rglob("*.*")}
    assert any(name.endswith(".jpg") for name in before)
    assert any(name.endswith(".parquet") for name in before)
    another_machine()
    elsewhere = open_store(s3).dataset("d")
    erase(elsewhere.folder, select_ids(elsewhere.folder, ["dark/0.png"]))
    assert local_side(elsewhere.path) != here
    monkeypatch.setenv("FEATURESTORE_CACHE", first)
    assert local_side(dataset.path) == here
    assert open_store(s3).dataset("d").n_items == 5
    assert not before & {one.name for one in here.rglob("*.jpg")}
    left = [one.name for one in (s3 / "datasets" / "d" / "items").glob("*.parquet")]
    assert not before & {one.name for one in here.rglob("*.parquet")} - set(left)


def test_decisions_of_two_reviewers_all_arrive(s3, tiny_images):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    ids = store.view("d", PIXELS).load().ids.tolist()
    at_once(_review, [(str(s3), ids[:3], "ann"), (str(s3), ids[3:], "bob")])
    found = read_reviews(store.dataset("d").folder)
    assert sorted((one.item_id, one.who) for one in found) == sorted(
        [(one, "ann") for one in ids[:3]] + [(one, "bob") for one in ids[3:]]
    )


def _review(url, ids, who):
    folder = open_store(url).dataset("d").folder
    for one in ids:
        add_reviews(folder, [Review(one, Action.CONFIRM, "label")], who=who)


def test_verify_names_what_is_damaged_in_the_bucket(s3, tiny_images, another_machine):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    view = store.view("d", PIXELS)
    [items] = store.dataset("d").folder.items.shards()
    [vectors] = view.table.shards()
    raw = bytearray(items.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    items.path.write_bytes(bytes(raw))
    vectors.path.unlink()
    another_machine()  # this one has sound copies
    found = {one.where: one.what for one in verify(store.dataset("d").folder, canary=False)}
    assert "SHA-256" in found[str(items.path)]
    assert "no such object" in found[str(vectors.path)]
    with pytest.raises(Exception, match="SHA-256"):
        store.dataset("d").items()


def test_readers_beside_compaction_and_vacuum(s3, tmp_path, write_image, another_machine):
    store = open_store(s3, create=True)
    for number in range(4):
        write_image(tmp_path / "src" / "a" / f"{number}.png", number)
        embed(store, tmp_path / "src")
    view = store.view("d", PIXELS).now()
    before = view.load()
    folder = store.dataset("d").folder
    assert sum(compact(folder).values()) >= 3
    another_machine()  # this one has copies of the small files that were joined
    np.testing.assert_array_equal(view.load().vectors, before.vectors)
    np.testing.assert_array_equal(store.view("d", PIXELS).load().vectors, before.vectors)
    delete(folder, select_ids(folder, ["a/0.png"]))
    gone = vacuum(folder, older_than_s=0.0)
    assert gone.files
    assert gone.n_bytes > 0
    assert len(store.view("d", PIXELS).load()) == 3


@pytest.mark.parametrize("moment", ["copying", "half deleted", "both there"])
def test_a_rename_cut_short_can_go_on(s3, tiny_images, monkeypatch, moment):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    copy, n = RemotePath.copy_to, []

    def stop_copying(self, target):
        n.append(1)
        if len(n) == 4:
            raise KeyboardInterrupt
        copy(self, target)

    def stop_deleting(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "copying":
            patch.setattr(RemotePath, "copy_to", stop_copying)
        elif moment == "half deleted":
            patch.setattr("featurestore.storage.files.delete_all", stop_deleting)
        else:
            patch.setattr(RemotePath, "unlink", stop_deleting)
        with pytest.raises(KeyboardInterrupt):
            store.rename("d", "e")
    there = {"copying": ["d"], "half deleted": ["e"], "both there": ["d", "e"]}[moment]
    assert open_store(s3).datasets() == there
    store.rename("d", "e")
    assert open_store(s3).datasets() == ["e"]
    assert len(store.view("e", PIXELS).load()) == 6
    assert list((s3 / "datasets" / "d").walk()) == []


def test_a_rename_onto_another_data_set_is_refused(s3, tiny_images):
    store = open_store(s3, create=True)
    for name in ("a", "b"):  # of one source: what they say of themselves is equal
        embed(store, tiny_images, dataset=name)
    for new in ("b", "a"):
        with pytest.raises(BadName, match="there is a data set"):
            store.rename("a", new)
    assert store.datasets() == ["a", "b"]
    assert len(store.view("a", PIXELS).load()) == len(store.view("b", PIXELS).load()) == 6


def test_a_mark_that_was_left_moves_nothing_onto_another_data_set(s3, tiny_images):
    store = open_store(s3, create=True)
    for name in ("a", "b"):
        embed(store, tiny_images, dataset=name)
    (s3 / "datasets" / "b" / "moving.json").write_bytes(b'{"from": "a"}')
    with pytest.raises(BadName, match="there is a data set"):
        store.rename("a", "b")
    assert len(store.view("a", PIXELS).load()) == len(store.view("b", PIXELS).load()) == 6


def test_what_a_drop_left_makes_no_new_data_set(s3, tiny_images, monkeypatch):
    store = open_store(s3, create=True)
    embed(store, tiny_images)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("featurestore.storage.files.delete_all", stop)
        with pytest.raises(KeyboardInterrupt):
            store.drop("d")
    assert store.datasets() == []
    (found,) = verify(store.folder("d"))
    assert "a `rename` or `drop` was stopped in the midst" in found.what
    with pytest.raises(BadName, match="`featurestore store drop d` deletes it"):
        embed(store, tiny_images)
    assert run(["drop", "d", "--yes", "--store", str(s3)]) == 0
    assert embed(store, tiny_images).n_encoded == 6


def _just_before(monkeypatch, owner, name, other):
    """Call ``other`` once, before the first call of a method."""
    method, done = getattr(owner, name), []

    def wrapped(*args, **options):
        if not done:
            done.append(True)
            other()
        return method(*args, **options)

    monkeypatch.setattr(owner, name, wrapped)


def _many_shards(s3, folder, write_image):
    store = open_store(s3, create=True)
    for number in range(4):
        write_image(folder / "a" / f"{number}.png", number)
        embed(store, folder)
    return store


def test_two_machines_that_compact_at_once(s3, tmp_path, write_image, monkeypatch):
    store = _many_shards(s3, tmp_path / "src", write_image)
    table = store.view("d", PIXELS).table
    _just_before(monkeypatch, Table, "_commit", table.compact)  # the same bytes, the same name
    table.compact()
    assert len(store.view("d", PIXELS).load()) == 4
    assert verify(store.dataset("d").folder, canary=False) == []


def test_labels_of_two_machines_both_arrive(s3, tiny_images, monkeypatch):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    ids = store.view("d", PIXELS).load().ids.tolist()

    def attach(name):
        values = pa.table({"item_id": ids, name: [f"{name}-{one}" for one in ids]})
        DataSet(store, store.dataset("d").folder).attach(values)

    monkeypatch.setattr(
        "featurestore.storage.dataset_folder.DatasetFolder.locked", lambda *_, **__: nullcontext()
    )
    _just_before(monkeypatch, Table, "_commit", lambda: attach("two"))
    attach("one")
    items = store.dataset("d").items().sort_by("item_id").to_pydict()
    assert items["one"] == [f"one-{one}" for one in ids]
    assert items["two"] == [f"two-{one}" for one in ids]
    assert store.dataset("d").label_columns == ["label", "two", "one"]


def test_two_first_runs_with_a_new_column_make_no_double_item(s3, tiny_images, monkeypatch):
    monkeypatch.setattr(
        "featurestore.storage.dataset_folder.DatasetFolder.locked", lambda *_, **__: nullcontext()
    )
    other = open_store(s3, create=True)
    _just_before(monkeypatch, tables_module, "new_columns", lambda: embed(other, tiny_images))
    embed(open_store(s3, create=True), tiny_images)
    ids = open_store(s3).dataset("d").items(["item_id"]).column("item_id").to_pylist()
    assert len(ids) == len(set(ids)) == 6


def test_a_run_does_not_undo_labels_that_came_meanwhile(s3, tmp_path, monkeypatch):
    table = tmp_path / "t.csv"
    table.write_text("id,text,label\n" + "".join(f"i{n},text {n},old\n" for n in range(5)))
    store = open_store(s3, create=True)
    options = SourceOptions(text="text", id="id", label=("label",))

    def again():
        store.embed([table], dataset="d", encoders=["baseline:hashing"], source_options=options)

    def attach():
        new = pa.table({"item_id": ["i1"], "label": ["NEW"]})
        DataSet(store, store.dataset("d").folder).attach(new)

    again()
    table.write_text(table.read_text().replace("text 3,old", "text three,other"))
    monkeypatch.setattr(
        "featurestore.storage.dataset_folder.DatasetFolder.locked", lambda *_, **__: nullcontext()
    )
    _just_before(monkeypatch, Table, "_commit", attach)
    again()
    items = store.dataset("d").items().sort_by("item_id").to_pydict()
    # Labels that were given are the store's; what the source says of them does not count any more.
    assert items["label"] == ["old", "NEW", "old", "old", "old"]
    assert items["text"][3] == "text three"


def test_a_decision_on_what_is_being_erased_is_not_kept(s3, tiny_images, monkeypatch):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    folder = store.dataset("d").folder
    monkeypatch.setattr(
        "featurestore.storage.dataset_folder.DatasetFolder.locked", lambda *_, **__: nullcontext()
    )

    def erase_it():
        erase(folder, select_ids(folder, ["dark/0.png"]))

    with monkeypatch.context() as patch:
        _just_before(patch, reviews_module, "append", erase_it)
        add_reviews(folder, [Review(one, Action.CONFIRM, "label") for one in
                             ("dark/0.png", "dark/1.png")])  # fmt: skip
    assert [one.item_id for one in read_reviews(folder)] == ["dark/1.png"]

    def erase_another():
        erase(folder, select_ids(folder, ["dark/1.png"]))

    with monkeypatch.context() as patch:
        _just_before(patch, slices_module, "json_bytes", erase_another)
        slices_module.save_slice(folder, "s", ["dark/1.png", "light/0.png"])
    assert read_slice(folder, "s").item_ids == ("light/0.png",)


def test_an_index_of_vectors_that_another_machine_replaced_is_made_anew(
    s3, another_machine, monkeypatch
):
    first = os.environ["FEATURESTORE_CACHE"]
    rng = np.random.default_rng(0)
    ids = pa.array([f"i{n:04d}" for n in range(500)])

    def take_in(vectors):
        incoming = Incoming(ids, vectors.astype(np.float32), pa.table({"text": ids}))
        return import_vectors(
            open_store(s3, create=True), incoming, dataset="d", name="x", origin="here",
            text="text", overwrite=True,
        )  # fmt: skip

    view = take_in(rng.normal(size=(500, 16)))
    view.build_index(factory="IVF16,SQ8")
    another_machine()
    other = rng.normal(size=(500, 16))
    take_in(other)
    monkeypatch.setenv("FEATURESTORE_CACHE", first)
    index = open_store(s3).view("d", "import:x").index()
    assert index.facts["factory"] == "IVF16,SQ8"
    found = index.search(other[:50].astype(np.float32), k=1)
    assert (found.rows[:, 0] == np.arange(50)).mean() > 0.8


def test_of_what_is_erased_this_machine_keeps_nothing(s3, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,text\nsecret-diary,my secret words\nb,plain\nc,more\n")
    store = open_store(s3, create=True)
    options = SourceOptions(text="text", id="id")
    store.embed([table], dataset="d", encoders=["baseline:hashing"], source_options=options)
    store.dataset("d").items()
    store.rename("d", "e")
    folder = store.dataset("e").folder
    folder.items.read()
    cache = Path(os.environ["FEATURESTORE_CACHE"])
    assert any(_holds_secret(path) for path in cache.rglob("*.parquet"))
    erase(folder, select_ids(folder, ["secret-diary"]))
    open_store(s3).dataset("e").items()
    assert not [path for path in cache.rglob("*.parquet") if _holds_secret(path)]


def _holds_secret(path):
    return "secret-diary" in pq.read_table(path).column("item_id").to_pylist()


def test_an_erasure_leaves_what_another_machine_is_about_to_commit(s3, tiny_images, capsys):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    view = store.view("d", PIXELS)
    rows = view.table.read()
    name, n_bytes = write_shard(rows.slice(0, 3), view.table.path)  # uploaded, not named yet
    folder = store.dataset("d").folder
    gone = erase(folder, select_ids(folder, [rows.column("item_id")[0].as_py()]))
    assert gone.n_young == 1
    assert (view.table.path / name).stat().st_size == n_bytes
