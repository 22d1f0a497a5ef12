"""What goes out comes back the same, and other programs' files come in."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import heads
from featurestore.cli import run
from featurestore.errors import BadName, BadSource, MissingColumn, UnknownEncoder
from featurestore.exchange.exports import export
from featurestore.exchange.imports import Incoming, import_vectors, read_vectors
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from featurestore.upkeep.verify import verify

HASHING = "baseline:hashing#size=32"


@pytest.fixture
def view(empty_store, tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"i{n},text number{n},{'ab'[n % 2]},{('train', 'test')[n % 3 == 0]}" for n in range(9)]
    path.write_text("\n".join(["id,text,label,split", *rows]))
    options = SourceOptions(text="text", id="id", label=("label",), split="split")
    empty_store.embed([path], dataset="d", encoders=[HASHING], source_options=options)
    return empty_store.view("d", HASHING)


@pytest.mark.parametrize("name", ["v.parquet", "v.arrow", "v.npy"])
def test_an_export_comes_back_the_same(name, view, tmp_path):
    path = tmp_path / "out" / name
    assert export(view, path) == 9
    store = open_store(tmp_path / "other", create=True)
    back = import_vectors(
        store, read_vectors(path), dataset="d", name="h", origin=path, labels=["label"]
    )
    before, after = view.load(), back.load()
    assert str(back.spec) == "import:h"
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.vectors, before.vectors)
    for column in ("text", "label", "split", "group", "content_hash"):
        assert after.column(column).tolist() == before.column(column).tolist()
    assert verify(store.dataset("d").folder) == []
    assert heads.fit(back, "prototype", save=False).card["label"] == "label"
    assert back.neighbors("i0", k=3).ids.tolist() == view.neighbors("i0", k=3).ids.tolist()
    with pytest.raises(UnknownEncoder, match="came from a file"):
        back.search_text("a")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True), st.integers(1, 5),
    st.integers(0, 10**6),
)  # fmt: skip
def test_any_rows_come_back_the_same(tmp_path_factory, ids, dim, seed):
    ids = [one for one in ids if one.isprintable()] or ["a"]
    vectors = np.random.default_rng(seed).normal(size=(len(ids), dim)).astype(np.float32)
    folder = tmp_path_factory.mktemp("x")
    store = open_store(folder / "s", create=True)
    incoming = Incoming(pa.array(ids), vectors, pa.table({"note": [f"n{i}" for i in ids]}))
    view = import_vectors(store, incoming, dataset="d", name="x", origin="somewhere")
    export(view, folder / "v.parquet")
    again = read_vectors(folder / "v.parquet")
    order = np.argsort(ids)
    assert again.ids.to_pylist() == [ids[i] for i in order]
    np.testing.assert_array_equal(again.vectors, vectors[order])
    assert again.columns["note"].to_pylist() == [f"n{ids[i]}" for i in order]


def test_a_hugging_face_folder(view, tmp_path):
    datasets = pytest.importorskip("datasets")
    assert export(view, tmp_path / "hf", split="test") == 3
    found = datasets.load_from_disk(str(tmp_path / "hf"))
    assert found["item_id"][:] == ["i0", "i3", "i6"]
    np.testing.assert_allclose(np.array(found["vector"][:]), view.load(split="test").vectors)
    again = read_vectors(tmp_path / "hf")  # by ourselves, without their package
    assert again.ids.to_pylist() == ["i0", "i3", "i6"]
    np.testing.assert_array_equal(again.vectors, view.load(split="test").vectors)
    assert again.columns["label"].to_pylist() == ["a", "b", "a"]
    (tmp_path / "hf" / "state.json").write_text("{}")
    with pytest.raises(BadSource, match=r"cannot read .*hf"):
        read_vectors(tmp_path / "hf")
    (tmp_path / "hf" / "state.json").unlink()
    with pytest.raises(BadSource, match="expected a folder of clip-retrieval"):
        read_vectors(tmp_path / "hf")


@pytest.mark.parametrize("ending", [".arrow", ".npy", ""])
def test_every_format_comes_back_the_same(view, tmp_path, ending):
    export(view, tmp_path / f"x{ending}")
    again = read_vectors(tmp_path / f"x{ending}")
    found = view.load()
    assert again.ids.to_pylist() == found.ids.tolist()
    np.testing.assert_array_equal(again.vectors, found.vectors)
    for name in ("label", "split"):
        assert again.columns[name].to_pylist() == found.column(name).tolist(), name


def test_embedding_atlas_columns(view, tmp_path):
    export(view, tmp_path / "v.atlas.parquet", where="label = 'a'")
    rows = pq.read_table(tmp_path / "v.atlas.parquet").to_pylist()
    assert [row["item_id"] for row in rows] == ["i0", "i2", "i4", "i6", "i8"]
    for number, row in enumerate(rows):
        assert row["neighbors"]["ids"][0] == number
        assert row["neighbors"]["distances"][0] == pytest.approx(0, abs=1e-6)
        assert sorted(row["neighbors"]["ids"]) == list(range(5))
    flat = np.array([[row["projection_x"], row["projection_y"]] for row in rows])
    assert (flat.std(axis=0) > 0).all()
    spread = flat.std(axis=0)  # of two equal ones rounding decides
    assert spread[0] >= spread[1] * (1 - 1e-6)


def test_frames(view):
    table = view.to_arrow(where="label = 'b'")
    frame = table.to_pandas()
    assert frame["item_id"].tolist() == ["i1", "i3", "i5", "i7"]
    np.testing.assert_array_equal(np.stack(frame["vector"]), view.load().vectors[1:8:2])


def test_the_file_says_whose_vectors_it_holds(view, tmp_path):
    export(view, tmp_path / "v.parquet")
    said = json.loads(pq.read_schema(tmp_path / "v.parquet").metadata[b"featurestore"])
    assert said == {
        "dataset": "d", "encoder": HASHING, "fingerprint": view.fingerprint,
        "snapshot": str(view.snapshot),
    }  # fmt: skip


def test_a_folder_of_clip_retrieval(empty_store, tmp_path):
    """Parts in order of their numbers, float16, with image_path and caption beside them."""
    folder = tmp_path / "clip"
    vectors = np.random.default_rng(0).normal(size=(22, 8)).astype(np.float16)
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for part in range(11):  # 10 comes after 9
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", vectors[2 * part : 2 * part + 2])
        names = [f"{2 * part + i:03d}.jpg" for i in range(2)]
        table = pa.table({"image_path": names, "caption": [f"a {name}" for name in names]})
        pq.write_table(table, folder / "metadata" / f"metadata_{part}.parquet")
    view = import_vectors(empty_store, read_vectors(folder), dataset="d", name="b32", origin=folder)
    found = view.load()
    assert found.ids.tolist() == [f"{i:03d}.jpg" for i in range(22)]
    np.testing.assert_array_equal(found.vectors, vectors.astype(np.float32))
    assert found.column("caption")[21] == "a 021.jpg"


def test_vectors_for_items_that_are_known(view, tmp_path):
    """They join the items there are; labels and texts stay."""
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    pq.write_table(pa.table({"id": ["i2", "i0", "new"]}), tmp_path / "v.items.parquet")
    store = view.dataset.store
    made = import_vectors(
        store, read_vectors(tmp_path / "v.npy"), dataset="d", name="x", origin=tmp_path / "v.npy"
    )
    found = made.load()
    assert found.ids.tolist() == ["i0", "i2", "new"]
    assert found.vectors.argmax(axis=1).tolist() == [1, 0, 2]
    assert found.column("text").tolist() == ["text number0", "text number2", None]
    assert view.n_rows == 9
    store.embed([], dataset="d", encoders=[HASHING])  # sources that it knows are read as before
    assert store.dataset("d").n_items == 10


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda p: p.with_suffix(".txt").write_text("x"), BadSource, "expected .parquet, .arrow"),
        (lambda p: np.save(p.with_suffix(".npy"), np.ones(3)), BadSource, r"expected \(n, dim\)"),
        (
            lambda p: np.save(p.with_suffix(".npy"), np.full((2, 2), np.nan)),
            BadSource, "v.npy has no row to take: its vector holds NaN or infinity",
        ),
        (lambda p: p.with_suffix(".npy").write_bytes(b"no"), BadSource, "cannot read"),
        (
            lambda p: np.save(p.with_suffix(".npy"), np.array([[{}]]), allow_pickle=True),
            BadSource, "Python objects",
        ),
        (
            lambda p: pq.write_table(pa.table({"v": [[1.0], [1.0, 2]]}), p.with_suffix(".parquet")),
            BadSource, "2 lengths",
        ),
        (
            lambda p: pq.write_table(
                pa.table({"v": pa.array([[], None], pa.list_(pa.float32()))}),
                p.with_suffix(".parquet"),
            ),
            BadSource, "2 rows of v.parquet have no vector, and none has one",
        ),
        (
            lambda p: pq.write_table(pa.table({"a": [1]}), p.with_suffix(".parquet")),
            BadSource, "has 0 columns of vectors",
        ),
        (lambda p: p.with_suffix(".dir").mkdir(), BadSource, "holds no img_emb"),
    ],
)  # fmt: skip
def test_what_holds_no_vectors(write, error, message, tmp_path):
    write(tmp_path / "v")
    (path,) = tmp_path.glob("v.*")
    with pytest.raises(error, match=message):
        read_vectors(path)


def test_names_that_there_are_not(view, tmp_path):
    export(view, tmp_path / "v.parquet")
    with pytest.raises(MissingColumn, match="--id"):
        read_vectors(tmp_path / "v.parquet", item_id="absent")
    with pytest.raises(BadSource, match="does not name each row once"):
        read_vectors(tmp_path / "v.parquet", item_id="label")
    with pytest.raises(BadSource, match="there is something at"):
        export(view, tmp_path / "v.parquet")
    with pytest.raises(BadSource, match=r"cannot write v\.csv: expected \.atlas\.parquet"):
        export(view, tmp_path / "v.csv")
    incoming = read_vectors(tmp_path / "v.parquet")
    with pytest.raises(BadName, match="is not a data set name"):
        import_vectors(view.dataset.store, incoming, dataset="../d", name="x", origin="v")


def test_the_commands(view, tmp_path, capsys):
    where = ["--store", str(view.dataset.store.path)]
    path = str(tmp_path / "v.parquet")
    assert run(["export", "d", path, "--where", "label = 'a'", *where]) == 0
    assert "5 rows in" in capsys.readouterr().err
    other = ["--store", str(tmp_path / "other")]
    assert run(["import", path, "--dataset", "e", "--name", "h", "--label", "label", *other]) == 0
    assert "e@import:h: 5 vectors of dim 32" in capsys.readouterr().err
    assert run(["info", "e", *other]) == run(["search", "e", "--item", "i0", *other]) == 0
    assert run(["embed", "--dataset", "e", "-e", HASHING, *other]) == 1
    assert "name a SOURCE" in capsys.readouterr().err


def a_view(store, ids=("a", "b"), dim=3, name="x", seed=0, columns=None, **options):
    vectors = np.random.default_rng(seed).normal(size=(len(ids), dim)).astype(np.float32)
    incoming = Incoming(pa.array(list(ids)), vectors, pa.table(columns or {}))
    return import_vectors(store, incoming, dataset="d", name=name, origin="photos", **options)


def test_a_second_import_replaces_only_what_it_is_told_to(empty_store):
    view = a_view(empty_store)
    first = view.load().vectors.copy()
    with pytest.raises(BadName, match="has dim 3 in 'd', these vectors have 4"):
        a_view(empty_store, ["c"], dim=4)
    with pytest.raises(BadSource, match="has vectors of 1 of these items: --overwrite"):
        a_view(empty_store, ["b", "c"], seed=1)
    np.testing.assert_array_equal(view.load().vectors, first)
    a_view(empty_store, ["c"], seed=1)
    assert view.load().ids.tolist() == ["a", "b", "c"]
    view.build_index(factory="Flat")
    a_view(empty_store, ["a", "b"], seed=2, overwrite=True)
    assert not np.array_equal(view.load().vectors[:2], first)
    assert view.index_facts is None  # of vectors that are no more


def test_a_vector_of_other_content_is_not_taken_for_this_one(view, tmp_path):
    """Exported, then the text changed: the old vector is not the new text's."""
    export(view, tmp_path / "v.parquet")
    table = tmp_path / "t.csv"
    table.write_text(table.read_text().replace("text number0", "another text").replace(
        "text number0", "another text"))  # fmt: skip
    table.write_text(table.read_text().replace("number0", "changed"))
    store, said = view.dataset.store, []
    store.embed([], dataset="d", encoders=[HASHING])
    back = import_vectors(
        store, read_vectors(tmp_path / "v.parquet"), dataset="d", name="x", origin="v",
        say=said.append,
    )  # fmt: skip
    assert back.load().ids.tolist() == [f"i{n}" for n in range(1, 9)]
    assert said == [
        "1 items have other content here than these vectors were made of: "
        "they stay without a vector"
    ]


