"""Batches of somebody else's pipeline: vectors added to them, and their rows written to a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.encoders.base import Encoder as LoadedEncoder
from featurestore.encoders.encode_now import encode
from featurestore.encoders.loading import load_encoder
from featurestore.encoders.trust import Trust, asked_for, either
from featurestore.errors import (
    BadSource,
    DuplicateIds,
    EncoderFailed,
    FeatureStoreError,
    ModalityMismatch,
    Undecodable,
)
from featurestore.pipeline.listed import WholeListing
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.report import EmbedReport
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.stored import StoredItems
from featurestore.pipeline.work import Work
from featurestore.sources.metadata import free_name
from featurestore.storage.dataset_file import DatasetFile, SourceRecord, task_of
from featurestore.storage.dataset_folder import DatasetFolder, utc_now
from featurestore.storage.remote import as_path
from featurestore.storage.run_folder import RunFolder
from featurestore.storage.shards import view_rows
from featurestore.storage.store_marker import check_dataset_name, make_store
from featurestore.storage.tables import FAILURES, ITEMS
from featurestore.terms.specs import EncoderSpec, Modality
from featurestore.workers.committing import Committer
from featurestore.workers.outcome import close_run
from featurestore.workers.stage import Stage

_MADE = ("content_hash", "vector", "error")  # what an encoder adds to a batch
_SOURCE = "pipeline"
Batch: TypeAlias = pa.Table | Mapping[str, NDArray[Any]]
Outcome: TypeAlias = tuple[NDArray[np.float32] | None, str | None]  # a vector, or why there is none


class Encoder:
    """Adds vectors to batches: a callable for ``map_batches`` of Ray Data, and any like it.

    The encoder is loaded with the first batch, once a process.

    Parameters
    ----------
    spec : str
    column : str
        Of texts, or of the bytes of pictures; the latter are left out of what comes back.
    device : str
    trust : bool or names
        Which code of others may run; that of a ``python:`` spec given here may.
    """

    def __init__(
        self, spec: str, *, column: str, device: str = "auto", trust: Trust = False
    ) -> None:
        self.spec, self.column, self.device, self.trust = spec, column, device, trust
        self._loaded: LoadedEncoder | None = None

    def __call__(self, batch: Batch) -> pa.Table:
        """Return a batch with ``content_hash``, ``vector``, and ``error`` where there is none."""
        rows = batch if isinstance(batch, pa.Table) else _as_table(batch)
        contents = rows.column(self.column).to_pylist()
        if self._loaded is None:
            trust = either(self.trust, asked_for(self.spec))
            spec = EncoderSpec.parse(self.spec)
            self._loaded = load_encoder(spec, device=self.device, trust=trust)
        there = [one for one in contents if one]
        outcomes = iter(self._encoded(there))
        nothing: Outcome = (None, "nothing in this row")
        made = [next(outcomes) if one else nothing for one in contents]
        if not (there and isinstance(there[0], str)):
            rows = rows.drop_columns([self.column])
        kind = pa.list_(pa.float32(), self._loaded.resolved.dim)
        columns = (
            pa.array([_hash(one) if one else None for one in contents], pa.string()),
            pa.array([vector for vector, _ in made], kind),
            pa.array([error for _, error in made], pa.string()),
        )
        for name, column in zip(_MADE, columns, strict=True):
            rows = rows.append_column(name, column)
        return rows

    def _encoded(self, contents: Sequence[str | bytes]) -> list[Outcome]:
        """Encode; what fails is halved until the items that fail stand alone."""
        assert self._loaded is not None, "loaded before"
        if not contents:
            return []
        try:
            vectors = encode(self._loaded, contents)
        except Undecodable as error:
            said = str(error)
        except (EncoderFailed, ModalityMismatch):
            raise
        except Exception as error:  # an encoder raises what it likes
            said = f"{type(error).__name__}: {error}"
        else:
            return [
                (one, None) if np.isfinite(one).all() else (None, "NaN or infinite values")
                for one in vectors
            ]
        if len(contents) == 1:
            return [(None, said)]
        middle = len(contents) // 2
        return [*self._encoded(contents[:middle]), *self._encoded(contents[middle:])]


def _as_table(batch: Mapping[str, NDArray[Any]]) -> pa.Table:
    return pa.table({name: pa.array(list(column)) for name, column in batch.items()})


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@dataclass(frozen=True)
class RowSink:
    """Writes batches of an `Encoder` into a data set, by manifests as workers do.

    Parameters
    ----------
    store, dataset, spec : str
    labels : tuple of str
        Label columns.
    root : str, optional
        Folder or URL that the column ``uri`` is relative to, so that pictures can be shown.
    """

    store: str
    dataset: str
    spec: str
    labels: tuple[str, ...] = ()
    root: str | None = None

    @property
    def folder(self) -> DatasetFolder:
        """The folder of the data set."""
        return DatasetFolder(as_path(self.store) / "datasets" / check_dataset_name(self.dataset))

    def begin(self, names: Sequence[str]) -> RunFolder:
        """Make data set and view where they are not, and a run; ``names`` are the columns.

        Raises
        ------
        BadSource
            If columns are missing.
        ModalityMismatch
            If the data set holds texts and these are pictures, or the reverse.
        """
        if absent := {"item_id", *_MADE, *self.labels} - {*names}:
            raise BadSource(f"no column {', '.join(sorted(absent))}: those there: {list(names)}")
        folder, spec = self.folder, EncoderSpec.parse(self.spec)
        encoder = load_encoder(spec, device="cpu", trust=asked_for(self.spec))
        make_store(as_path(self.store))
        is_text, is_new = "text" in names, not folder.exists
        record = SourceRecord("folder", self.root or "", (), {})
        modality = Modality.TEXT if is_text else Modality.IMAGE

        def described(now: DatasetFile | None) -> DatasetFile:
            before = now or DatasetFile(modality, {}, {})
            if before.modality != modality:
                raise ModalityMismatch(
                    f"data set {self.dataset!r} holds {before.modality}s, and the rows are "
                    f"{modality}s (they have {'a' if is_text else 'no'} column text): name "
                    "another data set"
                )
            folder.create_tables()
            tasks = {one: {"task": "multiclass"} for one in self.labels if one not in before.labels}
            sources = {**before.sources, _SOURCE: record}
            labels = {**before.labels, **tasks}
            return DatasetFile(before.modality, labels, sources, before.attached)

        with folder.locked("dataset"):
            folder.update(described)
        nothing = pa.nulls(0, pa.string())
        listed = WholeListing(
            ITEMS.empty_table(), StoredItems(0, ITEMS.empty_table(), nothing, nothing, False)
        )
        given = RunInput(
            folder, listed, modality, {}, (encoder.resolved,), EmbedOptions(), False,
            lambda _: [encoder],
        )  # fmt: skip
        work = Work(given, folder.encoders())
        work.encoders = {0: encoder}
        work.open()  # makes the view, or checks the vectors of the probes
        slug = encoder.resolved.slug
        run = RunFolder.begin(folder.path)
        tables = {"items": folder.items, "failures": folder.failures, slug: folder.view(slug)}
        run.open(
            {
                "request": "rows of a pipeline",
                "planned": utc_now(),
                "n_erasures": folder.n_erasures,
                "modality": str(modality),
                "is_new": is_new,
                "ids_are_unchecked": True,
                "views": [
                    {"slug": slug, "spec": self.spec, "fingerprint": encoder.resolved.fingerprint}
                ],
                "since": {name: table.version() for name, table in tables.items()},
                "tally": dict.fromkeys(("n_items", "n_updated"), 0)
                | {one: [0] for one in ("n_wanted", "n_todo", "n_known_failures")},
            }
        )
        return run

    def write(self, run: RunFolder, part: str, rows: pa.Table) -> bool:
        """Write rows as a part of a run; False if another process has written it."""
        stage, folder = Stage(self.folder, run), self.folder
        (view,) = run.facts["views"]
        at = rows.column_names.index("item_id")
        rows = rows.set_column(at, "item_id", rows.column("item_id").cast(pa.string()))
        if n_without := rows.column("item_id").null_count:
            raise BadSource(
                f"item_id is empty in {n_without:,} of {len(rows):,} rows: give each row one"
            )
        is_made = rows.column("vector").is_valid()
        made = rows.filter(is_made)
        stage.put_items(_item_rows(rows), all_new=run.facts["is_new"])
        if len(made):
            ids = made.column("item_id").combine_chunks()
            hashes = made.column("content_hash").combine_chunks()
            column = made.column("vector").combine_chunks()
            vectors = column.flatten().to_numpy().reshape(len(made), -1)
            stage.view(view["slug"]).append(view_rows(ids, hashes, vectors))
        failed = rows.filter(pc.invert(is_made))
        if len(failed):
            stage.put_failures(_failures(failed), pa.array([], pa.string()))
        named = zip(failed["item_id"].to_pylist(), failed["error"].to_pylist(), strict=True)
        counts = {
            "n_encoded": len(made), "n_copied": 0, "n_same": 0, "n_failed": len(failed),
            "remarks": {}, "failures": [f"{one}: {error}" for one, error in named][:5],
        }  # fmt: skip
        if folder.n_erasures != run.facts["n_erasures"]:
            raise FeatureStoreError("items were erased meanwhile: run the pipeline again")
        return run.write_manifest(
            part,
            {**stage.taken(), "n_rows": len(rows), "views": {view["slug"]: counts}, "stages": {}},
        )

    def complete(self, run: RunFolder, seconds: float) -> list[EmbedReport]:
        """Bring all parts in, and close the run.

        Raises
        ------
        DuplicateIds
            If two rows have one id: nothing is brought in, and the run is given up.
        """
        committer = Committer(self.folder, run)
        try:
            committer.commit()
        except DuplicateIds:
            run.close()
            raise
        manifests = list(committer.manifests.values())
        n = sum(one["n_rows"] for one in manifests)
        run.facts["tally"] |= {"n_items": n, "n_wanted": [n], "n_todo": [n]}
        self._name_tasks()
        return close_run(self.folder, run, manifests, seconds)

    def _name_tasks(self) -> None:
        """Record the task of each label column, from its values."""
        folder = self.folder
        items = folder.items.read([*self.labels]) if self.labels else pa.table({})
        tasks = {name: {"task": task_of(items.column(name))} for name in self.labels}

        def described(now: DatasetFile | None) -> DatasetFile:
            assert now is not None, "made when the run began"
            return DatasetFile(now.modality, {**now.labels, **tasks}, now.sources, now.attached)

        with folder.locked("dataset"):
            folder.update(described)


def _item_rows(rows: pa.Table) -> pa.Table:
    """Return the rows of items, with the columns that come along under names of their own."""
    own = ("item_id", "text", "uri", "split", "group", "content_hash")
    columns = {
        name if name in own else free_name(name): rows.column(name)
        for name in rows.column_names
        if name not in ("vector", "error")
    }
    columns["source"] = pa.array([_SOURCE] * len(rows), pa.string())
    for field in ITEMS:  # each shard has the columns that all items have
        columns.setdefault(field.name, pa.nulls(len(rows), field.type))
    return pa.table(columns)


def _failures(rows: pa.Table) -> pa.Table:
    n, when = len(rows), utc_now()
    values: Mapping[str, Callable[[], Any]] = {
        "item_id": lambda: rows.column("item_id"),
        "content_hash": lambda: rows.column("content_hash"),
        "error": lambda: rows.column("error"),
        "stage": lambda: pa.array(["decode"] * n),
        "fingerprint": lambda: pa.array([""] * n),
        "when": lambda: pa.array([when] * n),
    }
    return pa.table([values[name]() for name in FAILURES.names], schema=FAILURES)
