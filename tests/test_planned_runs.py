"""Runs that are planned and not done: seen, and given up whatever became of them."""

import json

import pytest

from featurestore.cli import run as command
from featurestore.errors import StoreBusy, StoreCorrupt
from featurestore.workers.committing import Committer
from featurestore.workers.worker import Worker
from tests.test_workers import PIXELS, assert_same, planned_run


def test_a_planned_run_is_shown_and_given_up_with_what_was_done_kept(
    empty_store, tiny_images, capsys
):
    folder, run = planned_run(empty_store, tiny_images, items=2)
    worker = Worker(folder, run)
    worker.embed("000000")
    (shown,) = empty_store.dataset("d").unfinished()
    assert (shown.n_items, shown.n_parts, shown.n_done) == (6, 3, 1)
    assert command(["ls", "--store", str(empty_store.path)]) == 0
    assert f"planned: 6 items for {PIXELS}, 1 of 3 parts done" in " ".join(
        capsys.readouterr().out.split()
    )
    assert command(["info", "d", "--store", str(empty_store.path)]) == 0
    assert "embed --dataset d --drop-plan" in capsys.readouterr().out

    assert (
        command(["embed", "--dataset", "d", "--drop-plan", "--store", str(empty_store.path)]) == 0
    )
    assert empty_store.dataset("d").unfinished() == []
    kept = empty_store.view("d", PIXELS).load().ids.tolist()
    assert len(kept) == 2
    with pytest.raises(StoreBusy, match="dropped"):
        worker.embed("000001")
    command(
        [
            "embed",
            str(tiny_images),
            "--dataset",
            "d",
            "-e",
            PIXELS,
            "--store",
            str(empty_store.path),
        ]
    )
    empty_store.embed([tiny_images], dataset="one", encoders=[PIXELS])
    assert_same(empty_store, empty_store)


@pytest.mark.parametrize("damage", ["cut", "of another version"])
def test_a_plan_that_cannot_be_read_hides_no_data_set_and_can_be_given_up(
    empty_store, tiny_images, capsys, damage
):
    empty_store.embed([tiny_images], dataset="other", encoders=[PIXELS])
    _, run = planned_run(empty_store, tiny_images, items=2)
    path = run.path / "run.json"
    facts = json.loads(path.read_text())
    path.write_text('{"format": 1, "pl' if damage == "cut" else json.dumps({**facts, "format": 2}))
    where = ["--store", str(empty_store.path)]
    assert command(["ls", *where, "--json"]) == 0
    rows = {one["dataset"]: one for one in json.loads(capsys.readouterr().out)}
    assert rows["other"]["items"] == 6
    assert rows["other"]["unfinished"] == []
    assert "cannot be gone on with" in rows["d"]["unfinished"][0]["problem"]
    assert command(["info", "d", *where]) == 0
    assert "--drop-plan" in capsys.readouterr().out
    with pytest.raises(StoreCorrupt):
        Committer(empty_store.dataset("d").folder, type(run)(run.path))
    assert command(["embed", "--dataset", "d", "--drop-plan", *where]) == 0
    assert "nothing of it was brought in" in capsys.readouterr().err
    assert empty_store.dataset("d").unfinished() == []


def test_an_erasure_leaves_nothing_of_a_plan_to_keep(empty_store, tiny_images, capsys):
    folder, run = planned_run(empty_store, tiny_images, items=2)
    Worker(folder, run).embed("000000")
    folder.count_erasure()  # by another machine, which had not come to the plan yet
    words = ["embed", "--dataset", "d", "--drop-plan", "--store", str(empty_store.path)]
    assert command(words) == 0
    assert "items were erased since" in capsys.readouterr().err
    assert empty_store.dataset("d").n_items == 0


def test_a_part_of_a_run_that_another_driver_closed_is_no_error(empty_store, tiny_images):
    folder, run = planned_run(empty_store, tiny_images, items=2)
    committer = Committer(folder, run)
    Worker(folder, run).embed("000000")
    run.close()
    committer.take("000000")  # as a driver does whose worker ended with it
    assert committer.manifests == {}
