"""Runs over large listings that are disturbed: other writers, sources that change, odd ids."""

import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from featurestore.errors import DuplicateIds, FeatureStoreError, NotAStore
from featurestore.pipeline import (
    gathered,
    job,
    kept_listings,
    large_listing,
    listed,
    listed_sources,
    row_join,
    stored,
    writer,
)
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources import stamps, table
from featurestore.sources.listing import SourceOptions
from featurestore.storage import kept_counts
from featurestore.storage.files import write_json
from featurestore.store.store import open_store
from featurestore.upkeep import erase as erase_module
from featurestore.upkeep.erase import delete, erase
from featurestore.upkeep.verify import verify

PART = 4
TEXTS = SourceOptions(text="text", id="id", label=("label",))


class Numbers:
    """The number at the end of a text, and its length."""

    version = "1"

    def encode_texts(self, texts):
        last = [one.split()[-1] for one in texts]
        return np.array([[float(one) if one.isdigit() else 0, len(t)]
                         for one, t in zip(last, texts, strict=True)])  # fmt: skip


class Others(Numbers):
    """The same, under another name."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Every listing is large, has several parts, chunks and buckets, and is kept."""
    monkeypatch.setattr(gathered, "LARGE_ROWS", 1)
    monkeypatch.setattr(gathered, "CHUNK_ROWS", 3)
    monkeypatch.setattr(large_listing, "PART_ROWS", PART)
    monkeypatch.setattr(row_join, "BUCKET_ROWS", 5)
    monkeypatch.setattr(table, "PART_ROWS", 5)
    monkeypatch.setattr(stored, "FEW_ROWS", 0)
    monkeypatch.setattr(writer, "COMMIT_ROWS", 3)
    monkeypatch.setattr(stamps, "_SETTLED_S", -1e9)
    for module in (job, kept_counts, kept_listings):
        monkeypatch.setattr(module, "WORTH_ROWS", 0)


def write(path, rows):
    """Write rows: id → text, or (text, label)."""
    both = [one if isinstance(one, tuple) else (one, "x") for one in rows.values()]
    texts, labels = (list(one) for one in zip(*both, strict=True)) if both else ([], [])
    schema = pa.schema([(name, pa.string()) for name in ("id", "text", "label")])
    pq.write_table(pa.table([[*rows], texts, labels], schema=schema), path)
    return path


def embed(store, *paths, encoder=Numbers, options=TEXTS, say=lambda _: None, selection=None, **how):
    (report,) = store.embed(
        paths, dataset="d", encoders=[encoder()], source_options=options, say=say,
        embed_options=EmbedOptions(**how), selection=selection,
    )  # fmt: skip
    return report


def check(store, rows, encoders=(Numbers,)):
    """Rows are items and vectors, none twice, each vector is that of its text; all is sound."""
    found = store.dataset("d")
    items = found.items().to_pylist()
    texts = {one: both if isinstance(both, str) else both[0] for one, both in rows.items()}
    assert sorted(one["item_id"] for one in items) == sorted(texts)
    assert {one["item_id"]: one["text"] for one in items} == texts
    views = {one.spec.label: one.load() for one in found.views()}
    for encoder in encoders:
        (view,) = (one for name, one in views.items() if encoder.__name__ in name)
        assert sorted(view.ids) == sorted(texts)
        wanted = encoder().encode_texts([texts[one] for one in view.ids])
        np.testing.assert_array_equal(view.vectors, wanted.astype(np.float32))
    errors = [one for one in verify(found.folder, canary=False) if one.severity == "error"]
    assert errors == []
    left = [one for one in found.path.rglob("*") if one.name.startswith("tmp")]
    assert left == []


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "s", create=True)


def texts(n, letter="i", first=0):
    return {f"{letter}{i}": f"text of {letter} {i}" for i in range(first, first + n)}


def between(monkeypatch, what, at=1):
    """Do something else before the part with this number is planned."""
    real = large_listing.LargeListing.parts
    done = []

    def parts(self, *given):
        for number, part in enumerate(real(self, *given)):
            if number == at and not done:
                done.append(1)
                what()
            yield part

    monkeypatch.setattr(large_listing.LargeListing, "parts", parts)
    return done


