"""Heads on inputs, evaluated; results are kept, so that none is computed twice."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import StoreCorrupt, TimeIsUp
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import read_sealed, write_sealed
from featurestore.storage.remote import StorePath
from heads.catalogue.entry import Build, HeadEntry
from heads.catalogue.retraining import TAP
from heads.estimators.finetune import CUT_SHORT
from heads.experiments.inputs import Cell, Joint, Material
from heads.experiments.price import price_of
from heads.labels.pace import Pace, Work, pace, pacing
from heads.labels.plan import Plan
from heads.labels.views import AnyDataset, folder_of
from heads.measures.comparison import ComparedHead
from heads.measures.evaluate import Evaluation, Exam
from heads.measures.fits import Joined, Tally
from heads.saved.provenance import library_versions

T = TypeVar("T")
_log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]  # fits done, fits in all, what is fitted

HELD_BYTES = 2**30  # of vectors that are compared side by side
KEPT = "kept: "  # begins what is said of a fit that was done before
PART = ".part.json"  # ends the name of a file of a cell that is not whole
CACHE_FORMAT = 11  # a change to how heads learn or are scored makes it one more


def run_folder(dataset: AnyDataset) -> DatasetFolder:
    """Return the folder that keeps a data set's runs."""
    return DatasetFolder(folder_of(dataset))


def cell_cache(dataset: AnyDataset) -> Path:
    """Return the folder of the cells that were run before; it may be deleted."""
    return run_folder(dataset).local / "cache" / "heads"


@dataclass(frozen=True, eq=False)
class _Begun:
    """A cell that is to be run, from where an earlier run was stopped."""

    cell: Cell
    tally: Tally
    decides: Mapping[str, Any]  # all that decides its numbers
    file: Path | None  # that keeps them


@dataclass(frozen=True, eq=False)
class _Bench:
    """Cells on one material, with what they read."""

    cells: Mapping[int, _Begun]  # by their number in the table
    X: Any  # (n, dim)
    more_seconds: float  # that a fit would add

    @property
    def begun(self) -> list[_Begun]:
        return list(self.cells.values())

    @property
    def n_bytes(self) -> int:
        return int(getattr(self.X, "data", self.X).nbytes)

    def builds(self) -> list[Build]:
        """Return what builds each head from a seed."""
        return [one.cell[0].build(one.cell[2]) for one in self.begun]


