"""Tar shards, columns of image bytes, saved data sets, URLs: listed here, read by uri."""

import io
import json
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from featurestore.errors import BadSource, MissingColumn
from featurestore.sources.listing import SourceOptions
from featurestore.sources.locations import Location
from featurestore.sources.opening import open_source
from featurestore.sources.reading import Reader
from featurestore.sources.webdataset import expand_braces
from featurestore.terms.specs import Modality


def listing(path, **options):
    return open_source(path).listing(SourceOptions(**options))


def contents(path, found):
    source = open_source(path)
    read = Reader(source.kind, source.root)
    return {
        one["item_id"]: read(one["uri"])
        for one in found.rows.select(["item_id", "uri"]).to_pylist()
    }


def png(value):
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        write_tar(
            folder / f"train-{shard}.tar",
            [
                member
                for i in range(3)
                for member in (
                    (f"{i:03}.png", png(10 * shard + i)),
                    (f"{i:03}.cls", str(i % 2).encode()),
                    (f"{i:03}.json", json.dumps({"site": f"s{i}", "score": i / 2}).encode()),
                    (f"{i:03}.txt", f"caption {i}".encode()),
                )
            ],
        )
    return folder


def test_members_of_one_name_are_one_item_read_in_place(shards):
    found = listing(shards)
    assert found.modality is Modality.IMAGE
    assert found.label_columns == ("label",)
    columns = ["item_id", "label", "site", "score", "txt", "split"]
    assert found.rows.select(columns).to_pylist()[:2] == [
        {
            "item_id": f"train-0/00{i}",
            "label": str(i),
            "site": f"s{i}",
            "score": i / 2,
            "txt": f"caption {i}",
            "split": "train",
        }
        for i in range(2)
    ]
    assert contents(shards, found) == {
        f"train-{shard}/00{i}": png(10 * shard + i) for shard in range(2) for i in range(3)
    }


def test_shards_are_named_one_by_one_by_braces_or_by_their_folder(shards):
    whole = listing(shards).rows
    braces = listing(shards / "train-{0..1}.tar").rows
    assert braces.equals(whole)
    one = listing(shards / "train-1.tar")
    assert one.rows.equals(whole.slice(3))
    assert one.covers == ("train-1/", "train-1.tar#")
    assert {open_source(p).name for p in (shards, shards / "train-1.tar")} == {"shards"}
    with pytest.raises(BadSource, match=r"1 shards do not exist \(first: .*train-2.tar"):
        listing(shards / "train-{1..2}.tar")


def test_braces_may_stand_twice():
    assert expand_braces("{0..1}/a-{08..10}.tar") == [
        f"{i}/a-{j}.tar" for i in (0, 1) for j in ("08", "09", "10")
    ]


