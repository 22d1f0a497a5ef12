"""Contents that have a vector: as a set says, and each is encoded once."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.pipeline import contents, writer
from featurestore.pipeline.contents import Contents, ContentsOfPart, known_to_all
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions

ODD = ["", "0" * 64, "0" * 16 + "1" * 48, "of another program", "é" * 32, "F" * 64, "ab"]


def hashes(n, first=0):
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(first, first + n)]


def column(*parts):
    return pa.chunked_array([pa.array(one, pa.string()) for one in parts])


@pytest.mark.parametrize("seed", range(3))
def test_contents_are_a_set_whatever_the_order_of_what_comes(seed):
    rng = np.random.default_rng(seed)
    every = [*hashes(5000), *ODD[1:2], *ODD[3:]]
    found, wanted = Contents(), set()
    for _ in range(40):
        some = [every[i] for i in rng.integers(len(every), size=rng.integers(200))]
        if rng.random() < 0.5:
            found.update(column(some, [None, *some[:3]]))
        else:
            for one in some:
                found.add(one)
        wanted |= set(some)
        assert [one in found for one in every] == [one in wanted for one in every]
        assert found.marks(column(every)).tolist() == [one in wanted for one in every]
    assert len(found.keys()) == len(wanted)


def test_what_begins_alike_passes_for_known():
    found = Contents()
    found.add("0" * 64)
    assert "0" * 16 + "f" * 48 in found
    assert "0" * 15 + "f" * 49 not in found


def test_the_keys_of_several_sets_are_those_that_all_hold():
    first, second = Contents(), hashes(6, 3)
    first.update(column(hashes(6)))
    both = known_to_all([first, set(second)])
    assert both.tolist() == sorted(int(one[:16], 16) for one in hashes(3, 3))
    assert known_to_all([set()]).tolist() == []


def test_a_part_takes_in_only_what_it_may_ask_for_again():
    known = Contents()
    known.update(column(hashes(2)))
    once, twice = hashes(2, 10)
    part = ContentsOfPart(known, column([*hashes(1), once, twice, twice]))
    assert part == set(hashes(1))
    part.add(once)
    part.add(twice)
    assert part == {*hashes(1), twice}


class Numbered:
    """The number at the end of a text; keeps what it was given."""

    version = "1"

    def __init__(self):
        self.texts = []

    def encode_texts(self, texts):
        self.texts += texts
        last = [one.split()[-1] for one in texts]
        return np.array([[float(one) if one.isdigit() else 0, 1] for one in last])


def embed(store, path, rows, encoder):
    ids, texts = zip(*rows.items(), strict=True)
    pq.write_table(pa.table({"id": ids, "text": texts}), path)
    options = SourceOptions(text="text", id="id")
    (report,) = store.embed([path], dataset="d", encoders=[encoder], source_options=options)
    found = store.dataset("d").views()[0].load()
    return report, dict(zip(found.ids, found.vectors[:, 0].tolist(), strict=True))


@pytest.mark.parametrize("n_rows", [6, 10**6])
def test_equal_content_is_encoded_once_within_a_commit_over_commits_and_over_runs(
    empty_store, tmp_path, monkeypatch, n_rows
):
    """A third of the texts stands once, the others up to 30 times, near and far."""
    monkeypatch.setattr(writer, "COMMIT_ROWS", n_rows)
    rng = np.random.default_rng(0)
    numbers = [*range(40), *rng.integers(40, 46, size=80).tolist()]
    numbers = rng.permutation(numbers).tolist()
    rows = {f"i{at}": f"text {number}" for at, number in enumerate(numbers)}
    encoder = Numbered()
    encoder.texts.clear()
    report, vectors = embed(empty_store, tmp_path / "t.parquet", rows, encoder)
    assert vectors == {one: float(text.split()[-1]) for one, text in rows.items()}
    encoded = [one for one in encoder.texts if one in rows.values()]
    assert sorted(encoded) == sorted(set(rows.values()))
    assert (report.n_encoded, report.n_copied) == (len(set(numbers)), 120 - len(set(numbers)))
    encoder.texts.clear()
    more = {**rows, **{f"j{at}": f"text {number}" for at, number in enumerate([0, 45, 99, 99])}}
    report, vectors = embed(empty_store, tmp_path / "t.parquet", more, encoder)
    assert vectors == {one: float(text.split()[-1]) for one, text in more.items()}
    assert (report.n_encoded, report.n_copied, report.n_unchanged) == (1, 3, 120)
    assert [one for one in encoder.texts if one in more.values()] == ["text 99"]


def test_what_only_looked_known_is_encoded_in_the_same_run(empty_store, tmp_path, monkeypatch):
    """As if the hashes of all texts began like that of another one."""
    monkeypatch.setattr(Contents, "marks", lambda self, hashes: np.ones(len(hashes), bool))
    rows = {f"i{at}": f"text {at}" for at in range(5)}
    report, vectors = embed(empty_store, tmp_path / "t.parquet", rows, Numbered())
    assert vectors == {f"i{at}": float(at) for at in range(5)}
    assert (report.n_encoded, report.n_failed) == (5, 0)


def test_a_hash_of_many_letters_is_not_read_beyond_what_is_compared():
    keys = contents.keys_of(column(["00000000000000ff" + "zz" * 24], ["f" * 16]))
    assert keys.tolist() == [0xFF, 2**64 - 1]


def test_a_text_that_was_dropped_and_comes_back_takes_its_old_vector(empty_store, tmp_path):
    path, encoder = tmp_path / "t.parquet", Numbered()
    rows = {f"i{at}": f"text {at}" for at in range(4)}
    embed(empty_store, path, rows, encoder)
    pq.write_table(pa.table({"id": ["i0"], "text": ["text 0"]}), path)
    empty_store.embed([], dataset="d", encoders=[encoder], embed_options=EmbedOptions(prune=True))
    assert empty_store.dataset("d").n_items == 1
    report, vectors = embed(empty_store, path, rows, encoder)
    assert (report.n_encoded, report.n_unchanged, empty_store.dataset("d").n_items) == (0, 4, 4)
    assert vectors == {f"i{at}": float(at) for at in range(4)}
