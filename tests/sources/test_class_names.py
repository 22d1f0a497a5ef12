"""Class names of Hugging Face: each split's own, in lists and structs, saved and in Parquet."""

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import MissingColumn
from featurestore.exchange.imports import import_vectors, read_vectors
from featurestore.sources.class_names import with_class_names
from featurestore.sources.listing import SourceOptions
from featurestore.sources.opening import open_source

datasets = pytest.importorskip("datasets")
TEXT = datasets.Value("string")


def made(values, feature, texts=None):
    texts = texts or [f"word {row}" for row in range(len(values))]
    features = datasets.Features(text=TEXT, kind=feature)
    return datasets.Dataset.from_dict({"text": texts, "kind": values}, features=features)


def classes(*names):
    return datasets.ClassLabel(names=list(names))


def bare(*texts):
    return datasets.Dataset.from_dict({"text": list(texts)})


SAVED = {
    "other names": (
        {"train": made([0, 1], classes("cat", "dog")), "test": made([0, 1], classes("fox", "cat"))},
        ["cat", "dog", "fox", "cat"],
    ),
    "unlabelled last": (
        {"train": made([1, 0], classes("cat", "dog")), "test": bare("a", "b")},
        ["dog", "cat", None, None],
    ),
    "unlabelled first": (
        {"test": bare("a"), "train": made([1, -1], classes("cat", "dog"))},
        [None, "dog", None],
    ),
    "lists": (
        {"train": made([[0, 2], [], [1]], datasets.Sequence(classes("a", "b", "c")))},
        ["a|c", "", "b"],
    ),
    "names here, texts there": (
        {"train": made([1], classes("cat", "dog")), "test": made(["owl"], TEXT)},
        ["dog", "owl"],
    ),
}


@pytest.mark.parametrize("case", SAVED)
def test_saved_splits_have_their_own_names(case, tmp_path):
    splits, expected = SAVED[case]
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    found = open_source(tmp_path / "saved").listing(SourceOptions(text="text"))
    assert found.label_columns == ("kind",)
    assert found.rows.column("kind").to_pylist() == expected


def test_a_split_without_the_content_is_named(tmp_path):
    odd = datasets.Dataset.from_dict({"body": ["a"]})
    datasets.DatasetDict(train=bare("a"), test=odd).save_to_disk(tmp_path / "saved")
    with pytest.raises(MissingColumn, match=r"no column 'text' .*split test"):
        open_source(tmp_path / "saved").listing(SourceOptions(text="text"))


@pytest.mark.parametrize(
    ("values", "feature", "expected"),
    [
        ([2, 0, -1], classes("a", "b", "c"), ["c", "a", None]),
        ([[0, 1], [2], None], datasets.Sequence(classes("a", "b", "c")), ["a|b", "c", None]),
        ([[0, 1], [2, 2]], datasets.Sequence(classes("a", "b", "c"), length=2), ["a|b", "c|c"]),
    ],
)
def test_parquet_of_datasets_has_names_through_both_doors(
    values, feature, expected, tmp_path, empty_store
):
    path = tmp_path / "t.parquet"
    vectors = np.eye(len(values), 4).tolist()
    made(values, feature).add_column("vector", vectors).to_parquet(path)
    options = SourceOptions(text="text", label=("kind",))
    assert open_source(path).listing(options).rows.column("kind").to_pylist() == expected
    incoming = read_vectors(path, vector="vector")
    import_vectors(
        empty_store, incoming, dataset="d", name="x", origin=path, labels=["kind"], text="text"
    )
    items = empty_store.dataset("d").items(["item_id", "kind"]).sort_by("item_id")
    assert items.column("kind").to_pylist() == expected


def test_names_are_found_within_structs_and_lists_of_them():
    feature = {"_type": "ClassLabel", "names": ["a", "b"]}
    table = pa.table({
        "box": [{"kind": 1, "x": 5}, None],
        "boxes": [{"kind": [0, 1]}, {"kind": []}],
        "old": [[1], [0]],
        "text": ["a", "b"],
    })  # fmt: skip
    named = with_class_names(
        table,
        {
            "box": {"kind": feature, "x": {"_type": "Value"}},
            "boxes": {"_type": "Sequence", "feature": {"kind": feature}},
            "old": [feature],
        },
    )
    assert named.to_pydict() == {
        "box": [{"kind": "b", "x": 5}, None],
        "boxes": [{"kind": ["a", "b"]}, {"kind": []}],
        "old": [["b"], ["a"]],
        "text": ["a", "b"],
    }