def test_shards_of_texts(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.txt", b"one"), ("2.txt", b"two"), ("2.cls", b"x")])
    found = listing(tmp_path / "a.tar")
    assert found.modality is Modality.TEXT
    assert found.rows.select(["item_id", "text", "label"]).to_pylist() == [
        {"item_id": "a/1", "text": "one", "label": None},
        {"item_id": "a/2", "text": "two", "label": "x"},
    ]
    write_tar(tmp_path / "b.tar", [("1.json", b'{"body": "uno"}'), ("2.json", b'{"other": 1}')])
    found = listing(tmp_path / "b.tar", text="body")
    assert found.rows.column("text").to_pylist() == ["uno"]
    assert "1 samples of" in found.notes[0]


@pytest.mark.parametrize("at", [9000, 10_240])  # inside a member, and between two
def test_a_damaged_shard_gives_what_stands_before_the_damage(shards, at):
    path = shards / "train-0.tar"
    path.write_bytes(path.read_bytes()[:at])
    found = listing(shards)
    ids = found.rows.column("item_id").to_pylist()
    assert ids[:2] == ["train-0/000", "train-0/001"]
    assert "train-0/damaged" in ids
    assert ids[-3:] == [f"train-1/00{i}" for i in range(3)]
    assert found.unread == ("train-0/", "train-0.tar#")
    assert "train-0.tar is damaged: " in found.notes[0]
    row = found.rows.filter(pa.compute.equal(found.rows.column("item_id"), "train-0/damaged"))
    with pytest.raises(OSError, match=r"train-0.tar ends before byte"):
        Reader("webdataset", str(shards))(row.column("uri")[0].as_py())


@pytest.mark.parametrize("how", ["cut inside it", "cut before it", "one byte of it"])
def test_no_header_is_damaged_in_silence(tmp_path, how):
    path = tmp_path / "a.tar"
    write_tar(path, [(f"{i}.txt", b"text") for i in range(5)])
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for n, at in list(enumerate(headers))[1:]:
        damaged = {
            "cut inside it": whole[: at + 100],
            "cut before it": whole[:at],
            "one byte of it": whole[: at + 3] + b"?" + whole[at + 4 :],
        }
        path.write_bytes(damaged[how])
        found = listing(path)
        assert found.rows.column("item_id").to_pylist() == [
            *(f"a/{i}" for i in range(n)), "a/damaged",
        ]  # fmt: skip
        assert found.unread, at  # what was in it stays, --prune or not


def test_what_is_no_tar_says_so(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    found = listing(tmp_path / "x.tar")
    assert found.rows.column("item_id").to_pylist() == ["x/damaged"]


def test_a_damaged_caption_or_record_costs_its_own_item_alone(tmp_path):
    members = [("1.txt", b"one"), ("2.txt", b"caf\xe9"), ("2.json", b"{broken"), ("3.txt", b"x")]
    write_tar(tmp_path / "y.tar", members)
    found = listing(tmp_path / "y.tar")
    assert found.rows.column("text").to_pylist() == ["one", None, "x"]
    assert any("2.json: Expecting property name" in note for note in found.notes)


def test_a_damaged_shard_of_texts_is_still_of_texts_and_has_ids(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.txt", b"one"), ("1.json", b'{"uid": "u1"}')])
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    found = listing(tmp_path, id="uid")
    assert found.modality is Modality.TEXT
    assert found.rows.select(["item_id", "text"]).to_pylist() == [
        {"item_id": "u1", "text": "one"}, {"item_id": "b/damaged", "text": None},
    ]  # fmt: skip
    assert found.unread == ("",)


def test_real_shards_hold_thirty_thousand_pictures(shared):
    folder = shared("data", "unlabelled")
    found = listing(folder / "cifar10-{0000..0002}.tar")
    assert len(found.rows) == 30_000
    first = found.rows.slice(12_345, 1).to_pylist()[0]
    content = Reader("webdataset", str(folder))(first["uri"])
    assert Image.open(io.BytesIO(content)).size == (32, 32)


def as_column(values):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": one, "path": None} for one in values], kind)


@pytest.mark.parametrize("make", [as_column, pa.array])
@pytest.mark.parametrize("group_rows", [7, 1000])
def test_a_column_of_image_bytes_is_read_row_by_row(tmp_path, make, group_rows):
    images = [png(i % 256) for i in range(300)]
    table = pa.table({"image": make(images), "kind": [f"k{i % 3}" for i in range(300)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=group_rows)
    found = listing(tmp_path / "t.parquet", image="image", label=("kind",))
    assert found.rows.column_names[-1] == "kind"
    assert contents(tmp_path / "t.parquet", found) == {
        f"t.parquet:{i}": one for i, one in enumerate(images)
    }
    read = Reader("table", str(tmp_path))
    for row in np.random.default_rng(0).permutation(300)[:20]:  # in any order
        assert read(f"t.parquet#image[{row}]") == images[row]
    with pytest.raises(ValueError, match="no row 300: the table has 300"):
        read("t.parquet#image[300]")


def test_class_names_of_the_hub_become_labels(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    noted = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, -1]})
    pq.write_table(table.replace_schema_metadata(noted), tmp_path / "t.parquet")
    found = listing(tmp_path / "t.parquet", text="text", label=("label",))
    assert found.rows.column("label").to_pylist() == ["dog", "cat", None]


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")


def test_a_saved_data_set_of_images(datasets, tmp_path):
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "site": datasets.Value("string"),
        }
    )

    def part(values):
        return datasets.Dataset.from_dict(
            {
                "picture": [{"bytes": png(v), "path": None} for v in values],
                "kind": [v % 2 for v in values],
                "site": [f"s{v}" for v in values],
            },
            features=features,
        )

    both = datasets.DatasetDict(train=part([1, 2, 3]), validation=part([4]))
    both.save_to_disk(tmp_path / "saved")
    found = listing(tmp_path / "saved")
    assert found.label_columns == ("kind",)
    assert found.rows.select(["item_id", "kind", "site", "split"]).to_pylist() == [
        {"item_id": "train:0", "kind": "dog", "site": "s1", "split": "train"},
        {"item_id": "train:1", "kind": "cat", "site": "s2", "split": "train"},
        {"item_id": "train:2", "kind": "dog", "site": "s3", "split": "train"},
        {"item_id": "validation:0", "kind": "cat", "site": "s4", "split": "val"},
    ]
    assert list(contents(tmp_path / "saved", found).values()) == [png(v) for v in (1, 2, 3, 4)]
    again = listing(tmp_path / "saved", id="site")
    assert again.rows.column("item_id").to_pylist() == ["s1", "s2", "s3", "s4"]
    assert again.rows.column("mtime_ns").equals(found.rows.column("mtime_ns"))


def test_a_saved_data_set_of_texts_in_another_order(datasets, tmp_path):
    table = {"body": ["a", "b", "c"], "stars": [1, 2, 3]}
    datasets.Dataset.from_dict(table).select([2, 0]).save_to_disk(tmp_path / "saved")
    found = listing(tmp_path / "saved", text="body", label=("stars",))
    assert found.rows.select(["text", "stars"]).to_pylist() == [
        {"text": "c", "stars": 3}, {"text": "a", "stars": 1},
    ]  # fmt: skip
    with pytest.raises(BadSource, match=r"say which with --text COLUMN .*columns: body, stars"):
        listing(tmp_path / "saved")
    with pytest.raises(BadSource, match="holds no images"):
        listing(tmp_path / "saved", image="body")
    with pytest.raises(MissingColumn, match="did you mean 'body'"):
        listing(tmp_path / "saved", text="bod")


def test_what_a_saved_data_set_has_no_more_is_said(datasets, tmp_path):
    pictures = {"image": [Image.new("RGB", (2, 2))] * 2}
    features = datasets.Features({"image": datasets.Image()})
    one = datasets.Dataset.from_dict(pictures, features=features)
    datasets.DatasetDict({"train": one}).save_to_disk(tmp_path / "saved")
    read = Reader("datasets", str(tmp_path / "saved"))
    assert read("train#image[1]")
    for uri, reason in {
        "test#image[0]": "there is no 'test' any more",
        "train#look[0]": "there is no 'look' any more",
        "train#image[2]": "out of",
    }.items():
        with pytest.raises(ValueError, match=reason):
            read(uri)


def test_a_hub_data_set_that_cannot_be_had_says_what_to_do(datasets, monkeypatch):
    def refuse(*arguments, **options):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(BadSource, match="cannot load hf:org/name: offline; with no network"):
        listing("hf:org/name", text="text")


@pytest.fixture
def bucket():
    system = fsspec.filesystem("memory")
    yield system
    for path in list(system.store):
        system.rm_file(path)


def test_a_folder_behind_a_url(bucket):
    bucket.pipe({"/set/cat/1.png": png(1), "/set/dog/2.png": png(2), "/set/.x/3.png": b""})
    found = listing("memory://set")
    assert found.rows.select(["item_id", "label", "size"]).to_pylist() == [
        {"item_id": "cat/1.png", "label": "cat", "size": len(png(1))},
        {"item_id": "dog/2.png", "label": "dog", "size": len(png(2))},
    ]
    assert contents("memory://set", found) == {"cat/1.png": png(1), "dog/2.png": png(2)}
    assert all(stamp > 0 for stamp in found.rows.column("mtime_ns").to_pylist())


def test_tables_and_shards_behind_a_url(bucket, shards):
    bucket.pipe("/d/t.csv", b"path,kind\nimg/1.png,cat\n")
    bucket.pipe("/d/img/1.png", png(1))
    bucket.pipe("/d/t.jsonl", b'{"body": "one"}\n')
    found = listing("memory://d/t.csv", image="path", label=("kind",))
    assert contents("memory://d/t.csv", found) == {"img/1.png": png(1)}
    assert listing("memory://d/t.jsonl", text="body").rows.column("text").to_pylist() == ["one"]
    table = pa.table({"image": as_column([png(5), png(6)])})
    with bucket.open("/d/t.parquet", "wb") as file:
        pq.write_table(table, file)
    found = listing("memory://d/t.parquet", image="image")
    assert list(contents("memory://d/t.parquet", found).values()) == [png(5), png(6)]
    for shard in ("train-0.tar", "train-1.tar"):
        bucket.pipe(f"/shards/{shard}", (shards / shard).read_bytes())
    found = listing("memory://shards")
    local = listing(shards)
    same = ["item_id", "uri", "size", "label", "site"]
    assert found.rows.select(same).equals(local.rows.select(same))
    assert contents("memory://shards", found) == contents(shards, local)


def test_a_url_that_nobody_knows_says_so():
    with pytest.raises(BadSource, match="expected a path or a URL that fsspec knows"):
        listing("nowhere://x/y")


def test_an_etag_tells_that_an_object_changed():
    from featurestore.sources.locations import _stamp

    assert _stamp({"ETag": '"a"', "LastModified": 1}) == _stamp({"ETag": '"a"', "LastModified": 2})
    assert _stamp({"ETag": '"a"'}) != _stamp({"ETag": '"b"'})
    assert _stamp({"mtime": 2.5}) == 2_500_000_000


def test_places_are_one_however_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = Location(str(tmp_path / "a"))
    assert {Location.of(p) for p in ("a", "./b/../a", f"file://{tmp_path}/a", tmp_path / "a")} == {
        expected
    }
    assert Location.of("s3://bucket/x/").join("y/z.png").text == "s3://bucket/x/y/z.png"


def test_keys_of_our_own_names_are_kept_under_others(tmp_path):
    record = json.dumps({"split": "test", "size": 2**70, "uri": "x", "key": [1, "a"]}).encode()
    write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("1.json", record)])
    found = listing(tmp_path / "a.tar", split="split")
    assert found.rows.select(["split", "size_", "uri_", "key"]).to_pylist() == [
        {"split": "test", "size_": str(2**70), "uri_": "x", "key": "[1, 'a']"}
    ]
