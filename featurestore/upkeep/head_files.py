"""What upkeep knows of the files that heads keep in a data set: ``heads/<id>/``, docs/format.md.

It is known here, not told by `heads` when that is imported: an erasure from a program that trains
nothing must reach the predictions, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.errors import StoreCorrupt
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import matching, read_json, sha256_of, write_file
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import read_shard
from featurestore.terms.snapshots import Snapshot


def head_ids(folder: DatasetFolder) -> list[str]:
    """Return the ids of all heads, sorted."""
    return sorted(path.parent.name for path in _of_heads(folder, "card.json"))


def _of_heads(folder: DatasetFolder, name: str) -> list[StorePath]:
    """Return a file of each head; a name with a dot is a head being written, or left by a kill."""
    found = matching(folder.path / "heads", f"*/{name}")
    return [path for path in found if not path.parent.name.startswith(".")]


def damaged_heads(folder: DatasetFolder) -> Iterator[tuple[StorePath, str]]:
    """Yield each damaged file of a head, and what is wrong with it."""
    for card_path in _of_heads(folder, "card.json"):
        try:
            card = read_json(card_path)
        except StoreCorrupt as error:
            yield card_path, str(error)
            continue
        files = [("head.skops", "the head", card.get("head_sha256"))]
        for key, name in (
            ("unlike_sha256", "unlike.safetensors"),
            ("top_sha256", "top.safetensors"),
        ):
            if (known := card.get(key)) is not None:  # not every head has them
                files.append((name, "the file", known))
        for name, kind, digest in files:
            file = card_path.with_name(name)
            try:
                is_same = sha256_of(file) == digest
            except (StoreCorrupt, OSError) as error:
                why = getattr(error, "strerror", None) or error
                yield file, f"cannot be read: {why}"
                continue
            if not is_same:
                yield file, f"is not {kind} that card.json describes"


def snapshots_of_heads(
    folder: DatasetFolder,
) -> Iterator[tuple[str | None, Mapping[str, int] | None]]:
    """Yield the encoder's fingerprint and the snapshot of each view that a head learned from.

    Raises
    ------
    StoreCorrupt
        If a card does not say it: what is deleted must not hang on a guess.
    """
    for path in _of_heads(folder, "card.json"):
        card = read_json(path)
        at = card.get("snapshot")
        if at is not None and not (
            isinstance(at, dict) and {type(at.get(key)) for key in ("items", "view")} == {int}
        ):
            raise StoreCorrupt(f"{path} names no snapshot: delete this head, or train it again")
        yield str(card.get("fingerprint")), at
    for path in _of_heads(folder, "encoder.json"):
        try:
            snapshots = [
                (str(block["fingerprint"]), asdict(Snapshot.parse(at)))
                for block in read_json(path)["blocks"]  # of a head on several views side by side
                if (at := block.get("snapshot"))
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreCorrupt(
                f"{path} is not a list of encoders: delete this head, or train it again"
            ) from error
        yield from snapshots


def erase_predictions(folder: DatasetFolder, ids: pa.Array) -> None:
    """Drop items from the predictions that heads keep."""
    for path in matching(folder.path / "heads", "*/predictions.parquet"):
        try:
            rows = read_shard(path)
        except StoreCorrupt:
            path.unlink()  # nobody can say that it holds none of them
            continue
        kept = rows.filter(pc.invert(pc.is_in(rows.column("item_id"), value_set=ids)))
        if len(kept) < len(rows):
            sink = pa.BufferOutputStream()
            pq.write_table(kept, sink)
            write_file(path, sink.getvalue())
