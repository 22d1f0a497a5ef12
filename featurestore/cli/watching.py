"""What is said while a command computes: an estimate, a bar or lines, a log; and when it stops."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featurestore.cli.printing import say
from featurestore.terms.words import in_time

if TYPE_CHECKING:
    from featurestore.pipeline.report import Progress

EVERY_S = 15.0  # a line, where nobody sees a bar
REDRAW_S = 0.1
WORTH_SAYING_S = 5.0  # of work: less needs no estimate
_KEPT = "kept: "  # begins what was done by an earlier run

F = TypeVar("F", bound=Callable[..., Any])


class Watch:
    """Shows how far the work has come, on stderr: a bar for people, else a line every 15 s.

    Parameters
    ----------
    minutes : float, optional
        After which the work is to stop; for the command to hand on.
    quiet : bool
        Show nothing on the screen.
    log : path, optional
        File to which each line is added, with the time.
    """

    def __init__(
        self, minutes: float | None = None, quiet: bool = False, log: str | Path | None = None
    ) -> None:
        self.minutes = minutes
        self.is_shown = not quiet
        self.has_bar = not quiet and sys.stderr.isatty()
        self._log = None if log is None else Path(log)
        self._counts: dict[str, _Count] = {}
        self._live: Any = None
        self._under: Any = None  # what stands below the bars
        self._drawn = 0.0
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    @property
    def within(self) -> float:
        """The minutes, of a command that has some by default."""
        assert self.minutes is not None, "the option has a default"
        return self.minutes

    def __enter__(self) -> Watch:
        if not self.has_bar:
            threading.Thread(target=self._tell_again_and_again, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Take the bars away, before results are printed."""
        self._is_over.set()
        if self._live is not None:
            self._live.stop()
            self._live = None
        self.has_bar = False

    def fits(self, n_done: int, n_fits: int, what: str) -> None:
        """Hear of fits, as ``progress`` of `heads.compare` does."""
        count = self._counts.get("fits")
        # Work begins, with a time of its own; or the first fit says how far it is.
        if count is None or (n_done == 0 and (count.n_done, count.n) != (0, n_fits)):
            count = self._counts["fits"] = _Count("fits", what)
        if n_done and not what.startswith(_KEPT):
            count.n_timed += max(0, n_done - count.n_done)
        count.n_done, count.n, count.what = n_done, n_fits, what.removeprefix(_KEPT)
        left = count.seconds_left()
        if not count.is_estimated and left is not None and count.n_timed * 25 >= n_fits:
            count.is_estimated = True
            total = left + time.monotonic() - count.began
            if total >= WORTH_SAYING_S:
                stops = self.minutes is not None and total > 60 * self.minutes
                at_most = f", of which {self.minutes:g} min at most" if stops else ""
                self.say(f"about {in_time(total)}{at_most}: {count.plan}")
        self._draw()

    def steps(self, n_done: int, n: int, what: str) -> None:
        """Hear of other work, as ``progress`` of `heads.find_issues` does."""
        count = self._counts.setdefault(what, _Count(what))
        count.n_timed, count.n_done, count.n = n_done, n_done, n
        self._draw(is_last=n_done == n)

    def items(self, now: Progress) -> None:
        """Hear of items, as ``progress`` of `Store.embed` does."""
        count = self._counts.setdefault(now.encoder, _Count("items"))
        failed = f", {now.n_failed} failed" if now.n_failed else ""
        count.n_timed += max(0, now.n_done - count.n_done)
        count.n_done, count.n = now.n_done, now.n_total
        count.what = f"{now.encoder}, limit: {now.limit}{failed}"
        self._draw(is_last=now.n_done == now.n_total)

    @property
    def hears(self) -> dict[str, Any]:
        """What `Store.embed` calls."""
        return {"progress": self.items, "say": self.say}

    @contextmanager
    def bar(self) -> Iterator[Callable[[Progress], None]]:
        """Give what hears of items."""
        yield self.items

    def say(self, line: str) -> None:
        """Write a line for people, and to the log."""
        if self.is_shown:
            if self._live is not None:
                self._live.console.print(line, markup=False, highlight=False)
            else:
                say(line)
        self.note(line)

    def note(self, line: str) -> None:
        """Write a line to the log alone."""
        if self._log is None:
            return
        with self._lock, self._log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {line}\n")

    def show(self, table: Any) -> None:
        """Show a table of rich below the bars until the next one, or the end."""
        if self.has_bar:
            self._under = table
            self._draw(is_last=True)

    def _tell_again_and_again(self) -> None:
        n_waits = 0
        while not self._is_over.wait(EVERY_S):
            n_waits += 1
            if not self._counts:
                self.say(f"reading and loading, since {in_time(n_waits * EVERY_S)}")
            for count in list(self._counts.values()):
                if count.n_done < count.n and (count.n_done or count.what != count.plan):
                    self.say(count.line())

    def _draw(self, *, is_last: bool = False) -> None:
        if not self.has_bar or (time.monotonic() - self._drawn < REDRAW_S and not is_last):
            return  # drawing costs more than some encoders do
        self._drawn = time.monotonic()
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 1))
        for count in list(self._counts.values()):
            grid.add_row(
                ProgressBar(total=max(1, count.n), completed=count.n_done, width=30), count.line()
            )
        shown = grid if self._under is None else Group(self._under, grid)
        if self._live is None:
            console = Console(stderr=True)
            self._live = Live(shown, console=console, transient=True, redirect_stdout=False)
            self._live.start()
        self._live.update(shown, refresh=is_last)


