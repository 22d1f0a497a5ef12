"""What one call of `Store.embed` is about, checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from featurestore.encoders.base import Encoder, LoadOptions
from featurestore.encoders.families import BUILTIN, family_of
from featurestore.encoders.loading import check_device_name, known_encoder, load_encoders
from featurestore.encoders.named import encoder_named
from featurestore.encoders.prompts import prompt_note
from featurestore.encoders.trust import asked_for, either
from featurestore.errors import BadName, EncoderChanged, ModalityMismatch
from featurestore.pipeline.kept_listings import KeptListings
from featurestore.pipeline.listing_run import Intake, Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.report import EmbedReport, Progress
from featurestore.pipeline.run import run
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.understood import understood
from featurestore.sources.listing import SourceOptions
from featurestore.sources.reading import Reader
from featurestore.storage.columns import drop_equal
from featurestore.storage.dataset_file import DatasetFile, SourceRecord
from featurestore.storage.dataset_folder import DatasetFolder, find_spec
from featurestore.storage.kept_counts import WORTH_ROWS
from featurestore.storage.remote import StorePath
from featurestore.storage.store_marker import check_dataset_name, make_store
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder, parse_specs
from featurestore.terms.taps import TapShape


@dataclass(frozen=True)
class EmbedRequest:
    """What a call of `Store.embed` asks for."""

    sources: Sequence[str | Path] = ()  # none: those that the data set knows
    encoders: Sequence[object] = ()  # specs as the caller wrote them, or objects; none: built in
    source_options: SourceOptions = field(default_factory=SourceOptions)
    embed_options: EmbedOptions = field(default_factory=EmbedOptions)
    selection: Selection = field(default_factory=Selection)


def embed(
    store: StorePath,
    dataset: str,
    request: EmbedRequest,
    *,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[EmbedReport]:
    """Embed into a data set of a store; both are made where they are absent."""
    job = Job.make(store, dataset, request, lists_all=False)
    make_store(store)
    return job.run(progress, say)


@dataclass(eq=False)
class Job:
    """A request, checked against the sources, the encoders and the data set."""

    folder: DatasetFolder
    request: EmbedRequest
    earlier: DatasetFile | None  # what dataset.json said when the sources were listed
    intake: Intake
    clock: Clock
    resolved: list[ResolvedEncoder] = field(default_factory=list)  # one for each view
    loaded: dict[EncoderSpec, Encoder] = field(default_factory=dict)
    made_elsewhere: Mapping[EncoderSpec, str] = field(default_factory=dict)  # see `LoadOptions`

    @classmethod
    def make(
        cls,
        store: StorePath,
        dataset: str,
        request: EmbedRequest,
        made: Mapping[EncoderSpec, str] | None = None,
        *,
        lists_all: bool = True,
    ) -> Job:
        """List the sources, resolve the encoders and check that they fit; nothing is written.

        Parameters
        ----------
        made : mapping of EncoderSpec to str, optional
            The fingerprints of views elsewhere that the vectors are to be like.
        lists_all : bool
            Whether sources are listed that are as they were when each item had a vector.
        """
        folder, clock = DatasetFolder(store / "datasets" / check_dataset_name(dataset)), Clock()
        own = own_encoders(request.encoders)
        given = (one for one in request.encoders if isinstance(one, str))
        specs = [*parse_specs(encoder_named(one, _used_in(store)) for one in given), *own]
        for spec in specs:
            family_of(spec)
        check_device_name(request.embed_options.device)
        earlier = folder.read() if folder.exists else None
        kept = None if lists_all or earlier is None else _kept(folder, earlier, request, specs)
        with clock.stage("list"):
            intake = _read_intake(folder, earlier, request, kept)
        specs = specs or [EncoderSpec.parse(BUILTIN[intake.modality])]
        job = cls(folder, request, earlier, intake, clock, [], own, made or {})
        # For a new data set there is something to embed: then fail before it is made.
        made = job.made
        known = {} if earlier is None else {one: known_encoder(one, made.get(one)) for one in specs}
        known |= {spec: encoder.resolved for spec, encoder in own.items()}
        networks = {spec.network for spec in specs if known.get(spec) is None}
        to_load = [spec for spec in specs if spec.network in networks and spec not in own]
        with clock.stage("load", len(to_load)):
            loaded = zip(to_load, job.load(to_load, keep=True), strict=True)
            known |= {spec: one.resolved for spec, one in loaded}
        for spec in specs:
            one = known[spec]
            assert one is not None, "remembered, or loaded just now"
            _check_modality(one, intake.modality, folder.name)
            _check_unchanged(folder, one, overwrite=job.may_replace)
            job.resolved.append(one)
        if intake.unchanged and (kept is None or kept.slugs != [one.slug for one in job.resolved]):
            job.intake = _read_intake(folder, earlier, request)  # a spec means another view now
        return job

    def run(
        self, progress: Callable[[Progress], None] | None, say: Callable[[str], None]
    ) -> list[EmbedReport]:
        """Write the description of the data set, then embed what its views lack."""
        with self.begun(say) as given:
            since = self._versions()
            reports = run(given, progress)
            if since is not None:
                self._keep_listings(reports, since)
            return reports

    @contextmanager
    def begun(self, say: Callable[[str], None]) -> Iterator[RunInput]:
        """Write the description of the data set, and hold its views for a run.

        Of two processes that embed into one view, the second waits for the first.
        """
        before = {} if self.earlier is None else self.earlier.sources
        self.write_description(say)
        if _read_how(self.intake.sources) != _read_how(before):  # else it was said before
            self.say_understood(say)
        if not self.request.encoders:
            say(what_is_built_in(self.intake.modality))
        self.say_prompts(say)
        part = self.request.embed_options.part
        suffix = "" if part is None else f".{part[0]}-of-{part[1]}"

        def on_wait() -> None:
            say("another process embeds into this view: waiting for it")

        with ExitStack() as locks:
            for slug in sorted({one.slug for one in self.resolved}):  # one order: no deadlock
                locks.enter_context(self.folder.locked(slug + suffix, on_wait=on_wait))
            yield replace(self.run_input, say=say)

    def _versions(self) -> dict[str, int] | None:
        """Return the versions of all tables; None where nothing of the listing is to be kept."""
        intake, options = self.intake, self.request.embed_options
        is_all = self.request.selection.is_all and options.part is None
        is_worth_it = max(intake.stored.n_rows, intake.listed.n_rows) >= WORTH_ROWS
        if not (intake.stamped and is_all and is_worth_it) or len(intake.stored.gone):
            return None
        there = self.folder.encoders()
        tables = [self.folder.view(one.slug) for one in self.resolved if one.slug in there]
        versions = {one.path.name: one.version() for one in [self.folder.failures, *tables]}
        absent = {one.slug: -1 for one in self.resolved if one.slug not in there}
        return {"items": intake.stored.version, **versions, **absent}

    def _keep_listings(self, reports: Sequence[EmbedReport], since: Mapping[str, int]) -> None:
        """Keep what sources listed, for the views in which all their items have a vector."""
        intake = self.intake
        kept = KeptListings(self.folder, [one.slug for one in self.resolved])
        is_one = len(intake.stamped) == intake.n_sources == 1
        for resolved, report in zip(self.resolved, reports, strict=True):
            n_failures = report.n_known_failures
            if report.n_failed or resolved.tap is not None or (n_failures and not is_one):
                continue
            listings = (replace(one, n_known_failures=n_failures) for one in intake.stamped)
            kept.keep(listings, resolved.slug, since)

    def say_understood(self, say: Callable[[str], None]) -> None:
        """Say what the listed items were taken for."""
        intake = self.intake
        counted = intake.listed.counted([*intake.labels, "source", "group", "split"])
        for line in understood(counted, intake.modality, intake.labels, intake.sources):
            say(line)

    def say_prompts(self, say: Callable[[str], None]) -> None:
        """Say what a new view puts before texts, and which old view keeps what it had."""
        views = self.folder.encoders()
        for one in self.resolved:
            if note := prompt_note(one, is_new=one.slug not in views):
                say(note)

    @property
    def run_input(self) -> RunInput:
        """What a run is about, from the sources as they were last listed."""
        records = self.intake.sources.items()
        return RunInput(
            self.folder,
            self.intake.listed,
            self.intake.modality,
            {name: Reader(record.kind, record.root) for name, record in records},
            tuple(self.resolved),
            self.request.embed_options,
            self.is_whole,
            self.load,
            self.clock,
            self.intake.failed,
            self.intake.unchanged,
            self.kept_for,
        )

    @property
    def kept_for(self) -> tuple[str, ...]:
        """The label columns: a tap keeps items that have a value in one. None: all items."""
        if self.request.embed_options.all_items or all(one.tap is None for one in self.resolved):
            return ()
        before = () if self.earlier is None else self.earlier.labels
        names = tuple(dict.fromkeys([*before, *self.intake.labels]))
        counted = self.intake.listed.counted(names)
        has_any = any(name in counted and len(counted.values(name).drop_null()) for name in names)
        return names if has_any else ()

    @property
    def is_whole(self) -> bool:
        """Whether this run looks at all items that the data set has."""
        request = self.request
        is_part = request.embed_options.part is not None
        return not is_part and request.selection.is_all and self.intake.stored.is_whole

    @property
    def may_replace(self) -> bool:
        """Whether vectors of other weights may take a view's place."""
        return self.request.embed_options.overwrite and self.is_whole

    @property
    def made(self) -> Mapping[EncoderSpec, str]:
        """The fingerprints of the views there are: their specs mean what they meant then."""
        if self.may_replace or not self.folder.exists:
            return self.made_elsewhere
        views = self.folder.encoders().values()
        here = {EncoderSpec.parse(one["spec"]): one["fingerprint"] for one in views}
        return {**self.made_elsewhere, **here}

    def load(self, specs: Sequence[EncoderSpec], *, keep: bool = False) -> list[Encoder]:
        """Load encoders, or hand out those that were loaded before (once: memory counts)."""
        options = self.request.embed_options
        trust = either(options.trust, asked_for(*self.request.encoders))
        load_options = LoadOptions(options.device, trust, options.compile, self.made)
        absent = [spec for spec in specs if spec not in self.loaded]
        if absent:
            loaded = load_encoders(absent, load_options)
            self.loaded |= dict(zip(absent, loaded, strict=True))
            self.loaded |= {one.resolved.spec: one for one in loaded}  # of #tap=auto, its number
        encoders = [self.loaded[spec] for spec in specs]
        for encoder in encoders:
            _check_unchanged(self.folder, encoder.resolved, overwrite=self.may_replace)
        if not keep:
            self.loaded = {spec: one for spec, one in self.loaded.items() if one not in encoders}
        return encoders

    def write_description(self, say: Callable[[str], None]) -> None:
        """Make the data set, or add to what it knows; drop what is gone where asked."""
        folder = self.folder

        def described(now: DatasetFile | None) -> DatasetFile:
            if now != self.earlier:  # another process was here
                if not self._still_fits(now):
                    self.intake = _read_intake(folder, now, self.request)
                self.earlier = now
            if now is None:
                folder.check_new()
            folder.create_tables()
            return self.intake.described(now)

        with folder.locked("dataset"):
            folder.update(described)
        for note in self.intake.notes:
            say(note)
        # A folder or shard that could not be read stood for what is in it; now it can.
        dropped, gone = self.intake.stored.stand_ins, self.intake.stored.gone
        if len(gone) and self.request.embed_options.prune:
            dropped = pa.concat_arrays([dropped, gone])
            say(f"{len(gone):,} items are gone from their source: dropped")
        elif len(gone):
            say(
                f"{len(gone):,} items are gone from their source (first: "
                f"{gone[0]}): kept; --prune drops them"
            )
        if len(dropped):
            drop = drop_equal({"item_id": dropped}, ["item_id"])
            folder.items.merge(None, drop=drop, keys=["item_id"])
            folder.failures.merge(None, drop=drop, keys=["item_id"])

    def _still_fits(self, now: DatasetFile | None) -> bool:
        """Whether what was listed would be listed now: others only added sources of their own."""
        if now is None or self.earlier is None or not self.request.sources:
            return False
        own = self.intake.sources.keys() - self.earlier.sources.keys()
        known = {name: now.sources.get(name) for name in self.earlier.sources}
        is_added = known == self.earlier.sources and not own & now.sources.keys()
        is_alike = is_added and replace(now, sources=self.earlier.sources) == self.earlier
        return is_alike and self.intake.listed.is_apart(self.folder)


