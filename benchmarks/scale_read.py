"""Reading what `benchmarks.scale` embeds: info, history, SQL, search, an index, heads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

import heads
from benchmarks.report import Row, at_most
from benchmarks.scale import DIM, Cost, Place, cost_of
from featurestore.cli import run
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.search.approximate import ApproximateIndex
from featurestore.search.exact import prepared
from featurestore.store.store import open_store

ASKED = "r000000007"  # an item
MOST_COMPARED = 1_000_000


def reading(place: Place) -> list[Row]:
    """Ask for what is there, and search it, each in a process of its own."""
    n = f"{place.n / 1e6:g} M"
    assert place.store.dataset("d").n_items >= place.n
    costs = {
        "info after a run": cost_of(command, place.path, "info", "d"),
        "info": cost_of(command, place.path, "info", "d"),
        "history": cost_of(command, place.path, "store", "history", "d"),
        "sql, count by label": cost_of(sql, place.path),
        "a first search": cost_of(search, place.path),
        "a search, opened anew": cost_of(search, place.path),
        "batches of all rows": cost_of(batches, place.path),
    }
    rows = [row for what, cost in costs.items() for row in _rows(what, n, cost)]
    rows.append(at_most(f"info, {n}: seconds of the command", costs["info"].seconds, "s", 1))
    rows.append(at_most(f"info, {n}: peak", costs["info"].peak_mb, "MB", 300))
    anew = costs["a search, opened anew"]
    rows.append(at_most(f"a search, opened anew, {n}: private", anew.private_mb, "MB", 1000))
    built, bare = cost_of(index, place.path), cost_of(bare_index, place.path)
    rows += _rows("index", n, built)
    rows.append(Row(f"index, {n}: recall@10 that it measured", built.answer, "share"))
    ratio = built.cpu_s / bare.cpu_s
    rows.append(at_most(f"index, {n}: CPU over a bare FAISS build", ratio, "ratio", 3))
    rows += _rows("a search with the index, opened anew", n, cost_of(search, place.path))
    if place.n <= MOST_COMPARED:
        cost = cost_of(compare, cost_of(take_in, place.path).answer)
        rows += [
            at_most(f"compare, prototype and ridge, {n}: CPU", cost.cpu_s, "s", 90),
            at_most(f"compare, prototype and ridge, {n}: peak", cost.peak_mb, "MB", 2000),
        ]
    return rows


def _rows(what: str, n: str, cost: Cost) -> list[Row]:
    return [
        Row(f"{what}, {n}: CPU", cost.cpu_s, "s"),
        Row(f"{what}, {n}: peak, with what is mapped", cost.peak_mb, "MB"),
        Row(f"{what}, {n}: private at the end", cost.private_mb, "MB"),
    ]


def command(store: str, *words: str) -> int:
    return run([*words, "--store", store, "--json"])


def sql(store: str) -> Any:
    found = open_store(store).sql("select label, count(*) as n from d group by 1 order by 1")
    return found.to_pylist()


def search(store: str) -> list[str]:
    view = open_store(store).view("d")
    return [str(one) for one in view.neighbors(ASKED, k=10).ids[0]]


def batches(store: str) -> int:
    return sum(len(one) for one in open_store(store).view("d").batches(columns=["label"]))


def index(store: str) -> float:
    built = open_store(store).view("d").build_index()
    assert isinstance(built, ApproximateIndex)
    return float(built.facts["recall"])


def bare_index(store: str) -> float:
    """Train and fill the same FAISS index as plainly as one can."""
    view = open_store(store).view("d")
    facts = view.index_facts
    vectors = view.load(columns=[]).vectors
    assert facts is not None
    found = faiss.index_factory(DIM, facts["factory"], faiss.METRIC_INNER_PRODUCT)
    rows = np.sort(np.random.default_rng(0).permutation(len(vectors))[: 40 * found.nlist])
    started = time.perf_counter()
    found.train(prepared(vectors[rows], "cosine"))
    for at in range(0, len(vectors), 65_536):
        found.add(prepared(vectors[at : at + 65_536], "cosine"))
    return time.perf_counter() - started


def take_in(store: str) -> str:
    """Put the same vectors, with a test split, into a store of their own; return its folder."""
    found = open_store(store).view("d").load(columns=["label"])
    of_heads = open_store(str(Path(store).with_name("heads")), create=True)
    is_test = np.arange(len(found)) % 5 == 0
    columns = {"label": found.labels, "split": np.where(is_test, "test", "train")}
    import_vectors(
        of_heads, Incoming(pa.array(found.ids), found.vectors, pa.table(columns)), dataset="d",
        name="x", origin="scale", labels=["label"],
    )  # fmt: skip
    return str(of_heads.path)


def compare(store: str) -> list[float]:
    found = heads.compare(open_store(store).view("d"), ["prototype", "ridge"], save=False)
    return [float(row["value"]) for row in found.rows()]
