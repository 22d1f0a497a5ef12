"""Store and search: against np.load, bare FAISS and LanceDB; filters; a million rows.

Run: python -m benchmarks.store [SECTION…] (some fifteen minutes on 2 cores; nothing else should
run; sections that are not named keep their last figures). PEERS_PYTHON names an environment
with LanceDB 0.40: `python3 -m venv /tmp/lance && /tmp/lance/bin/pip install lancedb==0.40.0`.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import median

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.report import (
    SHARED,
    Row,
    at_least,
    at_most,
    dgemm_s,
    run_sections,
)
from benchmarks.taps import taps
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.pipeline.options import EmbedOptions
from featurestore.storage import tables
from featurestore.storage.shards import view_rows, view_schema
from featurestore.storage.tables import Table
from featurestore.store.store import Store, open_store
from featurestore.store.view import View
from featurestore.terms.vectors import unit_rows
from tools.ceph import BUCKET, running

N, DIM, N_QUERIES, ROUNDS = 200_000, 512, 200, 5
UNLABELLED = SHARED / "data" / "unlabelled"


def main(chosen: Sequence[str] = ()) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FEATURESTORE_CACHE"] = str(folder / "cache")
        sections: dict[str, Callable[[], list[Row]]] = {
            "load": lambda: loads(folder),
            "search": lambda: searches(folder),
            "filters": lambda: filters(folder),
            "pictures": lambda: pictures(folder),
            "million": lambda: million(folder),
            "memory": lambda: memory(folder),
            "s3": lambda: elsewhere(folder),
            "disk": lambda: disk(folder),
            "taps": lambda: taps(folder),
        }
        return run_sections("store", sections, chosen)


@cache
def clustered(n: int = N) -> NDArray[np.float32]:
    """Return a thousand clusters of different width: embeddings look like that, more or less."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, DIM)).astype(np.float32)
    own = rng.integers(1000, size=n)
    noise = rng.standard_normal((n, DIM), np.float32) * rng.uniform(0.3, 1.2, (n, 1))
    return (centres[own] + noise).astype(np.float32)


def queries_and_truth() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    vectors = clustered()
    rng = np.random.default_rng(1)
    queries = vectors[rng.permutation(N)[:N_QUERIES]]
    queries = queries + 0.1 * rng.standard_normal(queries.shape, np.float32)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(unit_rows(vectors))
    return queries, flat.search(unit_rows(queries), 10)[1]


def take_in(store: Store) -> View:
    """Put the vectors into a store, with a label and a number to filter by."""
    vectors = clustered()
    ids = pa.array([f"i{i:06d}" for i in range(N)])
    columns = pa.table({"label": ["ab"[i % 2] for i in range(N)], "number": np.arange(N)})
    incoming = Incoming(ids, vectors, columns)
    return import_vectors(
        store, incoming, dataset="d", name="x", origin="generated", labels=["label"]
    )


def kept_view(folder: Path) -> View:
    store = open_store(folder / "store", create=True)
    return store.view("d", "import:x") if store.datasets() else take_in(store)


def loads(folder: Path) -> list[Row]:
    vectors, path = clustered(), folder / "plain.npy"
    np.save(path, vectors)
    size = vectors.nbytes / 1e9
    ingest_s, first_s, second_s, plain_s = [], [], [], []
    for number in range(3):
        store = open_store(folder / f"load-{number}", create=True)
        started = time.perf_counter()
        view = take_in(store)
        ingest_s.append(time.perf_counter() - started)
        gc.collect()
        np.load(path)  # both find the memory of an equal array free
        started = time.perf_counter()
        first = view.load()
        first_s.append(time.perf_counter() - started)
        wait_for_cache(view)
        del first
        for _ in range(ROUNDS):
            started = time.perf_counter()
            loaded = np.load(path)
            plain_s.append(time.perf_counter() - started)
            del loaded
            started = time.perf_counter()
            copy = np.array(view.load().vectors)  # into memory, as np.load does
            second_s.append(time.perf_counter() - started)
            del copy
        subprocess.run(["rm", "-rf", str(store.path)], check=True)
    plain, first_rate, second_rate = (size / median(x) for x in (plain_s, first_s, second_s))
    rows = [
        Row("np.load of 200k × 512 float32", plain, "GB/s"),
        Row("view.load, first, from Parquet", first_rate, "GB/s"),
        at_least("… over np.load", first_rate / plain, "ratio", 0.2),
        Row("view.load and copy, second, from the cache", second_rate, "GB/s"),
        at_least("… over np.load", second_rate / plain, "ratio", 0.8),
        Row("ingest (import_vectors)", size / median(ingest_s), "GB/s"),
    ]
    lance = lancedb(folder)
    if lance is None:
        return [*rows, Row("LanceDB: not run, PEERS_PYTHON is not set", float("nan"), "GB/s")]
    first_lance, *others = lance["load_s"]
    return [
        *rows,
        Row(f"LanceDB {lance['version']} ingest", size / lance["ingest_s"], "GB/s"),
        at_least("… ours over it", lance["ingest_s"] / median(ingest_s), "ratio", 4),
        Row("LanceDB first load", size / first_lance, "GB/s"),
        at_least("… ours over it", first_lance / median(first_s), "ratio", 1),
        Row("LanceDB second load", size / median(others), "GB/s"),
        at_least("… ours over it", median(others) / median(second_s), "ratio", 4),
    ]


