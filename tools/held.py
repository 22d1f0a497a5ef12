"""What a store holds, as values that can be compared, for `tools.kill`; each in a child process."""

from __future__ import annotations

import json
import os
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.storage.remote import RemotePath, StorePath, as_path

DERIVED = {"locks", "cache", "thumbnails", "indexes"}  # folders whose files are made anew at will
State = dict[str, str]  # what a store holds: a name of each row or thing, and a digest of it


def digest(value: object) -> str:
    """Return some characters that tell values apart."""
    content = value if isinstance(value, bytes) else repr(value).encode()
    return sha256(content).hexdigest()[:12]


def state_of(url: str, out: Path) -> None:
    """Print what a store and a folder of exports hold, what `verify` finds, and all files."""
    from featurestore.errors import StoreCorrupt
    from featurestore.store.store import open_store
    from featurestore.upkeep.verify import verify

    held: State = {}
    errors = []
    store = open_store(url, create=True)
    for name in store.folders():
        found = verify(store.folder(name), canary=False, n_sample=5)
        errors += [f"{one.where}: {one.what}" for one in found if one.severity == "error"]
    for name in store.datasets():
        try:
            held |= {f"{name} {key}": one for key, one in _held(store.dataset(name)).items()}
        except StoreCorrupt as error:
            held[f"{name} unreadable"] = type(error).__name__
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            held[f"export {name}"] = _content(path)
    print(json.dumps({"held": held, "errors": errors, "files": _files(store.path)}))


def _held(dataset: Any) -> State:
    """Return what a data set holds: rows, vectors, and all that people made of them."""
    rows = dataset.items().to_pylist()
    held = {
        f"item {row['item_id']}": digest(sorted((k, v) for k, v in row.items() if v is not None))
        for row in rows  # a column of nulls alone is none
    }
    assert len(held) == len(rows), "an item stands twice"
    for view in dataset.views():
        loaded = view.load()
        assert len(set(loaded.ids)) == len(loaded.ids), "a vector stands twice"
        for item_id, vector in zip(loaded.ids, loaded.vectors, strict=True):
            held[f"vector {item_id} {view.spec}"] = digest(np.round(vector, 4).tolist())
        held[f"index {view.spec}"] = str(view.index_facts is not None)
    for tap in dataset.taps():
        acts = tap.activations()
        assert len(set(acts.ids)) == len(acts), "an item stands twice"
        for row, item_id in enumerate(acts.ids):
            numbers = np.round(acts.batch(np.array([row])).astype(float), 2)
            held[f"activations {item_id} {tap.spec}"] = digest(numbers.tolist())
    for row in dataset.failures().to_pylist():
        held[f"failure {row['item_id']} {row['stage']}"] = digest(row["content_hash"])
    for one in dataset.slices():
        held[f"slice {one.name}"] = digest(one.item_ids)
    for one in dataset.reviews():
        held[f"review {one.item_id} {one.action} {one.value}"] = digest(one.label)
    for name, source in dataset.description.sources.items():
        # Of two imports, the later one says where vectors came from.
        held[f"source {name}"] = source.root if source.kind != "import" else source.kind
    for path in dataset.path.glob("heads/*/predictions.parquet"):
        if not path.parent.name.startswith("."):  # one that a kill left unfinished
            held[f"head {_content(path)}"] = "there"
    for kind in ("compare", "curve", "quality"):
        if dataset.runs(kind):
            held[f"run {kind}"] = "there"
    if any((dataset.folder.local / "cache").glob("maps-*/*")):
        held["map"] = "there"
    return held


def _content(path: StorePath) -> str:
    if path.suffix == ".parquet":
        return digest(pq.read_table(pa.BufferReader(path.read_bytes())).to_pydict())
    if path.suffix in (".json", ".skops"):  # they hold times
        return digest(len(path.read_bytes()) > 0)
    return digest(path.read_bytes())


def _files(path: StorePath) -> dict[str, int]:
    if isinstance(path, RemotePath):
        found = [one for one in path.walk() if not DERIVED & {*str(one).split("/")}]
        return {str(one): one.stat().st_size for one in found}
    sizes = {}
    for where, folders, names in os.walk(path):
        folders[:] = set(folders) - DERIVED  # a thread of ours may be writing a cache
        sizes |= {f"{where}/{name}": Path(where, name).stat().st_size for name in names}
    return sizes


def held_in_files(folder: Path, name: str) -> None:
    """Print the files below a folder that hold an item's id."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix == ".parquet":
            rows = pq.read_table(path)
            if "item_id" in rows.column_names and name in rows["item_id"].to_pylist():
                print(path)
        elif path.is_file() and re.search(rb"\b%s\b" % re.escape(name).encode(), path.read_bytes()):
            print(path)


def fill(kept: Path, url: str) -> None:
    """Put a store that was kept on this disk where a case will run."""
    if isinstance(target := as_path(url), Path):
        shutil.copytree(kept, target)
        return
    for path in kept.rglob("*"):
        if path.is_file() and not DERIVED & {*path.relative_to(kept).parts}:
            (target / str(path.relative_to(kept))).write_bytes(path.read_bytes())


def lose_commits(url: str, dataset: str) -> None:
    """Delete the last commit of each table."""
    tables = as_path(url) / "datasets" / dataset
    for table in [tables / "items", *(tables / "views").iterdir()]:
        max((table / "_delta_log").glob("*.json"), key=str).unlink()
