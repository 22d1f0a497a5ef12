"""What is said of a run besides its numbers: what was left out of it."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.terms.words import counted
from heads.estimators.finetune import LEFT_OUT
from heads.experiments.cells import Runner
from heads.labels.plan import Plan
from heads.measures.comparison import ComparedHead
from heads.measures.evaluate import Report


def stopped_notes(runner: Runner, reports: Sequence[Report], plan: Plan) -> list[str]:
    """Say what was left out because the time was up."""
    n_parts = min(report.n_parts for report in reports)
    if n_parts == len(plan.parts) and not runner.left_out:
        return []
    said = [f"Stopped after {runner.minutes:g} minutes"]
    if n_parts < len(plan.parts):
        said.append(f"{n_parts} of {len(plan.parts)} folds were done")
    if runner.left_out:
        said.append(f"left out: {', '.join(runner.left_out)}")
    if runner.cache_in is not None:
        said.append("what was done is kept, and the same command goes on from there")
    return [f"{said[0]}: {'; '.join(said[1:])}."]


def collapsed_notes(rows: Sequence[ComparedHead]) -> list[str]:
    """Say in how many fits a run of a head that retrains was left out."""
    notes = []
    for row in rows:
        n = sum(LEFT_OUT in str(one.get("retrained", "")) for one in row.chosen)
        if n:
            notes.append(
                f"{row.head} on {row.encoder}: in {n} of {counted(len(row.chosen), 'fit')} a run "
                "collapsed and is left out."
            )
    return notes
