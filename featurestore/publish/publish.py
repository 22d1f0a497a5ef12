"""Bring a table of a vector database to the state of a view: what differs is written, no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import BadTarget
from featurestore.publish.marks import Mark
from featurestore.publish.rows import DIGEST, blocks_of, keys_of, schema_of
from featurestore.publish.targets import Target, open_target, without_password
from featurestore.storage.dataset_folder import utc_now
from featurestore.storage.key_hashes import SortedKeys
from featurestore.storage.published import Place, note_published
from featurestore.store.view import View
from featurestore.terms.words import counted


@dataclass(frozen=True)
class Published:
    """What was done to a table."""

    where: str
    n_rows: int  # that it has now
    n_new: int = 0
    n_changed: int = 0  # another content, label or other column
    n_gone: int = 0
    type_next: str = ""

    def sentence(self) -> str:
        """Say it in one line."""
        done = [
            counted(self.n_new, "new row") if self.n_new else "",
            f"{self.n_changed:,} changed" if self.n_changed else "",
            f"{self.n_gone:,} deleted" if self.n_gone else "",
        ]
        what = ", ".join(one for one in done if one) or "nothing to do"
        return f"{self.where}: {what}; it has {counted(self.n_rows, 'row')}, as the store does"


def publish(
    view: View,
    target: str,
    *,
    table: str | None = None,
    columns: Sequence[str] | None = None,
    purge: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Published:
    """Write a view's rows into a vector database, and keep them there as they are in the store.

    The first time it writes all rows; later those that are new or changed, and it deletes those
    that are gone. What differs is found by id and by a digest of each row, which the table keeps:
    so a run that was killed is finished by the next, and rows that somebody deleted come back.

    Parameters
    ----------
    view : View
        The whole view, not a slice.
    target : str
        ``lancedb:FOLDER``, ``pgvector:postgresql://USER@HOST/DATABASE``, ``qdrant:http://HOST:6333``
        or ``qdrant:FOLDER``.
    table : str, optional
        Its name; the data set's by default.
    columns : sequence of str, optional
        Item columns to write; by default all but those of use in the store alone.
    purge : bool
        Take deleted rows out of the database's files, too, also where no items were erased.
    say : callable
        Told what a user should know.

    Raises
    ------
    BadTarget
        If the table is not one that was published, or holds vectors of another encoder or data
        set; if the view is a slice.
    MissingExtra
        If the database's package is not installed.
    """
    if view.slice_ is not None:
        raise BadTarget(f"a whole view is published, not slice {view.slice_.name!r}")
    view.check_vectors()
    view = view.now()
    schema = schema_of(view, columns)
    name = table or view.dataset.name
    with open_target(target, name) as opened:
        mark, before = _mark_of(view, schema), _checked_mark(opened, view)
        if _is_done(opened, mark, before) and not purge:
            return Published(opened.where, mark.n_rows, type_next=opened.type_next())
        place = Place(without_password(target), name, str(view.spec))
        note_published(view.dataset.folder, place)  # before anything is there
        # Only what is whole has counted an erasure: cut off, the next run still purges.
        counted_before = (before or mark).n_erasures
        opened.write_mark(replace(mark, n_erasures=counted_before).to_json())
        opened.prepare(schema)
        written = _Difference(opened, view, schema)
        opened.upsert(written.rows())
        gone = written.gone()
        if len(gone):
            opened.delete(gone)
        if purge or (before is not None and mark.n_erasures != before.n_erasures):
            say(opened.purge())
        n_rows = len(written)
        opened.write_mark(replace(mark, n_rows=n_rows, is_whole=True, written=utc_now()).to_json())
        return Published(
            opened.where, n_rows, written.n_new, written.n_changed, len(gone), opened.type_next()
        )


def _mark_of(view: View, schema: pa.Schema) -> Mark:
    columns = {one.name: str(one.type) for one in schema}
    return Mark(
        view.dataset.name, str(view.spec), view.fingerprint, view.dim, columns,
        str(view.snapshot), view.state, view.dataset.folder.n_erasures,
        n_rows=view.n_rows, is_whole=False, written=utc_now(),
    )  # fmt: skip


def _checked_mark(target: Target, view: View) -> Mark | None:
    text, n_rows = target.read_mark(), target.count()
    if text is None and n_rows is not None:
        raise BadTarget(
            f"{target.where} is there ({counted(n_rows, 'row')}), and not by featurestore: name "
            "another table with --table"
        )
    if text is None:
        return None
    mark = Mark.parse(text, target.where)
    mark.check(view.dataset.name, str(view.spec), view.fingerprint, target.where)
    return mark


def _is_done(target: Target, mark: Mark, before: Mark | None) -> bool:
    """Whether the table has this state already, as its mark and its number of rows say."""
    if before is None or not before.is_whole:
        return False
    same = replace(before, is_whole=False, written=mark.written, snapshot=mark.snapshot)
    return same == mark and target.count() == mark.n_rows


class _Difference:
    """What a table lacks of a view, in one pass over the view, and what it has too much."""

    def __init__(self, target: Target, view: View, schema: pa.Schema) -> None:
        self.target, self.view, self.schema = target, view, schema
        self.n_new = self.n_changed = 0
        self.all_found = False  # all rows of the table are the view's
        self._keys: list[NDArray[np.uint64]] = []  # of the view's rows, as they pass

    def __len__(self) -> int:
        return sum(one.shape[1] for one in self._keys)

    def rows(self) -> Iterator[pa.Table]:
        """Yield the rows that are new or changed."""
        keys, digests = [np.empty((2, 0), np.uint64)], [np.empty(0, np.int64)]
        for block in self.target.digests():
            keys.append(keys_of(block.column("item_id")))
            digests.append(np.asarray(block.column(DIGEST).fill_null(0)))
        there = SortedKeys(np.concatenate(keys, axis=1))
        digest = np.concatenate([*digests, [0]])  # the last: of a row that is not there
        n_found = 0
        for block in blocks_of(self.view, self.schema):
            asked = keys_of(block.table.column("item_id"))
            self._keys.append(asked)
            place = there.places(asked)
            is_new = place < 0
            is_changed = ~is_new & (digest[place] != np.asarray(block.table.column(DIGEST)))
            n_found += len(place) - int(is_new.sum())
            self.n_new += int(is_new.sum())
            self.n_changed += int(is_changed.sum())
            yield from block.take(np.flatnonzero(is_new | is_changed))
        self.all_found = n_found == len(digest) - 1

    def gone(self) -> pa.Table:
        """Return ids and digests of the table's rows that the view has not; after `rows`."""
        nothing = pa.table({"item_id": pa.array([], pa.string()), DIGEST: pa.array([], pa.int64())})
        if self.all_found:
            return nothing
        known = SortedKeys(np.concatenate([np.empty((2, 0), np.uint64), *self._keys], axis=1))
        found = [nothing]
        for block in self.target.digests():
            found.append(block.filter(pa.array(known.places(keys_of(block.column("item_id"))) < 0)))
        return pa.concat_tables(found)