def _used_in(store: StorePath) -> Iterator[str]:
    """Return the encoders that made the views of a store."""
    for path in store.glob("datasets/*/dataset.json"):
        for info in DatasetFolder(path.parent).encoders().values():
            if TapShape.of(info["chosen"]) is None:  # a short name means the encoder itself
                yield info["spec"]


def _read_how(sources: Mapping[str, SourceRecord]) -> str:
    """Return where and how sources are read, as a text to compare."""
    told = {name: [one.root, one.locations, dict(one.options)] for name, one in sources.items()}
    return json.dumps(told, sort_keys=True)


def _read_intake(
    folder: DatasetFolder,
    earlier: DatasetFile | None,
    request: EmbedRequest,
    kept: KeptListings | None = None,
) -> Intake:
    options, selection = request.source_options, request.selection
    return Intake.read(folder, earlier, request.sources, options, selection, kept)


def _kept(
    folder: DatasetFolder,
    earlier: DatasetFile,
    request: EmbedRequest,
    specs: Sequence[EncoderSpec],
) -> KeptListings | None:
    """Return what is kept of sources for the views of some specs; None where all is looked at."""
    options, there = request.embed_options, folder.encoders()
    looks_again = options.overwrite or options.rehash or options.retry_failed or options.all_items
    if looks_again or options.part is not None or not request.selection.is_all:
        return None
    specs = specs or [EncoderSpec.parse(BUILTIN[earlier.modality])]
    slugs = [slug for spec in specs if (slug := find_spec(there, spec)) is not None]
    kept = KeptListings(folder, slugs)
    return kept if len(slugs) == len(specs) and kept.is_worth_it else None