def test_an_import_leaves_registered_sources_alone(empty_store, tiny_images):
    photos = tiny_images.rename(tiny_images.parent / "photos")
    pixels = "baseline:pixels#size=1"
    empty_store.embed([photos], dataset="d", encoders=[pixels])
    a_view(empty_store)  # from another place that is called photos
    assert empty_store.embed([], dataset="d", encoders=[pixels])[0].n_unchanged == 6
    assert empty_store.dataset("d").read_bytes("dark/0.png")


@pytest.mark.parametrize("name", ["", " x ", "a#b", "x\n", "a#layer=3", "local-dir:rel", "a@b"])
def test_a_name_that_would_not_read_back_is_refused(name, empty_store):
    with pytest.raises(BadName):
        a_view(empty_store, name=name)
    assert empty_store.datasets() == []


def test_labels_reach_items_that_are_known(empty_store, capsys):
    a_view(empty_store)
    a_view(empty_store, ["a", "c"], name="y", columns={"grade": ["g1", "g2"]}, labels=["grade"])
    found = empty_store.view("d", "import:x").load()
    assert found.column("grade").tolist() == ["g1", None]
    assert run(["info", "d", "--store", str(empty_store.path)]) == 0


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"text": ["a", None]}, {"text": "text"}, "1 rows have no text"),
        ({"group": [["g"], ["h"]]}, {}, "'group' holds list"),
        ({"content_hash": [["g"], ["h"]]}, {}, "'content_hash' holds list"),
    ],
)
def test_columns_of_the_wrong_kind_make_no_data_set(columns, options, message, empty_store):
    with pytest.raises(BadSource, match=message):
        a_view(empty_store, columns=columns, **options)
    assert empty_store.datasets() == []
    a_view(empty_store, columns={"content_hash": [7, None], "text": [1, 2]})
    assert empty_store.view("d", "import:x").load().column("content_hash")[0] == "7"


