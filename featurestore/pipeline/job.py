"""What one call of `Store.embed` is about, checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.encoders.base import LoadOptions
from featurestore.encoders.families import BUILTIN, family_of
from featurestore.encoders.loading import check_device_name, known_encoder, load_encoders
from featurestore.errors import BadName, EncoderChanged, ModalityMismatch
from featurestore.pipeline.listing_run import Intake, Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.profile import Clock
from featurestore.sources.listing import SourceOptions
from featurestore.sources.reading import Reader
from featurestore.storage.columns import drop_equal
from featurestore.storage.dataset_file import DatasetFile
from featurestore.storage.dataset_folder import DatasetFolder, find_spec
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder, parse_specs


@dataclass(eq=False)
class Job:
    """What one call of `Store.embed` is about; nothing is written yet."""

    folder: DatasetFolder
    earlier: DatasetFile | None
    intake: Intake
    read_intake: Callable[[DatasetFile | None], Intake]
    selects_all: bool
    resolved: list[ResolvedEncoder]
    loaded: dict[EncoderSpec, Any]
    how: EmbedOptions
    clock: Clock

    @classmethod
    def make(
        cls,
        folder: DatasetFolder,
        sources: Sequence[str | Path],
        encoders: Sequence[Any],
        options: SourceOptions | None,
        how: EmbedOptions | None,
        select: Selection | None,
    ) -> Job:
        """List the sources, resolve the encoders and check that they fit; nothing is written."""
        how, clock = how or EmbedOptions(), Clock()
        loaded = own_encoders(encoders)
        specs = [*parse_specs(one for one in encoders if isinstance(one, str)), *loaded]
        for spec in specs:
            family_of(spec)
        check_device_name(how.device)
        earlier = folder.read() if folder.exists else None
        read_intake = partial(
            Intake.read,
            folder,
            locations=sources,
            options=options or SourceOptions(),
            selection=select,
        )
        with clock.stage("list"):
            intake = read_intake(earlier)
        specs = specs or [EncoderSpec.parse(BUILTIN[intake.modality])]
        selects_all = select is None or select.is_all
        job = cls(folder, earlier, intake, read_intake, selects_all, [], loaded, how, clock)
        # For a new data set there is something to embed: then fail before it is made.
        known = {} if earlier is None else {spec: known_encoder(spec) for spec in specs}
        known |= {spec: encoder.resolved for spec, encoder in loaded.items()}
        networks = {spec.network for spec in specs if known.get(spec) is None}
        to_load = [spec for spec in specs if spec.network in networks and spec not in loaded]
        with clock.stage("load", len(to_load)):
            known |= {one.resolved.spec: one.resolved for one in job.load(to_load, keep=True)}
        for spec in specs:
            one = known[spec]
            assert one is not None, "remembered, or loaded just now"
            _check_modality(one, intake.modality, folder.name)
            _check_unchanged(folder, one, overwrite=job.may_replace)
            job.resolved.append(one)
        return job

    @property
    def is_whole(self) -> bool:
        """Whether this run looks at all items that the data set has."""
        return self.how.part is None and self.selects_all and self.intake.is_whole

    @property
    def may_replace(self) -> bool:
        """Whether vectors of other weights may take a view's place."""
        return self.how.overwrite and self.is_whole

    def load(self, specs: Sequence[EncoderSpec], *, keep: bool = False) -> list[Any]:
        """Load encoders, or hand out those that were loaded before (once: memory counts)."""
        how = LoadOptions(self.how.device, self.how.trust_remote_code, self.how.compile)
        absent = [spec for spec in specs if spec not in self.loaded]
        if absent:
            self.loaded |= dict(zip(absent, load_encoders(absent, how), strict=True))
        found = [self.loaded[spec] for spec in specs]
        for encoder in found:
            _check_unchanged(self.folder, encoder.resolved, overwrite=self.may_replace)
        if not keep:
            for spec in specs:
                self.loaded.pop(spec, None)
        return found

    @property
    def readers(self) -> dict[str, Callable[[str], bytes]]:
        """For each source, uri → bytes."""
        records = self.intake.sources.items()
        return {name: Reader(record.kind, record.root) for name, record in records}

    def write_description(self, say: Callable[[str], None]) -> None:
        """Make the data set, or add to what it knows; drop what is gone where asked."""
        folder = self.folder

        def described(now: DatasetFile | None) -> DatasetFile:
            if now != self.earlier:  # another process was here: what we read may not fit any more
                self.intake, self.earlier = self.read_intake(now), now
            if now is None:
                folder.check_new()
            folder.create_tables()
            return self.intake.described(now)

        with folder.locked("dataset"):
            folder.update(described)
        for note in self.intake.notes:
            say(note)
        gone = self.intake.gone
        # A folder or shard that could not be read stood for what is in it; now it can.
        stood_in = pc.is_in(gone, value_set=self.intake.stand_ins)
        dropped, gone = gone.filter(stood_in), gone.filter(pc.invert(stood_in))
        if len(gone) and self.how.prune:
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


def own_encoders(encoders: Sequence[Any]) -> dict[EncoderSpec, Any]:
    """Return a user's objects as encoders of ours, by name; specs are left out."""
    objects = [one for one in encoders if not isinstance(one, str)]
    if not objects:
        return {}
    from featurestore.encoders.custom import adopt

    found = {one.resolved.spec: one for one in map(adopt, objects)}
    if len(found) < len(objects):
        raise BadName("two encoders of one class are one name: run them one after the other")
    return found


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
