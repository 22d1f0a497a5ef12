"""A run in parts ends as one process would have ended, whatever dies or comes second on the way."""

import os
import random
import signal
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from featurestore.cli import run as command
from featurestore.errors import BadName, BadSource, FeatureStoreError, StoreBusy
from featurestore.pipeline.job import EmbedRequest, Job
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.run_folder import RunFolder, open_runs
from featurestore.storage.shards import read_shard
from featurestore.upkeep import erase, versions
from featurestore.upkeep.verify import verify
from featurestore.workers.batches import Encoder, RowSink
from featurestore.workers.committing import Committer
from featurestore.workers.doors import Shard
from featurestore.workers.drive import Died, Drive, planned
from featurestore.workers.planning import plan_parts
from featurestore.workers.ways import WAYS, workers_on
from featurestore.workers.worker import KILLED, Ended, Worker, WorkerOptions

PIXELS, GRAY = "baseline:pixels#size=4", "baseline:pixels#size=2"
HASHING = "baseline:hashing#size=64"


def quiet(_):
    pass


@pytest.fixture
def pictures(tmp_path, write_image):
    """Twenty pictures, two of them of equal content, and one that is none."""
    folder = tmp_path / "pictures"
    for number in range(20):
        write_image(folder / "ab"[number % 2] / f"{number:02}.png", number)
    (folder / "b" / "copy.png").write_bytes((folder / "a" / "04.png").read_bytes())
    (folder / "b" / "none.png").write_bytes(b"not a picture")
    return folder


def request(source, *encoders, **options):
    return EmbedRequest(
        [source] if source else [], encoders or (PIXELS,),
        SourceOptions(), EmbedOptions(**options),
    )  # fmt: skip


def planned_run(store, source, *encoders, items=4, **options):
    asked = request(source, *encoders, **options)
    found = planned(store.path, "d", asked, quiet, items)
    return DatasetFolder(store.path / "datasets" / "d"), found.run


def rows_of(store, spec=PIXELS, dataset="d"):
    """All that a reader sees: items, vectors and failures, by id."""
    data = store.dataset(dataset)
    items = data.items().sort_by("item_id")
    found = data.view(spec).load()
    order = np.argsort(found.ids)
    failures = data.failures().drop_columns(["when"]).sort_by("item_id").to_pylist()
    return items.to_pylist(), found.ids[order].tolist(), found.vectors[order], failures


def assert_same(store, other, spec=PIXELS):
    mine, theirs = rows_of(store, spec), rows_of(other, spec, "one")
    assert mine[0] == theirs[0]
    assert mine[1] == theirs[1]
    np.testing.assert_array_equal(mine[2], theirs[2])
    assert mine[3] == theirs[3]
    folder = DatasetFolder(store.path / "datasets" / "d")
    assert verify(folder) == []
    for table in (folder.items, folder.view(slug_of(folder, spec))):
        rows = table.read(["item_id", "content_hash"])  # older content may have its row, too
        assert len(rows) == len(set(map(tuple, zip(*rows.to_pydict().values(), strict=True))))


def slug_of(folder, spec):
    return next(slug for slug, one in folder.encoders().items() if one["spec"] == spec)


@pytest.fixture
def undisturbed(empty_store, pictures):
    """The same pictures, embedded by one process into a data set of their own."""
    empty_store.embed([pictures], dataset="one", encoders=[PIXELS, GRAY])
    return empty_store


def do_all(folder, run, worker=None):
    """Do all parts that are left, as one worker would."""
    worker = worker or Worker(folder, run)
    left = run.left()
    while left:
        left.extend(worker.embed(left.pop(0)).halves)


def finish(folder, run):
    return Drive(folder, run).finish(1.0)


# The same as one process