def test_nothing_to_write_writes_nothing(view, tmp_path):
    for name in ("v.parquet", "v.npy", "v.atlas.parquet"):
        with pytest.raises(BadSource, match="no item fulfils the condition"):
            export(view, tmp_path / name, where="false")
        assert not (tmp_path / name).exists()


def test_a_column_of_lists_is_imported_as_several_labels(empty_store, tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(3, dtype=np.float32).ravel()), 3)
    table = pa.table({"id": ["a", "b", "c"], "vector": vectors, "tags": [["x", "y"], ["x"], []]})
    pq.write_table(table, tmp_path / "v.parquet")
    incoming = read_vectors(tmp_path / "v.parquet", item_id="id")
    import_vectors(
        empty_store, incoming, dataset="d", name="x", origin=tmp_path / "v.parquet",
        labels=("tags",),
    )  # fmt: skip
    dataset = empty_store.dataset("d")
    assert dataset.description.labels == {"tags": {"task": "multilabel"}}
    assert sorted(dataset.items(["tags"]).column("tags").to_pylist()) == ["", "x", "x|y"]


def test_an_npy_export_leaves_the_items_of_another_one(view, tmp_path):
    (tmp_path / "v.items.parquet").write_bytes(b"mine")
    with pytest.raises(BadSource, match=r"something at .*v\.items\.parquet"):
        export(view, tmp_path / "v.npy")
    assert (tmp_path / "v.items.parquet").read_bytes() == b"mine"
    assert not (tmp_path / "v.npy").exists()


def test_an_npy_export_that_was_killed_between_its_two_files_can_run_again(view, tmp_path):
    export(view, tmp_path / "v.npy")
    whole = (tmp_path / "v.npy").read_bytes()
    (tmp_path / "v.npy").unlink()  # it is written last
    export(view, tmp_path / "v.npy")
    assert (tmp_path / "v.npy").read_bytes() == whole
    (tmp_path / "v.npy").unlink()
    with pytest.raises(BadSource, match=r"something at .*v\.items\.parquet"):
        export(view, tmp_path / "v.npy", where="label = 'a'")  # not what it left


def test_an_atlas_export_can_be_imported_and_exported_again(view, tmp_path):
    first, second = tmp_path / "a.atlas.parquet", tmp_path / "b.atlas.parquet"
    export(view, first)
    again = import_vectors(
        open_store(tmp_path / "other", create=True), read_vectors(first, item_id="item_id"),
        dataset="d", name="x", origin=first, labels=("label",),
    )  # fmt: skip
    export(again, second)
    names = pq.read_schema(second).names
    assert len(names) == len(set(names))
    assert {"projection_x", "projection_y", "neighbors", "label"} <= set(names)