# Edges


@pytest.mark.parametrize("n", [1, 2, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1, 15, 16])
def test_the_last_part_may_be_full_hold_one_or_none(store, tmp_path, n):
    rows = texts(n)
    path = write(tmp_path / "t.parquet", rows)
    assert embed(store, path).n_encoded == n
    check(store, rows)
    rows |= texts(1, "z")
    report = embed(store, write(path, rows))
    assert (report.n_encoded, report.n_unchanged) == (1, n)
    check(store, rows)


@pytest.mark.parametrize("n", [6, 7, 8])
def test_at_the_threshold_memory_and_disk_do_the_same(store, tmp_path, monkeypatch, n):
    monkeypatch.setattr(gathered, "LARGE_ROWS", 7)
    rows = texts(n)
    for _ in range(2):
        report = embed(store, write(tmp_path / "t.parquet", rows))
        check(store, rows)
        rows |= {"i0": "other text 77"}
    assert (report.n_encoded, report.n_unchanged) == (1, n - 1)


def test_many_sources_of_one_row_and_one_of_many(store, tmp_path):
    parts = [texts(1, f"s{number}-") for number in range(12)] + [texts(14, "t")]
    paths = [write(tmp_path / f"{n}.parquet", rows) for n, rows in enumerate(parts)]
    rows = {one: text for part in parts for one, text in part.items()}
    assert embed(store, *paths).n_encoded == 26
    check(store, rows)
    write(paths[3], {"s3-0": "text 99"})
    report = embed(store, *paths)
    assert (report.n_items, report.n_encoded, report.n_unchanged) == (26, 1, 25)
    check(store, rows | {"s3-0": "text 99"})


def test_ids_of_ten_kilobytes_that_differ_at_their_ends(store, tmp_path):
    rows = {"x" * length + f"{i:02d}": f"text {i % 3}" for length in (62, 10_000) for i in range(9)}
    path = write(tmp_path / "t.parquet", rows)
    assert embed(store, path).n_encoded == 3
    check(store, rows)
    rows["x" * 10_000 + "08"] = "text 8"
    assert embed(store, write(path, rows)).n_encoded == 1
    check(store, rows)
    twice = pa.table({"id": [*rows, "x" * 10_000 + "03"], "text": ["t"] * 19, "label": ["x"] * 19})
    pq.write_table(twice, path)
    with pytest.raises(DuplicateIds, match="1 ids stand more than once"):
        embed(store, path)
    check(store, rows)


@pytest.mark.parametrize("places", [(0, 1), (0, 8), (3, 4), (2, 11)])
def test_an_id_that_stands_twice_is_refused_in_one_part_and_in_two(store, tmp_path, places):
    rows = texts(12)
    embed(store, write(tmp_path / "t.parquet", rows))
    ids = [*rows]
    ids[places[1]] = ids[places[0]]
    changed = pa.table({"id": ids, "text": ["new 1"] * 12, "label": ["x"] * 12})
    pq.write_table(changed, tmp_path / "t.parquet")
    with pytest.raises(DuplicateIds, match=rf"1 ids stand more than once .*'i{places[0]}'"):
        embed(store, tmp_path / "t.parquet")
    check(store, rows)


def test_an_id_of_two_sources_is_refused_wherever_it_stands(store, tmp_path):
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    rows = texts(10, "a")
    embed(store, write(first, rows))
    write(second, texts(10, "b") | {"a9": "text 1"})
    for paths in ([second], [first, second], [second, first]):
        with pytest.raises(DuplicateIds, match=r"1 ids come from two sources .*'a9'"):
            embed(store, *paths)
    check(store, rows)


@pytest.mark.parametrize("overwrite", [False, True])
def test_equal_texts_of_several_parts_are_encoded_once(store, tmp_path, overwrite):
    """Also those that another part of this run has encoded, and those of before."""
    before = texts(5, "old")
    rows = {f"i{at}": f"text {number}" for at, number in enumerate([*range(6)] * 4)}
    path = write(tmp_path / "t.parquet", before)
    embed(store, path)
    rows |= before | {"copy": "text of old 2"}
    report = embed(store, write(path, rows), overwrite=overwrite)
    n_old = 5 if overwrite else 0
    assert (report.n_encoded, report.n_copied) == (6 + n_old, 19)
    check(store, rows)


