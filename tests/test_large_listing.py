"""A listing on the disk, in parts, does to a data set what one in memory does."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.errors import BadSource, DuplicateIds
from featurestore.pipeline import gathered, large_listing, row_join, row_keys
from featurestore.pipeline.gathered import Gathered
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.row_join import CHANGED, NEW, NOWHERE, SAME, RowJoin
from featurestore.sources import table
from featurestore.sources.listing import SourceOptions
from featurestore.sources.locations import Location
from featurestore.sources.table import TableFile
from featurestore.storage import spill
from featurestore.storage.spill import NumberSpill, RowSpill
from featurestore.store.store import open_store


class Numbers:
    """The number at the end of a text, and how long the text is."""

    version = "1"

    def encode_texts(self, texts):
        last = [one.split()[-1] for one in texts]
        return np.array([[float(one) if one.isdigit() else 0, 1] for one in last])


@pytest.fixture
def small_parts(monkeypatch):
    """Every listing is large, and has several parts, chunks and buckets."""
    monkeypatch.setattr(gathered, "LARGE_ROWS", 1)
    monkeypatch.setattr(gathered, "CHUNK_ROWS", 3)
    monkeypatch.setattr(large_listing, "PART_ROWS", 4)
    monkeypatch.setattr(row_join, "BUCKET_ROWS", 3)
    monkeypatch.setattr(table, "PART_ROWS", 5)


def write(path, rows):
    """Write rows: id → (text, label, stars)."""
    texts, labels, stars = ([*one] for one in zip(*rows.values(), strict=True))
    columns = {"id": [*rows], "text": texts, "label": labels, "stars": stars}
    pq.write_table(pa.table(columns), path)
    return path


def embed(store, *paths, say=lambda _: None, selection=None, **options):
    how = SourceOptions(text="text", id="id", label=("label",))
    (report,) = store.embed(
        paths, dataset="d", encoders=[Numbers()], source_options=how, say=say,
        embed_options=EmbedOptions(**options), selection=selection,
    )  # fmt: skip
    return report


def facts(store):
    """All that a data set holds, whatever the order in which it came."""
    found = store.dataset("d")
    view = found.views()[0].load()
    vectors = dict(zip(view.ids, view.vectors[:, 0].tolist(), strict=True))
    failures = found.failures().drop_columns(["when"]).to_pylist()
    return {
        "items": sorted(found.items().to_pylist(), key=str),
        "vectors": vectors,
        "failures": sorted(failures, key=str),
        "labels": found.description.labels,
    }


def counts(report):
    names = ("n_items", "n_encoded", "n_updated", "n_failed", "n_known_failures", "n_unchanged")
    return [getattr(report, name) for name in names]


def changes(seed):
    """Three states of two tables: rows come, go, change their text, label or number."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation([f"{c}{i}" for c in "ab" for i in range(12)]).tolist()
    for _ in range(3):
        some = [one for one in ids if rng.random() < 0.8]
        rows = {
            one: (
                None if rng.random() < 0.05 else f"text {at if rng.random() < 0.8 else 7}",
                [None, "x", "y"][rng.integers(3)],
                int(rng.integers(2)),
            )
            for at, one in enumerate(ids)
            if one in some
        }
        yield [{k: v for k, v in rows.items() if k[0] == c} for c in "ab"]


@pytest.mark.parametrize("seed", range(6))
def test_runs_over_sources_that_change_end_alike(tmp_path, seed, request):
    """Where dropped texts come back, their vectors may be found or copied: other counts, then."""
    pruned_at = 1 + seed % 2
    plain, large = (open_store(tmp_path / one, create=True) for one in ("plain", "large"))
    states = [*changes(seed)]
    told = {"plain": [], "large": []}
    for name, store in (("plain", plain), ("large", large)):
        if name == "large":
            request.getfixturevalue("small_parts")
        for at, tables in enumerate(states):
            paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
            for path, rows in zip(paths, tables, strict=True):
                write(path, rows)
            said = []
            for how in ({"prune": at == pruned_at}, {}, {"retry_failed": True}):
                report = embed(store, *paths, say=said.append, **how)
                told[name].append(facts(store))
                if at <= pruned_at:
                    told[name].append(counts(report))
            told[name].append([one.partition(" (first")[0] for one in said])
    assert told["large"] == told["plain"]


def test_other_numbers_for_ids_change_nothing(tmp_path, small_parts, monkeypatch):
    """Ten numbers for all ids: most rows must be compared by themselves."""
    coarse = row_keys.id_keys
    monkeypatch.setattr(row_join, "id_keys", lambda rows: coarse(rows) % np.uint64(10))
    rows = {f"i{i}": (f"text {i}", "x", i) for i in range(30)}
    store = open_store(tmp_path / "s", create=True)
    path = write(tmp_path / "t.parquet", rows)
    assert counts(embed(store, path))[:2] == [30, 30]
    assert counts(embed(store, path)) == [30, 0, 0, 0, 0, 30]
    rows["i3"] = ("text 99", "x", 3)
    rows["i4"] = ("text 4", "y", 4)
    del rows["i5"]
    rows["i100"] = ("text 100", "x", 3)
    report = embed(store, write(path, rows))
    assert (report.n_encoded, report.n_updated, report.n_unchanged) == (2, 1, 28)
    assert facts(store)["vectors"] == {
        **{one: float(text.split()[1]) for one, (text, *_) in rows.items()}, "i5": 5.0
    }  # fmt: skip