def test_parts_of_two_encoders_end_as_one_process_does(undisturbed, pictures):
    folder, run = planned_run(undisturbed, pictures, PIXELS, GRAY)
    assert len(run.parts()) == 6
    do_all(folder, run)
    assert not len(folder.items.read(["item_id"]))  # a worker commits nothing
    first, second = finish(folder, run)
    assert (first.n_encoded + first.n_copied, first.n_failed) == (21, 1)
    assert first.failures == second.failures
    assert first.failures[0].startswith("b/none.png: ")
    assert_same(undisturbed, undisturbed)
    assert_same(undisturbed, undisturbed, GRAY)
    assert open_runs(folder.path) == []
    assert not [path for path in (folder.path / "runs").iterdir() if path.is_dir()]
    assert [card["n_items"] for card in folder.runs("embed")] == [22, 22]


def test_a_plan_takes_its_measure_from_a_few_items(undisturbed, pictures, monkeypatch):
    """Not from all: a plan of many items would take as long as the run."""
    measured = []

    def seconds(rows, lane, given):
        measured.append(rows.column("item_id").to_pylist())
        return 1.0

    monkeypatch.setattr("featurestore.workers.planning.seconds_an_item", seconds)
    monkeypatch.setattr("featurestore.pipeline.estimate._DRY_RUN_ITEMS", 6)
    _, run = planned_run(undisturbed, pictures, PIXELS, GRAY, items=None)
    assert [len(rows) for rows in measured] == [6, 6]  # of each encoder
    assert 1 < len(run.parts()) <= 22


def test_changes_are_taken_in_by_parts_as_by_one_process(undisturbed, pictures, write_image):
    """A new picture, one changed, one only touched, one mended, and a label of one item."""
    store = undisturbed
    folder, run = planned_run(store, pictures)
    do_all(folder, run)
    finish(folder, run)
    write_image(pictures / "a" / "new.png", 77)
    write_image(pictures / "a" / "00.png", 78)
    os.utime(pictures / "b" / "01.png", ns=(1, 1))
    write_image(pictures / "b" / "none.png", 79)
    store.embed([pictures], dataset="one", encoders=[PIXELS])
    folder, run = planned_run(store, pictures, items=1)
    assert len(run.parts()) == 4
    do_all(folder, run)
    (report,) = finish(folder, run)
    assert (report.n_encoded, report.n_unchanged, report.n_failed) == (3, 20, 0)
    assert_same(store, store)
    assert planned_run(store, pictures)[1] is None  # nothing is left


def test_texts_go_in_parts_too(empty_store, tmp_path):
    path = tmp_path / "texts.csv"
    lines = [f"{n},text number {n % 7},{n % 2}" for n in range(30)]
    path.write_text("\n".join(["id,text,label", *lines, "30,,1"]) + "\n")
    options = SourceOptions(text="text", id="id", label=("label",))
    empty_store.embed([path], dataset="one", encoders=[HASHING], source_options=options)
    asked = EmbedRequest([path], [HASHING], options)
    run = planned(empty_store.path, "d", asked, quiet, 4).run
    folder = DatasetFolder(empty_store.path / "datasets" / "d")
    do_all(folder, run)
    finish(folder, run)
    assert_same(empty_store, empty_store, HASHING)


# What dies


class Dying:
    """Workers in this process that die at random moments, by a seed; see `drive.Workers`."""

    def __init__(self, folder, run, seed):
        self.folder, self.run, self.draw = folder, run, random.Random(seed)
        self.worker, self.parts, self.n_deaths = Worker(folder, run), [], 0

    @property
    def n_free(self):
        return 2 - len(self.parts)

    def give(self, part):
        self.parts.append(part)

    def wait(self, _):
        part = self.parts.pop(self.draw.randrange(len(self.parts)))
        moment = self.draw.choice(["", "", "begun", "shards", "manifest"])
        if not moment:
            return [self.worker.embed(part)]
        self.n_deaths += 1
        dying = Worker(self.folder, self.run)
        if moment == "begun":
            self.run.begin_attempt(part, 3)
            return [Died(part)]
        if moment == "shards":
            dying.run = RunFolder(self.run.path)
            dying.run.write_manifest = lambda *_: True  # shards are there, the manifest never
        ended = dying.embed(part)
        if moment == "shards":
            return [Died(part), *map(Ended, ())]
        return [Died(part)] if not ended.halves else [ended]

    def close(self):
        pass