# Two runs at once


def test_a_run_that_adds_and_one_that_changes_end_with_both(store, tmp_path, monkeypatch):
    """The other one has another encoder, so that no lock keeps them apart."""
    rows = texts(14)
    path = write(tmp_path / "t.parquet", rows)
    embed(store, path)
    changed = {one: (text, "y") if one < "i3" else f"changed {text}" for one, text in rows.items()}
    other, more = tmp_path / "u.parquet", texts(11, "u")

    def elsewhere():
        embed(open_store(tmp_path / "s"), write(path, changed), encoder=Others)

    done = between(monkeypatch, elsewhere)
    embed(store, write(other, more))
    assert done
    both = changed | more
    embed(store, path, other)
    embed(store, path, other, encoder=Others)
    check(store, both, (Numbers, Others))


def test_two_new_runs_over_the_same_rows_leave_them_once(store, tmp_path, monkeypatch):
    """In another order: shards of the same rows would be the same files."""
    rows = texts(15)
    path = write(tmp_path / "t.parquet", rows)

    def elsewhere():
        turned = write(path, dict(reversed(rows.items())))
        embed(open_store(tmp_path / "s"), turned, encoder=Others)

    done = between(monkeypatch, elsewhere)
    embed(store, path)
    assert done
    check(store, rows, (Numbers, Others))


@pytest.mark.parametrize("same", [False, True])
def test_small_runs_beside_much_see_what_others_add(store, tmp_path, monkeypatch, same):
    """Each lists before the other writes; only an id that both have is refused."""
    rows = texts(14)
    embed(store, write(tmp_path / "t.parquet", rows))
    monkeypatch.setattr(gathered, "LARGE_ROWS", 100)
    first, second = texts(5, "u"), texts(5, "u" if same else "v") | {"v9": "text of i 3"}
    paths = [write(tmp_path / f"{n}.parquet", one) for n, one in enumerate([first, second])]
    real, times = job._read_intake, []

    def read_intake(*given):
        found = real(*given)
        times.append(1)
        if len(times) == 1:
            embed(store, paths[0])
        return found

    monkeypatch.setattr(job, "_read_intake", read_intake)
    if same:
        with pytest.raises(DuplicateIds, match="5 ids come from two sources"):
            embed(store, paths[1])
        check(store, rows | first)
        return
    report = embed(store, paths[1])
    assert (report.n_encoded, report.n_copied, len(times)) == (5, 1, 2)
    check(store, rows | first | second)


@pytest.mark.parametrize("how", ["delete", "compact", "drop"])
def test_small_runs_see_what_others_took_out(store, tmp_path, monkeypatch, how):
    rows = texts(14)
    path = write(tmp_path / "t.parquet", rows)
    embed(store, path)
    monkeypatch.setattr(gathered, "LARGE_ROWS", 100)
    real, done = listed.WholeListing.parts, []

    def parts(self, *given):
        if not done:
            done.append(1)
            found = open_store(tmp_path / "s").dataset("d").folder
            others[how](found)
        return real(self, *given)

    others = {
        "delete": lambda found: erase_module._delete(found, pa.array(["i1", "i3"])),
        "compact": lambda found: found.items.compact(),
        "drop": lambda found: [table.clear() for table in (found.items, *found_views(found))],
    }
    monkeypatch.setattr(listed.WholeListing, "parts", parts)
    rows["i3"] = "text 103"
    report = embed(store, write(path, rows))
    assert report.n_encoded == {"delete": 2, "compact": 1, "drop": 14}[how]
    check(store, rows)


def found_views(folder):
    return [folder.view(slug) for slug in folder.encoders()]


