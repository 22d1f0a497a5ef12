"""Stores at s3://…, against Ceph's gateway on loopback: a real S3 server, kept in memory."""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import ExitStack
from types import ModuleType
from uuid import uuid4

import pytest

from featurestore.pipeline.options import EmbedOptions
from featurestore.storage.remote import RemotePath
from tools.ceph import running

PIXELS = "baseline:pixels#size=1"
REQUIRED = os.environ.get("FEATURESTORE_REQUIRE_S3") == "1"


@pytest.fixture(scope="session")
def gateway():
    """The environment that opens an S3 server with an empty bucket."""
    pytest.importorskip("obstore")
    with ExitStack() as stack:
        try:
            yield stack.enter_context(running())
        except FileNotFoundError as error:
            pytest.fail(str(error)) if REQUIRED else pytest.skip(str(error))


@pytest.fixture
def s3(gateway, monkeypatch):
    """A folder of its own in the bucket, with the environment set."""
    for name, value in gateway.items():
        monkeypatch.setenv(name, value)
    return RemotePath("bucket", f"tests/{uuid4()}")


@pytest.fixture
def another_machine(monkeypatch, tmp_path_factory):
    """Call it to be on another machine from then on: without locks and caches of this one."""

    def move():
        monkeypatch.setenv("FEATURESTORE_CACHE", str(tmp_path_factory.mktemp("elsewhere")))

    return move


def embed(store, source, dataset="d", encoder=PIXELS, **how):
    (report,) = store.embed(
        [source], dataset=dataset, encoders=[encoder], embed_options=EmbedOptions(**how)
    )
    return report


def at_once(target, calls):
    """Run calls in processes of their own, each with a cache of its own: as on other machines."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_elsewhere, args=(number, target, call))
        for number, call in enumerate(calls)
    ]
    with pytest.MonkeyPatch.context() as patch:  # Streamlit's tests leave a main script of theirs
        patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        for one in workers:
            one.start()
    for one in workers:
        one.join(120)
    assert [one.exitcode for one in workers] == [0] * len(workers)


def _elsewhere(number, target, call):
    os.environ["FEATURESTORE_CACHE"] += f"-{number}"
    target(*call)