@pytest.mark.parametrize("seed", range(4))
def test_workers_that_die_at_any_moment_change_nothing(undisturbed, pictures, seed):
    folder, run = planned_run(undisturbed, pictures, items=5)
    workers = Dying(folder, run, seed)
    drive = Drive(folder, run)
    drive.do(run.left(), workers)
    (report,) = drive.finish(1.0)
    assert workers.n_deaths
    assert report.n_failed == 1
    assert_same(undisturbed, undisturbed)


def test_the_driver_may_die_before_between_and_behind_the_commits(
    undisturbed, pictures, monkeypatch
):
    folder, run = planned_run(undisturbed, pictures)
    do_all(folder, run)

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Committer, "_bring_vectors", kill)
        with pytest.raises(Killed):
            Committer(folder, run).commit()  # items are in, vectors are not
    assert len(folder.items.read(["item_id"])) == 22
    version = folder.items.version()
    assert planned(undisturbed.path, "d", request(pictures), quiet).run.path == run.path  # adopted
    finish(folder, RunFolder(run.path))
    assert folder.items.version() == version  # nothing came in twice
    assert_same(undisturbed, undisturbed)


def test_shards_come_in_once_though_they_were_joined_meanwhile(undisturbed, pictures):
    folder, run = planned_run(undisturbed, pictures, items=2)
    worker = Worker(folder, run)
    for part in run.left():
        worker.embed(part)
        if part in ("000003", "000007"):
            Committer(folder, RunFolder(run.path)).commit()  # of a driver that then dies
            versions.compact(folder)
    finish(folder, run)
    assert_same(undisturbed, undisturbed)


class Elsewhere(DatasetFolder):
    """A data set as another machine has it: the lock of this one is not seen."""

    def locked(self, what, *, on_wait=None):
        return nullcontext()


def test_of_two_that_commit_the_second_finds_nothing(undisturbed, pictures):
    folder, run = planned_run(undisturbed, pictures)
    do_all(folder, run)
    one = Committer(Elsewhere(folder.path), run)
    other = Committer(folder, RunFolder(run.path))
    staged = other._items

    def late(version, parts):
        found = staged(version, parts)
        if one.manifests == {}:
            one.commit()  # after the other has read the log, before it commits
        return found

    other._items = late
    other.commit()
    assert folder.items.version() == 2  # made, then one commit
    finish(folder, run)
    assert_same(undisturbed, undisturbed)


def test_a_twin_with_other_bits_leaves_nothing(undisturbed, pictures, monkeypatch):
    folder, run = planned_run(undisturbed, pictures)
    slow, part = Worker(folder, run), run.left()[0]
    view = slow._stage.view(slug_of(folder, PIXELS))
    append = view.append

    def late(rows):
        Worker(folder, RunFolder(run.path)).embed(part)  # done again while this one was stopped
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(rows["vector"].combine_chunks().flatten().to_numpy() + 1), 48
        ).cast(rows.schema.field("vector").type)
        return append(rows.set_column(2, rows.schema.field("vector"), vectors))

    monkeypatch.setattr(view, "append", late)
    slow.embed(part)
    monkeypatch.undo()
    do_all(folder, run, slow)
    finish(folder, run)
    assert_same(undisturbed, undisturbed)


