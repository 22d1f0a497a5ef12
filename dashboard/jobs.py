"""Start commands from a page, and watch them: they go on when the tab or the server is closed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import streamlit as st

from dashboard.launch import TRUST_VARIABLE
from dashboard.page_data import jobs, runnable, wording
from dashboard.page_data.jobs import Job, Request, State
from dashboard.page_data.runnable import RUNNABLE, Runnable
from featurestore.store.dataset import DataSet
from featurestore.store.store import Store
from featurestore.store.view import View
from featurestore.terms.specs import encoder_label

EVERY = "2s"
ICONS = {
    State.RUNNING: ":material/timer:",
    State.DONE: ":material/check:",
    State.CANCELED: ":material/cancel:",
    State.FAILED: ":material/error:",
    State.LOST: ":material/error:",
}


def offer(dataset: DataSet, command: str, *, is_first: bool = False) -> None:
    """Draw a button that starts a command, with its options; while it runs, its progress."""
    one = RUNNABLE[command]
    job = _running(dataset, command)
    if job is not None:
        watch(job)
        return
    say_if_failed(dataset, command)
    why_not = runnable.can_run(dataset, command)
    with st.popover(one.title, icon=":material/play_arrow:", disabled=why_not is not None,
                    type="primary" if is_first else "secondary"):  # fmt: skip
        st.markdown(one.about)
        encoder = _encoder_box(dataset, one)
        minutes = None
        if command not in ("quality", "embed", "index"):
            chosen = st.number_input(
                "Minutes", 0.5, 600.0, float(one.minutes or 10), step=0.5,
                key=f"minutes of {command}",
                help="What does not fit is left out and named, or is kept for the next run.",
            )  # fmt: skip
            minutes = float(chosen)
        start_button(dataset, command, "Start", encoder=encoder, minutes=minutes, key="offer")
    if why_not is not None:
        st.caption(f"It {why_not}.")


def start_button(
    dataset: DataSet,
    command: str,
    words: str,
    *,
    encoder: str | None = None,
    minutes: float | None = None,
    key: str,
    is_first: bool = True,
    width: Literal["content", "stretch"] = "content",
) -> None:
    """Draw a button that starts a command at once."""
    trust = os.environ.get(TRUST_VARIABLE) == "1"
    if not RUNNABLE[command].takes_encoder:
        encoder = None
    asked = runnable.request(dataset, command, encoder=encoder, minutes=minutes, trust=trust)
    is_ready = not RUNNABLE[command].takes_encoder or encoder is not None
    st.button(
        words, key=f"{key} {command} {dataset.name}", disabled=not is_ready,
        type="primary" if is_first else "secondary", width=width,
        on_click=_start, args=(str(dataset.store.path), asked),
    )  # fmt: skip


def _start(store: str, asked: Request) -> None:
    jobs.start(store, asked)


def _encoder_box(dataset: DataSet, one: Runnable) -> str | None:
    if not one.takes_encoder:
        return None
    if one.command == "embed":
        return st.selectbox(
            "Encoder", runnable.more_encoders(dataset), index=None, key="encoder to embed with",
            accept_new_options=True, placeholder="Choose one, or type its name",
            help="A name such as timm:resnet18; `featurestore encoders` lists more.",
        )  # fmt: skip
    specs = [str(view.spec) for view in dataset.views()]
    best = runnable.default_spec(dataset)
    at = specs.index(best) if best in specs else None
    return st.selectbox(
        "Encoder", specs, index=at, format_func=encoder_label, key=f"encoder of {one.command}"
    )


def _running(dataset: DataSet, command: str) -> Job | None:
    found = jobs.jobs(str(dataset.store.path))
    return next(
        (
            job for job in found
            if (job.request.command, job.request.dataset) == (command, dataset.name)
            and job.is_running
        ), None,
    )  # fmt: skip


@st.fragment(run_every=EVERY)
def watch(job: Job, *, key: str = "page") -> None:
    """Show how far a job is, until it ends: then the page runs anew."""
    now = next((one for one in jobs.jobs(_store_of(job)) if one.folder == job.folder), None)
    if now is None or not now.is_running:
        st.rerun()
    share, said = now.progress
    st.markdown(f"**{wording.plain(runnable.title(now))}**")
    st.progress(share or 0.0, wording.plain(said))
    st.caption(f"Since {runnable.duration(now.seconds)}. It goes on when this page is closed.")
    st.button("Cancel", key=f"cancel {key} {job.folder.name}", on_click=jobs.cancel, args=(now,))


def _store_of(job: Job) -> str:
    return job.request.words[job.request.words.index("--store") + 1]


def draw_in_sidebar(store: Store) -> None:
    """Name the jobs that run, on every page; the page runs anew when one ends."""
    running = [job for job in jobs.jobs(str(store.path)) if job.is_running]
    if running:
        _watch_all(str(store.path), [job.folder.name for job in running])


@st.fragment(run_every=EVERY)
def _watch_all(store: str, known: Sequence[str]) -> None:
    running = [job for job in jobs.jobs(store) if job.is_running]
    if [job.folder.name for job in running] != list(known):
        st.rerun()
    for job in running:
        st.progress(job.progress[0] or 0.0, wording.plain(runnable.title(job)))


def draw_ended(job: Job, *, key: str) -> None:
    """Say how a job ended, what it found, and how to type it."""
    asked = job.request
    known = RUNNABLE.get(asked.command)
    when = f"{job.began:%Y-%m-%d %H:%M} UTC"
    head = f"{wording.plain(runnable.title(job))} · {job.state} · {when}"
    with st.expander(f"{head} · {runnable.duration(job.seconds)}", icon=ICONS[job.state]):
        if job.error:
            st.error(wording.plain(job.error))
        report = job.folder / runnable.REPORT
        if report.is_file():
            st.download_button(
                "Download the report", report.read_bytes(), f"{asked.dataset}.html", "text/html",
                key=f"report {key}", on_click="ignore", icon=":material/download:",
            )  # fmt: skip
        if known is not None and known.page and job.state is State.DONE:
            st.page_link(
                f"screens/{known.page}.py", label="See the result", icon=":material/arrow_forward:"
            )
        draw_output(job)
        st.caption("The same on the command line:")
        typed = [word for word in asked.words if jobs.FOLDER not in word and word != "-o"]
        st.code(wording.line_of(typed), language="bash", wrap_lines=True)
        if job.lines and st.toggle("What it said", key=f"log {key}"):
            st.code("\n".join(job.lines[-200:]), language=None)
        st.button("Remove from this list", key=f"forget {key}", on_click=jobs.forget, args=(job,))


def draw_output(job: Job) -> None:
    """Show the answer of a job that has no page of its own."""
    if job.state is not State.DONE or job.request.command not in ("advise", "index"):
        return
    for line in job.output:
        if line.startswith("Type next: "):
            st.code(line.removeprefix("Type next: "), language="sh", wrap_lines=True)
        elif line.startswith("featurestore "):
            st.code(line, language="sh", wrap_lines=True)
        else:
            st.markdown(wording.plain(line))


def wait_for_map(view: View) -> str:
    """Make the UMAP map beside the server, and name the map to show meanwhile."""
    store, name, spec = str(view.dataset.store.path), view.dataset.name, str(view.spec)
    words = ("project", name, "-e", spec, "--method", "umap", "--store", store)
    asked = Request("project", name, words, spec, about=str(view.state))
    job = jobs.latest(store, "project", name, spec)
    if job is None or (not job.is_running and job.request.about != asked.about):
        job = jobs.start(store, asked)
    if job.is_running:
        watch(job, key="map")
        return "pca"
    why = job.error or "it was made, but could not be kept: is the store read-only?"
    if job.state is State.CANCELED:
        why = "it was canceled"
    st.error(wording.plain(f"No UMAP map: {why}"), icon=":material/error:")
    st.button("Try again", on_click=jobs.forget, args=(job,))
    return "pca"


def say_if_failed(dataset: DataSet, command: str) -> None:
    """Say why the newest job of a command failed, where it did."""
    own = [
        job for job in jobs.jobs(str(dataset.store.path))
        if (job.request.command, job.request.dataset) == (command, dataset.name)
    ]  # fmt: skip
    if own and own[0].error:
        st.error(wording.plain(f"{runnable.title(own[0])}: {own[0].error}"))
