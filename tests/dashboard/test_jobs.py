"""Commands that run beside the server: real processes, watched and stopped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.page_data import jobs, runnable
from dashboard.page_data.jobs import Job, Request, State
from featurestore.store.store import Store
from tests.dashboard.test_app import opened, texts_of

PATIENCE_S = 120


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE_CACHE", str(tmp_path / "cache"))


def ended(job: Job, store: str) -> Job:
    """Wait for a job's end."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        [now] = [one for one in jobs.jobs(store) if one.folder == job.folder]
        if not now.is_running:
            return now
        time.sleep(0.05)
    raise AssertionError(job.lines)


def test_one_subject_runs_once_at_a_time_and_is_stopped(small_store: Store) -> None:
    path = str(small_store.path)
    asked = runnable.request(small_store.dataset("pictures"), "index", encoder="baseline:pixels")
    job = jobs.start(path, asked)
    assert job.state is State.RUNNING
    assert jobs.start(path, asked).folder == job.folder
    jobs.cancel(job)
    stopped = ended(job, path)
    assert (stopped.state, stopped.error) == (State.CANCELED, None)
    assert runnable.title(stopped) == "Build a search index · pictures · baseline:pixels"


def test_a_job_that_fails_says_why_and_one_that_was_killed_says_so(tmp_path: Path) -> None:
    path = str(tmp_path / "nothing")
    failed = ended(jobs.start(path, Request("info", "x", ("info", "x", "--store", path))), path)
    assert failed.state is State.FAILED
    assert str(failed.error).startswith("error: there is not a store")
    (failed.folder / "code").unlink()  # as it is when the machine went down
    [lost] = jobs.jobs(path)
    assert lost.state is State.LOST
    assert "What it had committed is kept." in str(lost.error)
    jobs.forget(lost)
    assert jobs.jobs(path) == []


def test_progress_is_the_last_line_that_counts(tmp_path: Path) -> None:
    (tmp_path / "said").write_text(
        "about 90 s: 25 fits\n10 of 25 fits, about 5 s left: ridge\n1,000 of 4,000 items: x\nnote\n"
    )
    job = Job(tmp_path, Request("curve", "x", ()), jobs.datetime.now(jobs.UTC), 0)
    assert job.progress == (0.25, "1,000 of 4,000 items: x")


def test_what_is_typed_is_what_runs(small_store: Store) -> None:
    dataset, store = small_store.dataset("pictures"), str(small_store.path)
    assert runnable.request(dataset, "report", minutes=3, trust=True).words == (
        "report", "pictures", "-o", "{folder}/report.html", "--minutes", "3", "--trust",
        "--store", store,
    )  # fmt: skip
    assert runnable.request(dataset, "embed", encoder="builtin:tiny-image").words == (
        "embed", "--dataset", "pictures", "-e", "builtin:tiny-image", "--store", store,
    )  # fmt: skip
    assert "builtin:tiny-image" in runnable.more_encoders(dataset)
    assert runnable.default_spec(dataset) == "baseline:pixels"  # there is no other
    assert runnable.can_run(small_store.dataset("texts"), "transfer") is None


@pytest.mark.usefixtures("store_variable")
def test_the_page_starts_a_job_shows_it_and_after_it_the_result(small_store: Store) -> None:
    path = str(small_store.path)
    app = opened("run", dataset="pictures")
    button(app, "offer index pictures").click().run()
    assert not app.exception
    [job] = jobs.jobs(path)
    assert job.request.subject == ("index", "pictures", "baseline:pixels")
    done = ended(job, path)
    assert (done.state, done.code, done.error) == (State.DONE, 0, None)
    app.run()
    [box] = [one for one in app.expander if one.label.startswith("Build a search index")]
    assert "done" in box.label
    [line] = [one.value for one in app.code if "index" in one.value]
    assert line == f"featurestore store index pictures -e baseline:pixels --store {path}"
    button(app, f"forget {job.folder.name}").click().run()
    assert jobs.jobs(path) == []
    assert any("Nothing was started" in one for one in texts_of(app.caption))


def button(app: AppTest, key: str):  # type: ignore[no-untyped-def]
    """Return a button by its key."""
    [found] = [one for one in app.button if one.key == key]
    return found