def test_an_item_that_kills_its_process_becomes_a_failure(undisturbed, pictures):
    """Each worker that begins a part with it dies: the part is halved, down to the item."""
    folder, run = planned_run(undisturbed, pictures, items=8)

    class Killing(Dying):
        def wait(self, _):
            part = self.parts.pop()
            ids = self.run.part(part)["row"].combine_chunks().field("item_id").to_pylist()
            self.n_deaths += 1
            n = self.run.n_attempts(part)
            if "a/06.png" in ids and n < (1 if "." in part and len(ids) > 1 else 3):
                self.run.begin_attempt(part, 3)
                return [Died(part)]
            self.n_deaths -= 1
            return [self.worker.embed(part)]

    workers, drive = Killing(folder, run, 0), Drive(folder, run)
    drive.do(run.left(), workers)
    (report,) = drive.finish(1.0)
    assert f"a/06.png: {KILLED}" in report.failures
    assert (report.n_encoded + report.n_copied, report.n_failed) == (20, 2)
    assert workers.n_deaths == 3 + 1 + 1 + 3  # of 8 items, of 4, of 2, of the one
    (failure,) = [one for one in folder.failures.read().to_pylist() if one["item_id"] == "a/06.png"]
    assert (failure["stage"], failure["error"]) == ("encode", KILLED)
    assert verify(folder) == []
    assert planned_run(undisturbed, pictures)[1] is None  # it is not tried again and again


def test_workers_that_die_before_they_begin_end_the_run(undisturbed, pictures):
    folder, run = planned_run(undisturbed, pictures)

    class Stillborn(Dying):
        def wait(self, _):
            return [Died(self.parts.pop(), " (exit code -9)")]

    with pytest.raises(FeatureStoreError, match="3 workers died before they began"):
        Drive(folder, run).do(run.left(), Stillborn(folder, run, 0))


# What others do meanwhile


def test_labels_and_items_of_others_stay_as_they_are(undisturbed, pictures, write_image):
    """Between the plan and the commit another process embeds the same, and labels are given."""
    store = undisturbed
    write_image(pictures / "a" / "00.png", 78)
    folder, run = planned_run(store, pictures)
    do_all(folder, run)
    store.embed([pictures], dataset="d", encoders=[PIXELS])
    values = pa.table({"item_id": ["a/00.png", "b/01.png"], "grade": ["x", "y"]})
    store.dataset("d").attach(values)
    finish(folder, run)
    items = {one["item_id"]: one["grade"] for one in store.dataset("d").items().to_pylist()}
    assert len(items) == 22
    assert (items["a/00.png"], items["b/01.png"], items["a/02.png"]) == ("x", "y", None)
    assert store.dataset("d").view(PIXELS).n_rows == 21
    assert [one for one in verify(folder) if one.severity == "error"] == []


def test_vacuum_spares_what_an_unfinished_run_names(undisturbed, pictures):
    folder, run = planned_run(undisturbed, pictures)
    do_all(folder, run)
    named = [folder.path / "items" / name for one in run.done()
             for name, *_ in run.manifest(one)["shards"]["items"]]  # fmt: skip
    old = time.time() - 3 * 86_400
    for path in [*folder.path.rglob("*.parquet")]:
        os.utime(path, (old, old))
    versions.vacuum(folder, older_than_s=0)
    assert all(path.is_file() for path in named)
    assert verify(folder) == []  # nor does it call them lost
    for path in [*run.path.rglob("*.json")]:
        os.utime(path, (old - 40 * 86_400,) * 2)
    versions.vacuum(folder, older_than_s=0)  # nobody has touched the run for a month
    assert not run.path.exists()
    assert not any(path.is_file() for path in named)


def test_an_erasure_comes_before_a_commit_or_after_it(undisturbed, pictures, monkeypatch):
    store = undisturbed
    store.embed([pictures], dataset="d", encoders=[GRAY])
    folder, run = planned_run(store, pictures)
    worker, committer = Worker(folder, run), Committer(folder, run)
    for part in run.parts():
        worker.embed(part)
    gone, bring = pa.array(["a/04.png"]), committer._bring_vectors
    other = threading.Thread(target=lambda: erase.erase(DatasetFolder(folder.path), gone))

    def between(slug, parts):
        other.start()
        other.join(1.0)
        bring(slug, parts)

    monkeypatch.setattr(committer, "_bring_vectors", between)
    committer.commit()
    other.join()
    assert not run.is_open  # an erasure drops what workers have planned
    found = folder.view(next(one["slug"] for one in run.facts["views"])).read(["item_id"])
    assert len(found) == 20
    assert "a/04.png" not in found.column("item_id").to_pylist()


