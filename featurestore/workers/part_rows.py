"""A part of a plan as a table that a worker elsewhere can read, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.pipeline.plan import EmbedPlan
from featurestore.terms.specs import Modality

_PAIR = "\x1f"  # between the two halves of a key; see `row_keys`


def to_table(plan: EmbedPlan, rows: NDArray[np.intp], failed: Mapping[str, str]) -> pa.Table:
    """Return some rows of a plan, with all that it says of them.

    Parameters
    ----------
    plan : EmbedPlan
    rows : array of shape (n,)
    failed : mapping of str to str
        Why items without content have none, by id.
    """
    chosen = pa.array(rows)
    listed = plan.rows.take(chosen).combine_chunks()
    ids = listed.column("item_id").to_pylist()
    wanted = set(ids)
    held: dict[str, list[dict[str, object]]] = {}
    for view, keys in enumerate(plan.pairs):
        for item_id, content in (key.rsplit(_PAIR, 1) for key in keys):
            if item_id in wanted:
                held.setdefault(item_id, []).append({"view": view, "content": content})
    kind = pa.list_(pa.struct([("view", pa.int32()), ("content", pa.string())]))
    return pa.table(
        {
            "row": listed.to_struct_array(),  # a column of the source may have any name
            "content_hash": plan.content_hash.take(chosen),
            "is_new": plan.is_new[rows],
            "is_stale": plan.is_stale[rows],
            "todo": pa.array(plan.todo[:, rows].T.tolist(), pa.list_(pa.bool_())),
            "has_failed": pc.is_in(
                listed.column("item_id"), value_set=pa.array(plan.failed_before, pa.string())
            ),
            "held": pa.array([held.get(one) for one in ids], kind),
            "reason": pa.array([failed.get(one) for one in ids], pa.string()),
        }
    )


def to_plan(part: pa.Table, modality: Modality, n_views: int) -> tuple[EmbedPlan, dict[str, str]]:
    """Return a part as the plan of its rows, and why some of them have no content."""
    rows = pa.Table.from_struct_array(part.column("row").combine_chunks())
    ids = rows.column("item_id")
    todo = np.array(part.column("todo").to_pylist(), bool).reshape(-1, n_views).T
    pairs: list[set[str]] = [set() for _ in range(n_views)]
    for item_id, held in zip(ids.to_pylist(), part.column("held").to_pylist(), strict=True):
        for one in held or ():
            pairs[one["view"]].add(f"{item_id}{_PAIR}{one['content']}")
    reasons = zip(ids.to_pylist(), part.column("reason").to_pylist(), strict=True)
    plan = EmbedPlan(
        rows,
        items_version=-1,  # nothing here asks for it: whoever commits looks again
        content_hash=part.column("content_hash").combine_chunks(),
        is_new=np.asarray(part.column("is_new")),
        is_stale=np.asarray(part.column("is_stale")),
        wanted=todo,
        todo=todo,
        in_part=np.ones(len(rows), bool),
        n_known_failures=(0,) * n_views,
        failed_before=frozenset(ids.filter(part.column("has_failed")).to_pylist()),
        is_text=modality is Modality.TEXT,
        pairs=tuple(map(frozenset, pairs)),
    )
    return plan, {item_id: reason for item_id, reason in reasons if reason is not None}
