"""Old states can be read, what was replaced can go, what must go goes, and damage is named."""

import json
import os
import shutil
import time
from dataclasses import replace
from datetime import timedelta

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import heads
from featurestore.cli import run
from featurestore.errors import BadName, BadQuery, UnknownDataset, UnknownItem, UnknownSnapshot
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage import cache
from featurestore.storage.shards import view_rows, view_schema
from featurestore.storage.tables import Table
from featurestore.storage.unnamed import unreferenced
from featurestore.store.store import Store
from featurestore.store.view_rows import ViewRows
from featurestore.terms.snapshots import Snapshot
from featurestore.upkeep import erase, versions
from featurestore.upkeep.verify import verify

PIXELS = "baseline:pixels#size=2"
HASHING = "baseline:hashing#size=64"


def embed(store, source, encoder=PIXELS, **options):
    (report,) = store.embed(
        [source] if source else [], dataset="d", encoders=[encoder],
        source_options=SourceOptions(**options),
    )  # fmt: skip
    return report


@pytest.fixture
def texts(empty_store, tmp_path):
    """A store of six texts, two labels; returns it with the table's path."""
    path = tmp_path / "t.csv"
    rows = [f"{name},{text},{label}" for name, text, label in ROWS]
    path.write_text("\n".join(["id,text,label", *rows]) + "\n")
    embed(empty_store, path, HASHING, text="text", id="id", label=("label",))
    return empty_store, path


ROWS = [
    ("alice", "her secret diary", "x"),
    ("bob", "a public notice", "y"),
    ("carol", "another public notice", "y"),
    ("dave", "a third notice", "y"),
    ("erin", "her other diary", "x"),
    ("frank", "his diary", "x"),
]


# What it was


def test_a_view_can_be_read_as_it_was(empty_store, tiny_images, write_image):
    embed(empty_store, tiny_images)
    before = empty_store.view("d", PIXELS).load()
    write_image(tiny_images / "dark" / "0.png", (99, 99, 99))
    write_image(tiny_images / "dark" / "new.png", (1, 2, 3))
    embed(empty_store, None)
    view = empty_store.view("d", PIXELS)
    assert view.n_rows == 7
    then = view.as_of(str(before.snapshot))
    assert then.n_rows == 6
    found = then.load()
    assert found.snapshot == before.snapshot == then.snapshot
    np.testing.assert_array_equal(found.ids, before.ids)
    np.testing.assert_array_equal(found.vectors, before.vectors)
    assert not np.array_equal(view.load().vectors[:6], before.vectors)
    assert then.neighbors("dark/0.png", k=9).ids.shape == (1, 5)


@pytest.mark.parametrize(
    ("snapshot", "error", "message"),
    [
        ("99.1", UnknownSnapshot, "has no version 99: it has 0 to "),
        ("1.99", UnknownSnapshot, "has no version 99: it has 0 to "),
        ("latest", BadName, "expected two versions, such as 12.3"),
    ],
)
def test_a_snapshot_that_is_none(snapshot, error, message, empty_store, tiny_images):
    embed(empty_store, tiny_images)
    with pytest.raises(error, match=message):
        empty_store.view("d", PIXELS).as_of(snapshot)