def test_erasure_reaches_parts_and_shards_that_nobody_named(undisturbed, pictures):
    store = undisturbed
    folder, run = planned_run(store, pictures)
    worker = Worker(folder, run)
    first, second, *_ = run.left()
    worker.embed(first)
    Committer(folder, run).commit()
    worker.embed(second)
    erase.erase(folder, pa.array(["a/00.png"]))
    assert not run.path.exists()
    with pytest.raises(StoreBusy, match="is over, or was dropped"):
        worker.embed(second)
    for path in folder.path.rglob("*.parquet"):
        if "_delta_log" not in path.parts and "item_id" in (rows := read_shard(path)).column_names:
            assert "a/00.png" not in rows["item_id"].to_pylist()


# Doors


def test_shares_of_two_processes_make_the_whole(undisturbed, pictures, capsys):
    """Plan, one share after the other, each with --commit: the last one closes the run."""
    where = ["--dataset", "d", "--store", str(undisturbed.path)]
    plan = ["embed", str(pictures), *where, "-e", PIXELS, "--plan-only", "--part-items"]
    assert command([*plan, "9"]) == 0
    assert "3 parts: embed with" in capsys.readouterr().err
    plan.append("4")
    assert command(plan) == 0  # nothing has begun: planned anew
    assert "6 parts: embed with" in capsys.readouterr().err
    assert command(plan) == 0  # again: nothing is planned twice
    assert "going on with a run" in capsys.readouterr().err
    folder = DatasetFolder(undisturbed.path / "datasets" / "d")
    assert len(open_runs(folder.path)) == 1
    assert command(["embed", *where, "--shard", "0/2", "--commit"]) == 0
    assert "3 parts of the run left" in capsys.readouterr().err
    assert command(["embed", *where, "--shard", "1/2", "--commit"]) == 3
    assert "b/none.png" in capsys.readouterr().err
    assert_same(undisturbed, undisturbed)
    assert command(["embed", *where, "--shard", "0/2"]) == 1
    assert "no run of 'd' is planned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--shard", "2/2"], "expected I/N, such as 0/8 to 7/8"),
        (["--on", "moon"], "--on moon is no way to start workers: known: here, ray"),
        (["--on", "here:0"], "expected a number of processes"),
        (["--on", "here", "--overwrite"], "--overwrite runs on one device"),
    ],
)
def test_what_cannot_be_is_refused(undisturbed, pictures, capsys, asked, said):
    where = ["--dataset", "d", "--store", str(undisturbed.path), "-e", PIXELS]
    code = 2 if "--shard" in asked else 1  # misuse of an option
    assert command(["embed", str(pictures), *where, *asked]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "asked", [["--on", "here", "--plan-only"], ["--on", "here", "--commit"], ["--part-items", "3"]]
)
def test_options_that_exclude_each_other_are_misuse(undisturbed, pictures, asked):
    where = ["--dataset", "d", "--store", str(undisturbed.path)]
    assert command(["embed", str(pictures), *where, *asked]) == 2


def test_an_object_is_no_encoder_for_others(undisturbed, pictures):
    class Mine:
        def encode_images(self, images):
            return np.zeros((len(images), 2), np.float32)

    job = Job.make(undisturbed.path, "d", request(pictures, Mine()))
    with pytest.raises(BadName, match="workers need the name of an encoder"):
        plan_parts(job, quiet)


