"""What goes out comes back with all that is known of it: labels, tasks, splits, class names."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from featurestore.cli import run
from featurestore.errors import BadName, BadSource, ShapeMismatch
from featurestore.exchange import exports
from featurestore.exchange.exports import export
from featurestore.exchange.imports import Incoming, import_vectors, read_vectors
from featurestore.exchange.known_columns import KEY
from featurestore.exchange.pictures import KIND
from featurestore.maps.projection import project
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store

HASHING = "baseline:hashing#size=16"
PIXELS = "baseline:pixels#size=2"
N = 12
LABELS = {  # a column of each kind, and the task that it is
    "label": ([["fox", "Ant", "01", None][n % 4] for n in range(N)], "multiclass"),
    "tags": ([["a|b", "b", "", None, "c|a|b", " x"][n % 6] for n in range(N)], "multilabel"),
    "number": ([n % 3 for n in range(N)], "multiclass"),
    "whole": ([float(n % 3) if n else None for n in range(N)], "multiclass"),
    "grade": ([n / 7 for n in range(N)], "regression"),
    "flag": ([n % 2 == 0 for n in range(N)], "multiclass"),
}
SPLITS = [["train", "test", None, "fold/1", "fold_1", ".."][n % 6] for n in range(N)]


@pytest.fixture
def view(empty_store, tmp_path):
    columns = {name: values for name, (values, _) in LABELS.items()}
    ids = [f"i{(7 * n) % N:02}" for n in range(N)]
    table = {"id": ids, "t": [f"word{n} x" for n in range(N)], "part": SPLITS, **columns}
    table |= {"g": [f"g{n % 5}" for n in range(N)], "text": ["free"] * N, "image": range(N)}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    options = SourceOptions(text="t", id="id", label=(*LABELS,), split="part", group="g")
    empty_store.embed(
        [tmp_path / "t.parquet"], dataset="d", encoders=[HASHING], source_options=options
    )
    return empty_store.view("d", HASHING)


def back(path, store, name="h", **options):
    store = open_store(store, create=True)
    return import_vectors(store, read_vectors(path), dataset="d", name=name, origin=path, **options)


def described(view):
    """Return all that a round trip keeps."""
    found = view.load()
    names = [name for name in view.items().column_names if name not in ("source", "uri")]
    names = [name for name in names if name not in ("size", "mtime_ns")]
    columns = {name: found.column(name).tolist() for name in names if name != "item_id"}
    labels = [*view.dataset.description.labels.items()]  # the first is the main one
    return found.ids.tolist(), found.vectors.tolist(), columns, labels


FORMATS = ["v.parquet", "v.arrow", "v.npy", "v.atlas.parquet", "folder"]


@pytest.mark.parametrize("name", FORMATS)
def test_all_that_is_known_comes_back(name, view, tmp_path):
    expected = described(view)
    assert expected[3] == [(one, {"task": task}) for one, (_, task) in LABELS.items()]
    assert sorted(map(str, expected[2]["split"])) == sorted(map(str, SPLITS))
    said = []
    assert export(view, tmp_path / name) == N
    first = back(tmp_path / name, tmp_path / "first", say=said.append)
    assert described(first) == expected
    assert said == [
        "labels: label (multiclass), tags (multilabel), number (multiclass), whole (multiclass), "
        f"grade (regression), flag (multiclass), as {name} says; --label names others"
    ]
    export(first, tmp_path / f"again-{name}")
    assert described(back(tmp_path / f"again-{name}", tmp_path / "second")) == expected


def test_a_folder_holds_one_data_set_a_split_with_named_classes(view, tmp_path):
    datasets = pytest.importorskip("datasets")
    said = []
    export(view, tmp_path / "hf", say=said.append)
    found = datasets.load_from_disk(str(tmp_path / "hf"))
    sizes = {"__": 2, "fold_1": 2, "fold_1_2": 2, "test": 2, "train": 2, "unsplit": 2}
    assert {name: len(one) for name, one in found.items()} == sizes
    assert said == [f"one data set a split: {', '.join(f'{n} {k}' for n, k in sizes.items())}"]
    features = found["train"].features
    assert features["label"] == datasets.ClassLabel(names=["01", "Ant", "fox"])
    assert features["tags"].feature == datasets.ClassLabel(names=[" x", "a", "b", "c"])
    assert {features[one].dtype for one in ("number", "whole", "grade", "flag")} == {
        "int64", "float64", "bool",
    }  # fmt: skip
    assert {*found["unsplit"]["split"]} == {None}
    assert export(view, tmp_path / "one", split="test") == 2
    one = datasets.load_from_disk(str(tmp_path / "one"))
    assert isinstance(one, datasets.Dataset)
    assert read_vectors(tmp_path / "one").ids.to_pylist() == one["item_id"][:]
    again = back(tmp_path / "one", tmp_path / "other")
    assert again.dataset.description.labels == view.dataset.description.labels


def test_items_without_splits_make_one_data_set(empty_store, tmp_path):
    datasets = pytest.importorskip("datasets")
    vectors = np.eye(2, dtype=np.float32)
    incoming = Incoming(pa.array(["a", "b"]), vectors, pa.table({"k": ["x", "y"]}))
    view = import_vectors(empty_store, incoming, dataset="d", name="x", origin="o", labels=["k"])
    export(view, tmp_path / "hf")
    assert isinstance(datasets.load_from_disk(str(tmp_path / "hf")), datasets.Dataset)
    assert described(back(tmp_path / "hf", tmp_path / "s")) == described(view)


@pytest.fixture
def theirs(tmp_path):
    """Return a folder as others save it: splits with classes of their own, no ids."""
    datasets = pytest.importorskip("datasets")
    parts = {}
    for split, names in {"train": ["zebra", "dog", "unseen"], "validation": ["fox", "dog"]}.items():
        features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        features |= {"v": datasets.List(datasets.Value("float32"))}
        rows = {"text": [f"{split} a", f"{split} b"], "label": [1, 0], "v": [[1.0, 2], [3, 4]]}
        if split == "validation":
            features["look"], rows["look"] = datasets.Image(), [Image.new("RGB", (2, 2))] * 2
        parts[split] = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "theirs"))
    return tmp_path / "theirs"


def test_embed_and_import_take_a_folder_whole_alike(theirs, tmp_path):
    datasets = pytest.importorskip("datasets")
    store = open_store(tmp_path / "s", create=True)
    options = SourceOptions(text="text")
    store.embed([theirs], dataset="d", encoders=[HASHING], source_options=options)
    embedded, imported = store.view("d", HASHING), back(theirs, tmp_path / "other")
    for one in (embedded, imported):
        found = one.load()
        assert found.ids.tolist() == ["train:0", "train:1", "validation:0", "validation:1"]
        assert found.column("label").tolist() == ["dog", "zebra", "dog", "fox"]
        assert found.column("split").tolist() == ["train", "train", "val", "val"]
        assert one.dataset.description.labels == {"label": {"task": "multiclass"}}
        assert "look" not in one.items().column_names  # pictures are no free columns
    # The same items: vectors join what was embedded, labels and order of names stay.
    joined = back(theirs, tmp_path / "s")
    assert (joined.n_rows, store.dataset("d").n_items) == (4, 4)
    for number, one in enumerate((embedded, imported)):
        export(one, tmp_path / f"x{number}")
        saved = datasets.load_from_disk(str(tmp_path / f"x{number}"))
        assert saved["val"].features["label"].names == ["zebra", "dog", "unseen", "fox"]
    export(embedded, tmp_path / "x.parquet")  # the order of names survives other formats
    export(back(tmp_path / "x.parquet", tmp_path / "third"), tmp_path / "x2")
    saved = datasets.load_from_disk(str(tmp_path / "x2"))
    assert saved["train"].features["label"].names == ["zebra", "dog", "unseen", "fox"]


def test_a_folder_that_is_damaged_is_refused_by_name(theirs):
    (theirs / "train" / "state.json").write_text("[]")
    with pytest.raises(BadSource, match=r"cannot read .*theirs"):
        read_vectors(theirs)
    (theirs / "dataset_dict.json").write_text('{"splits": ["../theirs/validation"]}')
    assert len(read_vectors(theirs).ids) == 2  # names of folders in it, and no others
    (theirs / "dataset_dict.json").write_text('{"splits": []}')
    with pytest.raises(BadSource, match="holds no splits"):
        read_vectors(theirs)


def test_labels_of_a_data_set_are_not_those_of_a_file_unless_asked(view, tmp_path):
    export(view, tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet")
    at = table.column_names.index("label")
    pq.write_table(table.set_column(at, "label", pa.array(["new"] * N)), tmp_path / "v.parquet")
    before, store = described(view), view.dataset.store.path
    said = []
    back(tmp_path / "v.parquet", store, say=said.append)
    assert (described(view), said) == (before, [])
    back(tmp_path / "v.parquet", store, name="named", labels=["label"])
    assert {*view.load().column("label")} == {"new"}


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.none() | st.text(min_size=1), min_size=1, max_size=6), st.sampled_from(FORMATS))
def test_any_texts_as_labels_come_back_the_same(tmp_path_factory, labels, name):
    folder = tmp_path_factory.mktemp("x")
    ids, vectors = pa.array(f"i{n}" for n in range(len(labels))), np.eye(len(labels), dtype="f4")
    columns = pa.table({"k": pa.array(labels, pa.string()), "split": pa.array(labels, pa.string())})
    store = open_store(folder / "s", create=True)
    first = import_vectors(
        store, Incoming(ids, vectors, columns), dataset="d", name="h", origin="o", labels=["k"]
    )
    assert first.load().column("k").tolist() == labels
    export(first, folder / name)
    assert described(back(folder / name, folder / "other")) == described(first)


@pytest.mark.parametrize(
    ("written", "tasks"),
    [
        ('{"labels": [{"column": "k", "task": "multilabel"}], "added": []}', {"k": "multilabel"}),
        ('{"labels": [{"column": "k", "task": "regression"}], "added": []}', {"k": "multiclass"}),
        ('{"labels": [{"column": "k", "task": "odd"}], "added": []}', {"k": "multiclass"}),
        ('{"labels": [{"column": "gone", "task": "multiclass"}], "added": ["gone"]}', {}),
        ('{"labels": [3], "added": []}', {}),
        ('{"labels": {}}', {}),
        ("[" * 9999, {}),
        ("no", {}),
    ],
)
def test_metadata_that_does_not_fit_does_no_harm(written, tasks, tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(2, dtype=np.float32).ravel()), 2)
    table = pa.table({"id": ["a", "b"], "k": ["x", "y"], "vector": vectors})
    pq.write_table(table.replace_schema_metadata({KEY: written}), tmp_path / "v.parquet")
    labels = back(tmp_path / "v.parquet", tmp_path / "s").dataset.description.labels
    assert labels == {name: {"task": task} for name, task in tasks.items()}


@pytest.fixture
def pictures(empty_store, tmp_path):
    """Return a view of four pictures with a free column that is called image."""
    folder = tmp_path / "pics"
    for n in range(4):
        (folder / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (60 * n, 9, 200)).save(folder / "ab"[n % 2] / f"{n}.png")
    rows = [f"pics/{'ab'[n % 2]}/{n}.png,view {n},{'xy'[n // 2]}" for n in range(4)]
    (tmp_path / "p.csv").write_text("\n".join(["file,image,kind", *rows]))
    options = SourceOptions(image="file", id="file", label=("kind",))
    empty_store.embed([tmp_path / "p.csv"], dataset="p", encoders=[PIXELS], source_options=options)
    return empty_store.view("p", PIXELS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", ["path", "bytes"])
def test_pictures_go_along_as_asked_and_are_not_imported(how, name, pictures, tmp_path):
    export(pictures, tmp_path / name, pictures=how)
    rows = {"v.npy": "v.items.parquet"}.get(name, name)
    files = [tmp_path / one for one in pictures.load().ids]
    if name.endswith("parquet") or name == "v.npy":
        found = pq.read_table(tmp_path / rows).column("image_2").to_pylist()
        expected = [{"bytes": one.read_bytes(), "path": one.name} for one in files]
        assert found == (expected if how == "bytes" else [str(one) for one in files])
    elif name == "folder" and how == "bytes":
        datasets = pytest.importorskip("datasets")
        saved = datasets.load_from_disk(str(tmp_path / name))
        assert saved[0]["image_2"].getpixel((0, 0)) == Image.open(files[0]).getpixel((0, 0))
    incoming = read_vectors(tmp_path / name)
    assert "image_2" not in incoming.columns.column_names
    again = back(tmp_path / name, tmp_path / "other")
    assert described(again) == described(pictures)


def test_pictures_are_written_in_small_groups(tmp_path):
    rows = pa.table({"image": pa.array([{"bytes": b"x", "path": "x"}] * 150, KIND)})
    exports._write_parquet(rows, tmp_path / "v.parquet")
    assert pq.ParquetFile(tmp_path / "v.parquet").num_row_groups == 2


def test_pictures_that_cannot_be_had_are_said(pictures, view, tmp_path):
    said = []
    (tmp_path / "pics" / "a" / "0.png").unlink()
    export(pictures, tmp_path / "v.parquet", pictures="bytes", say=said.append)
    assert pq.read_table(tmp_path / "v.parquet").column("image_2").null_count == 1
    assert len(said) == 1
    assert said[0].startswith(
        "1 of 4 rows have no picture: pics/a/0.png cannot be read (No such file"
    )
    with pytest.raises(BadSource, match="holds texts: it has no pictures"):
        export(view, tmp_path / "n.parquet", pictures="path")
    with pytest.raises(BadName, match="expected path or bytes"):
        export(pictures, tmp_path / "n.parquet", pictures="base64")
    export(pictures, tmp_path / "w.parquet")
    without = back(tmp_path / "w.parquet", tmp_path / "other")
    with pytest.raises(BadSource, match="can be exported: the items came without files"):
        export(without, tmp_path / "n.parquet", pictures="bytes")
    assert not (tmp_path / "n.parquet").exists()


def test_pictures_inside_a_table_have_bytes_and_no_path(pictures, tmp_path):
    files = [tmp_path / one for one in pictures.load().ids]
    table = pa.table({"id": ["a", "b", "c", "d"], "pic": [one.read_bytes() for one in files]})
    pq.write_table(table, tmp_path / "inside.parquet")
    store, options = pictures.dataset.store, SourceOptions(image="pic", id="id")
    store.embed(
        [tmp_path / "inside.parquet"], dataset="i", encoders=[PIXELS], source_options=options
    )
    view = store.view("i", PIXELS)
    with pytest.raises(
        BadSource, match="is not a file of its own; --pictures bytes takes its bytes"
    ):
        export(view, tmp_path / "v.atlas.parquet", pictures="path")
    export(view, tmp_path / "v.atlas.parquet", pictures="bytes")
    found = pq.read_table(tmp_path / "v.atlas.parquet").column("image").to_pylist()
    assert [one["bytes"] for one in found] == table.column("pic").to_pylist()


def test_the_map_that_is_chosen_goes_along(view, tmp_path, capsys):
    points = project(view, "pca")
    export(view, tmp_path / "a.atlas.parquet", points=points, where="number = 1")
    found = pq.read_table(tmp_path / "a.atlas.parquet")
    rows = [view.load().ids.tolist().index(one) for one in found.column("item_id").to_pylist()]
    for at, name in enumerate(("projection_x", "projection_y")):
        np.testing.assert_array_equal(found.column(name), points[rows, at])
    with pytest.raises(ShapeMismatch, match=r"points of shape \(3, 2\) for 12 items"):
        export(view, tmp_path / "b.atlas.parquet", points=points[:3])
    command = ["export", "d", "--store", str(view.dataset.store.path), "--map", "pca"]
    assert run([*command, str(tmp_path / "c.atlas.parquet"), "--split", "test"]) == 0
    assert run([*command, str(tmp_path / "c.parquet")]) == 1
    assert "no place for a map" in capsys.readouterr().err
    found = pq.read_table(tmp_path / "c.atlas.parquet").column("projection_x").to_pylist()
    assert found == points[view.matching(split="test"), 0].tolist()


def test_what_import_says_can_be_read_again_from_the_command_line(view, tmp_path, capsys):
    export(view, tmp_path / "v.parquet")
    where = ["--dataset", "e", "--name", "h", "--store", str(tmp_path / "other")]
    assert run(["import", str(tmp_path / "v.parquet"), *where]) == 0
    assert "labels: label (multiclass), tags (multilabel)" in capsys.readouterr().err
    written = json.loads((tmp_path / "other" / "datasets" / "e" / "dataset.json").read_text())
    assert [one["column"] for one in written["labels"]] == [*LABELS]
