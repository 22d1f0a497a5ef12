"""Qdrant: a server, or a folder that its client keeps by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from featurestore.errors import BadTarget
from featurestore.publish.marks import MARKS
from featurestore.publish.rows import DIGEST, VECTOR
from featurestore.publish.targets import without_password

_POINTS = UUID("6f9f6d1e-0d5c-4c3e-9a57-3d7c1f6f2b11")  # point ids are made from item ids in it
_READ_AT_ONCE, _SENT_AT_ONCE = 10_000, 1_000


@contextmanager
def opened(address: str, table: str) -> Iterator[QdrantTarget]:
    """Open a collection of a server, ``http://HOST:6333``, or of a folder."""
    is_server = address.startswith(("http://", "https://"))
    try:
        place = {"url" if is_server else "path": address}
        client = QdrantClient(**place, check_compatibility=False)  # it asks the server in a thread
        client.get_collections()
    except (ApiException, RuntimeError, OSError) as error:
        said = str(error).strip().partition("\n")[0]
        raise BadTarget(f"cannot open {without_password(f'qdrant:{address}')}: {said}") from None
    with closing(client):
        yield QdrantTarget(client, address, table, is_server=is_server)


class QdrantTarget:
    """One collection of Qdrant; under cosine it keeps vectors scaled to length 1."""

    def __init__(self, client: QdrantClient, address: str, table: str, *, is_server: bool) -> None:
        self._client, self.address, self.name, self._is_server = client, address, table, is_server
        self.where = f"collection {table!r} of {without_password(f'qdrant:{address}')}"

    def read_mark(self) -> str | None:
        """Return the mark's JSON; None where there is none."""
        if not self._client.collection_exists(MARKS):
            return None
        found = self._client.retrieve(MARKS, [_point(self.name)])
        return str(found[0].payload["mark"]) if found and found[0].payload else None

    def write_mark(self, text: str) -> None:
        """Write the mark's JSON."""
        if not self._client.collection_exists(MARKS):
            self._create(MARKS, 1)
        payload = {"name": self.name, "mark": text}
        point = models.PointStruct(id=_point(self.name), vector=[1.0], payload=payload)
        self._client.upsert(MARKS, [point], wait=True)

    def count(self) -> int | None:
        """Return the number of rows; None where there is no collection."""
        if not self._client.collection_exists(self.name):
            return None
        return int(self._client.count(self.name, exact=True).count)

    def digests(self) -> Iterator[pa.Table]:
        """Yield ids and digests of all rows."""
        names, at = ["item_id", DIGEST], None
        while True:
            points, at = self._client.scroll(
                self.name, limit=_READ_AT_ONCE, offset=at, with_payload=names, with_vectors=False
            )
            rows = [point.payload or {} for point in points]
            yield pa.table({
                "item_id": pa.array([row["item_id"] for row in rows], pa.string()),
                DIGEST: pa.array([row.get(DIGEST) for row in rows], pa.int64()),
            })  # fmt: skip
            if at is None:
                return

    def prepare(self, schema: pa.Schema) -> None:
        """Make the collection; a point may have any columns."""
        if not self._client.collection_exists(self.name):
            self._create(self.name, schema.field(VECTOR).type.list_size)

    def upsert(self, rows: Iterator[pa.Table]) -> None:
        """Write rows."""
        for block in rows:
            for start in range(0, len(block), _SENT_AT_ONCE):
                self._send(block.slice(start, _SENT_AT_ONCE))

    def _send(self, block: pa.Table) -> None:
        flat = np.asarray(block.column(VECTOR).combine_chunks().flatten())
        payloads = block.drop_columns([VECTOR]).to_pylist()
        batch = models.Batch(
            ids=[_point(row["item_id"]) for row in payloads],
            vectors=flat.reshape(len(block), -1).tolist(),
            payloads=[{name: _as_json(one) for name, one in row.items()} for row in payloads],
        )
        self._client.upsert(self.name, batch, wait=True)

    def delete(self, rows: pa.Table) -> None:
        """Delete rows."""
        ids = rows.column("item_id")
        for start in range(0, len(ids), _SENT_AT_ONCE):
            points = [_point(one) for one in ids.slice(start, _SENT_AT_ONCE).to_pylist()]
            self._client.delete(self.name, points, wait=True)

    def purge(self) -> str:
        """Do nothing: Qdrant rewrites its segments by itself."""
        return f"{self.where}: Qdrant takes deleted points out of its files by itself, later"

    def type_next(self) -> str:
        """Return a line of Python that searches the collection."""
        how = f"{'url' if self._is_server else 'path'}={without_password(self.address)!r}"
        return f"QdrantClient({how}).query_points({self.name!r}, query=query, limit=10).points"

    def _create(self, name: str, dim: int) -> None:
        vectors = models.VectorParams(size=dim, distance=models.Distance.COSINE)
        self._client.create_collection(name, vectors_config=vectors)


def _point(item_id: str) -> str:
    return str(uuid5(_POINTS, item_id))


def _as_json(value: object) -> object:
    """Return a value as JSON has it; NaN, which it has not, is null."""
    if isinstance(value, dict):
        return {name: _as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
