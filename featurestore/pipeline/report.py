"""What a run reports: its progress, and at the end what it did to each view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.encoders.crops import CLIPPED, ON_TURNED, TINY, TINY_PX
from featurestore.encoders.images import METADATA_UNREAD, RANGE_ASSUMED
from featurestore.pipeline.lane import Lane
from featurestore.pipeline.plan import Tally
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.todo import CUT, UNKNOWN
from featurestore.pipeline.view_writer import ViewWriter
from featurestore.sources.bad_rows import line_note

_WORTH_SAYING = 1.1
COUNTED = {
    "n_cut": CUT,
    "n_metadata_unread": METADATA_UNREAD,
    "n_range_assumed": RANGE_ASSUMED,
    "n_unknown": UNKNOWN,
    "n_clipped": CLIPPED,
    "n_tiny": TINY,
    "n_on_turned": ON_TURNED,
}  # field of a report: the remark that it counts


@dataclass(frozen=True)
class Progress:
    """How far a run is with one view."""

    encoder: str
    n_done: int
    n_total: int
    n_failed: int
    limit: str  # the stage that sets the pace


@dataclass(frozen=True)
class EmbedReport:
    """What a run did to one view."""

    dataset: str
    encoder: str
    n_items: int
    n_encoded: int  # went through the encoder
    n_copied: int  # equal content: took another item's vector
    n_unchanged: int
    n_updated: int  # labels or metadata changed, vector kept
    n_failed: int  # in this run
    n_known_failures: int  # failed before, unchanged, not tried again
    seconds: float
    n_cut: int = 0  # texts longer than the encoder reads
    n_metadata_unread: int = 0  # pictures embedded whose pixels are whole and metadata damaged
    n_range_assumed: int = 0  # pictures of more than 8 bits embedded that declare no range
    n_unknown: int = 0  # texts embedded of which the encoder knows no token
    n_clipped: int = 0  # boxes embedded that reach over the edge of their picture
    n_tiny: int = 0  # boxes embedded of few pixels
    n_on_turned: int = 0  # boxes embedded of pictures that EXIF turns; nothing says how boxes lie
    batch_size: int | None = None
    batch_unit: str | None = None  # items, or tokens with padding
    device: str | None = None
    limit: str | None = None
    failures: tuple[str, ...] = ()  # the first few, in words
    stages: Mapping[str, tuple[float, int]] = field(default_factory=dict)  # seconds, items
    gains: Mapping[str, float] = field(default_factory=dict)  # option → times as fast; on GPUs

    @property
    def items_per_s(self) -> float:
        """Items embedded per second; loading the encoder is included, listing is not."""
        return (self.n_encoded + self.n_copied) / max(self.seconds, 1e-9)

    def describe(self) -> str:
        """Say in one line, and one for each of the first failures, what the run did."""
        parts = [f"{self.n_encoded:,} embedded"]
        counts = {
            "of equal content": self.n_copied,
            "unchanged": self.n_unchanged,
            "with new labels or metadata": self.n_updated,
            "failed": self.n_failed,
            "failed before (--retry-failed tries them again)": self.n_known_failures,
            "texts cut to what the encoder reads": self.n_cut,
            "with metadata that cannot be read (pixels whole)": self.n_metadata_unread,
        }
        parts += [f"{count:,} {what}" for what, count in counts.items() if count]
        speed = f", {self.items_per_s:,.0f} items/s" if self.n_encoded else ""
        line = f"{self.dataset}@{self.encoder}: {', '.join(parts)} ({self.seconds:.1f} s{speed})"
        failures = [f"  failed: {one}" for one in self.failures]
        if note := line_note(self.failures):
            failures.append(f"  {note}")
        if self.n_failed > len(self.failures):
            failures.append(f"  … all of them: featurestore info {self.dataset}")
        return "\n".join([line, *failures, *self._notes(), *self._hints()])

    def _notes(self) -> list[str]:
        """Say what the user may want to change of some items."""
        notes = []
        if self.n_range_assumed:
            notes.append(
                f"  {self.n_range_assumed:,} pictures of 16 or 32 bits declare no range: 0 to "
                "65,535 was taken; `tiffset -s MaxSampleValue 4095 FILE` declares another, "
                "`gdal_translate -ot Byte -scale 0 4095 FILE NEW` scales by it"
            )
        if self.n_unknown:
            notes.append(
                f"  {self.n_unknown:,} of {self.n_encoded:,} texts have no token that "
                f"{self.encoder} knows: their vectors are all alike; an encoder of their language "
                "tells them apart, such as -e st:paraphrase-multilingual-MiniLM-L12-v2"
            )
        return [*notes, *self._notes_on_boxes()]

    def _notes_on_boxes(self) -> list[str]:
        notes = []
        if self.n_clipped:
            notes.append(
                f"  boxes that reach over the edge of their picture: {self.n_clipped:,}; the part "
                "inside was taken. Where there are many, the boxes may be of other pictures"
            )
        if self.n_tiny:
            notes.append(
                f"  boxes under {TINY_PX} pixels wide or high, which show little: "
                f'{self.n_tiny:,}; where boxes are in pixels, --where "box_w >= {TINY_PX} and '
                f'box_h >= {TINY_PX}" leaves them out'
            )
        if self.n_on_turned:
            notes.append(
                f"  boxes of pictures that EXIF turns: {self.n_on_turned:,}; they were taken on "
                "the turned picture, as people see it. Where they were drawn on the pixels as "
                "stored, save the pictures without EXIF and embed again"
            )
        return notes

    def _hints(self) -> list[str]:
        """Say what the user's choice would gain where it would change the pace."""
        option = {"decode": "decode=fast", "encode": "precision=bf16"}.get(self.limit or "")
        gain = self.gains.get(option or "", 1.0)
        if gain < _WORTH_SAYING:
            return []
        return [
            f"  the limit is to {self.limit}, which #{option} does {gain:.1f} times as fast "
            "(other vectors: a view of its own)"
        ]


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run did; views that had nothing to do have no writer, no lane and no gains."""

    tally: Tally
    seconds: float
    writers: Mapping[int, ViewWriter] = field(default_factory=dict)  # by the view's number
    lanes: Mapping[int, Lane] = field(default_factory=dict)
    gains: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def reports_of(given: RunInput, result: RunResult) -> list[EmbedReport]:
    """Return what a run did to each view."""
    return [_report_of(given, result, number) for number in range(len(given.resolved))]


def _report_of(given: RunInput, result: RunResult, number: int) -> EmbedReport:
    tally, view, lane = result.tally, result.writers.get(number), result.lanes.get(number)
    n_known_failures = tally.n_known_failures[number]
    n_same = view.n_same if view else 0
    has_encoded = view is not None and view.n_encoded > 0
    unit = None if lane is None else "tokens" if lane.counts_tokens else "items"
    return EmbedReport(
        dataset=given.folder.name,
        encoder=str(given.resolved[number].spec),
        n_items=tally.n_items,
        n_encoded=view.n_encoded if view else 0,
        n_copied=view.n_copied if view else 0,
        n_unchanged=tally.n_wanted[number] - tally.n_todo[number] - n_known_failures + n_same,
        n_updated=tally.n_updated,
        n_failed=view.n_failed if view else 0,
        n_known_failures=n_known_failures,
        seconds=round(result.seconds, 3),
        **{name: view.remarks[remark] if view else 0 for name, remark in COUNTED.items()},
        batch_size=lane.batch_size.size if lane else None,
        batch_unit=unit,
        device=lane.encoder.device if lane else None,
        limit=given.clock.limit if has_encoded else None,
        failures=tuple(view.first_failures) if view else (),
        stages={name: (round(s, 4), n) for name, s, n in given.clock.rows()},
        gains=result.gains.get(number, {}),
    )