def test_a_process_that_is_killed_by_an_item_is_begun_again(undisturbed, pictures, monkeypatch):
    """Real processes, and a real kill: exit code 3, with the item named."""
    module = pictures.parent / "deadly.py"
    module.write_text(
        "import os\nimport numpy as np\n\n\nclass Deadly:\n"
        "    def encode_images(self, images):\n"
        "        pixels = [np.asarray(one.resize((2, 2)), np.float32).ravel() for one in images]\n"
        "        if any(one.max() == 0 for one in pixels):\n"
        "            os.kill(os.getpid(), 9)\n"
        "        return np.stack(pixels)\n"
    )
    for path in sorted(pictures.rglob("*.png"))[2:]:
        path.unlink()
    Image.new("RGB", (24, 24)).save(pictures / "a" / "black.png")
    monkeypatch.syspath_prepend(module.parent)
    monkeypatch.setenv("PYTHONPATH", f"{module.parent}:{os.environ.get('PYTHONPATH', '')}")
    where = ["--dataset", "d", "--store", str(undisturbed.path), "-e", "python:deadly:Deadly"]
    asked = ["--on", "here:1", "--part-items", "1", "--quiet"]
    assert command(["embed", str(pictures), *where, *asked]) == 3
    folder = DatasetFolder(undisturbed.path / "datasets" / "d")
    assert folder.failures.read()["item_id"].to_pylist() == ["a/black.png"]
    assert undisturbed.dataset("d").view("python:deadly:Deadly", trust=True).n_rows == 2


def test_workers_do_not_run_the_script_of_the_caller_again(
    undisturbed, pictures, monkeypatch, tmp_path
):
    """A script needs no guard, and one of another program cannot fail in a worker."""
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(7)")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    where = ["--dataset", "d", "--store", str(undisturbed.path), "-e", PIXELS]
    assert command(["embed", str(pictures), *where, "--on", "here:1"]) == 3
    assert_same(undisturbed, undisturbed)


def test_batches_of_another_pipeline_become_a_data_set(undisturbed, pictures):
    """Without Ray: what `featurestore.ray` hands on; a part that comes twice counts once."""
    paths = sorted(pictures.rglob("*.png"))
    ids = [path.relative_to(pictures).as_posix() for path in paths]
    contents = np.array([path.read_bytes() for path in paths], object)
    encoder = Encoder(PIXELS, column="bytes")
    sink = RowSink(str(undisturbed.path), "d", PIXELS, root=str(pictures))
    parts = [slice(0, 9), slice(9, 22)]
    rows = [
        encoder({"item_id": np.array(ids[one]), "uri": np.array(ids[one]), "bytes": contents[one]})
        for one in parts
    ]
    assert rows[0].column_names == ["item_id", "uri", "content_hash", "vector", "error"]
    run = sink.begin(rows[0].column_names)
    assert [sink.write(run, f"{n:06d}", one) for n, one in enumerate(rows)] == [True, True]
    assert not sink.write(run, "000000", rows[0])
    (report,) = sink.complete(run, 1.0)
    assert (report.n_items, report.n_encoded, report.n_failed) == (22, 21, 1)
    mine, theirs = rows_of(undisturbed), rows_of(undisturbed, PIXELS, "one")
    assert mine[1] == theirs[1]
    np.testing.assert_array_equal(mine[2], theirs[2])
    assert [one["item_id"] for one in mine[3]] == ["b/none.png"]
    assert undisturbed.dataset("d").read_bytes("a/00.png") == contents[0]
    assert verify(sink.folder) == []
    with pytest.raises(BadSource, match="no column error"):
        sink.begin([name for name in rows[0].column_names if name != "error"])


def test_ways_are_a_table():
    assert "here" in WAYS
    assert Shard.parse("1/3").has("000004.1.0")
    assert not Shard.parse("1/3").has("000003")


def test_workers_that_stand_still_are_ended_and_their_part_is_not_to_blame(empty_store, pictures):
    folder, run = planned_run(empty_store, pictures)
    workers = workers_on("here:1", folder, run, [WorkerOptions()])
    workers.give("000000")
    (worker,) = workers._workers
    os.kill(worker.process.pid, signal.SIGSTOP)
    workers.close()
    assert not worker.process.is_alive()
    assert run.n_attempts("000000") == 0
    assert run.left() == run.parts()