@dataclass(eq=False)
class Runner:
    """Runs cells, counts the fits, and stops when the time is up."""

    seed: int
    cache_in: Path | None  # folder of earlier results; None: nothing is kept
    progress: Progress | None = None
    intervals_of: tuple[str, ...] = ()  # metrics without a closed form that need an interval
    minutes: float | None = None  # to run at most
    n_fits: int = 0  # in all
    n_done: int = 0
    on_repeat: Callable[[list[ComparedHead]], None] | None = None  # hears each repeat of folds
    left_out: list[str] = field(default_factory=list)  # cells for which there was no time
    priced: set[str] = field(default_factory=set)  # cells whose price was said before

    def __post_init__(self) -> None:
        self.until = math.inf if self.minutes is None else time.monotonic() + 60 * self.minutes

    def begin(self, n_fits: int, what: str) -> None:
        """Say what is to be done, before the first fit."""
        self.n_fits = n_fits
        self.count(what, 0)

    def count(self, what: str, n: int = 1) -> None:
        """Note that so many fits are done, and say so.

        Raises
        ------
        TimeIsUp
            If there is more to do, and no time.
        """
        self.n_done += n
        if self.progress is not None:
            self.progress(self.n_done, self.n_fits, what)
        is_kept = what.startswith(KEPT)  # to read it took no time
        if n and not is_kept and self.n_done < self.n_fits and time.monotonic() > self.until:
            raise self._time_is_up()

    def _time_is_up(self) -> TimeIsUp:
        return TimeIsUp(
            f"{self.minutes:g} minutes were not enough: {self.n_done} of {self.n_fits} fits "
            "were done"
            + ("" if self.cache_in is None else "; the same command goes on from what was kept")
        )

    @property
    def pace(self) -> Pace:
        """How fits say how far they are."""
        return Pace(self._tell, pace().say, self.until, may_shorten=False)

    def _tell(self, how_far: str) -> None:
        if self.progress is not None:
            self.progress(self.n_done, self.n_fits, how_far)

    def cell(self, material: Material, head: str, entry: HeadEntry, plan: Plan) -> ComparedHead:
        """Evaluate one head on one material, or read what was found before."""
        (found,) = self.cells([(material, head, entry)], plan)
        if found.report.n_parts < len(plan.parts):
            raise TimeIsUp(f"{head} on {material.encoder} went through some of the folds alone")
        return found

    def cells(self, cells: Sequence[Cell], plan: Plan) -> list[ComparedHead]:
        """Evaluate heads on materials, or read what was found before; in the order given.

        Where the time is up, all have as many repeats of the folds as were done for every one,
        and those without any are ``left_out``.

        Raises
        ------
        TimeIsUp
            If nothing is whole but baselines.
        """
        with pacing(self.pace):
            return self._cells(cells, plan)

    def _cells(self, cells: Sequence[Cell], plan: Plan) -> list[ComparedHead]:
        found, begun = self._begun(cells, plan)
        joints = self._joints(cells, begun, plan)
        for number, cell in enumerate(cells):
            n = len(plan.parts) if number in found else len(begun[number].tally.scores)
            if n:
                self.count(f"{KEPT}{_name(cell)}", n)
        members = {one for numbers, _ in joints.values() for one in numbers}
        todo: dict[tuple[int, int], dict[int, _Begun]] = {}
        for number, one in begun.items():
            if number not in joints:
                key = id(one.cell[0]), len(one.tally.scores)
                todo.setdefault(key, {})[number] = one
        # Members of one head run in one go, so they come first; what takes minutes comes last.
        in_order = sorted(todo.values(), key=lambda of: (_retrains(of), members.isdisjoint(of)))
        n_of_members = sum(not members.isdisjoint(numbers) for numbers in in_order)
        together: list[_Bench] = []
        stopped: TimeIsUp | None = None
        for n_read, of_one in enumerate(in_order, start=1):
            together.append(_Bench(of_one, *next(iter(of_one.values())).cell[0].read()))
            is_full = sum(one.n_bytes for one in together) > HELD_BYTES
            is_full |= n_read < len(todo) and _retrains(in_order[n_read])
            if n_read < len(todo) and (n_read < n_of_members or not is_full):
                continue
            try:
                with pacing(self._priced(together, plan)):
                    found |= self._run(together, plan, found, {n: begun[n] for n in joints}, joints)
            except TimeIsUp as error:
                stopped = error if self.minutes is None else self._time_is_up()
                break
            together, joints = [], {}
        self.left_out += [_name(cell) for n, cell in enumerate(cells) if n not in found]
        if stopped and all(cells[number][2].is_baseline for number in found):
            raise stopped
        return paired([found[number] for number in sorted(found)])

    def _priced(self, benches: Sequence[_Bench], plan: Plan) -> Pace:
        """Say what fits take that retrain a network; return a pace that counts their steps."""
        n_steps = 0
        for bench, one in ((of, one) for of in benches for one in of.begun):
            if one.cell[2].reads != TAP:
                continue
            head = one.cell[0].build(one.cell[2])(self.seed)
            n_rows = [len(train) for train, _ in plan.parts[len(one.tally.scores) :]]
            n_steps += sum(head.n_steps(n) for n in n_rows)
            if (name := _name(one.cell)) not in self.priced:
                price_of(name, head, bench.X, plan.target, n_rows).say(self.until)
        return replace(pace(), work=Work(n_steps)) if n_steps else pace()

    def _begun(
        self, cells: Sequence[Cell], plan: Plan
    ) -> tuple[dict[int, ComparedHead], dict[int, _Begun]]:
        """Return the cells that are kept, and the others as far as they have come, by number."""
        found: dict[int, ComparedHead] = {}
        begun: dict[int, _Begun] = {}
        for number, cell in enumerate(cells):
            decides, file = self._place(cell, plan)
            kept = None if file is None else _read(file, decides, plan)
            if kept is not None:
                found[number] = kept
            else:
                begun[number] = _Begun(cell, _read_begun(file, decides, plan), decides, file)
        return found, begun

    def _joints(
        self, cells: Sequence[Cell], begun: Mapping[int, _Begun], plan: Plan
    ) -> dict[int, Joint]:
        """Return the heads that are made of the fits of others, which all begin where they do.

        One whose members are kept from before, or are ahead of it, is fitted by itself.
        """
        joints: dict[int, Joint] = {}
        for number, one in begun.items():
            joint = one.cell[0].joint(one.cell[2], cells, self.seed)
            if joint is None or not begun.keys() >= set(joint[0]):
                continue
            together = [one.tally, *(begun[member].tally for member in joint[0])]
            n_done = min(len(tally.scores) for tally in together)
            if max(len(tally.scores) for tally in together) > n_done + 1:
                continue
            for tally in together:  # a run was stopped within a part
                tally.cut(n_done, plan.parts)
            joints[number] = joint
        return joints

    def _run(
        self,
        benches: Sequence[_Bench],
        plan: Plan,
        known: Mapping[int, ComparedHead],
        made: Mapping[int, _Begun],
        joints: Mapping[int, Joint],
    ) -> dict[int, ComparedHead]:
        """Evaluate heads side by side; those on one material share what is the same for all.

        Those ``made`` by number are made of them, as ``joints`` says. ``on_repeat`` hears of what
        is ``known`` as well, as far as the new rows have come.
        """
        exam = Exam(
            plan.target,
            plan.parts,
            plan.estimand,
            plan.block,
            self.intervals_of,
            self.seed,
            plan.reviewed,
            0 if plan.folds is None or plan.draws else plan.folds.n_folds,
        )
        inputs = [(one.X, [partial(b, self.seed) for b in one.builds()]) for one in benches]
        place = {
            cell: (of, head)
            for of, bench in enumerate(benches)
            for head, cell in enumerate(bench.cells)
        }
        joined = [
            Joined([place[one] for one in members], join) for members, join in joints.values()
        ]
        benches = [*benches, _Bench(made, None, 0.0)] if joined else benches
        hear = self.on_repeat
        try:
            done = exam.take(
                inputs,
                lambda n, head: self.count(_name(benches[n].begun[head].cell)),
                tallies=[[one.tally for one in bench.begun] for bench in benches],
                on_repeat=None
                if hear is None
                else lambda now: hear(paired([*known.values(), *_rows(benches, now).values()])),
                joined=joined,
            )
            found = _rows(benches, done)
        except BaseException:
            self._keep_begun(benches)
            raise
        whole = {n: one for n, one in found.items() if one.report.n_parts == len(plan.parts)}
        for bench in benches:
            for number, begun in bench.cells.items():
                if number in whole:
                    _keep(begun, "cell", whole[number].to_json(repeats=True))
                    begun.cell[0].forget()
        if len(whole) < sum(len(bench.cells) for bench in benches):
            self._keep_begun([bench for bench in benches if not whole.keys() & bench.cells.keys()])
        return found

    def _keep_begun(self, benches: Sequence[_Bench]) -> None:
        """Keep what has gone through some parts, for the next run."""
        for begun in (one for bench in benches for one in bench.begun if one.tally.scores):
            _keep(begun, "tally", begun.tally.to_json())

    def is_kept(self, cell: Cell, plan: Plan) -> bool:
        """Whether a cell was run before."""
        file = self._place(cell, plan)[1]
        return file is not None and file.exists()

    def _place(self, cell: Cell, plan: Plan) -> tuple[dict[str, Any], Path | None]:
        """Return all that decides the numbers of a cell, and a file whose name is its hash."""
        material, head, entry = cell
        decides = {
            "format": CACHE_FORMAT,
            "encoder": material.encoder,
            "identity": dict(material.identity),
            "head": head,
            "search_space": entry.search_space,
            "plan": plan.digest,
            "seed": self.seed,
            "intervals_of": sorted(self.intervals_of),
            "versions": library_versions(),
        }
        # Not for estimators of users: what decides their results is not known in full.
        if self.cache_in is None or not entry.is_known:
            return decides, None
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return decides, self.cache_in / f"{key[:32]}.json"


