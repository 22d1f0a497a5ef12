"""What a run is about, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from featurestore.encoders.base import Encoder
from featurestore.pipeline.kept_listings import KeptListing
from featurestore.pipeline.listed import Listed
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.profile import Clock
from featurestore.sources.reading import Reader
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder


@dataclass(frozen=True, eq=False)
class RunInput:
    """What a run is about: these items, these encoders, into this data set."""

    folder: DatasetFolder
    listed: Listed
    modality: Modality
    readers: Mapping[str, Reader]  # of each source
    resolved: tuple[ResolvedEncoder, ...]  # one for each view
    options: EmbedOptions
    is_whole: bool  # all stored items are looked at: only then may a view be replaced
    load: Callable[[Sequence[EncoderSpec]], list[Encoder]]  # called only where there is work
    clock: Clock = field(default_factory=Clock)
    failed: Mapping[str, str] = field(default_factory=dict)  # ids of rows without content → why
    unchanged: Sequence[Sequence[KeptListing]] = ()  # sources that need not be listed, by view
    labels: tuple[str, ...] = ()  # columns: a tap keeps items with a value in one; none: all
    say: Callable[[str], None] = lambda _: None
