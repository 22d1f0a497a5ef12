"""Rows of somebody else's pipeline: each id stands once in the data set, or nothing comes in."""

import pyarrow as pa
import pytest

from featurestore.cli import run as command
from featurestore.errors import BadSource, DuplicateIds, ModalityMismatch
from featurestore.workers.batches import Encoder, RowSink

SPEC = "baseline:hashing#size=16"


def written(store, *parts):
    """Write parts as the tasks of a pipeline do; return the sink and its run."""
    encoder, sink = Encoder(SPEC, column="text"), RowSink(str(store.path), "d", SPEC)
    parts = [
        encoder(pa.table({"item_id": ids, "text": [f"text {one}" for one in ids]})) for ids in parts
    ]
    run = sink.begin(parts[0].column_names)
    for number, part in enumerate(parts):
        assert sink.write(run, f"{number:06d}", part)
    return sink, run


@pytest.mark.parametrize("parts", [["1", "2"], ["1", "1"]], ids=["in two tasks", "in one"])
def test_an_id_that_stands_twice_is_refused_and_nothing_comes_in(empty_store, parts):
    sink, run = written(empty_store, parts, ["2", "3"])
    with pytest.raises(DuplicateIds, match=r"have one id: '[12]'; nothing is brought in"):
        sink.complete(run, 1.0)
    data = empty_store.dataset("d")
    assert data.n_items == len(data.view(SPEC).load()) == 0
    assert data.unfinished() == []
    sink, run = written(empty_store, ["1", "2"], ["3"])
    sink.complete(run, 1.0)
    assert sorted(data.view(SPEC).load().ids) == ["1", "2", "3"]
    sink, run = written(empty_store, ["3", "4"])  # again: its row takes the place of the old one
    sink.complete(run, 1.0)
    assert sorted(data.view(SPEC).load().ids) == ["1", "2", "3", "4"]


def test_what_a_dead_driver_left_is_refused_too_and_can_be_given_up(empty_store, capsys):
    written(empty_store, ["1", "2"], ["2"])
    words = ["embed", "--dataset", "d", "--store", str(empty_store.path)]
    assert command([*words, "--commit"]) == 1
    assert "have one id: '2'" in capsys.readouterr().err
    assert command([*words, "--drop-plan"]) == 0
    assert empty_store.dataset("d").unfinished() == []
    assert empty_store.dataset("d").n_items == 0


def test_rows_of_another_kind_or_without_an_id_are_refused(empty_store, tiny_images):
    empty_store.embed([tiny_images], dataset="d", encoders=["baseline:pixels#size=2"])
    with pytest.raises(ModalityMismatch, match="holds images, and the rows are texts"):
        written(empty_store, ["1"])
    assert empty_store.dataset("d").unfinished() == []
    encoder, sink = Encoder(SPEC, column="text"), RowSink(str(empty_store.path), "texts", SPEC)
    rows = encoder(pa.table({"item_id": ["1", None], "text": ["a", "b"]}))
    run = sink.begin(rows.column_names)
    with pytest.raises(BadSource, match="item_id is empty in 1 of 2 rows"):
        sink.write(run, "000000", rows)
