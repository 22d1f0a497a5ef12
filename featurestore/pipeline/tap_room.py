"""What a tap takes on disk: said before it is written, and refused where there is no room."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore.encoders.base import Encoder
from featurestore.errors import NoRoom
from featurestore.pipeline.plan import EmbedPlan
from featurestore.pipeline.run_input import RunInput
from featurestore.terms.words import in_bytes

_N_SAMPLE = 256  # texts whose tokens are counted
_ROW_BYTES = 80  # of the other columns


def announce_taps(
    given: RunInput, plan: EmbedPlan, encoders: Mapping[int, Encoder], share: float = 1.0
) -> None:
    """Say what the taps of a run take on disk, by the number of their view.

    Of a run in parts the plan is of the first, and ``share`` says how many times as much all is.

    Raises
    ------
    NoRoom
        If the disk has less.
    """
    need = 0
    for number, encoder in encoders.items():
        tap, spec = encoder.resolved.tap, encoder.resolved.spec
        n = round(int(plan.todo[number].sum()) * share)
        if tap is None or not n:
            continue
        each = item_bytes(encoder, plan.rows.filter(pa.array(plan.todo[number])))
        need += n * each
        n_wanted = round(int(plan.wanted[number].sum()) * share)
        n_rows = given.listed.n_rows
        line = f"{spec.label} is a tap: {in_bytes(n * each)} for {n:,} items"
        if n_wanted < n_rows:
            line += (
                f", those with a label; all {n_rows:,} would take {in_bytes(n_rows * each)} "
                "(--all-items)"
            )
        given.say(f"{line}; {in_bytes(each)} an item")
    folder = given.folder.path
    if not need or not isinstance(folder, Path):
        return
    free = shutil.disk_usage(folder).free
    if need > free:
        raise NoRoom(
            f"the tap takes {in_bytes(need)}, and {in_bytes(free)} are free at {folder}: take "
            "fewer items (--where, --limit; leave out --all-items), a later cut (a higher number "
            "in #tap=), or fewer variants"
        )


def item_bytes(encoder: Encoder, rows: pa.Table) -> int:
    """Return what a tap stores of an item in the mean, by the tokens of some of these texts."""
    tap = encoder.resolved.tap
    assert tap is not None, "an encoder of a tap"
    if not tap.is_ragged:
        return tap.nbytes + _ROW_BYTES
    some = np.linspace(0, len(rows) - 1, min(_N_SAMPLE, len(rows))).astype(int)
    texts = [one or "" for one in rows.column("text").take(pa.array(some)).to_pylist()]
    return round(tap.nbytes * float(np.mean(encoder.tokenize(texts).lengths))) + _ROW_BYTES
