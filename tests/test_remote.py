"""Stores at s3://…, against Ceph's gateway on loopback: a real S3 server, kept in memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import heads
from featurestore.cli import run
from featurestore.curation import reviews as reviews_module
from featurestore.curation import slices as slices_module
from featurestore.curation.reviews import Action, Review, add_reviews, read_reviews
from featurestore.curation.slices import read_slice
from featurestore.errors import (
    BadName,
    MissingExtra,
    NotAStore,
    StoreBusy,
    StoreUnreachable,
    UnknownHead,
)
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage import remote
from featurestore.storage import tables as tables_module
from featurestore.storage.files import append, rewrite
from featurestore.storage.remote import ABSENT, RemotePath
from featurestore.storage.shards import write_shard
from featurestore.storage.tables import Table
from featurestore.storage.user_cache import local_side
from featurestore.store.dataset import DataSet
from featurestore.store.store import open_store
from featurestore.upkeep.erase import delete, erase, select_ids
from featurestore.upkeep.verify import verify
from featurestore.upkeep.versions import compact, vacuum
from tools.ceph import running

PIXELS = "baseline:pixels#size=1"
REQUIRED = os.environ.get("FEATURESTORE_REQUIRE_S3") == "1"


@pytest.fixture(scope="session")
def gateway():
    """The environment that opens an S3 server with an empty bucket."""
    pytest.importorskip("obstore")
    with ExitStack() as stack:
        try:
            yield stack.enter_context(running())
        except FileNotFoundError as error:
            pytest.fail(str(error)) if REQUIRED else pytest.skip(str(error))


@pytest.fixture
def s3(gateway, monkeypatch):
    """A folder of its own in the bucket, with the environment set."""
    for name, value in gateway.items():
        monkeypatch.setenv(name, value)
    return RemotePath("bucket", f"tests/{uuid4()}")


@pytest.fixture
def another_machine(monkeypatch, tmp_path_factory):
    """Call it to be on another machine from then on: without locks and caches of this one."""

    def move():
        monkeypatch.setenv("FEATURESTORE_CACHE", str(tmp_path_factory.mktemp("elsewhere")))

    return move


def embed(store, source, dataset="d", encoder=PIXELS, **how):
    (report,) = store.embed(
        [source], dataset=dataset, encoders=[encoder], embed_options=EmbedOptions(**how)
    )
    return report


# -- paths ---------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["a", "b.json", "c.tar.gz", ".hidden", "x y"]), min_size=1))
def test_a_path_is_taken_apart_as_pathlib_does(parts):
    ours, theirs = RemotePath.parse("s3://bucket/" + "/".join(parts)), Path("/".join(parts))
    assert (ours.name, ours.stem, ours.suffix) == (theirs.name, theirs.stem, theirs.suffix)
    assert str(ours / "z") == f"s3://bucket/{theirs / 'z'}"
    assert str(ours.with_name("z")) == f"s3://bucket/{theirs.with_name('z')}"
    assert RemotePath.parse(str(ours)) == ours


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3://b/a//b", "s3://b/../x", "s3://b/./x", "s3://b/a%20b", "s3://b?x"],
)
def test_what_names_no_folder_is_refused(url):
    with pytest.raises(BadName, match="expected s3://BUCKET/FOLDER"):
        open_store(url)


def test_without_obstore_the_line_to_run_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra, match=r"pip install 'featurestore\[s3\]'"):
        open_store("s3://bucket/x")


def test_patterns_find_what_pathlib_finds(s3, tmp_path):
    names = [
        "a/card.json",
        "a/x.json",
        "b/card.json",
        "b/deep/card.json",
        ".h/card.json",
        "card.json",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        (s3 / name).write_bytes(name.encode())
    for pattern in (
        "*",
        "*.json",
        "*/card.json",
        "[!.]*/card.json",
        "a/*",
        "*/*/card.json",
        "no/*",
    ):
        ours = {str(one)[len(str(s3)) + 1 :] for one in s3.glob(pattern)}
        assert ours == {str(one.relative_to(tmp_path)) for one in tmp_path.glob(pattern)}, pattern
    assert {one.name for one in s3.iterdir()} == {one.name for one in tmp_path.iterdir()}
    assert (s3 / "a").exists()
    assert (s3 / "a").is_dir()
    assert not (s3 / "a").is_file()
    assert (s3 / "card.json").exists()
    assert not (s3 / "card").exists()
    assert (s3 / "card.json").stat().st_size == len("card.json")
    assert abs((s3 / "card.json").stat().st_mtime - time.time()) < 60
    assert {one.known.st_size for one in s3.glob("a/*")} == {len("a/card.json"), len("a/x.json")}
    with pytest.raises(FileNotFoundError):
        (s3 / "no").read_bytes()
    with pytest.raises(FileNotFoundError):
        (s3 / "no").unlink()
    (s3 / "no").unlink(missing_ok=True)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_part_is_the_part_of_the_whole(gateway, data):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in gateway.items():
            patch.setenv(name, value)
        whole = np.random.default_rng(0).bytes(200_000)
        path = RemotePath("bucket", "parts")
        if not path.is_file():
            path.write_bytes(whole)
        with path.open_parts() as file:
            for _ in range(4):
                at = data.draw(st.integers(0, len(whole)))
                n = data.draw(st.integers(0, 90_000))
                file.seek(at)
                assert file.read(n) == whole[at : at + n]
                assert file.tell() == min(len(whole), at + n)


def test_only_what_was_read_is_replaced(s3):
    path = s3 / "x"
    path.write_bytes(b"1", over=ABSENT)
    with pytest.raises(StoreBusy):
        path.write_bytes(b"2", over=ABSENT)
    _, e_tag = path.read_version()
    path.write_bytes(b"2", over=e_tag)
    with pytest.raises(StoreBusy):
        path.write_bytes(b"3", over=e_tag)
    assert path.read_bytes() == b"2"


def _append(path, name):
    for number in range(10):
        append(path, f"{name}-{number}\n".encode())


def _at_once(target, calls):
    """Run calls in processes of their own, each with a cache of its own: as on other machines."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_elsewhere, args=(number, target, call))
        for number, call in enumerate(calls)
    ]
    with pytest.MonkeyPatch.context() as patch:  # Streamlit's tests leave a main script of theirs
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        for one in workers:
            one.start()
    for one in workers:
        one.join(120)
    assert [one.exitcode for one in workers] == [0] * len(workers)


