"""The folder of a data set: its tables, its small JSON files, its locks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from featurestore.errors import BadName, StoreBusy, StoreCorrupt
from featurestore.storage import stopping
from featurestore.storage.dataset_file import DatasetFile, parse_description
from featurestore.storage.files import (
    json_bytes,
    make_folder,
    matching,
    read_json,
    read_sealed,
    rewrite,
    write_file,
    write_json,
    write_sealed,
)
from featurestore.storage.log_files import LOGS
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import view_schema
from featurestore.storage.tables import FAILURES, ITEMS, Table
from featurestore.storage.tap_shards import TAP
from featurestore.storage.user_cache import local_side
from featurestore.terms.specs import EncoderSpec, ResolvedEncoder

_ENCODER_KEYS = {"spec", "fingerprint", "dim", "modalities", "chosen", "canary"}


def utc_now() -> str:
    """Return the time as the store writes it: UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class DatasetFolder:
    """The folder of one data set."""

    path: StorePath

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether the data set was made."""
        return (self.path / "dataset.json").is_file()

    @property
    def local(self) -> Path:
        """The folder of this machine for derived files: caches, indexes, thumbnails, locks."""
        return local_side(self.path)

    def read(self) -> DatasetFile:
        """Read dataset.json."""
        path = self.path / "dataset.json"
        return parse_description(path, path.read_bytes)

    def update(self, change: Callable[[DatasetFile | None], DatasetFile]) -> None:
        """Replace dataset.json by what ``change`` returns for it, atomically.

        The caller holds the lock ``dataset``. In an object store, where that lock does not keep
        other machines out, ``change`` may be called again with what another machine wrote.
        """
        path = self.path / "dataset.json"
        make_folder(path.parent)

        def changed(raw: bytes | None) -> bytes:
            now = None if raw is None else parse_description(path, lambda: raw)
            return json_bytes(change(now).to_json())

        rewrite(path, changed)

    def n_replacements(self, slug: str) -> int:
        """Count how often vectors of a view were replaced: an older index no longer fits."""
        try:
            return int((self.path / "views" / slug / "replacements").read_text())
        except FileNotFoundError:
            return 0

    def check_new(self) -> None:
        """Raise BadName if rows of a dropped data set are left."""
        for table in (self.items, self.failures):
            if any(True for _ in table.path.glob("*.parquet")):
                raise BadName(
                    f"{self.path} holds what is left of a data set: "
                    f"`featurestore store drop {self.name}` deletes it"
                )

    @contextmanager
    def replacing(self, slug: str) -> Iterator[None]:
        """Count, before and after, that vectors of a view are replaced."""
        path = self.path / "views" / slug / "replacements"

        def count() -> None:
            rewrite(path, lambda now: str(int(now or b"0") + 1).encode())

        count()
        try:
            yield
        finally:
            count()

    def forget_erased(self) -> None:
        """Delete this machine's files of an object store that are older than an erasure there."""
        if self.local == self.path:
            return
        seen = self.local / "erasures"
        if (now := str(self.n_erasures)) != (seen.read_text() if seen.exists() else "0"):
            self.clear_local()
            write_file(seen, now.encode())

    def clear_local(self) -> None:
        """Delete this machine's files of an object store, except those that are being written."""
        if self.local == self.path:
            return
        for path in sorted(self.local.rglob("*"), reverse=True):  # what a folder holds before it
            parts = path.relative_to(self.local).parts
            if parts[0] == "locks" or any(one.startswith(".") for one in parts):
                continue
            try:
                path.rmdir() if path.is_dir() else path.unlink()
            except OSError:
                continue  # gone, or a folder that holds what is being written

    @property
    def items(self) -> Table:
        """The items table."""
        return Table(self.path / "items")

    @property
    def failures(self) -> Table:
        """The failures table."""
        return Table(self.path / "failures")

    def create_tables(self) -> None:
        """Make the items and failures tables where they are not."""
        Table.create(self.path / "items", ITEMS)
        Table.create(self.path / "failures", FAILURES)

    def view(self, slug: str) -> Table:
        """Return the table of a view."""
        return Table(self.path / "views" / slug)

    def create_view(self, slug: str, dim: int, *, is_tap: bool = False) -> Table:
        """Make the table of a view where it is not."""
        schema = TAP if is_tap else view_schema(dim)
        return Table.create(self.path / "views" / slug, schema)

    def encoders(self) -> dict[str, dict[str, Any]]:
        """Return slug → encoder.json of every view that was not replaced by another."""
        paths = matching(self.path / "views", "*/encoder.json")
        values = {path.parent.name: read_json(path) for path in paths}
        for slug, value in values.items():
            lacking = _ENCODER_KEYS - value.keys()
            if lacking:
                path = self.path / "views" / slug / "encoder.json"
                raise StoreCorrupt(f"{path} lacks {', '.join(sorted(lacking))}: restore it")
        return {slug: value for slug, value in values.items() if "replaced_by" not in value}

    def write_encoder(
        self, resolved: ResolvedEncoder, canary: object, device: str, *, is_hidden: bool = False
    ) -> None:
        """Write encoder.json, which is what makes a view exist.

        An older view of the same spec with another fingerprint stays on disk, marked as replaced.
        With ``is_hidden`` the new view stays hidden, and the older one in use, until the new one
        is complete.
        """
        value = {
            "spec": str(resolved.spec),
            "fingerprint": resolved.fingerprint,
            "dim": resolved.dim,
            "modalities": sorted(resolved.modalities),
            "n_parameters": resolved.n_parameters,
            "chosen": dict(resolved.chosen),
            **({"prompts": dict(resolved.prompts)} if resolved.prompts else {}),
            "versions": dict(resolved.versions),
            "device": device,
            "canary": canary,
            "created": utc_now(),
        }
        if is_hidden:
            value["replaced_by"] = "nothing: it is being made"
        earlier = self.encoders()
        for one in earlier.values():  # a view keeps its name, whatever its weights
            if one["spec"] == value["spec"] and "name" in one:
                value["name"] = one["name"]
        write_json(self.path / "views" / resolved.slug / "encoder.json", value)
        for slug, one in ({} if is_hidden else earlier).items():
            if one["spec"] == value["spec"] and slug != resolved.slug:
                self.note(slug, replaced_by=resolved.slug)

    def note(self, slug: str, **facts: str) -> None:
        """Change what encoder.json says of a view: its name, or the place of its encoder."""
        path = self.path / "views" / slug / "encoder.json"
        write_json(path, {**read_json(path), **facts})

    def write_run(self, kind: str, value: Mapping[str, Any]) -> StorePath:
        """Write a run card; its name sorts by time."""
        folder = self.path / "runs"
        make_folder(folder)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = folder / f"{stamp}-{kind}.json"
        write_sealed(path, {"kind": kind, "when": utc_now(), **value})
        return path

    def runs(self, kind: str) -> list[dict[str, Any]]:
        """Return the run cards of a kind, newest first."""
        return [read_sealed(path) for path in matching(self.path / "runs", f"*-{kind}.json")[::-1]]

    @property
    def n_erasures(self) -> int:
        """How often items were erased."""
        try:
            return int((self.path / "erasures").read_text())
        except FileNotFoundError:
            return 0

    def watch_erasures(self) -> Callable[[], bool]:
        """Return a check whether items were erased since this call.

        What was read before an erasure must not be kept after it: call this before reading and
        the check after writing, and delete what was written if it says True.
        """
        n_erasures = self.n_erasures
        return lambda: self.n_erasures != n_erasures

    def count_erasure(self) -> None:
        """Tell processes that still hold what is being erased."""
        rewrite(self.path / "erasures", lambda now: str(int(now or b"0") + 1).encode())

    @contextmanager
    def locked(self, what: str, *, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
        """Hold an advisory lock of this data set; ``on_wait`` is called once if it is taken.

        The lock only saves double work: without it, no row would be wrong. The system releases
        it when the process ends, in any way. For a store in an object store it holds on this
        machine only.
        """
        folder = self.local / "locks"
        make_folder(folder)  # the data set's own folder may come with it
        lock = FileLock(folder / f"{what}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                on_wait()
            _wait_for(lock)
        try:
            yield
        finally:
            lock.release()


def _wait_for(lock: FileLock) -> None:
    while True:
        with suppress(Timeout):
            lock.acquire(timeout=1.0)
            return
        if stopping.exit_code() is not None:  # in a thread, which signals do not reach
            raise StoreBusy("another process writes to the store, and this one was asked to stop")


def view_folders(folder: DatasetFolder) -> list[str]:
    """Return the names of the folders that hold a log, or what is left of one."""
    views = folder.path / "views"
    return sorted({one.parent.name for name in LOGS for one in views.glob(f"*/{name}")})


@contextmanager
def all_views_locked(folder: DatasetFolder) -> Iterator[None]:
    """Hold the locks that every writer of this data set takes, in the order in which they do."""
    names = set(view_folders(folder))
    parts = {path.stem for path in (folder.local / "locks").glob("*.lock")}  # a process a GPU
    with ExitStack() as locks:
        for name in sorted(
            names | {one for one in parts if one.startswith(tuple(f"{n}." for n in names))}
        ):
            locks.enter_context(folder.locked(name))
        locks.enter_context(folder.locked("dataset"))
        yield


@contextmanager
def indexes_locked(folder: DatasetFolder) -> Iterator[None]:
    """Hold the locks under which indexes are saved."""
    with ExitStack() as locks:
        for name in view_folders(folder):
            locks.enter_context(folder.locked(f"index-{name}"))
        yield


def find_spec(encoders: Mapping[str, Mapping[str, Any]], spec: EncoderSpec) -> str | None:
    """Return the slug of the view whose spec is the given one."""
    return next((slug for slug, one in encoders.items() if one["spec"] == str(spec)), None)
