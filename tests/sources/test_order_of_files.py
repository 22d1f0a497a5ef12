"""The order of files does not decide: one type a column, in one run, over runs and in labels."""

from itertools import permutations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.curation.labels import read_labels
from featurestore.errors import BadSource
from featurestore.exchange.imports import import_vectors, read_vectors
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store

OPTIONS = SourceOptions(text="text", id="id", label=("label",))
FILES = {
    "whole": ["1", "2"],
    "floats": ["0.5", "2.25"],
    "pointed": ["1.0", "2.5"],
    "texts": ["1.10", "n/a"],
    "empty": ["", ""],
    "long": ["9007199254740993", "7"],
}


@pytest.fixture
def files(tmp_path):
    """Return a function that writes CSV files of two labels each, by name."""

    def write(*names):
        paths = []
        for name in names:
            rows = [f"{name}{row},word,{label}" for row, label in enumerate(FILES[name])]
            path = tmp_path / f"{name}.csv"
            path.write_text("\n".join(["id,text,label", *rows]))
            paths.append(path)
        return paths

    return write


def embed(store, *runs):
    for paths in runs:
        store.embed(paths, dataset="d", encoders=["baseline:hashing"], source_options=OPTIONS)
    dataset = store.dataset("d")
    items = dataset.items(["item_id", "label"])
    labels = dict(zip(*items.to_pydict().values(), strict=True))
    return labels, str(items.schema.field("label").type), dataset.description.labels["label"]


MIXED = [
    (("whole", "floats"), "double", {"whole0": 1.0, "floats0": 0.5}),
    (("whole", "texts"), "string", {"whole0": "1", "texts0": "1.10"}),
    (("pointed", "texts"), "string", {"pointed0": "1.0", "pointed1": "2.5", "texts1": "n/a"}),
    (("whole", "floats", "texts"), "string", {"whole1": "2", "floats1": "2.25", "texts0": "1.10"}),
    (("empty", "whole", "floats"), "double", {"empty0": None, "whole0": 1.0}),
    (("long", "floats"), "string", {"long0": "9007199254740993", "floats0": "0.5"}),
]


@pytest.mark.parametrize(("names", "kind", "some"), MIXED)
def test_files_of_one_run_may_stand_in_any_order(names, kind, some, files, tmp_path):
    found = [
        embed(open_store(tmp_path / f"store{at}", create=True), files(*order))
        for at, order in enumerate(permutations(names))
    ]
    assert all(one == found[0] for one in found)
    labels, found_kind, _ = found[0]
    assert found_kind == kind
    assert {name: labels[name] for name in some} == some


@pytest.mark.parametrize(("names", "kind", "some"), [
    (("whole", "floats"), "double", {"whole0": 1.0, "floats0": 0.5}),
    (("floats", "whole"), "double", {"whole0": 1.0, "floats0": 0.5}),
    (("whole", "texts"), "string", {"whole0": "1", "texts0": "1.10"}),
    (("texts", "pointed"), "string", {"pointed0": "1.0", "texts0": "1.10"}),
    (("floats", "texts"), "string", {"floats0": "0.5", "texts1": "n/a"}),
    (("empty", "texts", "whole"), "string", {"empty0": None, "whole0": "1"}),
    (("long", "whole"), "int64", {"long0": 9007199254740993}),
])  # fmt: skip
def test_runs_widen_what_is_stored(names, kind, some, files, empty_store):
    runs = [[path] for path in files(*names)]
    labels, found_kind, facts = embed(empty_store, *runs)
    assert found_kind == kind
    assert {name: labels[name] for name in some} == some
    expected = {"double": "regression"}.get(kind, "multiclass")
    assert facts["task"] == expected
    again = empty_store.embed([], dataset="d", encoders=["baseline:hashing"])
    assert again[0].n_unchanged == len(labels)
    vectors = empty_store.view("d", "baseline:hashing").load()
    assert len(vectors.ids) == len(labels)


def test_old_versions_keep_their_types(files, empty_store):
    whole, texts = files("whole", "texts")
    embed(empty_store, [whole])
    items = empty_store.dataset("d").folder.items
    before = items.version()
    embed(empty_store, [texts])
    assert items.read(["label"], before).column("label").type == pa.int64()
    assert items.read(["label"]).column("label").type == pa.string()


def test_whole_numbers_too_long_for_floats_become_texts(files, empty_store):
    long, floats = files("long", "floats")
    embed(empty_store, [long])
    labels, kind, _ = embed(empty_store, [floats])
    assert kind == "string"
    assert labels["long0"] == "9007199254740993"


def test_labels_and_imports_widen_alike(files, empty_store, tmp_path):
    embed(empty_store, files("texts"))
    dataset = empty_store.dataset("d")
    (tmp_path / "l.csv").write_text("id,label\ntexts0,1.0\ntexts1,2.5\n")
    assert dataset.attach(read_labels(tmp_path / "l.csv", item_id="id")) == 2
    items = dataset.items(["item_id", "label"]).sort_by("item_id")
    assert items.column("label").to_pylist() == ["1.0", "2.5"]
    vectors = pa.array([[0.0, 1.0]] * 2, pa.list_(pa.float32()))
    pq.write_table(
        pa.table(
            {"id": ["a", "texts0"], "vector": vectors, "text": ["a", "word"], "label": [3, 4]}
        ),
        tmp_path / "t.parquet",
    )  # fmt: skip
    import_vectors(
        empty_store, read_vectors(tmp_path / "t.parquet"), dataset="d", name="x",
        origin=tmp_path, labels=["label"],
    )  # fmt: skip
    items = dataset.items(["item_id", "label"]).sort_by("item_id")
    assert items.column("label").to_pylist() == ["3", "4", "2.5"]


def test_kinds_that_no_type_holds_are_refused(files, empty_store):
    embed(empty_store, files("whole"))
    vectors = pa.array([[0.5]], pa.list_(pa.float64()))
    with pytest.raises(BadSource, match="column 'label' is int64 in the data set, but list"):
        empty_store.dataset("d").attach(pa.table({"item_id": ["whole0"], "label": vectors}))
