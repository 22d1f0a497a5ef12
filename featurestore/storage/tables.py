"""Delta Lake as the log over shards of our own: the only file that knows it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction
from numpy.typing import NDArray

from featurestore.errors import StoreBusy, StoreCorrupt, UnknownSnapshot
from featurestore.storage.columns import fit_to, new_columns, widened
from featurestore.storage.files import make_folder
from featurestore.storage.item_columns import FAILURES, ITEMS
from featurestore.storage.log_files import (
    added_since,
    apply_commit,
    commit_file,
    seal,
)
from featurestore.storage.lookups import all_rows, rows_with
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import read_shard, write_shard
from featurestore.storage.table_errors import asked, check_log, log_options, said
from featurestore.storage.table_files import (
    Commit,
    Shard,
    Staged,
    TableState,
    digest_of,
    groups_to_join,
    rows_of,
)

_PART_BYTES = 64 << 20  # of rows that are worth a shard, and a thread, of their own
COMPACT_BYTES = 256 << 20
YOUNG_S = 86_400.0
_MERGE_ATTEMPTS = 100
# Delta's defaults silently drop versions after 30 days.
_KEEP_EVERYTHING = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
}
__all__ = [
    "FAILURES", "ITEMS", "Commit", "Shard", "Staged", "Table", "TableState", "digest_of", "rows_of",
]  # fmt: skip


Rows: TypeAlias = pa.Table | Callable[[int], pa.Table] | None  # of `Table.merge`


class Table:
    """A Delta table in a folder.

    A shard is written whole, then committed; a kill between the two leaves a file that no version
    names. `append` never conflicts with another writer. `merge` rewrites the shards it touches
    and is serialised by a Delta transaction identifier: of two concurrent merges the later one
    reads again and retries.
    """

    def __init__(self, path: StorePath) -> None:
        self.path = path

    @classmethod
    def create(cls, path: StorePath, schema: pa.Schema) -> Table:
        """Open a table, made empty first where there is none."""
        options = log_options(path)
        with asked(path):
            if not DeltaTable.is_deltatable(str(path), options):
                check_log(path, None)  # of one whose log is gone, the copies are left
                make_folder(path / "_delta_log")
                try:
                    made = DeltaTable.create(
                        str(path), _delta_schema(schema), mode="ignore",
                        configuration=_KEEP_EVERYTHING, storage_options=options,
                    )  # fmt: skip
                except CommitFailedError:  # another process made it meanwhile
                    made = DeltaTable(str(path), storage_options=options)
                seal(path, int(made.version()))
        return cls(path)

    @staticmethod
    def first_commit(schema: pa.Schema) -> bytes:
        """Return what the first commit of a table of these columns says."""
        with TemporaryDirectory(prefix="featurestore-log-") as folder:
            Table.create(Path(folder, "table"), schema)
            return commit_file(Path(folder, "table"), 0).read_bytes()

    def add_columns(self, schema: pa.Schema) -> None:
        """Add the columns of a schema that the table lacks; nulls in the rows that are there."""
        table = self._open(None)
        if new := new_columns(pa.schema(table.schema().to_arrow()), schema):
            with asked(self.path):
                table.alter.add_columns(list(_delta_schema(pa.schema(new)).fields))
            self._sealed(table)

    def version(self) -> int:
        """Return the latest version."""
        return int(self._open(None).version())

    def shards(self, version: int | None = None) -> list[Shard]:
        """Return the files of a version (the latest by default), in a stable order."""
        return self._shards(self._open(version))

    def state(self, version: int | None = None) -> TableState:
        """Return what a version holds (the latest by default), from one look at the log."""
        table = self._open(version)
        schema = pa.schema(table.schema().to_arrow())
        return TableState(int(table.version()), schema, self._shards(table))

    def _shards(self, table: DeltaTable, since: int | None = None) -> list[Shard]:
        latest = int(table.version())
        if since == latest:
            return []
        adds = pa.table(table.get_add_actions(flatten=True))
        n_rows = adds["num_records"].to_pylist() if "num_records" in adds.column_names else None
        sizes = zip(adds["path"].to_pylist(), adds["size_bytes"].to_pylist(), strict=True)
        shards = [
            Shard(self.path / name, size, None if n_rows is None else n_rows[at])
            for at, (name, size) in enumerate(sizes)
        ]
        if since is not None and since < latest:
            came = added_since(self.path, since, latest)
            shards = [shard for shard in shards if shard.path.name in came]
        return sorted(shards, key=lambda shard: shard.path.name)

    def schema(self, version: int | None = None) -> pa.Schema:
        """Return the columns of a version; vectors show as plain lists."""
        return pa.schema(self._open(version).schema().to_arrow())

    def read(
        self,
        columns: list[str] | None = None,
        version: int | None = None,
        *,
        since: int | None = None,
        ids: pa.Array | pa.ChunkedArray | None = None,
    ) -> pa.Table:
        """Read the rows of a version (the latest by default); absent columns are null.

        With ``since``, only those of files that came after that version; with ``ids``, only
        those of these items.
        """
        table = self._open(version)
        schema = pa.schema(table.schema().to_arrow())
        if columns is not None:
            absent = [pa.field(name, pa.string()) for name in columns if name not in schema.names]
            known = [schema.field(name) for name in columns if name in schema.names]
            schema = pa.schema([*known, *absent])
        shards = self._shards(table, since)
        if ids is not None:
            return rows_with(shards, ids, columns, schema)
        return all_rows(shards, columns, schema)

    def append(self, rows: pa.Table) -> int:
        """Add rows as one shard; return the version. Never conflicts with another writer."""
        check_log(self.path, None)  # a shard beside a damaged log would look as if it was in it
        add = self._write(rows)
        table = self._open(None)
        with asked(self.path):
            table.create_write_transaction([add], "append", table.schema())
        return self._sealed(table)

    def clear(self) -> int:
        """Drop all rows, in one commit; earlier versions keep them."""
        return self.merge(None, drop=lambda rows: np.ones(len(rows), bool), keys=["item_id"])

    def merge(
        self,
        rows: Rows,
        *,
        drop: Callable[[pa.Table], NDArray[np.bool_]],
        keys: list[str],
        only: Collection[Shard] | None = None,
        unseen_at: int | None = None,
        widen: bool = False,
    ) -> int:
        """Drop the rows that ``drop`` marks and add ``rows``, in one commit.

        Parameters
        ----------
        rows : pyarrow.Table or callable, optional
            Rows to add. New columns are added to the table. Rows that depend on those already
            there are given as a function of the table's version, which is called again with the
            next version if another writer was first.
        drop : callable
            Takes the ``keys`` columns of a shard of n rows and returns a mask, (n,), of the rows
            to drop.
        keys : list of str
            The columns that ``drop`` looks at.
        only : collection of Shard, optional
            Drop rows from these files only.
        unseen_at : int, optional
            A version in which ``drop`` is known to mark nothing. Only files that came after it
            are looked at, so that adding costs the same however large the table is.
        widen : bool
            Whether columns whose type cannot hold what comes take a wider one, in all rows.

        Returns
        -------
        int
            The version; the present one where there was nothing to do.
        """

        def attempt(table: DeltaTable) -> int:
            looked = self._shards(table, unseen_at)
            looked = [one for one in looked if only is None or one in only]
            return self._try_merge(table, rows, drop, keys, looked, widen=widen)

        return self._until_first(attempt)

    def bring(self, given: Callable[[int], Staged | None]) -> int:
        """Name shards that lie here already, in one commit; return the version.

        ``given`` is called with the table's version, and with the next one if another writer was
        first; None says that nothing is left to bring in.
        """

        def attempt(table: DeltaTable) -> int:
            if (one := given(int(table.version()))) is None:
                return int(table.version())
            looked = [] if one.drop is None else self._shards(table)
            drop = one.drop or (lambda rows: np.zeros(len(rows), bool))
            keys = list(one.keys)
            return self._try_merge(table, one.rows, drop, keys, looked, widen=True, staged=one)

        return self._until_first(attempt)

    def _until_first(self, attempt: Callable[[DeltaTable], int]) -> int:
        for n in range(_MERGE_ATTEMPTS):
            table = self._open(None)
            try:
                return attempt(table)
            except CommitFailedError:  # another writer was first, or columns were added
                time.sleep(0.01 * min(n, 20))
        raise StoreBusy(f"{self.path} is being written by other processes: nothing was changed")

    def _try_merge(
        self,
        table: DeltaTable,
        given: Rows,
        drop: Callable[[pa.Table], NDArray[np.bool_]],
        keys: list[str],
        looked: list[Shard],
        *,
        widen: bool,
        staged: Staged | None = None,
    ) -> int:
        schema = pa.schema(table.schema().to_arrow())
        rows = given(table.version()) if callable(given) else given
        wide = widened(schema, rows.schema) if widen and rows is not None and len(rows) else schema
        if wide != schema:
            kept = [fit_to(read_shard(shard.path), wide) for shard in self._shards(table)]
            anew = self._write_all(pa.concat_tables(kept)) if kept else []
            self._commit(table, [], anew, wide)
            raise CommitFailedError("columns have wider types: read again")
        if rows is not None and len(rows) and (new := new_columns(schema, rows.schema)):
            with asked(self.path):
                table.alter.add_columns(list(_delta_schema(pa.schema(new)).fields))
            self._sealed(table)
            raise CommitFailedError("there are new columns: read again")  # others may have written
        parts: list[pa.Table] = []
        actions: list[RemoveAction] = []
        adds = [_add(one.path.name, one.size_bytes, one.n_rows) for one in _shards_of(staged)]
        for shard in looked:
            dropped = drop(read_shard(shard.path, keys))
            if not dropped.any():
                continue
            actions.append(_remove(shard))
            if not dropped.all():
                kept = read_shard(shard.path).filter(pa.array(~dropped))
                parts.append(fit_to(kept, schema) if "vector" not in schema.names else kept)
            if sum(part.nbytes for part in parts) > COMPACT_BYTES:  # all may not fit into memory
                adds += self._write_all(pa.concat_tables(parts))
                parts = []
        if rows is not None and len(rows):
            parts.append(fit_to(rows, schema))
        if not actions and not parts and not adds:
            return int(table.version())
        adds += self._write_all(pa.concat_tables(parts)) if parts else []
        return self._commit(table, actions, adds, staged=staged)

    def _commit(
        self,
        table: DeltaTable,
        actions: list[RemoveAction],
        adds: list[AddAction],
        schema: pa.Schema | None = None,
        staged: Staged | None = None,
    ) -> int:
        """Take out files and put in others, unless another writer rewrote some meanwhile.

        With a schema, ``adds`` take the place of all files, and it that of the old schema.
        """
        # A file that is both removed and added (the same bytes) is simply kept.
        both = {add.path for add in adds} & {action.path for action in actions}
        if both:
            actions = [action for action in actions if action.path not in both]
            adds = [add for add in adds if add.path not in both]
        if not actions and not adds and schema is None:
            return int(table.version())
        transactions = [Transaction("featurestore-merge", table.version() + 1)]
        if staged is not None and staged.transaction:
            transactions.append(Transaction(staged.transaction, table.version() + 1))
        with asked(self.path):
            table.create_write_transaction(
                [*actions, *adds],
                "append" if schema is None else "overwrite",
                table.schema() if schema is None else _delta_schema(schema),
                commit_properties=CommitProperties(
                    custom_metadata=None if staged is None else dict(staged.note),
                    app_transactions=transactions,
                ),
            )
        return self._sealed(table)

    def _sealed(self, table: DeltaTable) -> int:
        """Make what was committed last; return the version."""
        with asked(self.path):
            table.update_incremental()
        version = int(table.version())
        seal(self.path, version)
        return version

    def history(self, limit: int | None = None) -> list[Commit]:
        """Return the versions, newest first: the oldest from the log's state, others from it on."""
        times = self.times(limit)
        shards = {one.path.name: one.n_rows or 0 for one in self.shards(times[-1][0])}
        commits: list[Commit] = []
        for version, seconds in reversed(times):
            if commits:
                apply_commit(shards, self.path, version)
            when = datetime.fromtimestamp(seconds, UTC)
            commits.append(Commit(version, when, sum(shards.values()), len(shards)))
        return commits[::-1]

    def times(self, limit: int | None = None) -> list[tuple[int, float]]:
        """Return the versions, newest first, and when they came, in seconds since 1970."""
        with asked(self.path):
            entries = self._open(None).history(limit)
        return [(int(one["version"]), one["timestamp"] / 1000) for one in entries]

    def compact(self, target_bytes: int = COMPACT_BYTES) -> int:
        """Join small shards into larger ones; return by how many files there are fewer.

        Readers keep what they read: the small files stay until `vacuum`. Rows that another
        writer drops meanwhile stay dropped: then the joined file is left out, for `vacuum` (it
        is named by its bytes: another machine may have joined the same rows and committed it).
        """
        n_fewer = 0
        for group in groups_to_join(self.shards(), target_bytes):
            schema = self.schema()
            parts = [read_shard(shard.path) for shard in group]
            if "vector" not in schema.names:  # a column may have come between two shards
                parts = [fit_to(part, schema) for part in parts]
            add = self._write(pa.concat_tables(parts))
            for attempt in range(_MERGE_ATTEMPTS):
                table = self._open(None)
                if not set(group) <= set(self._shards(table)):
                    break  # a shard was rewritten: the next call takes what it became
                try:
                    self._commit(table, [_remove(shard) for shard in group], [add])
                    n_fewer += len(group) - 1
                    break
                except CommitFailedError:
                    time.sleep(0.01 * min(attempt, 20))
        return n_fewer

    def digest(self, version: int | None = None) -> str:
        """Return a hash of a version's files, which are named by their bytes."""
        return digest_of(self.shards(version))

    def _open(self, version: int | None) -> DeltaTable:
        check_log(self.path, version)
        try:
            with asked(self.path):
                options = log_options(self.path)
                return DeltaTable(str(self.path), version=version, storage_options=options)
        except TableNotFoundError:
            raise StoreCorrupt(
                f"{self.path} holds no Delta log: expected _delta_log/ there; "
                "restore the folder from a backup, or delete it to embed again"
            ) from None
        except (DeltaError, OverflowError) as error:
            latest = None if version is None else self.version()
            if version is None or latest is None or 0 <= version <= latest:
                raise StoreCorrupt(
                    f"the log of {self.path} cannot be read: {said(error)}; "
                    "`featurestore store verify` names the file, `featurestore store repair` "
                    "mends it"
                ) from None
            raise UnknownSnapshot(
                f"{self.path} has no version {version}: it has 0 to {latest}"
            ) from None

    def _write_all(self, rows: pa.Table) -> list[AddAction]:
        """Write rows as one shard, or many as several at once: packing and hashing take cores."""
        n_cores = os.cpu_count() or 1
        n_parts = max(1, min(n_cores, rows.nbytes // _PART_BYTES), rows.nbytes // COMPACT_BYTES)
        step = max(1, -(-len(rows) // n_parts))
        parts = [rows.slice(start, step) for start in range(0, len(rows), step)]
        with ThreadPoolExecutor(n_cores) as pool:
            return list(pool.map(self._write, parts))

    def _write(self, rows: pa.Table) -> AddAction:
        name, n_bytes = write_shard(rows, self.path)
        return _add(name, n_bytes, len(rows))


def _shards_of(staged: Staged | None) -> Sequence[Shard]:
    return () if staged is None else staged.shards


def _add(name: str, n_bytes: int, n_rows: int | None) -> AddAction:
    statistics = json.dumps({"numRecords": n_rows})
    return AddAction(name, n_bytes, {}, int(time.time() * 1000), True, statistics)


def _remove(shard: Shard) -> RemoveAction:
    return RemoveAction(
        shard.path.name, True, int(time.time() * 1000), size=shard.size_bytes, partition_values={}
    )


def _delta_schema(schema: pa.Schema) -> Any:
    """Return the schema as Delta knows it: it has no fixed-size lists."""
    from deltalake import Schema

    fields = []
    for field in schema:
        kind = field.type
        if pa.types.is_fixed_size_list(kind):
            kind = pa.list_(kind.value_field)
        fields.append(pa.field(field.name, kind, field.nullable))
    return Schema.from_arrow(pa.schema(fields))
