"""Check a data set file by file: all are there, and hold what was written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.encoders.canary import check_canary
from featurestore.encoders.loading import load_encoder
from featurestore.encoders.trust import Trust
from featurestore.errors import FeatureStoreError, NotTrusted, StoreCorrupt
from featurestore.sources.reading import Reader, reason_of
from featurestore.storage.dataset_folder import DatasetFolder, view_folders
from featurestore.storage.log_files import copy_file, lacking_copies, log_damage, named_shards
from featurestore.storage.remote import RemotePath, StorePath
from featurestore.storage.run_folder import shards_of_runs
from featurestore.storage.shards import each_group
from featurestore.storage.tables import Table
from featurestore.storage.unnamed import unnamed_shards
from featurestore.terms.specs import EncoderSpec
from featurestore.upkeep.derived_checks import damaged_files
from featurestore.upkeep.head_files import damaged_heads
from featurestore.upkeep.log_checks import checkpoint_damage
from featurestore.upkeep.row_checks import check_ids, check_view, shard_damage

N_SAMPLE = 100
STOPPED_S = 3600.0  # a shard that no version names for so long is not that of a run under way


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    where: str  # a file, or a table
    what: str
    severity: str  # error: the store is damaged; warning: what lies outside of it has changed


def verify(
    folder: DatasetFolder,
    *,
    canary: bool = True,
    n_sample: int = N_SAMPLE,
    seed: int = 0,
    trust: Trust = False,
) -> list[Finding]:
    """Check the present state of a data set; no finding means that all is well.

    Shards: present, of their size, of the SHA-256 that is their name, readable, of as many rows
    as the log says. Items: ids unique, texts those that were hashed. Views: dim, finite vectors.
    Caches, indexes, maps, kept results and run cards: as they were written. Heads: estimators as
    their cards have them. Sources: ``n_sample`` items drawn by ``seed`` still have the content
    that was embedded. Encoders, with ``canary``: those that can be loaded still give their probe
    vectors; one that is code of its own is loaded where ``trust`` allows it.
    """
    return list(_findings(folder, canary, n_sample, seed, trust))


def _findings(
    folder: DatasetFolder, canary: bool, n_sample: int, seed: int, trust: Trust
) -> Iterator[Finding]:
    if _is_begun(folder):
        what = (
            "a run was killed before it took anything in: run it again, or delete what it left: "
            f"`featurestore store drop {folder.name}`"
        )
        yield Finding(str(folder.path), what, "warning")
        return
    try:
        folder.read()
        infos = folder.encoders()
    except StoreCorrupt as error:
        what = str(error)
        if isinstance(folder.path, RemotePath) and not folder.exists:
            what = (
                "has no dataset.json: a `rename` or `drop` was stopped in the midst, which the "
                "same command completes, or else restore it from a backup"
            )
        yield Finding(str(folder.path), what, "error")
        return
    for name in view_folders(folder):
        view = folder.path / "views" / name
        # Without a shard, a writer was killed before it said what its vectors would be of.
        if any(True for _ in view.glob("*.parquet")) and not (view / "encoder.json").exists():
            yield Finding(str(view), "has no encoder.json: restore it from a backup", "error")
    yield from _check_table(folder.items, partial(check_ids, seen=set()))
    yield from _check_table(folder.failures)
    for slug, info in infos.items():
        yield from _check_table(folder.view(slug), partial(check_view, info=info))
    for slug in view_folders(folder):
        if slug not in infos:  # one that was replaced: old versions of it may be read
            yield from _check_log(folder.view(slug))
    for file, damage in damaged_files(folder, infos):
        yield Finding(str(file), damage, "error")
    for file, damage in damaged_heads(folder):
        yield Finding(str(file), damage, "error")
    yield from _check_sources(folder, n_sample, seed)
    if canary:
        for slug, info in infos.items():
            if not info["canary"]:
                continue  # imported: nobody here can make these vectors
            yield from _check_encoder(folder.path / "views" / slug, info, trust)


def _is_begun(folder: DatasetFolder) -> bool:
    """Whether a run was stopped before it committed a row of a new data set: nothing is lost."""
    tables = [folder.items, folder.failures, *map(folder.view, view_folders(folder))]
    return not folder.exists and not any(
        named_shards(one.path)[1] or any(True for _ in one.path.glob("*.parquet")) for one in tables
    )


def _check_log(table: Table) -> Iterator[Finding]:
    """Check the commits of a table; where one is lost, shards that no version names count."""
    damaged = log_damage(table.path)
    for one in damaged:
        yield Finding(str(one.path), one.what, "error")
    for number, is_damaged in lacking_copies(table.path).items():
        if is_damaged and not damaged:
            what = "this copy of a commit is damaged: `featurestore store repair` makes it anew"
            yield Finding(str(copy_file(table.path, number)), what, "warning")
    is_lost = any(one.version is not None and not one.has_copy for one in damaged)
    unnamed = unnamed_shards(table.path)
    for path in unnamed if is_lost else []:
        what = (
            "no version names this shard, and the lost commit may have: vacuum spares it, "
            "`featurestore store repair` takes in its rows where they are valid"
        )
        yield Finding(str(path), what, "error")
    old = [] if damaged else [one for one in unnamed if _age_s(one) > STOPPED_S]
    if old and (old := [one for one in old if one.name not in _shards_of_runs(table)]):
        what = (
            f"no version names {len(old)} of its shards: a run that was stopped left them, or the "
            "last commits are lost with their copies. `featurestore store repair --unnamed` takes "
            "in their rows where they are valid; vacuum deletes them"
        )
        yield Finding(str(table.path), what, "warning")


def _shards_of_runs(table: Table) -> set[str]:
    """Return the shards that unfinished runs of its data set name."""
    above = table.path.parent
    return shards_of_runs(above.parent if above.name == "views" else above)


def _age_s(path: StorePath) -> float:
    return time.time() - path.stat().st_mtime


def _check_table(
    table: Table, check: Callable[[pa.Table], Iterator[str]] | None = None
) -> Iterator[Finding]:
    """Check files one by one; ``check`` names what is wrong with the rows of an intact one."""
    findings = list(_check_log(table))
    yield from findings
    damaged = [one for one in findings if one.severity == "error"]
    if not damaged and (damage := checkpoint_damage(table)) is not None:
        yield Finding(str(damage.path), damage.what, "error")
        return
    try:
        shards = table.shards()
    except FeatureStoreError as error:
        if not damaged:  # else it is said above, with the file's name
            yield Finding(str(table.path), str(error), "error")
        return
    for shard in shards:
        wrong = shard_damage(shard)
        if wrong is not None:
            yield Finding(str(shard.path), wrong, "error")
            continue
        n_rows = 0
        for rows in each_group(shard.path):  # a whole shard may be larger than memory
            n_rows += len(rows)
            for what in check(rows) if check is not None else ():
                yield Finding(str(shard.path), what, "error")
        if shard.n_rows is not None and n_rows != shard.n_rows:
            what = f"it has {n_rows} rows, the log says {shard.n_rows}"
            yield Finding(str(shard.path), what, "error")


def _check_sources(folder: DatasetFolder, n_sample: int, seed: int) -> Iterator[Finding]:
    try:
        items = folder.items.read(["item_id", "source", "uri", "content_hash"])
    except StoreCorrupt:
        return  # named above
    rows = items.filter(pc.and_(pc.is_valid(items["uri"]), pc.is_valid(items["content_hash"])))
    some = np.random.default_rng(seed).permutation(len(rows))[:n_sample]
    records = folder.read().sources
    readers = {name: Reader(one.kind, one.root) for name, one in records.items()}
    for row in rows.take(pa.array(np.sort(some))).to_pylist():
        try:
            content = readers[row["source"]](row["uri"])
        except (OSError, ValueError, KeyError) as error:
            what = f"is gone from its source ({reason_of(error)})"
            yield Finding(row["item_id"], what, "warning")
            continue
        if hashlib.sha256(content).hexdigest() != row["content_hash"]:
            what = "has changed since it was embedded: run embed again"
            yield Finding(row["item_id"], what, "warning")


def _check_encoder(path: StorePath, info: Mapping[str, Any], trust: Trust) -> Iterator[Finding]:
    where = str(path / "encoder.json")
    try:
        spec, made = EncoderSpec.parse(info["spec"]), info["fingerprint"]
        encoder = load_encoder(spec, device="cpu", trust=trust, made=made)
    except NotTrusted as error:
        yield Finding(where, f"its encoder was not checked: {error}", "warning")
        return
    except FeatureStoreError as error:
        yield Finding(where, f"its encoder cannot be loaded here: {error}", "warning")
        return
    if encoder.resolved.fingerprint != info["fingerprint"]:
        yield Finding(where, f"{info['spec']} is another encoder now", "warning")
        return
    try:
        check_canary(encoder, info["canary"])
    except FeatureStoreError as error:
        yield Finding(where, str(error), "warning")
