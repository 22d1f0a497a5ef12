"""What it takes to retrain a network: timed on its own blocks, and said before it begins."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featurestore.errors import TimeIsUp
from featurestore.terms.activations import Activations
from featurestore.terms.words import counted, in_time
from heads.estimators.finetune import SPARE as SHORTENED
from heads.estimators.finetune import FinetuneHead, FinetuneRegressor
from heads.labels.pace import Pace, Work, pace
from heads.labels.plan import Plan
from heads.labels.tasks import Target
from heads.measures.fits import n_at_once

if TYPE_CHECKING:
    from heads.experiments.cells import Runner

WORTH_SAYING_S = 5.0
Retraining = FinetuneHead | FinetuneRegressor
AMPLE = 1.25  # times what was timed: a time that surely is enough


@dataclass(frozen=True)
class Price:
    """What some fits take that retrain a network."""

    head: str
    steps: Sequence[int]  # of each fit
    step_s: float  # while as many run as run at once
    at_once: int
    n_alone: int = 0  # of the steps: those of a fit that runs when the others are done

    @property
    def n_steps(self) -> int:
        """Steps of all fits."""
        return sum(self.steps)

    @property
    def seconds(self) -> float:
        """How long they take, with what runs side by side."""
        return ((self.n_steps - self.n_alone) / self.at_once + self.n_alone) * self.step_s

    @property
    def enough_minutes(self) -> int:
        """Return whole minutes that are surely enough."""
        return math.ceil(AMPLE * self.seconds / 60)

    def __str__(self) -> str:
        fewest, most = min(self.steps), max(self.steps)
        steps = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
        beside = f", {self.at_once} at a time" if self.at_once > 1 else ""
        return (
            f"{self.head}: retraining takes about {in_time(self.seconds)} "
            f"({counted(len(self.steps), 'fit')} of {steps} steps{beside}; "
            f"{self.step_s:.2g} s a step)"
        )

    def say(self, until: float) -> None:
        """Say it, if it is worth it; and whether it surely ends before a time."""
        if self.seconds < WORTH_SAYING_S:
            return
        left = until - time.monotonic()
        more = ""
        if not self.within(until):
            more = (
                f"; there are {in_time(max(0.0, left))} for it: what is done by then is kept, and "
                f"the same command goes on from there (--minutes {self.enough_minutes} or more "
                "does it in one go)"
            )
        pace().say(f"{self}{more}.")

    def within(self, until: float) -> bool:
        """Whether it surely ends before a time of the monotonic clock."""
        return time.monotonic() + AMPLE * self.seconds < until


def priced_training(
    name: str, head: Retraining, X: Activations, plan: Plan, runner: Runner
) -> Pace:
    """Say what it takes to judge a head that retrains, and to fit it on all rows.

    Returns a pace that counts the steps of all these fits.

    Raises
    ------
    TimeIsUp
        If the time is too short to retrain anything.
    """
    n_rows = [len(train) for train, _ in plan.parts]
    n_judge, n_last = len(n_rows), len(plan.train)
    price = price_of(name, head, X, plan.target, n_rows)
    if plan.folds is not None:
        last = head.n_steps(n_last)
        price = replace(price, steps=[*price.steps, last], n_alone=last)
    said, until = [], pace().until
    if n_judge > 1:
        said.append(f"{n_judge} fits are to judge the head, the last one is kept")
    if until < math.inf and not price.within(until):
        share = max(0.0, until - time.monotonic()) / price.seconds
        n_steps = min(int(SHORTENED * share * n) for n in price.steps)
        usual = max(price.steps)
        if n_steps < head.least(n_last):
            raise TimeIsUp(
                f"{runner.minutes:g} minutes are too short to retrain anything. {price}. Nothing "
                f"was saved. Give it --minutes {price.enough_minutes} or more"
                f"{_cheaper(name, n_judge)}; or train the frozen head: --head logistic"
            )
        if n_steps < usual:
            said.append(
                f"the given time is short, so that each fit takes about {n_steps} steps "
                f"(--minutes {price.enough_minutes} would be enough for all)"
            )
    if price.seconds >= WORTH_SAYING_S:
        more = "".join(f"; {one}" for one in said)
        pace().say(f"{price}{more}{_cheaper(name, n_judge)}.")
    return replace(pace(), work=Work(price.n_steps))


def _cheaper(name: str, n_judge: int) -> str:
    """Say what to type to make it cheaper."""
    ways = []
    if n_judge > 1:
        ways.append(f"`featurestore split DATASET` first, for 1 fit in place of {n_judge + 1}")
    if "blocks=" not in name:
        ways.append("--head finetune:blocks=1, which retrains one block")
    return f". Cheaper: {'; or '.join(ways)}" if ways else ""


def price_of(
    name: str, head: Retraining, X: Activations, target: Target, n_rows: Sequence[int]
) -> Price:
    """Time the steps of a head that retrains, and return what fits on so many rows each take."""
    n_out = max(2, len(target.classes))
    at_once = n_at_once(len(n_rows))
    if at_once == 1:
        step_s = head.seconds_a_step(X, n_out)
    else:
        with ThreadPoolExecutor(at_once) as pool:
            timed = pool.map(lambda _: head.seconds_a_step(X, n_out), range(at_once))
            step_s = sum(timed) / at_once
    return Price(name, [head.n_steps(n) for n in n_rows], step_s, at_once)
