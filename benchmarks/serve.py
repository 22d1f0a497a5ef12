"""The server beside a plain loop over the same encoder; how late its answers are; its memory.

Run: python -m benchmarks.serve [SECTION…] (some fifteen minutes on 2 cores; needs ../shared).

The server is a process of its own, asked by 16 clients in this one. The plain loop runs in this
process while the server is idle: the encoder is opened once, one item after the other is encoded
and answered by the head. Draws alternate, and the median of their ratios counts.
"""

from __future__ import annotations

import csv
import http.client
import itertools
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from threading import local

import numpy as np
import psutil

import heads
from benchmarks.report import SHARED, Row, at_least, at_most, run_sections
from featurestore.encoders import encode_now
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.saved.serve import as_read, blocks_of

DATA = SHARED / "data"
MOBILENET = f"timm:local-dir:{(SHARED / 'encoders' / 'mobilenetv2_100-imagenet').resolve()}"
TINY_TEXT = "builtin:tiny-text"
CLIENTS, DRAWS = 16, 5
N_PICTURES, N_TEXTS, N_MANY = 64, 1000, 50_000
N_CONNECTIONS = 10_000
KINDS = {str: "text/plain", bytes: "image/jpeg"}
_kept = local()


class Client:
    """Sends items, each thread over a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, item: str | bytes) -> None:
        try:
            self._asked(item)
        except (ConnectionError, http.client.RemoteDisconnected):  # it was idle for too long
            _kept.port = None
            self._asked(item)

    def _asked(self, item: str | bytes) -> None:
        if getattr(_kept, "port", None) != self.port:
            _kept.port, _kept.one = self.port, http.client.HTTPConnection("127.0.0.1", self.port)
        body = item.encode() if isinstance(item, str) else item
        _kept.one.request("POST", "/predict", body, {"Content-Type": KINDS[type(item)]})
        answer = _kept.one.getresponse()
        said = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(said.decode())


@contextmanager
def server(bundle: Path) -> Iterator[tuple[Client, psutil.Process]]:
    command = [sys.executable, "-m", "featurestore", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stderr.readline())
            assert found is not None
            yield Client(int(found[1])), psutil.Process(process.pid)
        finally:
            process.terminate()


def picture_bundle(folder: Path) -> tuple[Path, list[bytes]]:
    """Return a logistic head on MobileNetV2 of steel surfaces, and files of pictures."""
    files = sorted((DATA / "neu_steel").rglob("*.jpg"))[::10]
    for path in files:
        (folder / "photos" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "photos" / path.parent.name)
    store = open_store(folder / "store", create=True)
    store.embed([folder / "photos"], dataset="steel", encoders=[MOBILENET])
    head = heads.fit(store.dataset("steel").views()[0], "logistic", save=False)
    contents = [path.read_bytes() for path in files]
    return Path(str(head.save(folder / "steel"))), contents[:N_PICTURES]


def text_bundle(folder: Path) -> tuple[Path, list[str]]:
    """Return a logistic head on the built-in text encoder, and messages."""
    lines = (DATA / "sms_spam" / "sms.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t", 1) for line in lines if "\t" in line]
    table = folder / "sms.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("kind", "text"), *rows])
    store = open_store(folder / "store", create=True)
    options = SourceOptions(text="text", label=("kind",))
    store.embed([table], dataset="sms", encoders=[TINY_TEXT], source_options=options)
    head = heads.fit(store.dataset("sms").views()[0], "logistic", save=False)
    return Path(str(head.save(folder / "sms"))), [text for _, text in rows[:N_TEXTS]]


def plain_loop(bundle: Path, items: Sequence[str | bytes], at_once: int) -> float:
    """Return items a second of the same encoder and head without a server."""
    head = heads.load_bundle(bundle)
    encoders = [encode_now.open_encoder(block) for block in blocks_of(head)]

    def answer(some: Sequence[str | bytes]) -> None:
        texts = [str(one) for one in some]
        head.answered(as_read(head, encode_now.encode_each(encoders, some), texts))

    answer(items[:at_once])
    started = time.perf_counter()
    for begin in range(0, len(items), at_once):
        answer(items[begin : begin + at_once])
    return len(items) / (time.perf_counter() - started)


def through_server(client: Client, items: Sequence[str | bytes]) -> float:
    """Return requests a second of clients, each of which sends its next item after an answer."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client.ask, items[:CLIENTS]))
        started = time.perf_counter()
        list(pool.map(client.ask, items))
        return len(items) / (time.perf_counter() - started)