def wait_for_cache(view: View) -> None:
    while not list(view.dataset.folder.local.glob("cache/*/[0-9]*")):
        time.sleep(0.05)


@cache
def lancedb(folder: Path) -> dict[str, object] | None:
    python = os.environ.get("PEERS_PYTHON")
    if python is None:
        return None
    queries, truth = queries_and_truth()
    names = {"vectors": clustered(), "queries": queries, "truth": truth}
    for name, values in names.items():
        np.save(folder / f"{name}.npy", values)
    script = Path(__file__).parent / "peers" / "lancedb_store.py"
    paths = [str(folder / f"{name}.npy") for name in names]
    command = [python, str(script), *paths, str(folder / "lance")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def searches(folder: Path) -> list[Row]:
    view = kept_view(folder)
    view.load()
    queries, truth = queries_and_truth()
    built = view.build_index(recall=0.95)
    opened_s = seconds_each(lambda _: view.index(), 3)
    index, exact = view.index(), view.index(exact=True)
    ours = seconds_each(lambda i: index.search(queries[i : i + 1]), N_QUERIES)
    found = index.search(queries).ids
    hits = sum(
        len({int(one[1:]) for one in ids} & set(true))
        for ids, true in zip(found, truth, strict=True)
    )
    plain = unit_rows(queries)
    parameters = faiss.SearchParametersIVF(nprobe=index.effort)
    bare = seconds_each(
        lambda i: index._index.search(plain[i : i + 1], 40, params=parameters), N_QUERIES
    )
    brute = seconds_each(lambda i: exact.search(queries[i : i + 1]), 20)
    rows = [
        Row(f"{built.facts['factory']}, built, tuned, measured", built.facts["seconds"], "s"),
        Row("… recall@10 that it measured", built.facts["recall"], "share"),
        at_least("… recall@10 of 200 new queries", hits / truth.size, "share", 0.95),
        Row("one query, ours", ours * 1e3, "ms"),
        Row("one query, the same index by bare FAISS", bare * 1e3, "ms"),
        at_most("… overhead of ours", (ours - bare) * 1e3, "ms", 0.3),
        Row("one query, exact", brute * 1e3, "ms"),
        at_least("… exact over ours", brute / ours, "ratio", 50),
        Row("opening the index", opened_s * 1e3, "ms"),
    ]
    lance = lancedb(folder)
    if lance is None:
        return [*rows, Row("LanceDB: not run, PEERS_PYTHON is not set", float("nan"), "ms")]
    return [
        *rows,
        Row(f"LanceDB IVF_PQ, {lance['settings']}", lance["query_s"] * 1e3, "ms"),
        Row("… recall@10", lance["recall"], "share"),
        at_least("… over ours", lance["query_s"] / ours, "ratio", 20),
        Row("… built", lance["build_s"], "s"),
        at_most("… our build over theirs", built.facts["seconds"] / lance["build_s"], "ratio", 0.1),
    ]


def seconds_each(work: Callable[..., object], n: int) -> float:
    """Median seconds of one call."""
    times = []
    for i in range(n):
        started = time.perf_counter()
        work(i)
        times.append(time.perf_counter() - started)
    return median(times)


def filters(folder: Path) -> list[Row]:
    view = kept_view(folder)
    view.load()
    view.build_index(recall=0.95)
    index, vectors = view.index(), unit_rows(view.load().vectors)
    queries, _ = queries_and_truth()
    rows = []
    for share in (0.01, 0.1, 0.5):
        where = f"number % 1000 < {round(share * 1000)}"
        started = time.perf_counter()
        among = view.matching(where)
        matching_s = time.perf_counter() - started
        chosen = np.flatnonzero(among)
        flat = faiss.IndexFlatIP(DIM)
        flat.add(vectors[chosen])
        truth = chosen[flat.search(unit_rows(queries), 10)[1]]
        found = index.search(queries, among=among).rows
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
        recall = hits / truth.size
        one_s = seconds_each(lambda i: index.search(queries[i : i + 1], among=among), 50)  # noqa: B023
        name = f"filter that {share:.0%} fulfil"
        is_exact = len(chosen) * DIM <= 16 << 20
        rows += [
            Row(f"{name}: condition", matching_s * 1e3, "ms"),
            Row(f"{name}: one query", one_s * 1e3, "ms"),
            at_least(f"{name}: recall@10", recall, "share", 1.0)
            if is_exact
            else Row(f"{name}: recall@10", recall, "share"),
        ]
    return rows


def pictures(folder: Path) -> list[Row]:
    """Index real ones: 44,000 through a built-in encoder."""
    store = open_store(folder / "pictures", create=True)
    shards = sorted(UNLABELLED.glob("*.tar"))
    (report,) = store.embed(
        shards, dataset="p", encoders=["builtin:tiny-image"], embed_options=EmbedOptions()
    )
    view = store.view("p", "builtin:tiny-image")
    by_itself = view.build_index(recall=0.95)
    built = view.build_index(recall=0.95, memory_bytes=50 << 20)  # the vectors take 56 MB
    index, exact = view.index(), view.index(exact=True)
    queries = view.load().vectors[:: len(index.ids) // 100][:100]
    ours = seconds_each(lambda i: index.search(queries[i : i + 1]), 100)
    brute = seconds_each(lambda i: exact.search(queries[i : i + 1]), 20)
    return [
        Row(f"{report.n_items:,} pictures embedded, tiny-image", report.items_per_s, "images/s"),
        Row(
            f"… without a limit of memory: {by_itself.facts['factory']}, recall@10",
            by_itself.facts["recall"],
            "share",
        ),
        Row(f"their index in 50 MB, {built.facts['factory']}", built.facts["seconds"], "s"),
        Row("… recall@10 that it measured", built.facts["recall"], "share"),
        Row("… at least", built.facts["recall_low"], "share"),
        Row("… one query", ours * 1e3, "ms"),
        Row("… exact", brute * 1e3, "ms"),
    ]


_MILLION = """
import json, resource, sys, time
t = time.perf_counter()
from featurestore import open_store
store = open_store(sys.argv[1])
view = store.dataset("d").views()[0]
out = {"open": time.perf_counter() - t}
import numpy as np
def private():
    with open("/proc/self/smaps_rollup") as f:
        rows = [l.split() for l in f if l.startswith(("Private_Dirty", "Private_Clean"))]
    return sum(int(row[1]) for row in rows) / 1024
def figure(name):
    with open("/proc/self/status") as f:
        return next(int(l.split()[1]) for l in f if l.startswith(name)) / 1024
def timed(name, work):
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak begins anew
    before = figure("VmRSS")
    t = time.perf_counter(); result = work(); out[name] = time.perf_counter() - t
    out[name + "_mb"] = figure("VmHWM") - before
    return result
timed("info", lambda: (view.n_rows, view.snapshot))
index = timed("open_index", view.index)
q = np.array(index.vectors[5:6])
timed("search", lambda: [index.search(q) for _ in range(100)])
out["search"] /= 100
timed("filter", lambda: view.matching("item_id < 'i0005'"))
out["private_mb"] = private()
from featurestore.verify import verify
found = timed("verify", lambda: verify(view.dataset.folder, canary=False))
out["findings"] = len(found)
print(json.dumps(out))
"""


_MEMORY = """
import re, sys
from pathlib import Path
from featurestore import open_store
def figure(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
view = open_store(sys.argv[1]).dataset("d").views()[0]
view.load(where="false")  # libraries are there
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = figure("VmRSS")
found = view.load(split=sys.argv[2] or None)
print((figure("VmHWM") - before) / (found.vectors.nbytes / 2**20))
"""


def memory(folder: Path) -> list[Row]:
    """Measure the peak of a first load, from Parquet, over the vectors that come of it."""
    store = open_store(folder / "memory", create=True)
    split = np.where(np.arange(N) % 4 == 3, "test", "train")
    ids = pa.array([f"i{i:06d}" for i in range(N)])
    view = import_vectors(
        store, Incoming(ids, clustered(), pa.table({"split": split, "number": np.arange(N)})),
        dataset="d", name="x", origin="generated",
    )  # fmt: skip
    rows = []
    for name in ("", "train", "test"):
        shutil.rmtree(view.dataset.path / "cache", ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(store.path), name], check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        what = f"peak memory of a first load of {N:,} × {DIM}, {name or 'all'}, over the result"
        ratio = float(done.stdout)
        rows.append(Row(what, ratio, "ratio") if name else at_most(what, ratio, "ratio", 1.3))
    return rows


def elsewhere(folder: Path) -> list[Row]:
    """Measure the same store in a folder and in a bucket on loopback, kept in memory (Ceph)."""
    size = clustered().nbytes / 1e9
    rows = []
    with running() as environment:
        os.environ.update(environment)
        for name, place in (("a folder", folder / "here"), ("s3://", f"s3://{BUCKET}/store")):
            store = open_store(place, create=True)
            started = time.perf_counter()
            view = take_in(store)
            rows.append(Row(f"{name}: ingest", size / (time.perf_counter() - started), "GB/s"))
            started = time.perf_counter()
            first = view.load()
            rows.append(Row(f"{name}: first load", size / (time.perf_counter() - started), "GB/s"))
            wait_for_cache(view)
            del first
            started = time.perf_counter()
            view = open_store(place).view("d", "import:x")
            found = view.search(view.load().vectors[:1], k=10)
            seconds = time.perf_counter() - started
            rows.append(Row(f"{name}: opened again, loaded, searched exactly", seconds, "s"))
            assert found.rows[0, 0] == 0
            started = time.perf_counter()
            view.load(where="number < 1000", columns=["number"])
            seconds = time.perf_counter() - started
            rows.append(Row(f"{name}: a condition over the cache", seconds, "s"))
    return rows


def disk(folder: Path) -> list[Row]:
    """Measure what it costs that a commit is on the disk, and copied, before success is said."""
    rows = view_rows(*(pa.array([f"{i}" for i in range(1000)]),) * 2, clustered(1000))
    table = Table.create(folder / "disk", view_schema(DIM))
    real, seal = os.fsync, tables.seal
    seconds: dict[str, list[float]] = {"as it is": [], "not synced": [], "nor copied": []}
    for _ in range(30):
        for name, times in seconds.items():
            os.fsync = real if name == "as it is" else lambda _: None
            tables.seal = (lambda *_: None) if name == "nor copied" else seal
            started = time.perf_counter()
            table.append(rows)
            times.append(time.perf_counter() - started)
    os.fsync, tables.seal = real, seal
    synced, unsynced, bare = (median(times) for times in seconds.values())
    return [
        Row(f"a commit of 1,000 × {DIM}, on the disk before success is said", synced * 1e3, "ms"),
        Row("… over one that is copied, but not synced", synced / unsynced, "ratio"),
        Row("… over one that is neither copied nor synced", synced / bare, "ratio"),
    ]


def million(folder: Path) -> list[Row]:
    """Measure what a fresh process needs to open, search, filter and verify a million rows."""
    store = open_store(folder / "million", create=True)
    n = 1_000_000
    started = time.perf_counter()
    vectors = np.concatenate([clustered(N) + np.float32(0.01) * i for i in range(n // N)])
    ids = pa.array([f"i{i:07d}" for i in range(n)])
    view = import_vectors(
        store, Incoming(ids, vectors, pa.table({"number": np.arange(n)})), dataset="d", name="x",
        origin="generated",
    )  # fmt: skip
    ingest_s = time.perf_counter() - started
    del vectors
    view.load()
    wait_for_cache(view)
    built = view.build_index(recall=0.95)
    done = subprocess.run(
        [sys.executable, "-c", _MILLION, str(store.path)], check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    return [
        Row("1M × 512, made and taken in", ingest_s, "s"),
        Row(f"… index {built.facts['factory']}", built.facts["seconds"], "s"),
        Row("… recall@10 that it measured", built.facts["recall"], "share"),
        at_most("… open, imports included", found["open"], "s", 1.0),
        Row("… rows and snapshot", found["info"], "s"),
        Row("… open the index", found["open_index"], "s"),
        Row("… one query", found["search"] * 1e3, "ms"),
        Row("… an SQL condition over all items", found["filter"], "s"),
        at_most("… private memory after that (vectors: 2,048 MB)", found["private_mb"], "MB", 1500),
        Row("… verify, every byte", found["verify"], "s"),
        *(
            Row(f"… resident memory that it adds at most: {what}", found[f"{name}_mb"], "MB")
            for name, what in {
                "info": "rows and snapshot",
                "open_index": "open the index, mapped",
                "search": "100 queries, mapped",
                "filter": "the condition",
                "verify": "verify",
            }.items()
        ),
        Row("… findings", found["findings"], ""),
        Row("probe: dgemm 1500³ float64", dgemm_s() * 1e3, "ms"),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
