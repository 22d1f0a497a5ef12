"""A store in an object store holds what one in a folder holds, and says what fails."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pytest

import heads
from featurestore.cli import run
from featurestore.errors import NotAStore, StoreUnreachable, UnknownHead
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.storage import remote
from featurestore.storage.remote import RemotePath
from featurestore.storage.tables import Table
from featurestore.storage.user_cache import local_side
from featurestore.store.store import open_store
from featurestore.upkeep.verify import verify
from tests.remote.conftest import PIXELS, embed


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


def test_a_network_that_fails_later_is_no_corrupt_store(s3, tiny_images, monkeypatch, capsys):
    store = open_store(s3, create=True)
    embed(store, tiny_images)
    view = store.view("d", PIXELS)
    monkeypatch.setattr(remote, "_PATIENCE_S", 0.2)
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
    with pytest.raises(NotAStore, match="there is not a store at s3://bucket/"):
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
    monkeypatch.setattr(remote, "_PATIENCE_S", 0.2)
    remote._client.cache_clear()
    with pytest.raises(StoreUnreachable, match=reason):
        open_store(url, create=True)
    start = time.monotonic()
    assert run(["ls", "--store", url]) == 1
    assert "AWS_ENDPOINT_URL" in capsys.readouterr().err
    assert time.monotonic() - start < 30
    remote._client.cache_clear()
