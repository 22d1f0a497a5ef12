"""A commit that is gone or without actions is named, never read past, and costs no row."""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest

from featurestore.cli import run
from featurestore.errors import FeatureStoreError, StoreCorrupt
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.storage import log_files
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.log_files import log_damage
from featurestore.storage.markers import begin_run
from featurestore.storage.shards import view_rows, write_shard
from featurestore.storage.tables import Table
from featurestore.store.store import open_store
from featurestore.upkeep import erase, versions
from featurestore.upkeep.repair import repair
from featurestore.upkeep.verify import verify

OLD = time.time() - 3 * 86_400
WHOLE = np.repeat(np.arange(1, 4, dtype=np.float32), 2)[:, None] * np.ones(4, np.float32)


def take_in(store, number, dataset="d"):
    ids = pa.array([f"{number}a", f"{number}b"])
    columns = pa.table({"n": ids, **({"late": ids} if number == 2 else {})})
    vectors = np.full((2, 4), number + 1, np.float32)
    rows = Incoming(ids, vectors, columns)
    return import_vectors(store, rows, dataset=dataset, name="x", origin="o")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a store whose view has three commits of two vectors each; all is old."""
    path = tmp_path_factory.mktemp("made") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_CACHE", str(path.with_name("cache")))
        store = open_store(path, create=True)
        for number in range(3):
            take_in(store, number)
    return path


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made, tmp_path / "store")
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (OLD, OLD))
    return open_store(tmp_path / "store")


def folder_of(store):
    return store.folder("d")


def table_of(store, name="view"):
    return store.view("d", "import:x").table if name == "view" else folder_of(store).items


def log_of(store, version, name="view"):
    views = store.path / "datasets" / "d" / "views"
    table = next(views.iterdir()) if name == "view" else views.with_name("items")
    return table / "_delta_log" / f"{version:020}.json"


def content(store):
    """All that a reader gets: items and vectors, in their order."""
    found = store.view("d", "import:x").load()
    return store.dataset("d").items().sort_by("item_id"), found.ids.tolist(), found.vectors


def assert_equal(one, other):
    assert one[0].equals(other[0])
    assert one[1] == other[1]
    np.testing.assert_array_equal(one[2], other[2])


def tree(path):
    return {
        one.relative_to(path): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and "locks" not in one.parts
    }


def errors(store):
    return [one for one in verify(folder_of(store)) if one.severity == "error"]


REFUSAL = "is gone, cut off, or holds no action"
DAMAGE = {  # what happens to a commit -> what verify says of it
    "empty": (lambda path: path.write_bytes(b""), "this commit has no bytes"),
    "gone": (lambda path: path.unlink(), "this commit is gone"),
    "blank": (lambda path: path.write_bytes(b"\n\n"), "this commit holds no action"),
    "long and blank": (lambda path: path.write_bytes(b" " * 5000), "this commit holds no action"),
    "a note": (
        lambda path: path.write_text('{"commitInfo": {"x": "' + "y" * 5000 + '"}}\n'),
        "this commit holds no action",
    ),
    "zeros": (lambda path: path.write_bytes(b"\0" * 300), "this commit cannot be read"),
    "a line less": (
        lambda path: path.write_bytes(path.read_bytes().splitlines(keepends=True)[0]),
        "this commit ",
    ),
    "torn": (
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        "this commit cannot be read",
    ),
}


@pytest.mark.parametrize(
    ("kind", "name", "version"),
    [
        *((kind, "view", 3) for kind in DAMAGE),
        ("empty", "view", 2), ("gone", "view", 2), ("gone", "view", 0), ("torn", "view", 0),
        ("gone", "items", 1), ("empty", "items", -1),  # -1: the last one
    ],
)  # fmt: skip
def test_a_damaged_commit_is_named_and_comes_back(kind, name, version, store):
    before = content(store)
    if version == -1:
        version = table_of(store, name).version()
    damage, what = DAMAGE[kind]
    path = log_of(store, version, name)
    files = tree(store.path)
    damage(path)
    damaged = tree(store.path)
    (found,) = errors(store)
    assert found.where == str(path)
    assert found.what.startswith(what)
    assert "`featurestore store repair` restores it from its copy" in found.what
    with pytest.raises(StoreCorrupt, match=REFUSAL):
        content(store)
    if version:
        with pytest.raises(StoreCorrupt, match=REFUSAL):
            take_in(store, 3)
    assert versions.vacuum(folder_of(store), older_than_s=0).damaged == (str(path),)
    with pytest.raises(StoreCorrupt, match="nothing was erased"):
        erase.erase(folder_of(store), pa.array(["0a"]))
    assert [one.is_mended for one in repair(folder_of(store), dry_run=True)] == [True]
    assert tree(store.path) == damaged
    (done,) = repair(folder_of(store))
    assert done.where == str(path)
    kept = path.parents[1] / "_commits" / f"{path.name}.damaged"
    if damaged.get(path.relative_to(store.path)):
        assert kept.read_bytes() == damaged[path.relative_to(store.path)]
        kept.unlink()
    assert tree(store.path) == files
    assert errors(store) == []
    assert_equal(content(store), before)
    assert repair(folder_of(store)) == []


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["empty", "gone"])
def test_rows_of_a_commit_without_a_copy_are_taken_in(kind, version, store):
    """As in a store that an older release wrote."""
    before = content(store)
    path = log_of(store, version)
    for copies in store.path.rglob("_commits"):
        shutil.rmtree(copies)
    assert errors(store) == []
    DAMAGE[kind][0](path)
    if (kind, version) == ("gone", 3):
        assert errors(store) == []  # nothing tells of it: see the next test
        return
    shards = [path.parents[1] / one.where for one in errors(store) if "shard" in one.where]
    assert errors(store)[0].where == str(path)
    assert ["no version names this shard" in one.what for one in errors(store)[1:]] == (
        [] if version == 0 else [True]
    )
    assert shards == []
    with pytest.raises(StoreCorrupt, match=REFUSAL):
        content(store)
    gone = versions.vacuum(folder_of(store), older_than_s=0)
    assert [one for one in gone.files if "views" in str(one)] == []
    said = [one.what for one in repair(folder_of(store), dry_run=True)]
    assert [one.what for one in repair(folder_of(store))] == said
    assert said[1:] == ([] if version == 0 else ["2 rows that no version names are taken in"])
    assert errors(store) == []
    assert_equal(content(store), before)
    take_in(store, 3)
    assert len(store.view("d", "import:x").load()) == 8


def test_unnamed_rows_beside_a_whole_log_are_taken_in_if_asked_for(store, capsys):
    before = content(store)
    for copies in store.path.rglob("_commits"):
        shutil.rmtree(copies)
    log_of(store, 3).unlink()
    assert len(store.view("d", "import:x").load()) == 4
    (found,) = [one for one in verify(store.folder("d"), canary=False) if "no version" in one.what]
    assert found.severity == "warning"
    assert "no version names 1 of its shards" in found.what
    for shard in store.path.rglob("*.parquet"):
        os.utime(shard)  # a writer may be at work
    assert not any("no version" in one.what for one in verify(store.folder("d"), canary=False))
    words = ["store", "repair", "d", "--store", str(store.path)]
    assert run(words) == 0
    assert capsys.readouterr().out == "d: its logs are whole\n"
    assert run([*words, "--unnamed"]) == 0
    assert "2 rows that no version names are taken in" in capsys.readouterr().out
    assert errors(store) == []
    assert_equal(content(store), before)


def test_only_valid_rows_that_are_not_there_are_taken_in(store):
    view = store.view("d", "import:x")
    before = content(store)
    folder, hashes = view.table.path, view.table.read(["item_id", "content_hash"])
    known = hashes.slice(0, 1).combine_chunks()
    one, two = np.ones((1, 4), np.float32), np.ones((1, 5), np.float32)
    here, there = known["item_id"].combine_chunks(), known["content_hash"].combine_chunks()
    new = pa.array(["new"])
    shards = {
        "2 vectors hold NaN or infinity": view_rows(
            pa.array(["p", "q"]), pa.array(["p", "q"]), np.full((2, 4), np.inf, np.float32)
        ),
        "its vectors are": view_rows(new, new, two),
        "its rows are there already": view_rows(here, there, one),
        "it has no column 'vector'": pa.table({"item_id": new, "content_hash": new}),
        "1 rows that no version names are taken in": view_rows(
            pa.concat_arrays([here, new]), pa.concat_arrays([there, new]), np.ones((2, 4), "f4")
        ),
    }
    names = {write_shard(rows, folder)[0]: what for what, rows in shards.items()}
    torn = folder / f"{'0' * 64}.parquet"
    torn.write_bytes(b"PAR1")
    said = {
        one.where.rpartition("/")[2]: one.what for one in repair(folder_of(store), unnamed=True)
    }
    assert said.pop(torn.name).startswith("not taken in: its bytes are not those")
    assert said.keys() == names.keys()
    for name, what in names.items():
        assert what in said[name]
    assert view.table.read(["item_id"])["item_id"].to_pylist().count("new") == 1
    assert_equal(content(store), before)  # no item is called new
    assert errors(store) == []


def test_what_a_lost_commit_took_out_of_a_shard_is_there_once(store):
    """It moved rows from one shard to another, and a later version names the other one."""
    items = table_of(store, "items")
    drop = lambda rows: np.asarray(rows["item_id"]) == "0a"  # noqa: E731
    row = items.read().slice(0, 1)
    first = items.version()
    items.merge(row.set_column(row.column_names.index("n"), "n", [["changed"]]),
                drop=drop, keys=["item_id"])  # fmt: skip
    items.append(items.read().slice(1, 1).set_column(0, "item_id", [["z"]]))
    before = content(store)
    for copies in store.path.rglob("_commits"):
        shutil.rmtree(copies)
    log_of(store, first + 1, "items").unlink()
    repair(folder_of(store))
    assert errors(store) == []
    after = store.dataset("d").items()
    assert sorted(after["item_id"].to_pylist()) == before[0]["item_id"].to_pylist()


def test_a_lost_log_is_not_begun_anew(store):
    for log in store.path.rglob("_delta_log"):
        shutil.rmtree(log)
    with pytest.raises(StoreCorrupt, match=REFUSAL):
        take_in(store, 3)
    n = sum(1 for _ in store.path.rglob("_commits/*.json"))
    assert len(errors(store)) == n
    assert {one.is_mended for one in repair(folder_of(store))} == {True}
    assert errors(store) == []
    np.testing.assert_array_equal(content(store)[2], WHOLE)


@pytest.mark.parametrize("how", ["another word", "another commit"])
def test_a_commit_that_was_changed_comes_back(how, store):
    """Its copy has a sum of its own, and so is the one to believe."""
    before, path = content(store), log_of(store, 2)
    whole = path.read_bytes()
    other = {
        "another word": whole.replace(b'"Append"', b'"APPEND"'),
        "another commit": log_of(store, 1).read_bytes(),
    }
    path.write_bytes(other[how])
    (found,) = errors(store)
    assert found.what.startswith("this commit is not as it was written")
    repair(folder_of(store))
    assert path.read_bytes() == whole
    assert_equal(content(store), before)


@pytest.mark.parametrize(
    ("left", "what"),
    [
        (b"", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"version": 7, "size": 1}', "names the checkpoint 7, which is gone"),
        (None, "is a damaged checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_deleted(left, what, store):
    from deltalake import DeltaTable

    before = content(store)
    pointer = log_of(store, 0).with_name("_last_checkpoint")
    DeltaTable(str(pointer.parents[1])).create_checkpoint()
    assert errors(store) == []
    if left is None:
        (damaged,) = pointer.parent.glob("*.checkpoint.parquet")
        damaged.write_bytes(b"")
    else:
        damaged = pointer
        damaged.write_bytes(left)
    assert [(one.where, one.what[: len(what)]) for one in errors(store)] == [(str(damaged), what)]
    assert [one.is_mended for one in repair(folder_of(store))] == [True]
    assert errors(store) == []
    assert_equal(content(store), before)


def test_a_commit_that_lost_a_line_is_found_when_it_is_opened(tmp_path):
    """Its first lines are whole, and delta-rs takes them for all."""
    table = Table.create(tmp_path / "t", pa.schema([pa.field("item_id", pa.string())]))
    both = [table._write(pa.table({"item_id": [one]})) for one in "ab"]
    table._commit(table._open(None), [], both)
    path = log_files.commit_file(table.path, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    assert [b'"add"' in line for line in lines[1:3]] == [True, True]
    path.write_bytes(b"".join(lines[:2]))
    with pytest.raises(StoreCorrupt, match=REFUSAL):
        table.read()


@pytest.mark.parametrize("lost", [[0], [2], [1, 3], [2, 4]])
def test_what_a_checkpoint_knows_of_a_lost_commit_is_kept(lost, store):
    from deltalake import DeltaTable

    table = table_of(store)
    DeltaTable(str(table.path)).create_checkpoint()
    take_in(store, 3)
    before = content(store)
    shutil.rmtree(table.path / "_commits")
    for version in lost:
        log_of(store, version).unlink()
    if 4 in lost:  # nothing else tells of it
        log_of(store, 4).write_bytes(b"")
    repair(folder_of(store))
    assert errors(store) == []
    assert_equal(content(store), before)
    log_files.drop_checkpoints(table.path, table.path / "_delta_log")  # the commits say the same
    assert_equal(content(store), before)


@pytest.mark.parametrize("how", ["half", "other names", "no pointer"])
def test_a_checkpoint_that_cannot_be_used_is_deleted(how, store):
    from deltalake import DeltaTable

    before = content(store)
    log = log_of(store, 0).parent
    DeltaTable(str(log.parent)).create_checkpoint()
    (path,) = log.glob("*.checkpoint.parquet")
    raw = path.read_bytes()
    if how == "other names":
        name = table_of(store).shards()[0].path.name.encode()
        assert name in raw
        path.write_bytes(raw.replace(name, b"0" * 64 + b".parquet"))
    else:
        path.write_bytes(raw[: len(raw) // 2] + b"PAR1")
    if how == "no pointer":
        log.joinpath("_last_checkpoint").unlink()
    (found,) = errors(store)
    assert "checkpoint" in found.what
    assert "`featurestore store repair` deletes it" in found.what
    assert [one.is_mended for one in repair(folder_of(store), dry_run=True)] == [True]
    assert path.exists()
    repair(folder_of(store))
    assert errors(store) == []
    assert_equal(content(store), before)


def test_a_damaged_copy_hides_no_damaged_checkpoint(store):
    from deltalake import DeltaTable

    log = log_of(store, 0).parent
    DeltaTable(str(log.parent)).create_checkpoint()
    (path,) = log.glob("*.checkpoint.parquet")
    path.write_bytes(path.read_bytes()[:99] + b"PAR1")
    log_files.copy_file(log.parent, 2).write_bytes(b"")
    assert [one.severity for one in verify(folder_of(store))] == ["warning", "error"]


def test_a_writer_killed_before_the_copy_is_no_damage(store, monkeypatch):
    def killed(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log_files, "write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            table_of(store).append(table_of(store).read().slice(0, 1))
    assert table_of(store).version() == 4
    assert errors(store) == []
    copies = log_of(store, 0).parents[1] / "_commits"
    assert max(one.name for one in copies.iterdir()) == log_of(store, 3).name
    table_of(store).append(table_of(store).read().slice(0, 1))
    assert max(one.name for one in copies.iterdir()) == log_of(store, 5).name
    assert log_files.read_copy(copies.parent, 4) == log_of(store, 4).read_bytes()


def test_a_damaged_copy_is_a_warning_and_made_anew(store):
    copy = log_of(store, 2).parents[1] / "_commits" / log_of(store, 2).name
    whole = copy.read_bytes()
    other = copy.with_name(log_of(store, 1).name).read_bytes()
    for left in (b"", b"{", other, whole.replace(b"Append", b"APPEND")):
        copy.write_bytes(left)
        (found,) = verify(folder_of(store))
        assert (found.where, found.severity) == (str(copy), "warning")
        assert [one.what for one in repair(folder_of(store), dry_run=True)] == ["copied anew"]
        assert [one.what for one in repair(folder_of(store))] == ["copied anew"]
        assert copy.read_bytes() == whole
        assert verify(folder_of(store)) == []


def test_writers_side_by_side_leave_a_copy_of_each_commit(tmp_path):
    table = Table.create(tmp_path / "t", pa.schema([pa.field("item_id", pa.string())]))

    def write(who):
        for number in range(8):
            table.append(pa.table({"item_id": [f"{who}{number}"]}))

    writers = [Thread(target=write, args=(who,)) for who in "ab"]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert table.version() == 16
    assert log_files.lacking_copies(table.path) == {}
    assert log_damage(table.path) == []
    assert len(table.read()) == 16


def test_a_store_of_an_older_release_gets_copies_with_its_next_commit(store):
    for copies in store.path.rglob("_commits"):
        shutil.rmtree(copies)
    take_in(store, 3)
    table = table_of(store).path
    commits = sorted(log_of(store, 0).parent.glob("*.json"))
    assert [log_files.read_copy(table, n) for n in range(5)] == [
        one.read_bytes() for one in commits
    ]


def test_a_view_that_a_kill_cut_off_blocks_nothing(store):
    """Made without a commit, or without a word on its encoder."""
    views = folder_of(store).path / "views"
    (views / "half" / "_delta_log").mkdir(parents=True)
    folder_of(store).create_view("other", 3)
    assert errors(store) == []
    versions.vacuum(folder_of(store))
    erase.erase(folder_of(store), pa.array(["0a"]))


def test_a_data_set_that_a_kill_cut_off_is_no_damage(store, monkeypatch):
    """Its tables are there, dataset.json is not; the same command takes all in afterwards."""
    kill(monkeypatch, store, DatasetFolder, "update", "before")
    folder = store.folder("e")
    assert (folder.path / "items" / "_delta_log").is_dir()
    (found,) = verify(folder)
    assert (found.severity, found.where) == ("warning", str(folder.path))
    assert "`featurestore store drop e`" in found.what
    take_in(store, 0, dataset="e")
    assert verify(folder) == []


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"), [(Table, "merge"), (DatasetFolder, "write_encoder"), (Table, "append")]
)
def test_an_import_that_a_kill_cut_off_is_no_damage(owner, name, moment, store, monkeypatch):
    kill(monkeypatch, store, owner, name, moment)
    assert verify(store.folder("e")) == []
    if store.dataset("e").views() and len(store.view("e", "import:x").load()):
        return  # all was done
    take_in(store, 0, dataset="e")
    assert verify(store.folder("e")) == []
    assert store.view("e", "import:x").load().ids.tolist() == ["0a", "0b"]


def kill(monkeypatch, store, owner, name, moment):
    """Import into a new data set, and end before or after a call."""
    real = getattr(owner, name)

    def killed(*arguments, **options):
        if moment == "after":
            real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with suppress(KeyboardInterrupt):
            take_in(store, 0, dataset="e")


def test_the_command_line_says_it_in_words(store, capsys):
    path = log_of(store, 3)
    path.unlink()
    at = ["d", "--store", str(store.path)]
    assert run(["verify", *at]) == 1
    assert f"error: {path}: this commit is gone, so what version 3 did is not seen" in (
        capsys.readouterr().out
    )
    assert run(["vacuum", *at]) == 0
    assert f"no shard was deleted of a table whose log is damaged: {path}" in (
        capsys.readouterr().err
    )
    assert run(["info", *at]) == 1
    assert f"error: {path} {REFUSAL}, so this table would show an older state" in (
        capsys.readouterr().err
    )
    assert run(["store", "repair", "--dry-run", "--store", str(store.path)]) == 0
    assert capsys.readouterr().out.startswith("d: to do\n")
    assert not path.exists()
    assert run(["store", "repair", *at]) == 0
    done = f"d: done\n  {path}: written anew from its copy: version 3 is back\n"
    assert capsys.readouterr().out == done
    assert run(["verify", *at]) == 0


def test_what_a_kill_left_blocks_nothing_and_goes_after_a_day(store, capsys, monkeypatch, tmp_path):
    folder = folder_of(store)
    left = [folder.path / "heads" / f".h.{name}.tmp" for name in ("old", "young")]
    for one in left:
        one.mkdir(parents=True)
        (one / "card.json").write_bytes(b'{"head"')
    file = folder.path / ".dataset.json.0.tmp"
    file.write_bytes(b"{")
    staged = log_of(store, 4).with_name(f"{log_of(store, 4).name}#1")  # delta-rs renames it
    staged.write_bytes(b"{")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / "featurestore-runs-killed"
    running = begin_run()  # for two days
    killed.touch()
    for one in (left[0] / "card.json", left[0], file, staged, killed, Path(running.name)):
        os.utime(one, (OLD, OLD))
    assert errors(store) == []
    counted = versions.vacuum(folder, dry_run=True)
    assert counted.leftovers == (file, left[0], staged, killed)
    assert file.exists()
    assert run(["vacuum", "d", "--store", str(store.path)]) == 0
    assert "4 temporary files of writers that were killed deleted" in capsys.readouterr().err
    assert [one.exists() for one in (*left, file, staged)] == [False, True, False, False]
    assert Path(running.name).exists()
    assert not killed.exists()
    running.close()
    assert erase.erase(folder, pa.array(["0a"])).heads == ()


def test_no_message_of_a_refusal_is_a_traceback(store):
    log_of(store, 3).write_bytes(b"")
    with pytest.raises(FeatureStoreError, match="`featurestore store repair` puts it back"):
        table_of(store).compact()


def test_what_a_killed_drop_left_goes(store, monkeypatch):
    left = store.path / "datasets" / ".dropped-e-12345678"
    left.mkdir()
    (left / "dataset.json").write_text("{}")
    assert versions.vacuum(folder_of(store)).leftovers == ()
    monkeypatch.setattr(versions, "YOUNG_S", -60.0)  # a minute from now it is old
    assert left in versions.vacuum(folder_of(store)).leftovers
    assert not left.exists()
