"""Vectors in from other programs' files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurestore.curation.labels import attach
from featurestore.errors import BadName, BadSource, FeatureStoreError, ModalityMismatch
from featurestore.exchange.hf_folders import (
    SavedTable,
    is_saved_folder,
    read_folder,
    read_stream,
    validated,
)
from featurestore.exchange.known_columns import CLASSES, KnownColumns
from featurestore.exchange.vector_rows import (
    kept_rows,
    matrix,
    numbers,
    odd_vectors,
    without_text,
)
from featurestore.pipeline.sink import replace_items
from featurestore.sources.bad_rows import with_texts
from featurestore.sources.class_names import hub_features, is_list, with_class_names
from featurestore.sources.listing import RESERVED, as_strings, canonical_split, require_column
from featurestore.sources.locations import Location, check_regular
from featurestore.sources.metadata import bar_note, free_name, own_ids, plain
from featurestore.storage.columns import (
    agreed,
    drop_equal,
    new_columns,
    text_hash,
    widened,
    without_nan,
)
from featurestore.storage.dataset_file import DatasetFile, SourceRecord
from featurestore.storage.dataset_folder import DatasetFolder, find_spec
from featurestore.storage.shards import view_rows
from featurestore.storage.store_marker import check_dataset_name, make_store
from featurestore.storage.tables import ITEMS
from featurestore.store.store import Store
from featurestore.store.view import View
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

FAMILY = "import"
# Columns that mean something in this store alone.
STORE_ONLY = ("source", "uri", "size", "mtime_ns")
_PATH_COLUMNS = ("item_id", "id", "key", "image_path", "path", "url")


@dataclass(frozen=True, eq=False)
class Incoming:
    """Vectors and columns of a file; row i belongs to ids[i]."""

    ids: pa.Array
    vectors: NDArray[np.float32]  # (n, dim)
    columns: pa.Table
    known: KnownColumns = field(default_factory=KnownColumns)  # labels, as the file says
    failed: Mapping[str, str] = field(default_factory=dict)  # rows that were left out → why


def read_vectors(
    path: str | Path,
    *,
    item_id: str | None = None,
    vector: str | None = None,
    text: str | None = None,
) -> Incoming:
    """Read a table with a vector column, an ``.npy``, or clip-retrieval's folder.

    The table may be a Parquet or Arrow file, or a folder that Hugging Face's `save_to_disk` wrote,
    with all its splits. Columns that `export` added are left out: a map, pictures. Rows without an
    id, a vector of finite numbers, or a text (in ``text``, or in a column of that name) are left
    out, and stand in ``failed``.

    Raises
    ------
    BadSource, MissingColumn
        If it is none of these, its vectors have several lengths, or no row can be taken.
    """
    path = Path(path)
    check_regular(path)
    is_saved = is_saved_folder(path)
    table: pa.Table | None = None
    known, row_names = KnownColumns(), None
    bad: dict[int, str] = {}
    if path.is_dir() and not is_saved:
        table, vectors = _read_clip_retrieval(path)
    elif path.suffix == ".npy":
        vectors = numbers(_load_npy(path), path.name)
        beside = path.with_suffix(".items.parquet")
        if beside.exists():
            table, known, row_names = _read_table(beside)
    elif is_saved or path.suffix in (".parquet", ".arrow"):
        table, known, row_names = _read_table(path)
        name = vector or _vector_column(table, path)
        require_column(name, table.column_names, "--vector", Location.of(path))
        vectors, bad = matrix(table.column(name), path.name)
        table = table.drop_columns([name])
    else:
        raise BadSource(
            f"cannot read vectors from {path}: expected .parquet, .arrow, .npy, a saved Hugging "
            "Face data set, or a folder of clip-retrieval"
        )
    if table is None:
        table = pa.table({"row": pa.array(range(len(vectors)))}).select([])
    elif len(table) != len(vectors):
        raise BadSource(f"{path} has {len(vectors)} vectors, but {len(table)} rows beside them")
    try:
        table, odd = with_texts(table)
    except pa.ArrowInvalid as error:
        raise BadSource(f"cannot read {path}: {error}") from None
    ids, nameless = _ids(table, item_id, path, len(vectors), row_names)
    bad = nameless | odd | odd_vectors(vectors) | without_text(table, text) | bad
    if not bad:
        return Incoming(ids, vectors, table, known)
    kept = kept_rows(len(ids), bad, path.name)
    names = row_names if row_names is not None else _names_by_row(path, len(ids))
    failed = {names[row].as_py(): bad[row] for row in sorted(bad)}
    return Incoming(ids.take(kept), vectors[kept], table.take(kept), known, failed)


def import_vectors(
    store: Store,
    incoming: Incoming,
    *,
    dataset: str,
    name: str,
    origin: str | Path,
    text: str | None = None,
    labels: Sequence[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> View:
    """Make a view ``import:<name>`` of vectors that another program made, or add to it.

    Items that the data set has keep their rows, aside from ``labels``; others are added. There is
    no encoder: such a view is searched by item, and heads learn from it. Without ``labels``, a new
    data set has those that the file names.

    Raises
    ------
    BadName
        If the name is taken by vectors of another length, or no name.
    BadSource
        If the view has vectors of some of these items, and ``overwrite`` is false.
    """
    spec = _spec(name)
    folder = DatasetFolder(store.path / "datasets" / check_dataset_name(dataset))
    table, dim = incoming.columns, incoming.vectors.shape[1]
    for column in labels:
        require_column(column, table.column_names, "--label", Location.of(origin))
        if note := bar_note(column, table.column(column)):
            say(note)
    given = [free_name(column) for column in labels]
    if text is None and "text" in table.column_names and table["text"].null_count < len(table):
        text = "text"
    earlier = folder.read() if folder.exists else None
    modality = _modality(folder.name, earlier, has_text=text is not None)
    chosen = {"family": FAMILY, "name": name, "dim": dim}
    resolved = ResolvedEncoder(spec, dim, frozenset({modality}), chosen, {})
    _check_view(folder, resolved, incoming.ids, overwrite=overwrite)
    known = folder.items.read(["item_id", "content_hash"]) if earlier else ITEMS.empty_table()
    positions = pc.index_in(incoming.ids, value_set=known.column("item_id"))  # null: a new item
    known_hashes = known.column("content_hash").take(positions).combine_chunks()
    names = incoming.known.tasks if earlier is None and not given else ()
    told = [free_name(one) for one in names if one in table.column_names]
    labels = given or told
    rows = _item_rows(incoming, str(spec), text, known_hashes, labels)
    if earlier is not None:
        known = folder.items.read()
        shared = [name for name in rows.column_names if name in known.column_names]
        (rows,) = agreed([rows], [frozenset()], known.select(shared))
    new = rows.filter(pc.is_null(positions))
    make_store(store.path)
    if earlier is None:
        folder.check_new()
    with folder.locked(resolved.slug), folder.locked("dataset"):
        tasks = {one: {"task": incoming.known.task(one, rows.column(one))} for one in labels}
        classes = {one: [*incoming.known.classes[one]] for one in incoming.known.classes}
        told_of = {CLASSES: classes} if classes else {}
        record = SourceRecord(FAMILY, str(Path(origin).absolute()), (), told_of)
        _add_items(folder, new, DatasetFile(modality, tasks, {str(spec): record}))
        hashes = rows.column("content_hash").combine_chunks()
        made = view_rows(incoming.ids, hashes, incoming.vectors)
        _write_view(folder, resolved, made, overwrite=overwrite)
    if told:
        said = ", ".join(f"{one} ({tasks[one]['task']})" for one in told)
        say(f"labels: {said}, as {Path(origin).name} says; --label names others")
    if given and len(new) < len(rows):
        values = pa.table({"item_id": incoming.ids, **{one: rows.column(one) for one in given}})
        attach(folder, values.filter(pc.is_valid(positions)))
    n_other = pc.sum(pc.not_equal(known_hashes, hashes)).as_py() or 0
    if n_other:
        say(
            f"{n_other:,} items have other content here than these vectors were made of: "
            "they stay without a vector"
        )
    return store.view(dataset, str(spec))


def _modality(dataset: str, earlier: DatasetFile | None, *, has_text: bool) -> Modality:
    """Return what the items are; without texts, what the data set holds already."""
    modality = Modality.TEXT if has_text else Modality.IMAGE
    if earlier is None:
        return modality
    if has_text and earlier.modality is not modality:
        raise ModalityMismatch(
            f"data set {dataset!r} holds {earlier.modality}s, these are {modality}s"
        )
    return earlier.modality


def _add_items(folder: DatasetFolder, new: pa.Table, added: DatasetFile) -> None:
    """Add items that the data set lacks, with their source and labels; the caller holds locks."""
    folder.create_tables()
    # What does not fit changes nothing.
    new_columns(widened(folder.items.schema(), new.schema), new.schema)

    def described(now: DatasetFile | None) -> DatasetFile:
        now = now or DatasetFile(added.modality, {}, {})
        sources = {**now.sources, **(added.sources if len(new) else {})}
        return DatasetFile(added.modality, {**now.labels, **added.labels}, sources, now.attached)

    folder.update(described)  # first: rows of no data set are what a drop left
    if len(new):
        replace_items(folder, new.column("item_id"), new)


def _write_view(
    folder: DatasetFolder, resolved: ResolvedEncoder, rows: pa.Table, *, overwrite: bool
) -> None:
    """Add vectors to the view; they replace those of the same items."""
    view = folder.create_view(resolved.slug, resolved.dim)
    drop = drop_equal({"item_id": rows.column("item_id")}, ["item_id"])
    folder.write_encoder(resolved, {}, "elsewhere")  # first: vectors of no encoder are damage
    with folder.replacing(resolved.slug) if overwrite else nullcontext():
        view.merge(rows, drop=drop, keys=["item_id"])


def _spec(name: str) -> EncoderSpec:
    """Return the spec ``import:<name>``; refuse a name that does not read back as written."""
    written = f"{FAMILY}:{name}"
    spec = EncoderSpec.parse(written)
    if str(spec) != written or spec.options or spec.revision or not name.isprintable():
        raise BadName(f"{name!r} is not a name for vectors: expected words such as clip-b32")
    return spec


def _check_view(
    folder: DatasetFolder, resolved: ResolvedEncoder, ids: pa.Array, *, overwrite: bool
) -> None:
    infos = folder.encoders() if folder.exists else {}
    slug = find_spec(infos, resolved.spec)
    if slug is None:
        return
    if slug != resolved.slug:
        raise BadName(
            f"{resolved.spec} has dim {infos[slug]['dim']} in {folder.name!r}, these vectors have "
            f"{resolved.dim}: give them another name"
        )
    held = folder.view(slug).read(["item_id"]).column("item_id")
    n_both = pc.sum(pc.is_in(ids, value_set=held)).as_py() or 0
    if n_both and not overwrite:
        raise BadSource(
            f"{resolved.spec} has vectors of {n_both:,} of these items: --overwrite replaces them, "
            "another name keeps both"
        )


def _item_rows(
    incoming: Incoming,
    source: str,
    text: str | None,
    known_hashes: pa.Array,
    labels: Sequence[str],
) -> pa.Table:
    """Return item rows.

    The content hash is that of the file, which says what the vector was made of; else the one
    that the data set knows (``known_hashes``, null for new items); else it is made here.
    """
    table, n = incoming.columns, len(incoming.ids)
    texts = _strings(table, text) if text is not None else pa.nulls(n, pa.string())
    if text is not None and texts.null_count:
        raise BadSource(f"{texts.null_count} rows have no text in {text!r}")
    hashes = known_hashes
    if "content_hash" in table.column_names:
        hashes = pc.coalesce(_strings(table, "content_hash"), hashes)
    unnamed = np.flatnonzero(np.asarray(pc.is_null(hashes)))
    if text is not None:
        made = [text_hash(texts[int(row)].as_py()) for row in unnamed]
    else:  # nobody here knows the content: the vector stands for it
        made = [hashlib.sha256(incoming.vectors[row]).hexdigest() for row in unnamed]
    hashes = pc.replace_with_mask(hashes, pc.is_null(hashes), pa.array(made, pa.string()))
    splits = [None] * n
    if "split" in table.column_names:
        splits = without_nan(table.column("split")).to_pylist()
    columns: dict[str, Any] = {
        "item_id": incoming.ids,
        "source": pa.array([source] * n, pa.string()),
        "text": texts,
        "content_hash": hashes,
        "split": pa.array([canonical_split(one) for one in splits], pa.string()),
        "group": pa.nulls(n, pa.string()),
    }
    if "group" in table.column_names:
        columns["group"] = _strings(table, "group")
    for name in table.column_names:
        ours = free_name(name)  # as embed calls it; those of our own names came from a store
        if ours in labels or (name not in RESERVED and name != text):
            columns[ours] = plain(table.column(name))
    schema = pa.schema(
        [ITEMS.field(name) if name in ITEMS.names else pa.field(name, value.type)
         for name, value in columns.items()]
    )  # fmt: skip
    arrays = [value.cast(schema.field(name).type) for name, value in columns.items()]
    return pa.Table.from_arrays(arrays, schema=schema)


def _strings(table: pa.Table, name: str) -> pa.Array:
    try:
        return as_strings(table.column(name)).combine_chunks()
    except pa.ArrowException:
        kind = table.schema.field(name).type
        raise BadSource(f"column {name!r} holds {kind}: expected texts or numbers") from None


def _read_table(path: Path) -> SavedTable:
    """Read a table without what `export` added; class numbers of Hugging Face have their names."""
    try:
        if path.is_dir():
            table, known, row_names = read_folder(path)
        else:
            read = _read_plain(path)
            known, row_names = KnownColumns.of_schema(read.schema), None
            table = with_class_names(read, hub_features(read.schema))
    except (OSError, ValueError, KeyError, TypeError) as error:  # ArrowInvalid is a ValueError
        if isinstance(error, FeatureStoreError):
            raise
        raise BadSource(f"cannot read {path}: {error}") from None
    return SavedTable(
        table.drop_columns([one for one in known.added if one in table.column_names]),
        known,
        row_names,
    )


def _read_plain(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    try:
        with pa.memory_map(str(path)) as file:
            return validated(pa.ipc.open_file(file).read_all())
    except pa.ArrowInvalid:
        return read_stream(path)  # so Hugging Face writes them


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadSource(f"cannot read {path}: {error}") from None
    return loaded


def _read_clip_retrieval(folder: Path) -> tuple[pa.Table | None, NDArray[np.float32]]:
    """Read ``img_emb/*.npy`` (or ``text_emb``) and ``metadata/*.parquet``, in order of number."""
    for kind in ("img_emb", "text_emb"):
        files = sorted((folder / kind).glob("*.npy"), key=_number)
        if files:
            break
    else:
        raise BadSource(f"{folder} holds no img_emb/*.npy: expected a folder of clip-retrieval")
    vectors = np.concatenate([numbers(_load_npy(path), path.name) for path in files])
    tables = sorted((folder / "metadata").glob("*.parquet"), key=_number)
    if not tables:
        return None, vectors
    parts = [_read_table(one).table for one in tables]
    return pa.concat_tables(parts, promote_options="permissive"), vectors


def _number(path: Path) -> tuple[int, str]:
    digits = path.stem.rpartition("_")[2]
    return (int(digits) if digits.isdecimal() else -1, path.name)


def _vector_column(table: pa.Table, path: Path) -> str:
    found = [
        field.name
        for field in table.schema
        if is_list(field.type) and pa.types.is_floating(field.type.value_type)
    ]
    if len(found) != 1:
        raise BadSource(
            f"{path.name} has {len(found)} columns of vectors ({', '.join(found) or 'none'}): "
            "name one with --vector"
        )
    return str(found[0])


def _ids(
    table: pa.Table, item_id: str | None, path: Path, n: int, row_names: pa.Array | None
) -> tuple[pa.Array, dict[int, str]]:
    """Return an id for each row, and the rows that have none.

    Those are of the column that was named, or of ``item_id``, in which `export` writes ids.
    """
    if item_id is not None:
        require_column(item_id, table.column_names, "--id", Location.of(path))
        try:
            ids, nameless = own_ids(table.column(item_id), item_id)
        except pa.ArrowException:
            kind = table.schema.field(item_id).type
            raise BadSource(f"column {item_id!r} holds {kind}: expected ids") from None
        if len(pc.unique(ids.drop_null())) + len(nameless) < n:
            raise BadSource(f"column {item_id!r} of {path.name} does not name each row once")
        return ids.combine_chunks(), nameless
    for name in (one for one in _PATH_COLUMNS if one in table.column_names):
        try:
            ids = as_strings(table.column(name)).combine_chunks()
        except pa.ArrowException:
            continue  # lists, say
        rows = np.flatnonzero(np.asarray(ids.is_null())).tolist()
        is_named = not rows or (name == "item_id" and len(rows) < n)
        if is_named and len(pc.unique(ids.drop_null())) + len(rows) == n:
            return ids, dict.fromkeys(rows, f"no id in the column {name!r}")
    return row_names if row_names is not None else _names_by_row(path, n), {}


def _names_by_row(path: Path, n: int) -> pa.Array:
    return pa.array([f"{path.name}:{row}" for row in range(n)], pa.string())
