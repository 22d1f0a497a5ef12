"""Shards, columns and data sets go the whole way: embed, change, prune, look at."""

import io
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from featurestore.errors import BadSource, UnknownItem
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions

PIXELS = "baseline:pixels#size=1"


def png(value):
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


def write_shard(path, samples):
    """Write (key, value of the picture, class) as a shard."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, value, kind in samples:
            for ending, content in (("png", png(value)), ("cls", kind.encode())):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def embed(store, *sources, options=None, **how):
    (report,) = store.embed(
        sources,
        dataset="d",
        encoders=[PIXELS],
        source_options=options,
        embed_options=EmbedOptions(**how),
    )
    return report


def vectors(store):
    found = store.view("d", PIXELS).load()
    return {i: round(float(v[0]) * 255) for i, v in zip(found.ids, found.vectors, strict=True)}


def test_a_shard_written_anew_is_read_again_and_encoded_only_where_it_changed(
    empty_store, tmp_path
):
    shard = tmp_path / "web" / "a.tar"
    write_shard(shard, [("0", 10, "x"), ("1", 20, "y")])
    write_shard(tmp_path / "web" / "b.tar", [("0", 30, "x")])
    assert embed(empty_store, tmp_path / "web").n_encoded == 3
    assert vectors(empty_store) == {"a/0": 10, "a/1": 20, "b/0": 30}
    assert embed(empty_store, tmp_path / "web").n_unchanged == 3
    write_shard(shard, [("new", 40, "x"), ("0", 10, "z"), ("1", 21, "y")])
    report = embed(empty_store, tmp_path / "web")
    assert (report.n_encoded, report.n_unchanged) == (2, 2)
    assert vectors(empty_store) == {"a/new": 40, "a/0": 10, "a/1": 21, "b/0": 30}
    found = empty_store.view("d", PIXELS).load()
    assert dict(zip(found.ids, found.labels, strict=True))["a/0"] == "z"
    dataset = empty_store.dataset("d")
    assert dataset.read_bytes("a/0") == png(10)  # at its new place in the shard
    assert Image.open(io.BytesIO(dataset.thumbnail("b/0"))).size == (8, 8)


def test_pruning_one_shard_leaves_the_others(empty_store, tmp_path):
    for name in "ab":
        write_shard(tmp_path / "web" / f"{name}.tar", [("0", ord(name), "x"), ("1", 1, "x")])
    embed(empty_store, tmp_path / "web" / "a.tar")
    embed(empty_store, tmp_path / "web" / "b.tar")  # the same source: one folder
    assert list(empty_store.dataset("d").description.sources) == ["web"]
    write_shard(tmp_path / "web" / "a.tar", [("0", ord("a"), "x")])
    embed(empty_store, tmp_path / "web" / "a.tar", prune=True)
    assert set(vectors(empty_store)) == {"a/0", "b/0", "b/1"}
    (tmp_path / "web" / "b.tar").unlink()
    embed(empty_store, tmp_path / "web", prune=True)
    assert set(vectors(empty_store)) == {"a/0"}


def test_a_damaged_shard_is_a_failure_and_its_items_stay(empty_store, tmp_path):
    shard = tmp_path / "web" / "a.tar"
    write_shard(shard, [(str(i), 10 * i, "x") for i in range(8)])
    whole = shard.read_bytes()
    embed(empty_store, shard)
    shard.write_bytes(whole[: 5 * 1024])
    report = embed(empty_store, shard, prune=True)
    assert report.n_failed >= 1
    assert len(vectors(empty_store)) == 8
    reasons = {r["item_id"]: r["error"] for r in empty_store.dataset("d").failures().to_pylist()}
    assert "ends before byte" in reasons["a/damaged"]
    shard.write_bytes(whole)
    embed(empty_store, shard, prune=True)
    assert len(vectors(empty_store)) == 8
    assert len(empty_store.dataset("d").failures()) == 0


def test_a_column_of_images_goes_the_whole_way(empty_store, tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [{"bytes": png(i), "path": None} for i in range(40)]
    values[7] = {"bytes": None, "path": None}
    table = pa.table({"id": [f"k{i}" for i in range(40)], "image": pa.array(values, kind)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=9)
    options = SourceOptions(image="image", id="id")
    report = embed(empty_store, tmp_path / "t.parquet", options=options)
    assert (report.n_encoded, report.n_failed) == (39, 1)
    assert vectors(empty_store) == {f"k{i}": i for i in range(40) if i != 7}
    (row,) = empty_store.dataset("d").failures().to_pylist()
    assert (row["item_id"], row["stage"]) == ("k7", "read")
    assert "no image in this row" in row["error"]
    assert empty_store.dataset("d").read_bytes("k39") == png(39)
    assert embed(empty_store).n_unchanged == 39  # by its name alone


def test_a_saved_data_set_goes_the_whole_way(empty_store, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    features = datasets.Features(
        {"image": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(5)], "kind": [0, 1, 0, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    assert embed(empty_store, tmp_path / "saved").n_encoded == 5
    assert vectors(empty_store) == {f"all:{i}": i for i in range(5)}
    found = empty_store.view("d", PIXELS).load()
    assert found.labels.tolist() == ["cat", "dog", "cat", "dog", "cat"]
    assert found.splits.tolist() == [None] * 5
    assert embed(empty_store).n_unchanged == 5


def test_a_bucket_goes_the_whole_way(empty_store):
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe({"/bucket/cat/1.png": png(1), "/bucket/dog/2.png": png(2)})
    try:
        assert embed(empty_store, "memory://bucket").n_encoded == 2
        assert vectors(empty_store) == {"cat/1.png": 1, "dog/2.png": 2}
        assert embed(empty_store).n_unchanged == 2
        system.pipe("/bucket/dog/2.png", png(9))
        system.rm_file("/bucket/cat/1.png")
        report = embed(empty_store, prune=True)
        assert (report.n_encoded, vectors(empty_store)) == (1, {"dog/2.png": 9})
        dataset = empty_store.dataset("d")
        assert dataset.uri("dog/2.png") == "memory://bucket/dog/2.png"
        system.rm_file("/bucket/dog/2.png")
        with pytest.raises(UnknownItem, match=r"the file of item 'dog/2[.]png' is gone"):
            dataset.read_bytes("dog/2.png")
    finally:
        for path in list(system.store):
            system.rm_file(path)


def test_order_of_items_does_not_matter_for_their_vectors(empty_store, tmp_path):
    write_shard(tmp_path / "web" / "a.tar", [(str(i), i, "x") for i in range(50)])
    embed(empty_store, tmp_path / "web")
    before = vectors(empty_store)
    order = np.random.default_rng(0).permutation(50)
    write_shard(tmp_path / "web" / "a.tar", [(str(i), int(i), "x") for i in order])
    assert embed(empty_store, tmp_path / "web").n_encoded == 0
    assert vectors(empty_store) == before


def test_a_first_id_later_would_make_other_items_and_is_refused(empty_store, tmp_path):
    write_shard(tmp_path / "web" / "a.tar", [("0", 10, "x")])
    embed(empty_store, tmp_path / "web")
    with pytest.raises(BadSource, match="was embedded with no --id, not with --id label"):
        embed(empty_store, tmp_path / "web", options=SourceOptions(id="label"))


def test_links_out_of_a_folder_are_asked_for_each_time(empty_store, tmp_path, write_image):
    write_image(tmp_path / "set" / "1.png", (1, 0, 0))
    write_image(tmp_path / "out" / "2.png", (2, 0, 0))
    (tmp_path / "set" / "out").symlink_to(tmp_path / "out")
    embed(empty_store, tmp_path / "set", options=SourceOptions(follow_links=True))
    write_image(tmp_path / "out" / "3.png", (3, 0, 0))
    embed(empty_store)
    assert set(vectors(empty_store)) == {"1.png", "out/2.png"}


def test_a_path_in_a_foreign_table_stays_in_its_folder(empty_store, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png(5))
    (folder / "own.png").write_bytes(png(6))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = ["own.png", "../secret.png", str(tmp_path / "secret.png"), "memory://x.png"]
    values = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    pq.write_table(pa.table({"image": values}), folder / "t.parquet")
    report = embed(empty_store, folder / "t.parquet", options=SourceOptions(image="image"))
    assert (report.n_encoded, report.n_failed) == (1, 3)
    assert vectors(empty_store) == {"t.parquet:0": 6}


def test_patterns_of_shards_may_grow(empty_store, tmp_path):
    for number in range(3):
        write_shard(tmp_path / "web" / f"a-{number}.tar", [("0", 10 * number, "x")])
    embed(empty_store, tmp_path / "web" / "a-{0..1}.tar")
    embed(empty_store, tmp_path / "web" / "a-{0..2}.tar")
    assert embed(empty_store).n_unchanged == 3  # each is listed once
    embed(empty_store, tmp_path / "web" / "a-1.tar")
    assert embed(empty_store).n_unchanged == 3


def test_captions_of_pictures_in_shards_are_a_data_set_of_texts(tmp_path, empty_store):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("1.png", png(1)), ("1.txt", b"one"), ("2.png", png(2))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert embed(empty_store, tmp_path / "a.tar").n_encoded == 2
    (report,) = empty_store.embed(
        [tmp_path / "a.tar"], dataset="captions", encoders=["baseline:hashing"],
        source_options=SourceOptions(text="txt"),
    )  # fmt: skip
    assert report.n_encoded == 1
    assert empty_store.dataset("captions").items(["item_id", "text"]).to_pylist() == [
        {"item_id": "a/1", "text": "one"}
    ]


def test_a_link_to_a_shard_elsewhere_is_asked_for(tmp_path, empty_store):
    write_shard(tmp_path / "elsewhere" / "b.tar", [("0", 30, "x")])
    write_shard(tmp_path / "web" / "a.tar", [("0", 10, "x")])
    (tmp_path / "web" / "b.tar").symlink_to(tmp_path / "elsewhere" / "b.tar")
    (tmp_path / "web" / "c.tar").symlink_to(tmp_path / "web" / "a.tar")
    assert embed(empty_store, tmp_path / "web").n_items == 2
    options = SourceOptions(follow_links=True)
    assert embed(empty_store, tmp_path / "web", options=options).n_items == 3
    embed(empty_store, tmp_path / "web", prune=True)  # a link that is not followed is not gone
    assert len(vectors(empty_store)) == 3
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.tar").symlink_to(tmp_path / "elsewhere" / "b.tar")
    with pytest.raises(BadSource, match=r"all shards of .* are behind links"):
        embed(empty_store, tmp_path / "links")


def test_a_data_set_saved_anew_is_seen_in_the_same_process(tmp_path, empty_store):
    datasets = pytest.importorskip("datasets")

    def save(*texts):
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        datasets.Dataset.from_dict({"text": list(texts)}).save_to_disk(tmp_path / "saved")

    def embed_texts():
        (report,) = empty_store.embed(
            [tmp_path / "saved"], dataset="t", encoders=["baseline:hashing"],
            source_options=SourceOptions(text="text"),
        )  # fmt: skip
        return report.n_encoded, report.n_unchanged

    save("one", "two")
    assert embed_texts() == (2, 0)
    save("one", "changed", "three")
    assert embed_texts() == (2, 1)


def test_a_read_over_a_network_that_fails_once_is_tried_again(monkeypatch):
    from featurestore.sources import reading
    from featurestore.sources.locations import Location

    waits, tries = [], []

    def read(place):
        tries.append(place.text)
        if "absent" in place.text:
            raise FileNotFoundError(place.text)
        if len(tries) < 3:
            raise TimeoutError("no answer")
        return b"content"

    monkeypatch.setattr(Location, "read", read)
    monkeypatch.setattr(reading.time, "sleep", waits.append)
    reader = reading.Reader("folder", "s3://bucket/set")
    assert reader("a.png") == b"content"
    assert waits == [0.5, 2.0]
    with pytest.raises(FileNotFoundError):
        reader("absent.png")
    assert len(tries) == 4
    tries.clear()
    with pytest.raises(TimeoutError):  # a disk is not asked twice
        reading.Reader("folder", "/data")("a.png")
    assert len(tries) == 1


def test_a_server_that_says_no_is_not_asked_again(monkeypatch):
    from featurestore.sources import reading
    from featurestore.sources.locations import Location

    class Answer(Exception):
        status = 403

    asked = []

    def read(place):
        asked.append(place.text)
        raise Answer

    monkeypatch.setattr(Location, "read", read)
    monkeypatch.setattr(reading.time, "sleep", lambda s: None)
    for status, n in [(403, 1), (429, 3), (503, 3)]:
        Answer.status = status
        with pytest.raises(Answer):
            reading.Reader("folder", "https://host/set")("a.png")
        assert len(asked) == n
        asked.clear()