def keep_run(dataset: AnyDataset, kind: str, card: Mapping[str, Any]) -> StorePath | None:
    """Write a run card; where the store takes none, say so, as the answer is still right."""
    try:
        return run_folder(dataset).write_run(kind, card)
    except OSError as error:
        said = error.strerror or error
        _log.warning(
            "this run is not kept, so `featurestore store show` does not know it: %s", said
        )
        return None


def _retrains(cells: Mapping[int, _Begun]) -> bool:
    return any(one.cell[2].reads == TAP for one in cells.values())


def _name(cell: Cell) -> str:
    return f"{cell[1]} on {cell[0].encoder}"


def _rows(
    benches: Sequence[_Bench], done: Sequence[Sequence[Evaluation | None]]
) -> dict[int, ComparedHead]:
    """Return what is known of each cell, by its number in the table."""
    return {
        number: ComparedHead(
            begun.cell[0].encoder,
            begun.cell[1],
            one.report,
            one.seconds + bench.more_seconds,
            one.chosen,
        )
        for bench, evaluations in zip(benches, done, strict=True)
        for (number, begun), one in zip(bench.cells.items(), evaluations, strict=True)
        if one is not None
    }


def paired(rows: list[ComparedHead]) -> list[ComparedHead]:
    """Cut rows to the repeats of the folds that all have: only equal ones can be paired."""
    shortest = min((row.report for row in rows), key=lambda report: report.n_parts)
    n_parts, repeats = shortest.n_parts, shortest.repeats
    if repeats is None or all(row.report.n_parts == n_parts for row in rows):
        return rows

    def cut(values: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        return {metric: scores[:n_parts] for metric, scores in values.items()}

    return [
        replace(
            row,
            report=replace(
                row.report,
                scores=cut(row.report.scores),
                as_reviewed=cut(row.report.as_reviewed),
                estimand=shortest.estimand,
                repeats=None if row.report.repeats is None else row.report.repeats[: len(repeats)],
            ),
        )
        for row in rows
    ]


def _keep(begun: _Begun, what: str, value: Mapping[str, Any]) -> None:
    """Write a cell, or how far it has come."""
    is_short = any(str(one.get("retrained", "")).endswith(CUT_SHORT) for one in begun.tally.chosen)
    if begun.file is None or is_short:  # with more time it would be another
        return
    part = begun.file.with_suffix(PART)
    try:
        begun.file.parent.mkdir(parents=True, exist_ok=True)
        whole = what == "cell"
        write_sealed(begun.file if whole else part, {"decides": begun.decides, what: value})
        if whole:
            part.unlink(missing_ok=True)
    except OSError as error:  # a full disk, a read-only store: it is run again the next time
        _log.info("%s is not kept: %s", begun.file, error)


def _read(file: Path, decides: Mapping[str, Any], plan: Plan) -> ComparedHead | None:
    """Read a cell that an equal run has made."""

    def read(kept: Mapping[str, Any]) -> ComparedHead:
        truth = plan.target.values[plan.tested]
        return ComparedHead.from_json(kept["cell"], truth, plan.task, plan.estimand)

    return _readable(file, decides, read)


def _read_begun(file: Path | None, decides: Mapping[str, Any], plan: Plan) -> Tally:
    """Read how far an equal run has come with a cell."""
    if file is not None:
        found = _readable(
            file.with_suffix(PART),
            decides,
            lambda kept: Tally.from_json(kept["tally"], plan.target),
        )
        if found is not None:
            return found
    return Tally(plan.target)


def _readable(file: Path, decides: Mapping[str, Any], read: Callable[[Any], T]) -> T | None:
    """Return what a file keeps; None where there is none, or of something else."""
    if not file.exists():
        return None
    try:
        kept = read_sealed(file)
        return read(kept) if kept["decides"] == json.loads(json.dumps(decides)) else None
    except (StoreCorrupt, KeyError, TypeError, ValueError) as error:
        _log.info("%s is made anew: %s", file, error)
        return None