class _Count:
    """How many of something are done."""

    def __init__(self, unit: str, plan: str = "") -> None:
        self.unit = unit
        self.plan = plan  # what is to be done
        self.n_done = self.n = self.n_timed = 0
        self.what = ""
        self.is_estimated = False
        self.began = time.monotonic()

    def seconds_left(self) -> float | None:
        """Return about how long the rest takes; None before anything was timed."""
        if self.n_timed == 0:
            return None
        return (time.monotonic() - self.began) / self.n_timed * (self.n - self.n_done)

    def line(self) -> str:
        """Say how far it is."""
        left = self.seconds_left()
        knows = self.what.endswith(" left")  # of fits that take longer than the others
        is_over = left is None or self.n_done >= self.n or knows
        rest = "" if is_over or left is None else f", about {in_time(left)} left"
        rate = self.n_timed / max(1e-9, time.monotonic() - self.began)
        speed = f" ({rate:,.0f} a second)" if self.unit == "items" else ""
        what = f": {self.what}" if self.what else ""
        return f"{self.n_done:,} of {self.n:,} {self.unit}{speed}{rest}{what}"


def watched(*, stops: bool = True, within: float | None = None) -> Callable[[F], F]:
    """Give a command the options of work, and ``watch``, a `Watch` made of them.

    It ``stops`` where it is after ``--minutes``, if they are given, or leaves out what does not
    fit ``within`` so many by default.
    """

    def give(command: F) -> F:
        @wraps(command)
        def run(
            *args: Any, quiet: bool, log: str | None, minutes: float | None = None, **kwargs: Any
        ) -> Any:
            from heads.labels.pace import Pace, pacing

            with Watch(minutes, quiet, log) as watch, pacing(Pace(say=watch.say)):
                watch.note(f"begin: {click.get_current_context().info_name}")
                done = command(*args, watch=watch, **kwargs)
                watch.note("end")
                return done

        options = [
            click.option("--quiet", is_flag=True, help="Show no progress."),
            click.option(
                "--log", metavar="FILE", help="Also write progress to a file, with the time."
            ),
        ]
        if stops:
            told = "Stop after so long; what was done is kept."
            if within is not None:
                told = "Time that may be used; what does not fit is left out and named."
            options.append(
                click.option(
                    "--minutes",
                    type=click.FloatRange(min=0, min_open=True),
                    metavar="M",
                    default=within,
                    show_default=within is not None,
                    help=told,
                )
            )
        for option in options:
            run = option(run)
        return run  # type: ignore[return-value]

    return give


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """Show items that are embedded."""
    with Watch() as watch:
        yield watch.items
