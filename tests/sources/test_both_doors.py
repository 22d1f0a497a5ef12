"""What `embed` and `import` make of one table: the same task, classes and groups."""

import datetime
from collections import Counter
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.exchange.imports import import_vectors, read_vectors
from featurestore.sources.listing import SourceOptions
from featurestore.sources.opening import open_source
from heads.labels.tasks import Task, read_target

NAN = float("nan")
N = 6
WORDS = [["red"], ["red", "round"], []] * 2
PIPED = ["red", "red|round", ""] * 2
SEVERAL = ("multilabel", {"red": 4, "round": 2})
DAYS = [datetime.date(2024, 1, 5)] * 3 + [datetime.date(2024, 1, 6)] * 3
COLUMNS = {
    "list": (pa.array(WORDS), SEVERAL),
    "large list": (pa.array(WORDS, pa.large_list(pa.large_string())), SEVERAL),
    "list of views": (pa.array(WORDS, pa.list_(pa.string_view())), SEVERAL),
    "fixed list": (pa.array([["red", "round"], ["red", None]] * 3, pa.list_(pa.string(), 2)),
                   ("multilabel", {"red": 6, "round": 3})),
    "list of categories": (pa.array(WORDS, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
                           SEVERAL),
    "list of decimals": (pa.array([[Decimal("0.5"), Decimal(1)], [Decimal(1)]] * 3,
                                  pa.list_(pa.decimal128(3, 1))),
                         ("multilabel", {"0.5": 3, "1.0": 6})),
    "string": (pa.array(PIPED), SEVERAL),
    "large string": (pa.array(PIPED, pa.large_string()), SEVERAL),
    "string view": (pa.array(PIPED, pa.string_view()), SEVERAL),
    "dictionary": (pa.array(PIPED).dictionary_encode(), SEVERAL),
    "dictionary of large strings": (pa.array(PIPED, pa.large_string()).dictionary_encode(),
                                    SEVERAL),
    "decimal": (pa.array([Decimal(k) / 4 for k in range(N)], pa.decimal128(8, 2)),
                ("regression", None)),
    "wide decimal": (pa.array([Decimal(k) / 4 for k in range(N)], pa.decimal256(60, 2)),
                     ("multiclass", {f"{k / 4:.2f}": 1 for k in range(N)})),
    "whole decimals": (pa.array([Decimal(k % 2) for k in range(N)], pa.decimal128(8, 2)),
                       ("multiclass", {"0": 3, "1": 3})),
    "NaN classes": (pa.array([0.0, NAN, 1.0] * 2), ("multiclass", {"0": 2, "1": 2})),
    "half NaN": (pa.array([0.0, NAN, 1.0] * 2, pa.float16()), ("multiclass", {"0": 2, "1": 2})),
    "fractions": (pa.array([0.5, NAN, 1.25] * 2, pa.float32()), ("regression", None)),
    "int8": (pa.array([1, 2, None] * 2, pa.int8()), ("multiclass", {"1": 2, "2": 2})),
    "uint64": (pa.array([1, 2**64 - 1, None] * 2, pa.uint64()),
               ("multiclass", {"1": 2, str(2**64 - 1): 2})),
    "large integers": (pa.array([2**60, 2**60 + 1] * 3), ("multiclass", {
        str(2**60): 3, str(2**60 + 1): 3})),
    "bool": (pa.array([True, False, None] * 2), ("multiclass", {"True": 2, "False": 2})),
    "date": (pa.array(DAYS), ("multiclass", {"2024-01-05": 3, "2024-01-06": 3})),
    "run-end encoded": (pa.RunEndEncodedArray.from_arrays([3, 6], ["a", "b"]),
                        ("multiclass", {"a": 3, "b": 3})),
}  # fmt: skip
for _name, _make in {"list view": pa.list_view, "large list view": pa.large_list_view}.items():
    COLUMNS[_name] = (pa.array(WORDS, _make(pa.string())), SEVERAL)


def table(**columns):
    first = {
        "id": [f"{row:03}" for row in range(N)],
        "vector": pa.array(np.eye(N, 8).tolist(), pa.list_(pa.float32(), 8)),
        "text": [f"word {row}" for row in range(N)],
    }
    return pa.table(first | columns)


def understood(store, path, *, label="label", group=None, name="doors"):
    """Return what each door understood: task, classes, groups and labels."""
    options = SourceOptions(text="text", id="id", label=(label,), group=group)
    store.embed(
        [path], dataset=f"{name}-embed", encoders=["baseline:hashing"], source_options=options
    )
    incoming = read_vectors(path, item_id="id", vector="vector")
    import_vectors(
        store, incoming, dataset=f"{name}-import", name="x", origin=path, text="text",
        labels=[label],
    )  # fmt: skip
    return [of_dataset(store.dataset(f"{name}-{door}")) for door in ("embed", "import")]


def of_dataset(dataset):
    ((column, facts),) = dataset.description.labels.items()
    items = dataset.items(["item_id", column, "group"]).sort_by("item_id")
    values = items.column(column).to_numpy(zero_copy_only=False)
    known = np.array([one is not None and one == one and one != "" for one in values])
    classes = None
    if (task := Task(facts["task"])) is not Task.REGRESSION:
        target = read_target(values[known], task, column)
        if task is Task.MULTILABEL:
            counts = target.values.sum(axis=0).tolist()
            classes = dict(zip(target.classes, counts, strict=True))
        else:
            classes = dict(Counter(target.lesson.tolist()))
    return (str(task), classes), items.column("group").to_pylist()


@pytest.mark.parametrize("kind", COLUMNS)
def test_labels_of_every_type_mean_the_same(kind, empty_store, tmp_path):
    column, expected = COLUMNS[kind]
    pq.write_table(table(label=column), tmp_path / "t.parquet") if kind not in NOT_PARQUET else (
        write_arrow(table(label=column), tmp_path / "t.arrow")
    )
    if kind in NOT_PARQUET:
        incoming = read_vectors(tmp_path / "t.arrow", item_id="id", vector="vector")
        import_vectors(
            empty_store, incoming, dataset="d", name="x", origin=tmp_path, text="text",
            labels=["label"],
        )  # fmt: skip
        assert of_dataset(empty_store.dataset("d"))[0] == expected
        return
    embedded, imported = understood(empty_store, tmp_path / "t.parquet")
    assert embedded == imported
    assert embedded[0] == expected


NOT_PARQUET = {"run-end encoded", "list view", "large list view"}


def write_arrow(made, path):
    with pa.ipc.new_stream(path, made.schema) as out:  # as `datasets` writes them
        out.write_table(made)


@pytest.mark.parametrize(
    ("column", "groups"),
    [
        (pa.array([1.0, NAN, 2.0] * 2), ["1", None, "2"] * 2),
        (pa.array([1, None, 2] * 2, pa.int8()), ["1", None, "2"] * 2),
        (pa.array(["a", "b", None] * 2).dictionary_encode(), ["a", "b", None] * 2),
        (pa.array(["a", "b", None] * 2, pa.string_view()), ["a", "b", None] * 2),
        (pa.array(DAYS), [str(day) for day in DAYS]),
        (pa.array([True, False] * 3), ["true", "false"] * 3),
    ],
    ids=str,
)
def test_groups_of_every_type_mean_the_same(column, groups, empty_store, tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(table(label=["a", "b"] * 3, group=column), path)
    embedded, imported = understood(empty_store, path, group="group")
    assert embedded == imported
    assert embedded[1] == groups


def test_a_bar_within_a_label_of_a_list_is_said(empty_store, tmp_path):
    pq.write_table(table(label=[["a|b", "c"], ["a"]] * 3), tmp_path / "t.parquet")
    options = SourceOptions(text="text", id="id", label=("label",))
    notes = list(open_source(tmp_path / "t.parquet").listing(options).notes)
    said = []
    import_vectors(
        empty_store, read_vectors(tmp_path / "t.parquet", item_id="id", vector="vector"),
        dataset="d", name="x", origin=tmp_path, labels=["label"], say=said.append,
    )  # fmt: skip
    expected = "label 'label' holds 'a|b', and '|' stands between labels here: it is kept as 'a/b'"
    assert (notes, said) == ([expected], [expected])


def test_a_label_whose_name_is_ours_gets_another_through_both_doors(empty_store, tmp_path):
    pq.write_table(table(size=["a", "b"] * 3), tmp_path / "t.parquet")
    embedded, imported = understood(empty_store, tmp_path / "t.parquet", label="size")
    assert embedded == imported
    assert embedded[0] == ("multiclass", {"a": 3, "b": 3})


def test_nan_is_null_for_conditions_counts_and_averages(empty_store, tmp_path):
    columns = {"label": [0.0, NAN, 1.0] * 2, "score": [NAN, 0.5, 1.0] * 2}
    pq.write_table(table(**columns), tmp_path / "t.parquet")
    understood(empty_store, tmp_path / "t.parquet", name="nan")
    for door in ("embed", "import"):
        dataset = empty_store.dataset(f"nan-{door}")
        items = dataset.items(["label", "score"])
        assert (items.column("label").null_count, items.column("score").null_count) == (2, 2)
    dataset.attach(pa.table({"item_id": ["000", "001"], "later": [NAN, 1.0]}))
    assert dataset.items(["later"]).column("later").null_count == N - 1


def test_random_tables_mean_the_same_through_both_doors(empty_store, tmp_path):
    from tools.fuzz_tables import differ

    assert [said for seed in range(40) if (said := differ(empty_store, seed, tmp_path))] == []
