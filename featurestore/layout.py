"""Where things lie in a store, and the small JSON files beside the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from featurestore.errors import BadName, NotAStore, StoreCorrupt
from featurestore.files import json_bytes, matching, rewrite, write_file, write_json
from featurestore.remote import StorePath
from featurestore.shards import view_schema
from featurestore.tables import FAILURES, ITEMS, Table
from featurestore.user_cache import local_side
from featurestore.values import MOST_CLASSES, SEPARATOR, EncoderSpec, Modality, ResolvedEncoder

FORMAT_VERSION = 1
MARKER = "featurestore.json"
_ENCODER_KEYS = {"spec", "fingerprint", "dim", "modalities", "chosen", "canary"}
LONGEST_NAME = 100  # files bear it, with more around it
_NAME = re.compile(r"[a-z0-9_-]+")


def check_store(path: StorePath) -> bool:
    """Tell whether a store is there; False where there is nothing yet.

    Raises
    ------
    NotAStore
        If the folder holds something else, or a store of a newer format.
    """
    marker = path / MARKER
    if not marker.exists():
        if not path.exists() or (path.is_dir() and not any(map(_is_foreign, path.iterdir()))):
            return False
        raise NotAStore(
            f"{path} is no store: expected {MARKER} in it; name another folder with --store, "
            "or an empty one for a new store"
        )
    found = read_json(marker).get("format")
    if not isinstance(found, int):
        raise NotAStore(
            f"{marker} names no format version: expected {{'format': {FORMAT_VERSION}}}"
        )
    if found > FORMAT_VERSION:
        raise NotAStore(
            f"{path} has store format {found}; this release reads up to {FORMAT_VERSION}: "
            "pip install --upgrade featurestore"
        )
    return True


def make_store(path: StorePath) -> None:
    """Make an empty store where there is none."""
    if not check_store(path):
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / MARKER, {"format": FORMAT_VERSION})


def _is_foreign(path: StorePath) -> bool:
    """Tell what is no sign of another process that makes a store here just now."""
    return not path.name.startswith((MARKER, f".{MARKER}."))


def is_dataset_name(name: str) -> bool:
    """Whether it has a-z, 0-9, "_" and "-" alone."""
    return _NAME.fullmatch(name) is not None


def check_dataset_name(name: str) -> str:
    """Return a data set name that files and specs can bear.

    Raises
    ------
    BadName
        If it has other characters than a-z, 0-9, "_" and "-".
    """
    if len(name) > LONGEST_NAME:
        raise BadName(
            f"a data set name of {len(name)} characters: expected {LONGEST_NAME} or fewer"
        )
    if not is_dataset_name(name):
        suggestion = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")
        hint = f"; try {suggestion!r}" if suggestion else ""
        raise BadName(f"{name!r} is no data set name: expected a-z, 0-9, '_' and '-'{hint}")
    return name


def read_json(path: StorePath) -> dict[str, Any]:
    """Read a JSON object of the store."""
    return _json_object(path, path.read_bytes)


def _json_object(path: StorePath, read: Callable[[], bytes]) -> dict[str, Any]:
    try:
        value = json.loads(read())
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"cannot read {path}: {error}; restore it from a backup") from error
    if not isinstance(value, dict):
        raise StoreCorrupt(f"{path} holds no JSON object; restore it from a backup")
    return value


def utc_now() -> str:
    """Return the time as the store writes it: UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class SourceRecord:
    """A registered source: where it is and how it was read."""

    kind: str  # folder | table | webdataset | datasets
    root: str
    locations: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class DatasetFile:
    """What dataset.json says."""

    modality: Modality
    labels: Mapping[str, Mapping[str, str]]  # column -> {"task": …}; the first is the main one
    sources: Mapping[str, SourceRecord]
    attached: tuple[str, ...] = ()  # columns given later (labels, splits): sources leave them be

    def with_attached(
        self, columns: Sequence[str], labels: Mapping[str, Mapping[str, str]]
    ) -> DatasetFile:
        """Return this with columns that were given apart from the sources, some of them labels."""
        attached = tuple(dict.fromkeys((*self.attached, *columns)))
        return replace(self, labels={**self.labels, **labels}, attached=attached)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object; labels as a list, since their order counts."""
        return {
            "modality": str(self.modality),
            "labels": [{"column": name, **facts} for name, facts in self.labels.items()],
            "sources": {name: vars(record) for name, record in self.sources.items()},
            "attached": list(self.attached),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DatasetFile:
        """Read what `to_json` wrote; raises KeyError, TypeError, ValueError for anything else."""
        labels = {one["column"]: {"task": one["task"]} for one in value["labels"]}
        sources = {
            name: SourceRecord(
                record["kind"], record["root"], tuple(record["locations"]), record["options"]
            )
            for name, record in value["sources"].items()
        }
        attached = tuple(value.get("attached", ()))  # absent from files of 0.1
        return cls(Modality(value["modality"]), labels, sources, attached)


def _description(path: StorePath, read: Callable[[], bytes]) -> DatasetFile:
    try:
        return DatasetFile.from_json(_json_object(path, read))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"{path} is damaged: {error!r}; restore it from a backup") from error


def task_of(column: pa.ChunkedArray) -> str:
    """Tell what a label column looks like: regression, multilabel or multiclass."""
    if pa.types.is_floating(column.type):
        values = column.unique().drop_null().to_pylist()
        are_whole = all(value % 1 == 0 for value in values)  # classes with a gap between them
        return "multiclass" if are_whole and len(values) <= MOST_CLASSES else "regression"
    if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, SEPARATOR)).as_py():
        return "multilabel"
    return "multiclass"


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
        """Where this machine keeps what is derived: caches, indexes, thumbnails, locks."""
        return local_side(self.path)

    def read(self) -> DatasetFile:
        """Read dataset.json."""
        path = self.path / "dataset.json"
        return _description(path, path.read_bytes)

    def update(self, change: Callable[[DatasetFile | None], DatasetFile]) -> None:
        """Replace dataset.json by what ``change`` makes of it, whole or not at all.

        The caller holds the lock ``dataset``. Where that does not keep other machines out,
        ``change`` may be called again, with what another one wrote.
        """
        path = self.path / "dataset.json"
        path.parent.mkdir(parents=True, exist_ok=True)

        def changed(raw: bytes | None) -> bytes:
            now = None if raw is None else _description(path, lambda: raw)
            return json_bytes(change(now).to_json())

        rewrite(path, changed)

    def n_replacements(self, slug: str) -> int:
        """How often vectors of a view were replaced: an index of the old ones fits no more."""
        try:
            return int((self.path / "views" / slug / "replacements").read_text())
        except FileNotFoundError:
            return 0

    def check_new(self) -> None:
        """Raise BadName where rows of a data set are left that was dropped."""
        for table in (self.items, self.failures):
            if any(True for _ in table.path.glob("*.parquet")):
                raise BadName(
                    f"{self.path} holds what is left of a data set: "
                    f"`featurestore drop {self.name}` deletes it"
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
        """Delete what this machine keeps of a store elsewhere from before an erasure there."""
        if self.local == self.path:
            return
        seen = self.local / "erasures"
        if (now := str(self.n_erasures)) != (seen.read_text() if seen.exists() else "0"):
            self.clear_local()
            write_file(seen, now.encode())

    def clear_local(self) -> None:
        """Delete what this machine keeps of a store elsewhere, but for what is being written."""
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

    def create_view(self, slug: str, dim: int) -> Table:
        """Make the table of a view where it is not."""
        return Table.create(self.path / "views" / slug, view_schema(dim))

    def encoders(self) -> dict[str, dict[str, Any]]:
        """Return slug → encoder.json of every view, those that others replaced left out."""
        found = matching(self.path / "views", "*/encoder.json")
        values = {path.parent.name: read_json(path) for path in found}
        for slug, value in values.items():
            lacking = _ENCODER_KEYS - value.keys()
            if lacking:
                path = self.path / "views" / slug / "encoder.json"
                raise StoreCorrupt(f"{path} lacks {', '.join(sorted(lacking))}: restore it")
        return {slug: value for slug, value in values.items() if "replaced_by" not in value}

    def write_encoder(
        self, resolved: ResolvedEncoder, canary: Any, device: str, *, is_hidden: bool = False
    ) -> None:
        """Write encoder.json, which is what makes a view exist.

        A view of the same spec by an encoder of another fingerprint is kept, but replaced;
        ``is_hidden`` leaves that for later, when the new view is whole.
        """
        value = {
            "spec": str(resolved.spec),
            "fingerprint": resolved.fingerprint,
            "dim": resolved.dim,
            "modalities": sorted(resolved.modalities),
            "n_parameters": resolved.n_parameters,
            "chosen": dict(resolved.chosen),
            "versions": dict(resolved.versions),
            "device": device,
            "canary": canary,
            "created": utc_now(),
        }
        if is_hidden:
            value["replaced_by"] = "nothing: it is being made"
        earlier = {} if is_hidden else self.encoders()
        write_json(self.path / "views" / resolved.slug / "encoder.json", value)
        for slug, one in earlier.items():
            if one["spec"] == value["spec"] and slug != resolved.slug:
                replaced = {**one, "replaced_by": resolved.slug}
                write_json(self.path / "views" / slug / "encoder.json", replaced)

    def respell(self, resolved: ResolvedEncoder) -> None:
        """Note that a view's encoder is now found under another spec, at another place."""
        path = self.path / "views" / resolved.slug / "encoder.json"
        write_json(path, {**read_json(path), "spec": str(resolved.spec)})

    def write_run(self, kind: str, value: Mapping[str, Any]) -> StorePath:
        """Write a run card; its name sorts by time."""
        folder = self.path / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = folder / f"{stamp}-{kind}.json"
        write_json(path, {"kind": kind, "when": utc_now(), **value}, indent=None)
        return path

    def runs(self, kind: str) -> list[dict[str, Any]]:
        """Return the run cards of a kind, newest first."""
        found = matching(self.path / "runs", f"*-{kind}.json")[::-1]
        return [read_json(path) for path in found]

    @property
    def n_erasures(self) -> int:
        """How often items were erased: what was read before must not be written after."""
        try:
            return int((self.path / "erasures").read_text())
        except FileNotFoundError:
            return 0

    def count_erasure(self) -> None:
        """Tell processes that still hold what is being erased."""
        rewrite(self.path / "erasures", lambda now: str(int(now or b"0") + 1).encode())

    @contextmanager
    def locked(self, what: str, *, on_wait: Any = None) -> Iterator[None]:
        """Hold an advisory lock of this data set; ``on_wait`` is called once if it is taken.

        It only saves double work: without it, no row would be wrong. The system lets go of
        it when the process ends, however it ends. Of a store elsewhere, it is this machine's.
        """
        folder = self.local / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{what}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                on_wait()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextmanager
def all_views_locked(folder: DatasetFolder) -> Iterator[None]:
    """Hold the locks that every writer of this data set takes, in the order in which they do."""
    names = {path.parent.name for path in (folder.path / "views").glob("*/_delta_log")}
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
        for path in matching(folder.path / "views", "*/_delta_log"):
            locks.enter_context(folder.locked(f"index-{path.parent.name}"))
        yield


def find_spec(encoders: Mapping[str, Mapping[str, Any]], spec: EncoderSpec) -> str | None:
    """Return the slug of the view whose spec is the given one."""
    return next((slug for slug, one in encoders.items() if one["spec"] == str(spec)), None)