def own_encoders(encoders: Sequence[object]) -> dict[EncoderSpec, Encoder]:
    """Return a user's objects as encoders of ours, by name; specs are left out."""
    objects = [one for one in encoders if not isinstance(one, str)]
    if not objects:
        return {}
    from featurestore.encoders.custom import adopt

    adopted: dict[EncoderSpec, Encoder] = {one.resolved.spec: one for one in map(adopt, objects)}
    if len(adopted) < len(objects):
        raise BadName("two encoders of one class are one name: run them one after the other")
    return adopted


def what_is_built_in(modality: Modality) -> str:
    """Say which encoder is used where none is named, and what a larger one would be."""
    larger = {
        Modality.IMAGE: "-e timm:vit_small_patch14_dinov2.lvd142m",
        Modality.TEXT: "-e st:all-MiniLM-L6-v2",
    }
    return (
        f"no encoder named: using {BUILTIN[modality]}, small and fast; a larger one, such as "
        f"{larger[modality]}, often tells more (featurestore encoders lists them)"
    )


def _check_modality(resolved: ResolvedEncoder, modality: Modality, dataset: str) -> None:
    if modality not in resolved.modalities:
        reads = " and ".join(sorted(resolved.modalities))
        hint = (
            "builtin:tiny-text, st:… or open_clip:…"
            if modality is Modality.TEXT
            else "builtin:tiny-image, timm:… or open_clip:…"
        )
        raise ModalityMismatch(
            f"{resolved.spec} reads {reads}s, but data set {dataset!r} holds {modality}s: "
            f"use {hint}"
        )


def _check_unchanged(folder: DatasetFolder, resolved: ResolvedEncoder, *, overwrite: bool) -> None:
    encoders = folder.encoders() if folder.exists else {}
    slug = find_spec(encoders, resolved.spec)
    if slug is None or overwrite:
        return
    stored = encoders[slug]
    if stored["fingerprint"] != resolved.fingerprint:
        changed = [
            key for key, value in resolved.chosen.items() if stored["chosen"].get(key) != value
        ]
        raise EncoderChanged(
            f"{resolved.spec} is another encoder now than the one that made its view of "
            f"{folder.name!r} (changed: {', '.join(changed)}): give the new one another name or "
            "folder for a view of its own, or embed again with --overwrite"
        )