def test_a_head_learns_the_same_from_the_snapshot_on_its_card(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    head = heads.fit(empty_store.view("d", PIXELS), "prototype")
    for path in sorted(tiny_images.glob("light/*")):
        path.rename(tiny_images / "dark" / f"light-{path.name}")
    (tiny_images / "light").rmdir()
    embed(empty_store, None)
    then = empty_store.view("d", PIXELS).as_of(Snapshot(**head.card["snapshot"]))
    again = heads.fit(then, "prototype", save=False)
    assert again.card["metrics"] == head.card["metrics"]
    assert again.card["snapshot"] == head.card["snapshot"]


def test_history_tells_the_commits_newest_first(texts):
    store, _ = texts
    folder = store.dataset("d").folder
    events = versions.history(folder)
    assert {one.table for one in events} == {"items", "failures", HASHING}
    assert [one.when for one in events] == sorted((one.when for one in events), reverse=True)
    assert next(one for one in events if one.table == HASHING).n_rows == 6
    assert len(versions.history(folder, limit=2)) == 2


# What may go


def test_vacuum_spares_what_is_young_named_or_present(empty_store, tiny_images, write_image):
    embed(empty_store, tiny_images)
    folder = empty_store.dataset("d").folder
    head = heads.fit(empty_store.view("d", PIXELS), "prototype")
    for value in (50, 60):  # two more states; the first of them nobody names
        write_image(tiny_images / "dark" / "0.png", (value, 0, 0))
        embed(empty_store, None)
    view = empty_store.view("d", PIXELS)
    view.table.compact()
    present = view.load()
    assert versions.vacuum(folder).files == ()  # all of it is of today
    counted = versions.vacuum(folder, older_than_s=0, dry_run=True)
    assert counted.n_bytes == sum(path.stat().st_size for path in counted.files) > 0
    assert all(path.exists() for path in counted.files)
    assert versions.vacuum(folder, older_than_s=0).files == counted.files
    assert not any(path.exists() for path in counted.files)
    found = empty_store.view("d", PIXELS).load()
    np.testing.assert_array_equal(found.vectors, present.vectors)
    named = view.as_of(Snapshot(**head.card["snapshot"])).load()
    assert named.vectors[0, 0] == pytest.approx(10 / 255)
    assert verify(folder) == []


def test_vacuum_takes_what_writers_left_behind_once_it_is_old(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    folder = empty_store.dataset("d").folder
    left = folder.items.path / ".0123.tmp"
    left.write_bytes(b"half a shard")
    assert versions.vacuum(folder).files == ()
    os.utime(left, (time.time() - 90_000,) * 2)
    assert versions.vacuum(folder).files == (left,)


@pytest.fixture
def many_shards(tmp_path):
    table = Table.create(tmp_path / "t", view_schema(4))
    for i in range(20):
        ids = pa.array([f"{i}-{j}" for j in range(5)])
        table.append(view_rows(ids, ids, np.full((5, 4), i, np.float32)))
    return table


def test_compaction_keeps_the_rows_and_lets_readers_be(many_shards):
    before, old = many_shards.read().sort_by("item_id"), many_shards.version()
    assert many_shards.compact() == 19
    assert len(many_shards.shards()) == 1
    assert many_shards.read().sort_by("item_id") == before
    assert many_shards.read(version=old).sort_by("item_id") == before
    assert many_shards.compact() == 0


def test_compaction_stops_at_its_target_and_leaves_large_shards(many_shards):
    size = many_shards.shards()[0].size_bytes
    many_shards.compact(size * 6)
    assert 2 < len(many_shards.shards()) < 10
    assert len(many_shards.read()) == 100
    shards = many_shards.shards()
    many_shards.compact(size)
    assert many_shards.shards() == shards


def test_rows_dropped_during_a_compaction_stay_dropped(many_shards, monkeypatch):
    write = Table._write

    def meanwhile(self, rows):
        monkeypatch.setattr(Table, "_write", write)
        gone = pa.array(["3-0"])
        self.merge(None, drop=lambda part: np.isin(part.column(0), gone), keys=["item_id"])
        ids = pa.array(["new"])
        self.append(view_rows(ids, ids, np.zeros((1, 4), np.float32)))
        return write(self, rows)

    monkeypatch.setattr(Table, "_write", meanwhile)
    many_shards.compact()
    ids = many_shards.read(["item_id"]).column("item_id").to_pylist()
    assert len(ids) == len(set(ids)) == 100
    assert "new" in ids
    assert "3-0" not in ids


# What must go


def test_deleted_items_are_gone_now_and_there_in_earlier_versions(texts):
    store, _ = texts
    before = store.view("d", HASHING).load()
    folder = store.dataset("d").folder
    ids = erase.select_ids(folder, ["alice"], "label = 'y' and item_id <> 'bob'")
    assert sorted(ids.to_pylist()) == ["alice", "carol", "dave"]
    erase.delete(folder, ids)
    view = store.view("d", HASHING)
    assert view.load().ids.tolist() == ["bob", "erin", "frank"]
    assert view.as_of(before.snapshot).n_rows == 6
    assert embed(store, None, HASHING).n_encoded == 3  # the source still has them


@pytest.mark.parametrize(
    ("ids", "where", "error", "message"),
    [
        (["alicia"], None, UnknownItem, "did you mean 'alice'"),
        ([], "length(text)", BadQuery, "expected a condition, true or false"),
        ([], "1 = 1; drop table items", BadQuery, "syntax error|expected one SELECT"),
        ([], "item_id in (select * from read_csv('/etc/passwd'))", BadQuery, "read_csv|disabled"),
    ],
)
def test_what_names_no_items_deletes_none(ids, where, error, message, texts):
    store, _ = texts
    with pytest.raises(error, match=message):
        erase.select_ids(store.dataset("d").folder, ids, where)
    assert store.dataset("d").n_items == 6


def test_erased_items_leave_no_trace(texts, monkeypatch):
    monkeypatch.setattr(cache, "WORTH_BYTES", 0)
    store, path = texts
    dataset = store.dataset("d")
    heads.compare(store.view("d", HASHING), ["prototype"])
    heads.fit(store.view("d", HASHING), "prototype")
    path.write_text(path.read_text().replace("secret diary", "hidden diary"))  # an older version
    embed(store, None, HASHING)
    store.view("d", HASHING).load()
    store.view("d", HASHING).build_index(factory="Flat")
    hashes = {
        row["content_hash"]
        for file in dataset.folder.items.path.glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
        if row["item_id"] == "alice"
    }
    assert len(hashes) == 2
    while not list(dataset.path.glob("cache/*/[0-9]*")):
        time.sleep(0.01)  # a thread writes it
    gone = erase.erase(dataset.folder, pa.array(["alice"]))
    assert gone.n_files >= 2
    assert (len(gone.run_cards), len(gone.heads)) == (1, 1)
    assert not (dataset.path / "cache").exists()
    assert not (dataset.path / "indexes").exists()
    traces = {"alice", "her secret diary", "her hidden diary", *hashes}
    for file in dataset.path.rglob("*"):
        if file.suffix == ".parquet":
            values = {value for row in pq.read_table(file).to_pylist() for value in row.values()
                      if isinstance(value, str)}  # fmt: skip
            assert not values & traces, file
        if file.is_file():
            content = file.read_bytes()
            assert not [one for one in traces if one.encode() in content], file
    assert store.view("d", HASHING).n_rows == 5
    assert verify(dataset.folder) == []


def test_what_was_deleted_before_can_be_erased_and_an_erasure_resumed(texts, monkeypatch):
    store, _ = texts
    folder = store.dataset("d").folder
    erase.delete(folder, pa.array(["alice"]))
    with pytest.raises(UnknownItem):
        erase.select_ids(folder, ["alice"])
    ids = erase.select_ids(folder, ["alice"], ever=True)
    with monkeypatch.context() as patched:
        patched.setattr(erase, "_holds", lambda path, ids: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            erase.erase(folder, ids)
    assert erase.erase(folder, erase.select_ids(folder, ["alice"], ever=True)).n_files >= 1
    with pytest.raises(UnknownItem):
        erase.select_ids(folder, ["alice"], ever=True)
    assert verify(folder) == []


def test_an_erasure_does_not_trust_clocks(texts):
    store, _ = texts
    folder = store.dataset("d").folder
    for path in folder.path.rglob("*.parquet"):
        os.utime(path, (time.time() + 3600,) * 2)
    erase.erase(folder, pa.array(["alice"]))
    for path in folder.path.rglob("*.parquet"):
        assert "alice" not in pq.read_table(path).column("item_id").to_pylist()


def test_vacuum_of_a_table_that_is_older_than_a_card(empty_store, tiny_images):
    """As after a backup was restored."""
    embed(empty_store, tiny_images)
    head = heads.fit(empty_store.view("d", PIXELS), "prototype")
    (path,) = empty_store.path.glob("datasets/d/heads/*/card.json")
    path.write_text(json.dumps(head.card | {"snapshot": {"items": 99, "view": 99}}))
    assert versions.vacuum(empty_store.dataset("d").folder, older_than_s=0).files == ()


def test_what_is_erased_while_an_index_is_built_is_not_kept(texts, monkeypatch):
    store, _ = texts
    view = store.view("d", HASHING)
    read = ViewRows.read

    def slow(self):
        found = read(self)
        erase.erase(view.dataset.folder, pa.array(["alice"]))
        return found

    monkeypatch.setattr(ViewRows, "read", slow)
    view.build_index(factory="Flat")
    assert view.index_facts is None


def test_what_a_writer_is_about_to_commit_stays(many_shards, monkeypatch):
    """However short the time that replaced files are kept."""
    commit = Table._commit

    def late(self, table, actions, adds):
        assert unreferenced(self, older_than_s=-1) == []
        return commit(self, table, actions, adds)

    monkeypatch.setattr(Table, "_commit", late)
    assert many_shards.compact() == 19
    assert len(unreferenced(many_shards, older_than_s=-1)) == 20


def test_care_waits_for_writers(empty_store, tiny_images, monkeypatch):
    """Each takes the locks of all views, those of a process a GPU included."""
    embed(empty_store, tiny_images)
    folder = empty_store.dataset("d").folder
    slug = empty_store.view("d", PIXELS).slug
    with folder.locked(f"{slug}.0-of-2"):
        pass
    taken = []
    locked = type(folder).locked

    def note(self, what, **options):
        taken.append(what)
        return locked(self, what, **options)

    monkeypatch.setattr(type(folder), "locked", note)
    for work in (
        versions.compact, versions.vacuum, lambda f: erase.delete(f, pa.array(["dark/0.png"])),
        lambda f: erase.erase(f, pa.array(["dark/1.png"])),
    ):  # fmt: skip
        taken.clear()
        work(folder)
        assert taken[:3] == [slug, f"{slug}.0-of-2", "dataset"]


def test_compaction_takes_columns_that_came_between(texts):
    store, path = texts
    rows = [f"{name},{text},{label},n" for name, text, label in ROWS[:3]]
    for n in range(3):
        rows.append(f"new{n},a text,y,n{n}")
        path.write_text("\n".join(["id,text,label,note", *rows]))
        embed(store, None, HASHING)
    items = store.dataset("d").folder.items
    before = items.read().sort_by("item_id")
    items.compact()
    assert len(items.shards()) == 1
    assert items.read().sort_by("item_id") == before


def test_erasing_takes_the_thumbnail_unless_another_item_looks_the_same(
    empty_store, tiny_images, write_image
):
    write_image(tiny_images / "dark" / "copy.png", (10, 0, 0))  # as dark/0.png
    embed(empty_store, tiny_images)
    dataset = empty_store.dataset("d")
    for item_id in ("dark/0.png", "dark/1.png"):
        dataset.thumbnail(item_id)
    assert erase.erase(dataset.folder, pa.array(["dark/0.png"])).n_thumbnails == 0
    assert erase.erase(dataset.folder, pa.array(["dark/1.png"])).n_thumbnails == 1


def test_renaming_and_dropping(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    head = heads.fit(empty_store.view("d", PIXELS), "prototype")
    empty_store.rename("d", "other")
    assert empty_store.datasets() == ["other"]
    assert empty_store.view("other", PIXELS).n_rows == 6
    assert heads.load_head(empty_store.dataset("other"), head.head_id).card == head.card
    (report,) = empty_store.embed([], dataset="other", encoders=[PIXELS])
    assert report.n_unchanged == 6
    embed(empty_store, tiny_images)
    with pytest.raises(BadName, match="there is a data set 'd'"):
        empty_store.rename("other", "d")
    with pytest.raises(BadName, match="is not a data set name"):
        empty_store.rename("other", "../d")
    empty_store.drop("d")
    assert empty_store.datasets() == ["other"]
    assert sorted(path.name for path in (empty_store.path / "datasets").iterdir()) == ["other"]
    with pytest.raises(UnknownDataset):
        empty_store.drop("d")
    for name in ("./other", "other/", "../datasets/other", "o\n", ""):
        with pytest.raises(UnknownDataset):
            empty_store.drop(name)
    (empty_store.path / "datasets" / ".dropped-x-1").mkdir()
    shutil.copy(
        empty_store.path / "datasets" / "other" / "dataset.json",
        empty_store.path / "datasets" / ".dropped-x-1",
    )
    assert empty_store.datasets() == ["other"]


def test_a_new_data_set_of_an_old_name_shows_its_own_files(empty_store, tiny_images, write_image):
    embed(empty_store, tiny_images)
    assert empty_store.dataset("d").uri("dark/0.png") == str(tiny_images / "dark" / "0.png")
    empty_store.drop("d")
    other = write_image(tiny_images.parent / "more" / "p" / "new.png").parents[1]
    embed(empty_store, other)
    assert empty_store.dataset("d").uri("p/new.png") == str(other / "p" / "new.png")


# Damage


def first_shard(folder, table):
    return next(folder.path.glob(f"{table}/*.parquet"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def nan_in_a_vector(folder):
    (table,) = folder.path.glob("views/*/")
    ids = pa.array(["z"])
    Table(table).append(view_rows(ids, ids, np.full((1, 12), np.nan, np.float32)))


def twice_an_id(folder):
    rows = folder.items.read()
    folder.items.append(rows.slice(0, 1))


def other_head(folder):
    next(folder.path.glob("heads/*/head.skops")).write_bytes(b"another")


DAMAGE = {
    "a truncated shard": (
        lambda f: os.truncate(first_shard(f, "views/*"), 100), "100 bytes, the log says",
    ),
    "a missing shard": (lambda f: first_shard(f, "items").unlink(), "No such file"),
    "a flipped byte": (lambda f: flip(first_shard(f, "views/*")), "SHA-256"),
    "no log": (lambda f: [p.unlink() for p in f.path.glob("items/_delta_log/*")], "is gone"),
    "a damaged log": (
        lambda f: next(f.path.glob("items/_delta_log/*1.json")).write_text("{"), "cannot be read",
    ),
    "no dataset.json": (lambda f: (f.path / "dataset.json").unlink(), "dataset.json"),
    "no encoder.json": (
        lambda f: next(f.path.glob("views/*/encoder.json")).unlink(), "has no encoder.json",
    ),
    "a damaged dataset.json": (lambda f: (f.path / "dataset.json").write_text("{"), "dataset.json"),
    "NaN": (nan_in_a_vector, "1 vectors hold NaN"),
    "an id twice": (twice_an_id, "'dark/0.png' has two rows"),
    "another head": (other_head, "is not the head"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_ends_in_exit_code_1(what, empty_store, tiny_images, capsys):
    embed(empty_store, tiny_images)
    heads.fit(empty_store.view("d", PIXELS), "prototype")
    folder = empty_store.dataset("d").folder
    assert verify(folder) == []
    damage, message = DAMAGE[what]
    damage(folder)
    errors = [one for one in verify(folder) if one.severity == "error"]
    n_files = 3 if what == "no log" else 1  # its commits
    assert len(errors) == n_files, errors
    assert message in errors[0].what
    assert run(["verify", "d", "--json", "--store", str(empty_store.path)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [message in one["what"] for one in report["findings"]["d"]].count(True) == n_files


def test_a_text_and_a_cache_that_changed_are_named(texts, monkeypatch):
    monkeypatch.setattr(cache, "WORTH_BYTES", 0)
    store, _ = texts
    folder = store.dataset("d").folder
    store.view("d", HASHING).load()
    while not (found := list(folder.path.glob("cache/*/[0-9]*/sums.json"))):
        time.sleep(0.01)
    assert verify(folder) == []
    flip(found[0].with_name("vectors.npy"))
    (one,) = verify(folder)
    assert "is not what was written" in one.what
    shutil.rmtree(folder.path / "cache")
    rows = folder.items.read()
    at = rows.column_names.index("text")
    other = rows.set_column(at, "text", pa.array(["changed"] * len(rows)))
    folder.items.merge(other, drop=lambda part: np.ones(len(part), bool), keys=["item_id"])
    assert len([one for one in verify(folder) if "is not the one that was hashed" in one.what]) == 6


def test_sources_that_changed_are_warnings(empty_store, tiny_images, write_image, capsys):
    embed(empty_store, tiny_images)
    write_image(tiny_images / "dark" / "0.png", (1, 1, 1))
    (tiny_images / "dark" / "1.png").unlink()
    found = {one.where: one for one in verify(empty_store.dataset("d").folder)}
    assert found.keys() == {"dark/0.png", "dark/1.png"}
    assert "has changed since it was embedded" in found["dark/0.png"].what
    assert "is gone from its source" in found["dark/1.png"].what
    assert run(["verify", "--store", str(empty_store.path)]) == 0
    assert "warning: dark/0.png" in capsys.readouterr().out


def test_an_encoder_that_drifted_or_is_gone_is_a_warning(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    folder = empty_store.dataset("d").folder
    (path,) = folder.path.glob("views/*/encoder.json")
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"fingerprint": "0" * 64}))
    (found,) = verify(folder)
    assert "is another encoder now" in found.what
    path.write_text(json.dumps(info | {"spec": "timm:local-dir:/gone"}))
    (found,) = verify(folder)
    assert "cannot be loaded here" in found.what
    assert verify(folder, canary=False) == []


# The command line


def test_the_commands_ask_before_they_delete(texts, capsys, monkeypatch):
    store, _ = texts
    where = ["--store", str(store.path)]
    monkeypatch.setattr("click.confirm", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(["delete", "d", "alice", *where]) == 130
    assert run(["drop", "d", *where]) == 130
    assert store.dataset("d").n_items == 6
    monkeypatch.setattr("click.confirm", lambda *a, **k: (_ for _ in ()).throw(click.Abort))
    assert run(["delete", "d", "alice", *where]) == 130
    assert "nothing was done" in capsys.readouterr().err
    assert store.dataset("d").n_items == 6
    assert run(["delete", "d", *where]) == 2
    assert run(["delete", "d", "--where", "label = 'x'", "-y", *where]) == 0
    assert store.dataset("d").n_items == 3
    assert run(["delete", "d", "bob", "--erase", "-y", *where]) == 0
    assert run(["compact", "d", *where]) == run(["vacuum", "d", "--dry-run", *where]) == 0
    assert run(["history", "d", "--json", *where]) == 0
    events = json.loads(capsys.readouterr().out)
    assert events[0].keys() == {"when", "table", "version", "n_rows", "n_shards"}
    assert run(["rename", "d", "e", *where]) == run(["drop", "e", "-y", *where]) == 0
    assert Store(store.path).datasets() == []


def test_versions_stand_in_their_order_whatever_the_clocks_said(texts, monkeypatch):
    """A writer whose clock is a day behind made the last version of all tables."""
    store, _ = texts
    folder = store.dataset("d").folder
    plain = Table.history

    def behind(self, limit=None):
        newest, *others = plain(self, limit)
        return [replace(newest, when=newest.when - timedelta(days=1)), *others]

    store.embed([], dataset="d", encoders=[HASHING], embed_options=EmbedOptions(overwrite=True))
    monkeypatch.setattr(Table, "history", behind)
    of_table: dict[str, list[int]] = {}
    for event in versions.history(folder):
        of_table.setdefault(event.table, []).append(event.version)
    assert any(len(found) > 1 for found in of_table.values())
    assert all(found == sorted(found, reverse=True) for found in of_table.values())


def test_a_name_too_long_for_a_file_is_refused(empty_store, tiny_images):
    with pytest.raises(BadName, match="of 300 characters: expected 100 or fewer"):
        empty_store.embed([tiny_images], dataset="a" * 300, encoders=[PIXELS])
    assert empty_store.datasets() == []