def _elsewhere(number, target, call):
    os.environ["FEATURESTORE_CACHE"] += f"-{number}"
    target(*call)


def test_lines_of_several_machines_all_arrive(s3):
    _at_once(_append, [(s3 / "lines", name) for name in "abc"])
    lines = (s3 / "lines").read_text().splitlines()
    assert sorted(lines) == sorted(f"{name}-{n}" for name in "abc" for n in range(10))


def test_who_never_gets_through_says_so(s3):
    def change(now):
        (s3 / "x").write_bytes(os.urandom(8))  # another one, each time
        return b"mine"

    with pytest.raises(StoreBusy, match="written by another process"):
        rewrite(s3 / "x", change)


# -- a store -------------------------------------------------------------------------------------


def test_the_same_rows_as_in_a_folder(s3, tmp_path, tiny_images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there, here = open_store(str(s3), create=True), open_store(tmp_path / "here", create=True)
    for store in (there, here):
        assert embed(store, tiny_images).n_encoded == 6
        assert embed(store, tiny_images).n_unchanged == 6
    ours, theirs = (one.view("d", PIXELS).load() for one in (open_store(s3), here))
    assert ours.ids.tolist() == theirs.ids.tolist()
    np.testing.assert_array_equal(ours.vectors, theirs.vectors)
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert there.datasets() == ["d"]
    assert not list(tmp_path.glob("s3*")), "a folder was made of the URL"
    names = {one.name for one in (s3 / "datasets" / "d").iterdir()}
    assert names == {"dataset.json", "items", "failures", "views", "runs"}  # what is derived is not


def test_a_changed_file_is_embedded_again_and_a_damaged_one_named(s3, tiny_images, write_image):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    write_image(tiny_images / "dark" / "0.png", (99, 0, 0))
    (tiny_images / "dark" / "1.png").write_bytes(b"no picture")
    report = embed(store, tiny_images)
    assert (report.n_encoded, report.n_failed, report.n_unchanged) == (1, 1, 4)
    found = store.view("d", PIXELS).load()
    assert len(found) == 5
    assert store.dataset("d").failures().column("item_id").to_pylist() == ["dark/1.png"]


def test_vectors_larger_than_what_is_fetched_whole_are_read_in_parts(s3, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((9_000, 300)).astype(np.float32)  # 10.8 MB in one shard
    store = open_store(s3, create=True)
    ids = [f"i{n:05d}" for n in range(len(vectors))]
    incoming = Incoming(pa.array(ids), vectors, pa.table({"item_id": ids}))
    view = import_vectors(store, incoming, dataset="d", name="big", origin="here")
    (shard,) = view.table.shards()
    assert shard.size_bytes > 8 << 20
    n_bytes = []
    of_path = RemotePath.read_range
    monkeypatch.setattr(
        RemotePath, "read_range", lambda self, at, n: n_bytes.append(n) or of_path(self, at, n)
    )
    assert len(view.table.read(["item_id"])) == len(vectors)
    assert sum(n_bytes) < shard.size_bytes / 10, "ids alone were asked for"
    np.testing.assert_array_equal(view.load().vectors, vectors)
    some = view.load(where="item_id < 'i00100'", columns=["item_id"])
    np.testing.assert_array_equal(some.vectors, vectors[:100])
    np.testing.assert_array_equal(np.concatenate([b.vectors for b in view.batches(4000)]), vectors)
    for thread in __import__("threading").enumerate():
        if thread.name == "featurestore-cache":
            thread.join()
    n_bytes.clear()
    np.testing.assert_array_equal(view.load().vectors, vectors)
    assert not n_bytes, "the second load is from this machine's cache"


def test_the_whole_way_on_the_command_line(s3, tmp_path, shared, capsys, monkeypatch):
    source = shared("data", "sign_digits")
    monkeypatch.setenv("FEATURESTORE_STORE", str(s3))
    embed_line = ["embed", str(source), "--dataset", "digits", "-e", "baseline:pixels", "--sample",
                  "200"]  # fmt: skip

    def ok(*words):
        assert run(list(words)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    ok(*embed_line)
    ok("compare", "digits", "--head", "prototype")
    ok("train", "digits", "-e", "baseline:pixels", "--head", "prototype")
    [card] = heads.list_heads(open_store(s3).dataset("digits"))
    bundle = f"{s3}/datasets/digits/heads/{card['head_id']}"
    answers = ok("predict", bundle, str(source / "0"), "--json")
    assert len(json.loads(answers)) == 80
    dataset = open_store(s3).dataset("digits")
    head = heads.load_head(dataset, card["head_id"])
    copy = head.save(s3 / "bundles" / "mine")
    found = dataset.view("baseline:pixels").load()
    again = heads.load_bundle(str(copy))
    assert again.predict(found).tolist() == head.predict(found).tolist()
    ok("index", "digits", "-e", "baseline:pixels", "--recall", "0.9")
    first = found.ids[0]
    hits = json.loads(ok("search", "digits", "--item", str(first), "-k", "5", "--json"))
    assert len(hits["neighbors"]) == 5
    rows = json.loads(ok("sql", "select count(*) as n from digits", "--json"))
    assert rows == [{"n": 200}]
    ok("slices", "digits", "--save", "zeros", "--where", "label = '0'")
    ok("review", "digits", "--item", str(first), "--confirm")
    ok("split", "digits", "--test", "0.25")
    ok("show", "digits", "latest")
    ok("show", "digits")
    ok("history", "digits")
    ok("export", "digits", str(tmp_path / "out.parquet"), "-e", "baseline:pixels")
    ok("compact", "digits")
    ok("vacuum", "digits")
    ok("delete", "digits", "--where", "label = '3'", "--yes")
    ok("verify", "digits")
    ok("rename", "digits", "signs")
    assert open_store(s3).datasets() == ["signs"]
    assert len(open_store(s3).view("signs", "baseline:pixels").load()) == n_left(found)
    ok("info", "signs")
    ok("drop", "signs", "--yes")
    assert open_store(s3).datasets() == []
    assert list((s3 / "datasets").walk()) == []


def n_left(found):
    return int((found.labels != "3").sum())


# -- several machines, and faults ----------------------------------------------------------------


def _embed_part(url, source):
    embed(open_store(url, create=True), source)


def test_four_machines_on_one_view_make_no_wrong_and_no_double_row(s3, tmp_path, write_image):
    for name, n in (("one", 16), ("two", 4), ("three", 4)):
        for number in range(n):
            write_image(tmp_path / name / f"of-{name}" / f"{number}.png", number)
    open_store(s3, create=True)
    sources = [tmp_path / name for name in ("one", "one", "two", "three")]  # two have the same
    _at_once(_embed_part, [(str(s3), source) for source in sources])
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


@pytest.mark.parametrize("after_s", [1.6, 2.4, 3.2])
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
    _at_once(_review, [(str(s3), ids[:3], "ann"), (str(s3), ids[3:], "bob")])
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
    with pytest.raises(BadName, match="`featurestore drop d` deletes it"):
        embed(store, tiny_images)
    assert run(["drop", "d", "--yes", "--store", str(s3)]) == 0
    assert embed(store, tiny_images).n_encoded == 6


# What another machine does in the middle of what this one does


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


# -- networks, disks, and what a cache holds -------------------------------------------------------


def test_a_network_that_fails_later_is_no_corrupt_store(s3, tiny_images, monkeypatch, capsys):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    view = store.view("d", PIXELS)
    monkeypatch.setattr(remote, "_PATIENCE_S", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for fails in (
        view.load,
        view.table.version,
        lambda: view.table.history(1),
        lambda: view.table.append(pa.table({})),
        lambda: embed(store, tiny_images),
        lambda: Table.create(s3 / "t", view.table.schema()),
    ):
        with pytest.raises(StoreUnreachable, match=r"error sending request|127\.0\.0\.1:9"):
            fails()
    assert run(["info", "d", "--store", str(s3)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_damaged_copy_is_fetched_anew_and_a_full_disk_does_without(s3, tiny_images, monkeypatch):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    items = store.dataset("d").items()
    [copy] = (local_side(store.dataset("d").path) / "items").glob("*.parquet")
    whole = copy.read_bytes()
    copy.write_bytes(whole[:100])
    assert store.dataset("d").items().equals(items)
    assert copy.read_bytes() == whole
    copy.unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featurestore.storage.shards.write_file", full)
    assert store.dataset("d").items().equals(items)
    assert not copy.exists()
    assert verify(store.dataset("d").folder, canary=False) == []


def test_a_bundle_that_was_cut_off_can_be_saved_again(s3, tiny_images, monkeypatch):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    head = heads.fit(store.view("d", PIXELS), "prototype")
    head.save(s3 / "mine")
    (s3 / "mine" / "card.json").unlink()
    head.save(s3 / "mine")
    assert heads.load_bundle(s3 / "mine").head_id == head.head_id
    with pytest.raises(UnknownHead):
        heads.load_head(store.dataset("d"), "../../x")


def test_what_is_no_store_is_refused(s3):
    with pytest.raises(NotAStore, match="there is no store at s3://bucket/"):
        open_store(s3)
    (s3 / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(NotAStore, match=r"expected featurestore\.json"):
        open_store(s3, create=True)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch|403"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "error sending request"),
        (None, "s3://no-such-bucket/x", "NoSuchBucket"),
    ],
)
def test_who_cannot_get_in_is_told_what_is_asked_for(s3, monkeypatch, capsys, name, value, reason):
    url = str(s3) if name else value
    if name:
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "_PATIENCE_S", 1)
    remote._client.cache_clear()
    with pytest.raises(StoreUnreachable, match=reason):
        open_store(url, create=True)
    start = time.monotonic()
    assert run(["ls", "--store", url]) == 1
    assert "AWS_ENDPOINT_URL" in capsys.readouterr().err
    assert time.monotonic() - start < 30
    remote._client.cache_clear()