@pytest.mark.parametrize("is_new", [True, False])
def test_threads_over_the_same_sources_leave_each_row_once(store, tmp_path, is_new):
    rows = texts(13)
    path = write(tmp_path / "t.parquet", rows)
    if not is_new:
        embed(store, path)
        rows |= texts(5, "new") | {"i3": "text 1003"}
        write(path, rows)
    failed = []

    def run(encoder):
        try:
            embed(store, path, encoder=encoder)
        except Exception as error:
            failed.append(error)

    running = [threading.Thread(target=run, args=[one]) for one in (Numbers, Numbers, Others)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert failed == []
    check(store, rows, (Numbers, Others))


def before_the_plan(monkeypatch, what):
    """Do something else once all is listed and compared, before a lock is taken."""
    real = large_listing.LargeListing.beside
    done = []

    def beside(self, *given):
        found = real(self, *given)
        if not done:
            done.append(1)
            what()
        return found

    monkeypatch.setattr(large_listing.LargeListing, "beside", beside)


@pytest.mark.parametrize("how", [delete, erase])
def test_rows_that_are_deleted_while_they_are_listed_come_back_whole(
    store, tmp_path, monkeypatch, how
):
    rows = texts(14)
    path = write(tmp_path / "t.parquet", rows)
    embed(store, path)
    rows["i3"] = "text 103"
    folder = store.dataset("d").folder
    before_the_plan(monkeypatch, lambda: how(folder, pa.array(["i1", "i3", "i12"])))
    assert embed(store, write(path, rows)).n_encoded == 3
    check(store, rows)


def test_labels_that_are_given_while_a_run_is_at_work_are_kept(store, tmp_path, monkeypatch):
    rows = texts(14)
    path = write(tmp_path / "t.parquet", rows)
    embed(store, path)
    given = pa.table({"item_id": ["i1", "i12", "i13"], "label": ["y", "z", "z"]})
    done = between(monkeypatch, lambda: store.dataset("d").attach(given))
    changed = {one: f"changed {text}" for one, text in rows.items()}
    embed(store, write(path, changed))
    assert done
    check(store, changed)
    labels = {one["item_id"]: one["label"] for one in store.dataset("d").items().to_pylist()}
    assert labels == dict.fromkeys(rows, "x") | {"i1": "y", "i12": "z", "i13": "z"}


# Sources that change while they are listed


def meanwhile(monkeypatch, what):
    """Do something once a source was stamped, and is listed."""
    real = listed_sources.listings
    done = []

    def listings(source, options):
        for one in real(source, options):
            yield one
            if not done:
                done.append(1)
                what()

    monkeypatch.setattr(listed_sources, "listings", listings)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_that_grows_while_it_is_listed_is_listed_again(
    store, tmp_path, monkeypatch, ending
):
    path = tmp_path / f"t.{ending}"
    before, after = texts(13), texts(17)

    def put(rows):
        if ending == "parquet":
            new = write(tmp_path / "new.parquet", rows)
        else:
            new = tmp_path / "new.csv"
            lines = [f"{one},{text},x" for one, text in rows.items()]
            new.write_text("\n".join(["id,text,label", *lines, ""]))
        os.replace(new, path)  # noqa: PTH105 - as whoever writes a table well does

    put(before)
    meanwhile(monkeypatch, lambda: put(after))
    embed(store, path)
    check(store, before)
    assert embed(store, path).n_encoded == 4
    check(store, after)


def test_rows_appended_in_place_never_leave_half_a_table(store, tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    rows = texts(9)
    path.write_text("id,text,label\n" + "".join(f"{k},{v},x\n" for k, v in rows.items()))

    def append():
        with path.open("a") as file:
            file.write("i9,text of i 9,x\n")

    meanwhile(monkeypatch, append)
    embed(store, path)
    embed(store, path)
    check(store, texts(10))


def test_a_table_written_over_while_it_is_read_is_an_error_or_one_of_both(
    store, tmp_path, monkeypatch
):
    path = tmp_path / "t.parquet"
    before = texts(13)
    write(path, before)
    meanwhile(monkeypatch, lambda: write(path, texts(40)))  # in place, the same file
    try:
        embed(store, path)
    except FeatureStoreError as error:
        assert "t.parquet" in str(error)  # noqa: PT017
        assert not (tmp_path / "s").exists()
    embed(store, path)
    check(store, texts(40))


def pictures(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (sum(name.encode()) % 256, 3, 0)).save(path)
    return folder


def test_a_folder_that_gets_and_loses_pictures_while_it_is_listed(store, tmp_path, monkeypatch):
    folder = pictures(tmp_path / "p", [f"a/{i}.png" for i in range(9)])

    def change():
        (folder / "a" / "3.png").unlink()
        pictures(folder, ["b/new.png"])
        Image.new("RGB", (4, 4), (250, 250, 250)).save(folder / "a" / "4.png")

    def again(**how):
        (report,) = store.embed(
            [folder], dataset="d", encoders=["baseline:pixels#size=2"],
            embed_options=EmbedOptions(**how),
        )  # fmt: skip
        return report

    meanwhile(monkeypatch, change)
    first = again()
    assert (first.n_items, first.n_failed) == (9, 1)  # what it listed and is gone
    report = again(prune=True)
    assert (report.n_items, report.n_failed) == (9, 0)
    found = store.dataset("d").views()[0].load()
    names = [f"a/{i}.png" for i in range(9) if i != 3] + ["b/new.png"]
    assert sorted(found.ids) == sorted(names)
    (at,) = np.flatnonzero(found.ids == "a/4.png")
    assert found.vectors[at].min() > 0.9  # white by now
    assert len(store.dataset("d").failures()) == 0
    assert again().n_encoded == 0


# Kept listings


def test_what_is_kept_is_of_no_use_to_other_questions(store, tmp_path):
    rows = texts(14)
    path = write(tmp_path / "t.parquet", rows)
    embed(store, path)
    assert embed(store, path).n_unchanged == 14
    assert embed(store, path, overwrite=True).n_encoded == 14
    check(store, rows)
    assert embed(store, path, encoder=Others).n_encoded == 14
    wider = SourceOptions(text="text", id="id", label=("label", "text"))
    assert embed(store, path, options=wider).n_items == 14
    assert embed(store, path, selection=Selection(limit=3)).n_items == 3
    check(store, rows, (Numbers, Others))


@pytest.mark.parametrize("how", [delete, erase])
def test_what_was_kept_does_not_hide_that_items_are_gone(store, tmp_path, how):
    rows = texts(14)
    path = write(tmp_path / "t.parquet", rows)
    for _ in range(2):
        embed(store, path)
    folder = store.dataset("d").folder
    how(folder, pa.array(["i2", "i13"]))
    assert how is delete or not [*folder.local.glob("cache/listed-*.json")]
    report = embed(store, path)
    assert (report.n_items, report.n_encoded) == (14, 2)
    check(store, rows)


def test_a_data_set_that_was_dropped_and_made_again_is_listed(store, tmp_path):
    rows = texts(14)
    path = write(tmp_path / "t.parquet", rows)
    for _ in range(2):
        embed(store, path)
    store.drop("d")
    assert embed(store, path).n_encoded == 14
    check(store, rows)


def test_failures_are_tried_again_where_it_is_asked_for(store, tmp_path):
    rows = texts(14) | {"i5": ""}
    path = write(tmp_path / "t.parquet", rows)
    assert embed(store, path).n_failed == 1
    for _ in range(2):
        report = embed(store, path)
        assert (report.n_failed, report.n_known_failures) == (0, 1)
    report = embed(store, path, retry_failed=True)
    assert (report.n_failed, report.n_known_failures) == (1, 0)
    rows["i5"] = "text 5"
    assert embed(store, write(path, rows)).n_encoded == 1
    check(store, rows)


def test_a_store_of_a_newer_release_is_left_as_it_is(tmp_path):
    path = write(tmp_path / "t.parquet", texts(9))
    store = open_store(tmp_path / "s", create=True)
    embed(store, path)
    write_json(tmp_path / "s" / "featurestore.json", {"format": 2})
    before = sorted((one, one.stat().st_mtime_ns) for one in (tmp_path / "s").rglob("*"))
    with pytest.raises(NotAStore, match="store format 2; this release reads up to 1"):
        embed(open_store(tmp_path / "s"), path)
    assert sorted((one, one.stat().st_mtime_ns) for one in (tmp_path / "s").rglob("*")) == before
