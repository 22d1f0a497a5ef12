"""What is told about a view: by `featurestore info`, and on the dashboard's overview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.store.view import View


@dataclass(frozen=True)
class ViewFacts:
    """What a view holds, and how it was made last."""

    encoder: str  # spec
    fingerprint: str
    dim: int
    n_rows: int
    n_failed: int  # items without a vector, for a reason
    n_bytes: int
    n_shards: int
    snapshot: str
    embedded: str | None = None  # the last run that encoded something: UTC, ISO 8601
    items_per_s: float | None = None  # of that run


def facts_of(view: View, runs: Sequence[Mapping[str, Any]] | None = None) -> ViewFacts:
    """Return what a view holds, and how it was made last; ``runs`` are its data set's, if read."""
    view = view.now()
    shards = view.table.shards(view.snapshot.view)
    failed = view.dataset.failures().column("fingerprint").to_pylist()
    runs = view.dataset.runs("embed") if runs is None else runs
    of_view = (r for r in runs if r["n_encoded"] and r["encoder"] == str(view.spec))
    last = next(of_view, {})
    return ViewFacts(
        str(view.spec),
        view.fingerprint,
        view.dim,
        view.n_rows,
        n_failed=sum(one in ("", view.fingerprint) for one in failed),  # "": of any encoder
        n_bytes=sum(shard.size_bytes for shard in shards),
        n_shards=len(shards),
        snapshot=str(view.snapshot),
        embedded=last.get("when"),
        items_per_s=last.get("items_per_s"),
    )
