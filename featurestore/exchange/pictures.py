"""A column of pictures for other programs: paths, or bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import pyarrow as pa

from featurestore.errors import BadName, BadSource
from featurestore.sources.locations import Location
from featurestore.sources.reading import reason_of
from featurestore.sources.uris import MEMBER, VALUE
from featurestore.storage.dataset_file import SourceRecord
from featurestore.store.dataset import picture_file
from featurestore.store.view import View
from featurestore.terms.boxes import split_box
from featurestore.terms.specs import Modality

AS = ("path", "bytes")
KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as Hugging Face keeps them
_CHUNK_ROWS = 1024


def pictures_of(
    view: View, table: pa.Table, how: str, say: Callable[[str], None]
) -> tuple[str, pa.ChunkedArray]:
    """Return a free column name, and the pictures of a table's rows.

    Parameters
    ----------
    view : View
    table : pyarrow.Table
        With ``source`` and ``uri``.
    how : {"path", "bytes"}
        The path or URL of each file, or `KIND` with the file's bytes and its name.
    say : callable
        Told how many rows have none, and why.

    Raises
    ------
    BadSource
        If there is no picture to name or to read.
    """
    if how not in AS:
        raise BadName(f"no column of pictures as {how!r}: expected {' or '.join(AS)}")
    if view.dataset.modality is not Modality.IMAGE:
        raise BadSource(f"{view.name} holds texts: it has no pictures to export")
    records = view.dataset.description.sources
    absent: list[str] = []  # why, of each row without a picture
    chunks = []
    for begin in range(0, len(table), _CHUNK_ROWS):
        part = table.slice(begin, _CHUNK_ROWS).select(["source", "uri"]).to_pylist()
        found = [_picture(records.get(row["source"]), row["uri"], how, absent) for row in part]
        chunks.append(pa.array(found, pa.string() if how == "path" else KIND))
    if len(absent) == len(table):
        raise BadSource(f"none of the pictures of {view.name} can be exported: {absent[0]}")
    if absent:
        say(f"{len(absent):,} of {len(table):,} rows have no picture: {absent[0]}")
    return _free(table.column_names), pa.chunked_array(chunks)


def _picture(
    record: SourceRecord | None, uri: str | None, how: str, absent: list[str]
) -> str | dict[str, object] | None:
    if record is None or uri is None:
        absent.append("the items came without files")
        return None
    if how == "path":
        if _is_file(record.kind, uri):
            return Location(record.root).join(uri).text
        absent.append(f"{uri} is not a file of its own; --pictures bytes takes its bytes")
        return None
    try:
        content = picture_file(record, uri)
    except (OSError, ValueError) as error:
        absent.append(f"{uri} cannot be read ({reason_of(error)})")
        return None
    return {"bytes": content, "path": uri.rpartition("/")[2]}


def _is_file(kind: str, uri: str) -> bool:
    if split_box(uri)[1] is not None:
        return False
    if kind == "datasets":
        return False
    if kind == "webdataset":
        return MEMBER.fullmatch(uri) is None
    return kind != "table" or not (".parquet#" in uri.lower() and VALUE.fullmatch(uri))


def _free(taken: Sequence[str]) -> str:
    names = ("image" if n == 1 else f"image_{n}" for n in count(1))
    return next(name for name in names if name not in taken)