def lateness_ms(client: Client, items: Sequence[str | bytes], per_s: float) -> list[float]:
    """Return milliseconds from when each request is due, at even distances, to its answer."""

    def ask(due: float, item: str | bytes) -> float:
        time.sleep(max(0.0, due - time.perf_counter()))
        client.ask(item)
        return 1000 * (time.perf_counter() - due)

    begin = time.perf_counter() + 0.1
    with ThreadPoolExecutor(64) as pool:
        dues = [begin + n / per_s for n in range(len(items))]
        return list(pool.map(ask, dues, items))


def rates(what: str, bundle: Path, items: Sequence[str | bytes]) -> list[Row]:
    singles, batches, served, late = [], [], [], []
    with server(bundle) as (client, _):
        for draw in range(DRAWS):
            singles.append(plain_loop(bundle, items, 1))
            batches.append(plain_loop(bundle, items, 32))
            served.append(through_server(client, items))
            late += lateness_ms(client, items, served[-1] / 2)
            print(f"{what} {draw}: {singles[-1]:.1f} {batches[-1]:.1f} {served[-1]:.1f}/s,"
                  f" p99 {np.quantile(late, 0.99):.0f} ms", flush=True)  # fmt: skip
    ratios = [one / other for one, other in zip(served, singles, strict=True)]
    in_batches = [one / other for one, other in zip(served, batches, strict=True)]
    return [
        Row(f"{what}: requests a second", median(served), "/s"),
        at_least(f"{what}: … ÷ plain loop, one at a time", median(ratios), "×", 0.8),
        Row(f"{what}: … least of {DRAWS} draws", min(ratios), "×"),
        Row(f"{what}: … ÷ plain loop in batches of 32", median(in_batches), "×"),
        Row(f"{what}: median at half load", float(np.quantile(late, 0.5)), "ms"),
        Row(f"{what}: p99 at half load", float(np.quantile(late, 0.99)), "ms"),
    ]


def pictures() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return rates("MobileNetV2", *picture_bundle(Path(folder)))


def texts() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return rates("tiny-text", *text_bundle(Path(folder)))


def connections() -> list[Row]:
    """Ask while thousands of others connect and say nothing, or half a request."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, texts = text_bundle(Path(folder))
        with server(bundle) as (client, process):
            for text in texts[:50]:
                client.ask(text)
            before, alone = process.memory_info().rss, asked_ms(client, texts[:200])
            idle = [connected(client.port, half=n % 2 == 1) for n in range(N_CONNECTIONS)]
            among = asked_ms(client, texts[:200], anew=True)
            grown = (process.memory_info().rss - before) / 1e6
            for one in idle:
                one.close()
    what = f"while {N_CONNECTIONS:,} others connected, half of them with half a request"
    return [
        at_least(f"requests answered {what}", len(among) / 200, "share", 1),
        Row(f"slowest of 200 requests {what}", max(among), "ms"),
        Row("slowest of 200 requests alone", max(alone), "ms"),
        at_most(f"memory that the server took more {what}", grown, "MB", 100),
    ]


def connected(port: int, *, half: bool) -> socket.socket:
    """Connect, and say nothing, or the beginning of a request."""
    one = socket.create_connection(("127.0.0.1", port))
    if half:
        with suppress(OSError):  # it may have been ended already
            one.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Le")
    return one


def asked_ms(client: Client, texts: Sequence[str], *, anew: bool = False) -> list[float]:
    """Return the milliseconds of each request; ``anew`` takes a connection of its own for each."""
    found = []
    for text in texts:
        if anew:
            _kept.port = None
        begin = time.perf_counter()
        client.ask(text)
        found.append(1e3 * (time.perf_counter() - begin))
    return found


def memory() -> list[Row]:
    """Return the memory after a tenth of the requests, and how much it is after all."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, items = text_bundle(Path(folder))
        many = list(itertools.islice(itertools.cycle(items), N_MANY))
        with server(bundle) as (client, process):
            through_server(client, many[: N_MANY // 10])
            before = process.memory_info().rss
            through_server(client, many[N_MANY // 10 :])
            after = process.memory_info().rss
    return [
        Row("memory of the server after 5,000 requests", before / 2**20, "MB"),
        at_most("… after 50,000 ÷ after 5,000", after / before, "×", 1.05),
    ]


SECTIONS = {
    "pictures": pictures, "texts": texts, "memory": memory, "connections": connections,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(run_sections("serve", SECTIONS, sys.argv[1:]))