def test_ids_that_stand_twice_are_refused_before_anything_is_written(tmp_path, small_parts):
    store = open_store(tmp_path / "s", create=True)
    ids = [f"i{i % 19}" for i in range(20)]
    pq.write_table(pa.table({"id": ids, "text": ids, "label": ids}), tmp_path / "t.parquet")
    with pytest.raises(DuplicateIds, match=r"1 ids stand more than once in .*t.parquet.*'i0'"):
        embed(store, tmp_path / "t.parquet")
    assert not (tmp_path / "s").exists()
    rows = {f"i{i}": (f"text {i}", "x", i) for i in range(8)}
    first, second = (write(tmp_path / f"{c}.parquet", rows) for c in "ab")
    with pytest.raises(DuplicateIds, match="8 ids come from two sources"):
        embed(store, first, second)
    embed(store, first)
    with pytest.raises(DuplicateIds, match="8 ids come from two sources"):
        embed(store, second)


def test_columns_of_several_types_and_what_the_store_has_of_them(tmp_path, small_parts):
    """Whole numbers beside texts are texts, here and in the store, in whatever order they come."""
    store = open_store(tmp_path / "s", create=True)
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    n = range(9)
    numbers = pa.table({"id": [f"a{i}" for i in n], "text": [f"t {i}" for i in n], "label": [*n]})
    pq.write_table(numbers, first)
    embed(store, first)
    words = [f"b{i}" for i in n]
    pq.write_table(pa.table({"id": words, "text": [f"t {i}" for i in n], "label": words}), second)
    said = []
    report = embed(store, first, second, say=said.append)
    assert (report.n_encoded + report.n_copied, report.n_updated) == (9, 0)
    assert any("another type" in one for one in said)
    labels = {row["item_id"]: row["label"] for row in store.dataset("d").items().to_pylist()}
    assert labels == {**{f"a{i}": str(i) for i in n}, **{one: one for one in words}}
    assert counts(embed(store, first, second)) == [18, 0, 0, 0, 0, 18]
    pq.write_table(numbers.set_column(2, "label", pa.array([[1]] * 9)), first)
    assert counts(embed(store, first))[2] == 8  # lists are written 1: one is as it was


def test_attached_columns_and_known_items_and_dry_runs(tmp_path, small_parts):
    store = open_store(tmp_path / "s", create=True)
    rows = {f"i{i}": (f"text {i}", "x", i) for i in range(10)}
    path = write(tmp_path / "t.parquet", rows)
    embed(store, path)
    store.dataset("d").attach(pa.table({"item_id": ["i1", "i2"], "label": ["y", "z"]}))
    rows = {one: (text, "w", 0) for one, (text, *_) in rows.items()} | {"new": ("text 11", "w", 0)}
    write(path, rows)
    said = []
    known = Selection(known=True)
    report = embed(store, path, selection=known, say=said.append)
    assert counts(report) == [10, 0, 9, 0, 0, 10]  # i0 has no other number than before
    assert "only the items that d has: 1 new ones are left" in said
    labels = {row["item_id"]: row["label"] for row in store.dataset("d").items().to_pylist()}
    assert (labels["i1"], labels["i2"], labels["i3"], "new" in labels) == ("y", "z", "x", False)
    (estimate,) = store.estimate([path], dataset="d", encoders=[Numbers()])
    assert (estimate.n_items, estimate.n_todo) == (11, 1)
    report = embed(store, path, selection=Selection(limit=4))  # of all rows, as in memory
    assert counts(report)[:2] == [4, 0]


def test_another_process_that_writes_meanwhile_is_seen(tmp_path, small_parts, monkeypatch):
    """It embeds the same rows between our listing and our plan."""
    rows = {f"i{i}": (f"text {i}", "x", i) for i in range(10)}
    path = write(tmp_path / "t.parquet", rows)
    store = open_store(tmp_path / "s", create=True)
    real = large_listing.LargeListing.beside
    others = []

    def beside(self, looked, records):
        found = real(self, looked, records)
        if not others:
            others.append(1)
            embed(store, path)
        return found

    monkeypatch.setattr(large_listing.LargeListing, "beside", beside)
    report = embed(store, path)
    assert (report.n_encoded, report.n_unchanged) == (0, 10)
    assert len(facts(store)["items"]) == 10


