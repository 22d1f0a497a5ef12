"""Heads that retrain the upper blocks of a network: their names and entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featurestore.errors import BadName, UnknownHead, nearest
from heads.catalogue.entry import HeadEntry
from heads.estimators.finetune import RATES, FinetuneHead, FinetuneRegressor
from heads.labels.tasks import Task

FINETUNE = "finetune"  # or finetune:blocks=2,alone,balanced,plain
TAP = "tap"  # what its entry reads
_WORDS = ("alone", "balanced", "plain", "blocks=")


def retrains(head: str | Any) -> bool:
    """Whether a head, given by name, retrains a network, so that a fit takes long."""
    return isinstance(head, str) and head.partition(":")[0] == FINETUNE


def retraining_among(heads: Sequence[str | Any]) -> list[HeadEntry]:
    """Return the entries of those heads that retrain a network."""
    return [finetune_entry(head) for head in heads if retrains(head)]


def finetune_entry(name: str) -> HeadEntry:
    """Make the entry of ``finetune``, or with words after a colon.

    ``blocks=2`` retrains the last two blocks, in place of as many as `#tap=auto` chooses;
    ``plain`` takes pictures as they are, not mirrored as well; ``balanced`` lets each class count
    as much as any other; ``alone`` answers without the frozen head.

    Raises
    ------
    UnknownHead
        If a word is not one of these.
    BadName
        If the number of blocks is none.
    """
    words = [one for one in name.partition(":")[2].split(",") if one]
    n_blocks = ""
    for one in words:
        key, equals, value = one.partition("=")
        if key == "blocks" and equals:
            if not value.isdecimal() or int(value) < 1:
                raise BadName(f"{name}: expected a number of blocks, such as {FINETUNE}:blocks=2")
            n_blocks = value
        elif one not in _WORDS:
            raise UnknownHead(f"no head {name!r}: after {FINETUNE}: {nearest(one, _WORDS)}")
    alone, weight = "alone" in words, "balanced" if "balanced" in words else None

    def build(seed: int) -> FinetuneHead:
        return FinetuneHead(alone=alone, class_weight=weight, random_state=seed)

    def of_numbers(seed: int) -> FinetuneRegressor:
        return FinetuneRegressor(alone=alone, random_state=seed)

    rates = " and ".join(f"{rate:g}" for rate in RATES)
    frozen = "ridge of numbers, logistic of several labels, else logistic and lda together"
    if weight is not None:
        frozen = "logistic-balanced"
    whole = f"the runs' mean log-probabilities{'' if alone else ', with those of the frozen head'}"
    return HeadEntry(
        f"none: the blocks above the cut ({n_blocks or 'chosen by cost'}) are trained from the "
        f"frozen head ({frozen}) at rates {rates}, each 12 epochs or 96 steps; a run that "
        f"collapsed is left out; {whole}",
        per_task=lambda task: of_numbers if task is Task.REGRESSION else build,
        reads=TAP,
        tap=f"-{n_blocks}" if n_blocks else "auto",
        variants="" if "plain" in words else "flip",
    )
