"""How to embed."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.encoders.trust import Trust
from featurestore.errors import BadName

AUTO, THREADS, PROCESSES = "auto", "threads", "processes"  # where images are decoded


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; what to embed is in the sources."""

    device: str = "auto"
    batch_size: int | None = None  # in items; None: found by measuring
    n_workers: int | None = None  # None: one a core
    overwrite: bool = False
    retry_failed: bool = False
    max_failures: int | None = None
    prune: bool = False  # drop items that are gone from their source
    trust: Trust = False  # code that models bring; that of `python:` encoders is asked for by name
    compile: bool = False
    decode_in: str = AUTO  # threads | processes; auto: what feeds the encoders best
    rehash: bool = False  # read every image: its size and time are not trusted
    all_items: bool = False  # a tap keeps those without a label as well
    part: tuple[int, int] | None = None  # (i, n): the i-th of n parts, for a process a GPU

    def __post_init__(self) -> None:
        if self.decode_in not in (AUTO, THREADS, PROCESSES):
            raise BadName(
                f"decode_in={self.decode_in!r}: expected {AUTO}, {THREADS} or {PROCESSES}"
            )
