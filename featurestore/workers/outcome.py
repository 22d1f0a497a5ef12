"""What all workers of a run did, as the reports of any run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from featurestore.pipeline.report import COUNTED, EmbedReport
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.run_folder import RunFolder

_N_SHOWN = 5  # failures


@dataclass(eq=False)
class Count:
    """What parts that are done add up to, while more come."""

    n_rows: int = 0
    n_failed: Counter[str] = field(default_factory=Counter)  # by view
    first_failure: dict[str, str] = field(default_factory=dict)  # by view
    n_counted: int = 0  # manifests

    def add(self, manifests: Mapping[str, Mapping[str, Any]]) -> None:
        """Count the manifests that came since."""
        for manifest in islice(manifests.values(), self.n_counted, None):
            if "halves" in manifest:
                continue
            self.n_rows += manifest["n_rows"]
            for view, said in manifest["views"].items():
                self.n_failed[view] += said["n_failed"]
                for text in said["failures"][:1]:
                    self.first_failure.setdefault(view, text)
        self.n_counted = len(manifests)


def close_run(
    folder: DatasetFolder, run: RunFolder, manifests: Sequence[Mapping[str, Any]], seconds: float
) -> list[EmbedReport]:
    """Write the cards of a run that is committed, and delete its folder; return its reports."""
    done = [one for one in manifests if "halves" not in one]
    workers = {one["worker"] for one in manifests if "worker" in one}
    worked = sum(one.get("seconds", 0.0) for one in manifests) / max(len(workers), 1)
    seconds = max(seconds, worked)  # who closes it may have done nothing
    reports = [
        _report(folder.name, run.facts, number, view, done, seconds)
        for number, view in enumerate(run.facts["views"])
    ]
    for report in reports:
        folder.write_run("embed", {**asdict(report), "items_per_s": report.items_per_s})
    run.close()
    return reports


def _report(
    dataset: str,
    facts: Mapping[str, Any],
    number: int,
    view: Mapping[str, str],
    done: Sequence[Mapping[str, Any]],
    seconds: float,
) -> EmbedReport:
    counts = [one["views"][view["slug"]] for one in done if view["slug"] in one["views"]]
    total = Counter[str]()
    remarks = Counter[str]()
    for one in counts:
        total.update({name: one[name] for name in ("n_encoded", "n_copied", "n_same", "n_failed")})
        remarks.update(one["remarks"])
    tally, first = facts["tally"], done[0] if done else {}
    n_known_failures = tally["n_known_failures"][number]
    n_lacking = tally["n_todo"][number] + n_known_failures
    counted: dict[str, Any] = {name: remarks[remark] for name, remark in COUNTED.items()}
    return EmbedReport(
        dataset,
        view["spec"],
        n_items=tally["n_items"],
        n_encoded=total["n_encoded"],
        n_copied=total["n_copied"],
        n_unchanged=tally["n_wanted"][number] - n_lacking + total["n_same"],
        n_updated=tally["n_updated"],
        n_failed=total["n_failed"],
        n_known_failures=n_known_failures,
        seconds=round(seconds, 3),
        batch_size=first.get("batch_size"),
        batch_unit=first.get("batch_unit"),
        device=first.get("device"),
        failures=tuple(text for one in counts for text in one["failures"])[:_N_SHOWN],
        stages=_stages(done),
        **counted,
    )


def _stages(done: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, int]]:
    seconds, items = Counter[str](), Counter[str]()
    for one in done:
        for name, (taken, n) in one["stages"].items():
            seconds[name] += taken
            items[name] += n
    return {name: (round(taken, 4), items[name]) for name, taken in seconds.items()}
