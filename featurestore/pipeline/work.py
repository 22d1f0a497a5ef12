"""What a run works with: encoders and views, opened when there is something to do for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from featurestore.encoders.base import Encoder
from featurestore.encoders.canary import Canary, canary_vectors, check_canary
from featurestore.errors import BadName, EncoderDrift
from featurestore.pipeline.contents import Known
from featurestore.pipeline.decode_ahead import can_travel
from featurestore.pipeline.embed_items import embed_items
from featurestore.pipeline.lane import Lane, make_lanes
from featurestore.pipeline.options import AUTO, PROCESSES, THREADS
from featurestore.pipeline.plan import EmbedPlan, Tally
from featurestore.pipeline.prepare import any_is_remote
from featurestore.pipeline.report import Progress
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.sink import Sink, TableSink
from featurestore.pipeline.tap_room import announce_taps
from featurestore.pipeline.todo import Todo
from featurestore.pipeline.view_writer import ViewWriter
from featurestore.pipeline.writer import Writer
from featurestore.terms.specs import Modality

_MANY_ITEMS, _MANY_WORKERS = 2000, 4  # from here on processes that decode are worth their start


@dataclass(eq=False)
class Work:
    """The encoders and views of a run, by the number of the view."""

    given: RunInput
    infos: Mapping[str, Mapping[str, Any]]  # encoder.json of the views that there are
    encoders: dict[int, Encoder] = field(default_factory=dict)
    views: dict[int, ViewWriter] = field(default_factory=dict)
    new_canaries: dict[int, Canary] = field(default_factory=dict)  # of views that did not exist
    lanes: list[Lane] = field(default_factory=list)
    n_done: dict[int, int] = field(default_factory=dict)
    sink: Sink | None = None  # where rows go; None: into the tables at once

    def load(self, due: Sequence[int]) -> None:
        """Load the encoders of views that are not loaded yet."""
        absent = [i for i in due if i not in self.encoders]
        if absent:
            with self.given.clock.stage("load", len(absent)):
                loaded = self.given.load([self.given.resolved[i].spec for i in absent])
            self.encoders |= zip(absent, loaded, strict=True)

    @property
    def are_others(self) -> bool:
        """Whether an encoder is not the one that it was taken for before it was loaded."""
        return any(
            one.resolved.fingerprint != self.given.resolved[i].fingerprint
            for i, one in self.encoders.items()
        )

    def open(self, plan: EmbedPlan | None = None, share: float = 1.0) -> None:
        """Open the views of encoders that are loaded; say what taps take of a plan."""
        opened = {i: one for i, one in self.encoders.items() if i not in self.views}
        if plan is not None:
            announce_taps(self.given, plan, opened, share)
        self.views |= {i: self._open_view(i, encoder) for i, encoder in opened.items()}

    def embed(
        self, plan: EmbedPlan, tally: Tally, progress: Callable[[Progress], None] | None
    ) -> None:
        """Embed what a plan says is to do."""
        given = self.given
        share = given.listed.n_rows / max(1, tally.n_items)  # the rest is taken to be like it
        self.open(plan, share)
        if {*self.encoders} != {view for lane in self.lanes for view in lane.views}:
            self.lanes = make_lanes(self.encoders, given.modality, given.options)
        for i, view in self.views.items():
            view.begin(plan, i)
        most = given.options.max_failures
        sink = self.sink or TableSink(given.folder, plan.items_version)
        writer = Writer(sink, plan, self.views, most, given.clock, given.failed)

        n_total = [round(n * share) for n in tally.n_todo]
        labels = [one.spec.label for one in given.resolved]

        def count(i: int) -> None:
            self.n_done[i] = self.n_done.get(i, 0) + 1
            if progress is not None:
                n_failed, limit = self.views[i].n_failed, given.clock.limit
                progress(Progress(labels[i], self.n_done[i], n_total[i], n_failed, limit))

        try:
            self._stream(
                writer, writer.todos(), {i: view.known for i, view in self.views.items()}, count
            )
            if mistaken := writer.settle_copies():
                self._stream(writer, mistaken, {}, count)
        finally:  # an interrupt, an encoder that fails: what was encoded is kept
            writer.close()

    def _stream(
        self,
        writer: Writer,
        todos: Iterable[Todo],
        known: Mapping[int, Known],
        count: Callable[[int], None],
    ) -> None:
        """Embed items; the writer takes the outcomes."""
        from joblib import cpu_count

        given = self.given
        n_parts = given.options.part[1] if given.options.part else 1
        n_workers = given.options.n_workers or max(1, cpu_count() // n_parts)
        n_todo = int(writer.plan.todo.sum(axis=1).max())
        outcomes = embed_items(
            todos,
            self.lanes,
            modality=given.modality,
            known=[known.get(i, frozenset()) for i in range(len(given.resolved))],
            readers=given.readers,
            n_workers=n_workers,
            clock=given.clock,
            decode_in=_decode_in(given, self.lanes, n_todo, n_workers),
        )
        with closing(outcomes):
            for outcome in outcomes:
                writer.take(outcome)
                count(outcome.view)

    def _open_view(self, i: int, encoder: Encoder) -> ViewWriter:
        """Make a view that is absent, or check the encoder of one that is there."""
        folder, options = self.given.folder, self.given.options
        resolved = self.given.resolved[i]
        is_tap = resolved.tap is not None
        table = folder.create_view(resolved.slug, resolved.dim, is_tap=is_tap)
        if info := self.infos.get(resolved.slug):
            try:
                check_canary(encoder, info["canary"])
            except EncoderDrift:
                if not (options.overwrite and self.given.is_whole):
                    raise
                # Old and new vectors must not stand side by side, however this run ends.
                with folder.replacing(resolved.slug):
                    table.clear()
                folder.write_encoder(resolved, canary_vectors(encoder), encoder.device)
        else:
            self.new_canaries[i] = canary_vectors(encoder)
            # Until it is whole, a new view does not take the place of the one it replaces.
            is_hidden = any(other["spec"] == str(resolved.spec) for other in self.infos.values())
            folder.write_encoder(
                resolved, self.new_canaries[i], encoder.device, is_hidden=is_hidden
            )
        if self.sink is not None:
            table = self.sink.view(resolved.slug)
        return ViewWriter(table, resolved, options.overwrite)


def _decode_in(given: RunInput, lanes: Sequence[Lane], n_todo: int, n_workers: int) -> str:
    """Choose threads or processes: threads cannot feed a GPU from many cores (`decode_ahead`)."""
    wanted = given.options.decode_in
    if given.modality is not Modality.IMAGE or wanted == THREADS:
        return THREADS
    is_many = n_todo >= _MANY_ITEMS and n_workers >= _MANY_WORKERS
    is_worth_it = is_many and not any_is_remote(given.readers)
    if wanted == AUTO and not (is_worth_it and all(lane.is_async for lane in lanes)):
        return THREADS
    preparers = [lane.encoder.preparer for lane in lanes]
    if None not in preparers and can_travel(given.readers, preparers):
        return PROCESSES
    if wanted == AUTO:
        return THREADS
    raise BadName(
        "--decode-in processes: the transform of these encoders cannot be handed to another "
        "process; leave it out"
    )
