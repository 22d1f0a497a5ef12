"""`featurestore serve` as a process: started, asked, stopped, killed and started again."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import httpx2
import pytest

import heads
from featurestore.cli import run
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from tests.heads.serving_world import picture, serving, write_world

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A folder with a store, two bundles and new pictures, as docs/serve.md names them."""
    folder = tmp_path_factory.mktemp("serve")
    table, photos = write_world(folder)
    store = open_store(folder / "featurestore-data", create=True)
    options = SourceOptions(text="words", label=("topic",), id="id")
    store.embed([table], dataset="mails", encoders=["builtin:tiny-text"], source_options=options)
    store.embed([photos], dataset="photos", encoders=["baseline:pixels"])
    for dataset in ("mails", "photos"):
        (view,) = store.dataset(dataset).views()
        heads.fit(view, "prototype", save=False).save(folder / f"{dataset}-head")
    for name in "ab":
        (folder / "new").mkdir(exist_ok=True)
        (folder / "new" / f"{name}.png").write_bytes(picture(1, 190))
    return folder


@contextlib.contextmanager
def started(folder, port=0):
    """Start the command; yield the process and its address, and wait for its end."""
    command = [sys.executable, "-m", "featurestore", "serve", "mails-head", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            yield process, found[0]
        finally:
            process.kill()


def test_a_killed_server_starts_again_and_a_stopped_one_answers_what_it_took(bundles):
    answers, ended = [], []

    def ask(address):
        with (
            httpx2.Client(base_url=address, timeout=20) as client,
            contextlib.suppress(httpx2.TransportError),
        ):
            while True:
                found = client.post("/predict", json={"texts": ["the piano and the drum"]})
                answers.append(found.json()["predictions"][0]["predicted"])
        ended.append(True)

    with started(bundles) as (process, address):
        assert httpx2.get(f"{address}/health").json()["status"] == "UP"
        process.kill()
    with started(bundles, address.rpartition(":")[2]) as (process, address):
        threads = [Thread(target=ask, args=(address,)) for _ in range(32)]
        for one in threads:
            one.start()
        while len(answers) < 64:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        for one in threads:
            one.join(20)
        assert process.wait(20) == 0
        assert "every request that was taken has its answer" in process.stderr.read()
    assert set(answers) == {"music"}
    assert len(ended) == 32


def test_the_page_runs(bundles, monkeypatch):
    """Each curl line of docs/serve.md is answered with 200."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    monkeypatch.chdir(bundles)
    lines = re.findall(r"^curl .*$", PAGE, re.M)
    assert len(lines) == 8
    made = {name: heads.load_bundle(name) for name in ("mails-head", "photos-head")}
    with serving(made, store=open_store("featurestore-data")) as (_, client):
        for line in lines:
            here = line.replace("127.0.0.1:8600", f"127.0.0.1:{client.base_url.port}")
            words = [*shlex.split(here), "-s", "-w", "\n%{http_code}"]
            said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            assert said.endswith("\n200"), f"{line}\n{said}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to serve"),
        (["absent"], "not a bundle"),
        (["mails-head", "--host", "0.0.0.0"], "--token-file"),
        (["mails-head", "mails-head"], "named twice"),
        (["mails-head", "--host", "absent.invalid", "--token-file", "token"], "cannot listen"),
        (["mails-head", "--store", "absent"], "absent"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(bundles, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(bundles)
    monkeypatch.delenv("FEATURESTORE_STORE", raising=False)
    Path("token").write_text("0123456789abcdef\n")
    assert run(["serve", *arguments]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert "Traceback" not in said


def test_a_taken_port_is_said(bundles, monkeypatch, capsys):
    monkeypatch.chdir(bundles)
    with serving({"mails": heads.load_bundle("mails-head")}) as (_, client):
        assert run(["serve", "mails-head", "--port", str(client.base_url.port)]) == 1
    assert "--port names another" in capsys.readouterr().err
