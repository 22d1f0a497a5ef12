"""Mend the logs of a data set: commits from their copies, and rows whose commit is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import FeatureStoreError, StoreCorrupt
from featurestore.storage.columns import drop_equal
from featurestore.storage.dataset_folder import DatasetFolder, all_views_locked
from featurestore.storage.files import read_json
from featurestore.storage.item_columns import FAILURES, ITEMS
from featurestore.storage.log_files import (
    Damage,
    copy_commit,
    copy_file,
    drop_checkpoints,
    lacking_copies,
    log_damage,
    named_shards,
    newest_checkpoint,
    read_copy,
    replace_commit,
)
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import read_shard, shard_schema, view_schema
from featurestore.storage.tables import Shard, Table
from featurestore.storage.tap_shards import TAP
from featurestore.storage.unnamed import unnamed_shards
from featurestore.terms.taps import TapShape
from featurestore.upkeep.log_checks import checkpoint_damage
from featurestore.upkeep.row_checks import check_ids, check_view, shard_damage
from featurestore.upkeep.tables import tables_of

# What tells the rows of a table apart. A row of a view counts once, however often it is there.
_KEYS = {"items": ["item_id"], "failures": ["item_id", "content_hash", "stage", "fingerprint"]}
_VIEW_KEYS = ["item_id", "content_hash"]


@dataclass(frozen=True)
class Repair:
    """What was done about a file, or would be."""

    where: str
    what: str
    is_mended: bool = True  # False: this is still damage


def repair(folder: DatasetFolder, *, dry_run: bool = False, unnamed: bool = False) -> list[Repair]:
    """Repair damaged logs; undamaged ones are not reported.

    A commit that is gone, or not as it was written, comes back from its copy, so that the table
    reads as before. Without a copy, one that says nothing takes its place, and rows of shards
    that no version names are taken in where they are valid and not there already; ``unnamed``
    does so beside a whole log, too. Damaged checkpoints are deleted: the commits say all that
    they say. What a damaged commit held is kept beside its copy.
    """
    with nullcontext() if dry_run else all_views_locked(folder):
        return [
            one
            for name, table in tables_of(folder, replaced=True)
            for one in _Tended(folder, name, table, dry_run).repaired(unnamed)
        ]


@dataclass(frozen=True)
class _Tended:
    folder: DatasetFolder
    name: str  # items, failures, or the slug of a view
    table: Table
    dry_run: bool

    def repaired(self, unnamed: bool) -> Iterator[Repair]:
        damage, is_open = log_damage(self.table.path), False
        lost = [one.version for one in damage if one.version is not None and not one.has_copy]
        known = self._known_to_checkpoint(lost)
        for one in damage:
            yield self._mend(one, known)
        if not damage and (found := checkpoint_damage(self.table)) is not None:
            is_open = found.is_open
            yield self._mend(found, known)
        if unnamed or set(lost) - known.keys():
            try:
                yield from self._adopt()
            except FeatureStoreError as error:  # its columns do not fit, or a shard is damaged
                yield Repair(str(self.table.path), str(error), is_mended=False)
        spoilt = {one.version for one in damage} if self.dry_run else set()
        for number, is_damaged in lacking_copies(self.table.path).items():
            if is_damaged and number not in spoilt:
                yield Repair(str(copy_file(self.table.path, number)), "copied anew")
            if not (self.dry_run or is_open):  # a wrong commit would count as the right one
                copy_commit(self.table.path, number)
        if damage and not self.dry_run:
            try:
                self.table.shards()
            except FeatureStoreError as error:
                yield Repair(str(self.table.path), str(error), is_mended=False)

    def _known_to_checkpoint(self, lost: list[int]) -> dict[int, bytes]:
        """Return what lost commits before a checkpoint did, by version: the last one does it."""
        until = newest_checkpoint(self.table.path)
        if not (versions := [one for one in lost if one <= until]):
            return {}
        try:
            there = {one.path.name: one for one in self.table.shards(until)}
        except FeatureStoreError:  # the checkpoint is damaged, too
            return {}
        named = set(named_shards(self.table.path, until)[0])
        removed: list[dict[str, Any]] = [
            {"remove": {"path": name, "deletionTimestamp": 0, "dataChange": True}}
            for name in sorted(named - there.keys())
        ]
        added = [there[name] for name in sorted(there.keys() - named)]
        added_actions = [{"add": _add(one)} for one in added]
        lines = [json.dumps(one) + "\n" for one in [*removed, *added_actions]]
        return {**dict.fromkeys(versions, b""), max(versions): "".join(lines).encode()}

    def _mend(self, damage: Damage, known: dict[int, bytes]) -> Repair:
        where, version, path = str(damage.path), damage.version, self.table.path
        if damage.is_open:
            return Repair(where, f"left as it is: {damage.what}", is_mended=False)
        if version is None:
            if not self.dry_run:
                drop_checkpoints(path, only=damage.path)
            return Repair(where, "deleted, since the commits say all that it says")
        if damage.has_copy:
            if not self.dry_run:
                replace_commit(path, version, read_copy(path, version) or b"")
            return Repair(where, f"written anew from its copy: version {version} is back")
        if version == 0:
            try:
                self._schema()
            except FeatureStoreError as error:
                return Repair(where, str(error), is_mended=False)
        if not self.dry_run:
            first = Table.first_commit(self._schema()) if version == 0 else None
            made = (first or _STAND_IN % version) + known.get(version, b"")
            replace_commit(path, version, made)
        if version in known:
            return Repair(where, "has no copy: written anew from the checkpoint after it")
        what = (
            "has no copy: one that says nothing takes its place, so that the table opens; what "
            "this version deleted or changed is as it was before it"
        )
        return Repair(where, what)

    def _schema(self) -> pa.Schema:
        """Return the columns that the table has, or begins with if its log does not say so."""
        if self.name in _KEYS:
            return {"items": ITEMS, "failures": FAILURES}[self.name]
        info = self._info()
        return view_schema(info["dim"]) if TapShape.of(info["chosen"]) is None else TAP

    def _info(self) -> dict[str, Any]:
        """Return encoder.json of a view."""
        path = self.table.path / "encoder.json"
        info = {"chosen": {}, **read_json(path)}
        if not isinstance(info.get("dim"), int):
            raise StoreCorrupt(f"{path} names no length of its vectors: restore it from a backup")
        return info

    def _adopt(self) -> Iterator[Repair]:
        """Take in rows of shards that no version names, and columns that no version knows."""
        path, keys = self.table.path, _KEYS.get(self.name, _VIEW_KEYS)
        latest, _ = named_shards(path)
        there: list[pa.Table] = []
        for named in [path / name for name in reversed(latest)]:
            try:
                rows = read_shard(named, keys)
            except StoreCorrupt:
                continue  # verify names it
            twice = len(rows) - int(_mask_new(rows, there, keys).sum())
            if not self.dry_run:
                self.table.add_columns(shard_schema(named))
            if twice:  # the lost commit took them out of this shard
                if not self.dry_run:
                    self._drop(named, there, keys)
                yield Repair(str(named), f"{twice:,} rows that a later version has are left out")
            there.append(rows)
        for shard in unnamed_shards(path):
            if (wrong := self._wrong_with(shard)) is not None:
                yield Repair(str(shard), f"not taken in: {wrong}")
                continue
            rows = read_shard(shard)
            rows = rows.filter(pa.array(_mask_new(rows, there, keys)))
            if len(rows):
                there.append(rows.select(keys))
                if not self.dry_run:
                    self._add(rows)
            what = f"{len(rows):,} rows that no version names are taken in"
            yield Repair(
                str(shard), what if len(rows) else "not taken in: its rows are there already"
            )

    def _drop(self, shard: StorePath, newer: list[pa.Table], keys: list[str]) -> None:
        """Leave out rows of a shard that newer ones have."""
        only = [one for one in self.table.shards() if one.path == shard]
        drop = lambda rows: ~_mask_new(rows, newer, keys)  # noqa: E731
        self.table.merge(None, drop=drop, keys=keys, only=only)

    def _add(self, rows: pa.Table) -> None:
        if self.name not in _KEYS:
            self.table.append(rows)
            return
        keep = lambda some: np.zeros(len(some), bool)  # noqa: E731
        self.table.merge(rows, drop=keep, keys=["item_id"], only=(), widen=True)

    def _wrong_with(self, path: StorePath) -> str | None:
        """Return why the rows of a shard cannot be those of this table."""
        if (damage := shard_damage(Shard(path, path.stat().st_size))) is not None:
            return damage
        try:
            rows, schema = read_shard(path), self._schema()
        except FeatureStoreError as error:
            return str(error)
        absent = [name for name in schema.names if name not in rows.column_names]
        if absent:
            return f"it has no column {absent[0]!r}"
        if self.name == "items":
            return next(check_ids(rows, set()), None)
        if self.name not in _KEYS:
            return next(check_view(rows, self._info()), None)
        return None


def _mask_new(rows: pa.Table, others: list[pa.Table], keys: list[str]) -> NDArray[np.bool_]:
    """Return which rows have keys that no row of the others has, (n,)."""
    is_new = np.ones(len(rows), bool)
    for one in others:
        columns = {key: one[key].combine_chunks() for key in keys}
        is_new &= ~drop_equal(columns, keys)(rows)
    return is_new


def _add(shard: Shard) -> dict[str, Any]:
    rows = {} if shard.n_rows is None else {"stats": json.dumps({"numRecords": shard.n_rows})}
    return {
        "path": shard.path.name, "partitionValues": {}, "size": shard.size_bytes,
        "modificationTime": 0, "dataChange": True, **rows,
    }  # fmt: skip


_STAND_IN = b"""{"commitInfo":{"timestamp":0,"operation":"REPAIR","operationParameters":{}}}
{"txn":{"appId":"featurestore-repair","version":%d}}
"""
