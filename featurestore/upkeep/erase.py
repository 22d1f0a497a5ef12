"""Items deleted for good: from tables, cards, slices, reviews and derived files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.curation.reviews import erase_from_reviews
from featurestore.curation.slices import erase_from_slices
from featurestore.errors import StoreCorrupt, UnknownItem, nearest
from featurestore.storage.columns import drop_equal
from featurestore.storage.dataset_folder import DatasetFolder, all_views_locked, indexes_locked
from featurestore.storage.files import matching, read_json, remove_folder, sync
from featurestore.storage.log_files import log_damage
from featurestore.storage.query import fulfils
from featurestore.storage.remote import RemotePath, StorePath
from featurestore.storage.run_folder import drop_runs
from featurestore.storage.shards import read_shard
from featurestore.storage.tables import YOUNG_S
from featurestore.storage.unnamed import unreferenced
from featurestore.upkeep.head_files import erase_predictions, head_ids
from featurestore.upkeep.tables import tables_of

_DERIVED = ("indexes", "cache")


def select_ids(
    folder: DatasetFolder,
    ids: Sequence[str] = (),
    where: str | None = None,
    *,
    ever: bool = False,
) -> pa.Array:
    """Return the ids that are named or fulfil a condition; each is an item's.

    With ``ever``, an id may also be that of an item of an earlier version.

    Raises
    ------
    UnknownItem
        If one of ``ids`` is no item.
    BadQuery
        If ``where`` is no condition.
    """
    items = folder.items.read()
    known = items.column("item_id")
    asked = pa.array(list(ids), pa.string())
    absent = asked.filter(pc.invert(pc.is_in(asked, value_set=known)))
    if ever and len(absent):
        once = pa.array(sorted(_ids_ever(folder)), pa.string())
        absent = absent.filter(pc.invert(pc.is_in(absent, value_set=once)))
    if len(absent):
        raise UnknownItem(
            f"data set {folder.name!r} has no item {absent[0].as_py()!r}: "
            f"{nearest(absent[0].as_py(), known.to_pylist()[:10_000])}"
        )
    if where is None:
        return asked
    found = known.filter(pa.array(fulfils(where, items))).combine_chunks()
    return pc.unique(pa.concat_arrays([asked, found]))


def delete(folder: DatasetFolder, ids: pa.Array) -> None:
    """Delete items from the present state; earlier versions keep them until `erase`."""
    with all_views_locked(folder):
        _delete(folder, ids)


def _delete(folder: DatasetFolder, ids: pa.Array) -> None:
    drop = drop_equal({"item_id": ids}, ["item_id"])
    for _, table in tables_of(folder, replaced=True):  # items come first: vectors lose theirs
        table.merge(None, drop=drop, keys=["item_id"])


@dataclass(frozen=True)
class Erased:
    """What was deleted besides the rows."""

    n_files: int  # of old versions
    n_thumbnails: int
    run_cards: tuple[str, ...]
    heads: tuple[str, ...]  # all there are: any of them may have learned from the items
    n_young: int = 0  # files in an object store that another machine may be about to commit


def erase(folder: DatasetFolder, ids: pa.Array) -> Erased:
    """Delete items and everything that still holds their content, old versions included.

    Unfinished runs of workers are dropped: embed again. Old versions that held them can no longer
    be read. What heads learned stays in them, kNN and TF-IDF keep rows and words as they were:
    delete those, or train them again. Interrupted, it can be run again. In an object store, files
    that no version names yet stay for a day, since another machine may be about to commit them:
    run it again then.
    """
    with all_views_locked(folder):
        for _, table in tables_of(folder, replaced=True):
            for one in log_damage(table.path, briefly=True):
                raise StoreCorrupt(f"nothing was erased: {one.path}: {one.what}")
        _delete(folder, ids)
        with indexes_locked(folder):  # who saves one afterwards sees that it was counted
            folder.count_erasure()
            folder.forget_erased()
            drop_runs(folder.path)  # their parts, and shards that nobody names yet, may hold them
            for name in _DERIVED:
                remove_folder(folder.local / name)
        # What names the items goes before the files that know them: interrupted, `_ids_ever`
        # finds them again.
        cards = _erase_cards(folder, ids)
        erase_predictions(folder, ids)
        erase_from_slices(folder, set(ids.to_pylist()))
        erase_from_reviews(folder, set(ids.to_pylist()))
        left = set(folder.items.read(["content_hash"]).column("content_hash").to_pylist())
        thumbnails = [
            path
            for path in (folder.local / "thumbnails").glob("*")
            if path.name.split("-")[0] not in left
        ]
        for thumbnail in thumbnails:
            thumbnail.unlink(missing_ok=True)
        n_files = n_young = 0
        for _, table in tables_of(folder, replaced=True):
            # Nobody on this machine writes now: what no version names was left behind. Where
            # others may write, what is young may be about to be named.
            unnamed_s = -math.inf if isinstance(table.path, Path) else YOUNG_S
            for path in unreferenced(table, older_than_s=-math.inf, unnamed_s=unnamed_s):
                if path.suffix == ".tmp" or _holds(path, ids):
                    path.unlink(missing_ok=True)
                    n_files += 1
            if isinstance(table.path, RemotePath):
                unnamed = unreferenced(table, older_than_s=-math.inf, unnamed_s=-math.inf)
                n_young += sum(_holds(path, ids) for path in unnamed)
        if isinstance(folder.path, RemotePath):
            folder.clear_local()
        else:  # what was erased does not come back with a power cut
            for path in [folder.path, *folder.path.rglob("*")]:
                if path.is_dir():
                    sync(path)
    return Erased(n_files, len(thumbnails), cards, tuple(head_ids(folder)), n_young)


def _ids_ever(folder: DatasetFolder) -> set[str]:
    """Return the ids of all rows in files that are still there, of any version."""
    found: set[str] = set()
    for _, table in tables_of(folder, replaced=True):
        for path in table.path.glob("*.parquet"):
            try:
                rows = read_shard(path, ["item_id"], keep=False)
                found.update(rows.column("item_id").to_pylist())
            except StoreCorrupt:
                continue  # erase deletes it, or names it
    return found


def _holds(path: StorePath, ids: pa.Array) -> bool:
    try:
        rows = read_shard(path, ["item_id"], keep=False)
    except StoreCorrupt:
        return True  # nobody can say, and no version that is kept names it
    return bool(pc.any(pc.is_in(rows.column("item_id"), value_set=ids)).as_py())


def _erase_cards(folder: DatasetFolder, ids: pa.Array) -> tuple[str, ...]:
    """Delete run cards that name one of the items as tested or failed; return their names."""
    wanted = set(ids.to_pylist())
    gone = []
    for path in matching(folder.path / "runs", "*.json"):
        try:
            card = read_json(path)
        except StoreCorrupt:
            card = {"item_ids": list(wanted)}  # nobody can say that it holds none of them
        failures = card.get("failures", [])
        if wanted.intersection(card.get("item_ids", [])) or any(
            line.startswith(f"{one}:") for line in failures for one in wanted
        ):
            path.unlink()
            gone.append(path.name)
    return tuple(gone)