def test_a_parquet_file_in_parts_is_listed_as_it_is_whole(tmp_path, small_parts):
    n = 17
    columns = {
        "id": [f"i{i}" if i % 5 else " " for i in range(n)],
        "text": [f"text {i}" if i % 4 else None for i in range(n)],
        "flag": [i % 2 == 0 for i in range(n)],
        "size": [i * 0.5 for i in range(n)],
        "bytes": [b"x"] * n,
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    source = TableFile(Location.of(tmp_path / "train.parquet"))
    options = SourceOptions(text="text", id="id", label=("flag",))
    whole, parts = source.listing(options), [*source.parts(options)]
    assert [len(one.rows) for one in parts] == [5, 5, 5, 2]
    assert pa.concat_tables(one.rows for one in parts).equals(whole.rows)
    assert {k: v for one in parts for k, v in one.failed.items()} == whole.failed
    assert {note for one in parts for note in one.notes} == {*whole.notes}
    assert {one.label_columns for one in parts} == {whole.label_columns}
    assert source.parts(SourceOptions(text="text", group="upper(text)")) is None
    odd = pa.table({"text": ["a"] * 9, "big": pa.array([2**64 - 1] * 9, pa.uint64())})
    pq.write_table(odd, tmp_path / "odd.parquet")
    assert TableFile(Location.of(tmp_path / "odd.parquet")).parts(options) is None


def test_a_file_that_is_damaged_further_down_changes_nothing(tmp_path, small_parts):
    rows = {f"i{i}": (f"text {i}" * 50, "x", i) for i in range(40)}
    path = tmp_path / "t.parquet"
    whole = pq.read_table(write(path, rows))
    pq.write_table(whole, path, row_group_size=10, compression="zstd")
    at = pq.read_metadata(path).row_group(3).column(1).data_page_offset
    content = bytearray(path.read_bytes())
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    store = open_store(tmp_path / "s", create=True)
    with pytest.raises(BadSource, match=r"cannot read .*t.parquet"):
        embed(store, path)
    assert not (tmp_path / "s").exists()


def test_rows_and_numbers_come_back_from_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    kept = RowSpill(tmp_path / "not" / "there")
    tables = [pa.table({"a": ["x" * i, None]}) for i in range(4)] + [pa.table({"b": [1.5]})]
    for one in tables:
        kept.add(one)
    assert [*kept] == tables
    assert [*kept] == tables
    assert (len(kept), kept.n_rows) == (5, 9)
    numbers = NumberSpill(tmp_path, np.dtype([("n", "i8")]), 4)
    given = rng.integers(100, size=(3, 50))
    for some in given:
        numbers.add(np.array(some).view([("n", "i8")]), some % 4)
    for bucket in range(4):
        wanted = np.concatenate([some[some % 4 == bucket] for some in given])
        assert numbers.read(bucket)["n"].tolist() == wanted.tolist()
    assert [*tmp_path.iterdir()] == []  # nothing that a kill would leave


def test_a_full_disk_names_the_place(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spill.os, "pwrite", full)
    with pytest.raises(OSError, match=str(tmp_path)):
        RowSpill(tmp_path).add(pa.table({"a": [1]}))


def test_rows_are_told_apart_by_each_column_that_counts(tmp_path):
    base = {"item_id": ["a", "b"], "source": ["s", "s"], "n": [1, -1], "x": [0.0, None],
            "flag": [True, None], "y": ["", None]}  # fmt: skip
    stored = pa.table(base)
    names = ["n", "x", "flag", "y", "absent"]

    def states(**columns):
        join = RowJoin(tmp_path, names, ["s"], 2)
        join.add_listed(pa.table(base | columns))
        join.add_stored(stored)
        return join.join().state.tolist()

    assert states() == [SAME, SAME]
    assert states(x=[-0.0, None], absent=pa.nulls(2)) == [SAME, SAME]
    for columns in ({"n": [1, -2]}, {"x": [0.0, 0.0]}, {"flag": [True, False]}, {"y": ["", ""]}):
        assert states(**columns) == [SAME, CHANGED], columns
    assert states(item_id=["c", "b"]) == [NEW, SAME]
    join = RowJoin(tmp_path, names, ["s"], 2)
    join.add_listed(stored)
    joined = join.join()
    assert (joined.state.tolist(), joined.where.tolist()) == ([NEW, NEW], [NOWHERE, NOWHERE])


def test_what_is_gathered_stays_in_memory_while_it_is_little(tmp_path, monkeypatch):
    monkeypatch.setattr(gathered, "LARGE_ROWS", 5)
    found = Gathered(tmp_path)
    found.add(pa.table({"item_id": ["a"] * 5}), "s", frozenset())
    assert not found.is_large
    found.add(pa.table({"item_id": ["b"], "n": [1]}), "t", frozenset())
    assert found.is_large
    rows = pa.concat_tables(found.tables(found.schema({}))).to_pylist()
    assert rows[4:] == [
        {"item_id": "a", "source": "s", "n": None}, {"item_id": "b", "source": "t", "n": 1}
    ]  # fmt: skip
