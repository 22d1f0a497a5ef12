"""WebDataset shards: tar files whose members of one name make a sample; never unpacked.

Listing walks the headers and reads the small members (.cls, .json, .txt); an image is later read
by its offset in the shard. ``0042.jpg``, ``0042.cls``, ``0042.json`` make the item ``shard/0042``.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from featurestore.errors import BadSource
from featurestore.sources.folder import IMAGE_ENDINGS
from featurestore.sources.listing import SPLITS, Listing, SourceOptions
from featurestore.sources.locations import Location
from featurestore.sources.metadata import SourceItems, as_listing, columns_of
from featurestore.sources.uris import member_uri
from featurestore.terms.specs import Modality

IMAGES = frozenset(ending[1:] for ending in IMAGE_ENDINGS)
_SMALL = frozenset({"txt", "json", "cls"})
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class TarShards:
    """One shard, a folder of them, or ``shard-{000..099}.tar``."""

    location: Location

    kind = "webdataset"

    @property
    def root(self) -> str:
        """The folder that holds the shards."""
        is_shard = self.location.suffix == ".tar"
        return self.location.parent.text if is_shard else self.location.text

    @property
    def name(self) -> str:
        """The name of the folder."""
        return Location(self.root).name

    def shards(self) -> list[Location]:
        """Return the shards, sorted.

        Raises
        ------
        BadSource
            If one is not there.
        """
        if self.location.suffix != ".tar":
            return [self.location.join(name) for name in _shard_names(self.location)]
        if _RANGE.search(self.root):
            raise BadSource(
                f"{self.location} has braces in its folder: name the folders one by one"
            )
        shards = [Location(text) for text in expand_braces(self.location.text)]
        absent = [shard for shard in shards if not shard.exists()]
        if absent:
            raise BadSource(f"{len(absent)} shards do not exist (first: {absent[0]})")
        return shards

    def listing(self, options: SourceOptions) -> Listing:
        """List the samples of all shards, shard by shard."""
        for flag in ("image", "columns"):
            if getattr(options, flag) is not None:
                raise BadSource(f"--{flag} is for tables, but {self.location} is tar shards")
        shards, links = self.shards(), []
        if self.location.suffix != ".tar" and not (self.location.is_url or options.follow_links):
            links = [one for one in shards if _leads_out(one, self.location)]
            shards = [one for one in shards if one not in links]
        if links and not shards:
            raise BadSource(
                f"all shards of {self.location} are behind links that lead out of it: "
                "--follow-links takes them"
            )
        damaged: list[tuple[Location, str]] = []
        samples = [sample for shard in shards for sample in _samples(shard, damaged)]
        stand_ins = [sample for sample in samples if sample.stands_in]
        readable = [sample for sample in samples if not sample.stands_in]
        has_images = options.text is None and (
            not readable or any(sample.uri is not None for sample in readable)
        )
        name = options.text or "txt"
        kept = [
            sample
            for sample in samples
            if sample.stands_in or (sample.uri is not None if has_images else name in sample.facts)
        ]
        if options.id is not None:
            for sample in stand_ins:
                sample.facts[options.id] = sample.key
        notes = [f"{shard} is damaged: {error}" for shard, error in damaged]
        if links:
            notes.append(
                f"{len(links):,} links lead out of {self.location} and were left out: "
                "--follow-links takes them"
            )
        if len(kept) < len(samples):
            what = "image" if has_images else name
            notes.append(
                f"{len(samples) - len(kept):,} samples of {self.location} have no {what}: left out"
            )
        texts = [sample.facts.get(name) for sample in kept]
        names = list(dict.fromkeys(fact for sample in kept for fact in sample.facts))
        unread = _beginnings(
            {self.location.join(sample.shard) for sample in stand_ins} | set(links)
        )
        if (stand_ins or links) and not has_images:
            unread = ("",)  # texts have no uri to tell their shard by
        is_part = self.location.suffix == ".tar"  # of the shards in its folder
        items = SourceItems(
            columns_of([sample.facts for sample in kept], names),
            modality=Modality.IMAGE if has_images else Modality.TEXT,
            content=pa.array(
                [sample.uri for sample in kept]
                if has_images
                else [None if text is None else str(text) for text in texts],
                pa.string(),
            ),
            sizes=[sample.size for sample in kept] if has_images else None,
            stamps=[sample.stamp for sample in kept] if has_images else None,
            ids=pa.array([sample.key for sample in kept], pa.string()),
            splits=[sample.split for sample in kept],
            labels=("label",) if "label" in names else (),
            used=frozenset() if has_images else frozenset({name}),
            notes=notes,
            covers=_beginnings(shards) if is_part else None,
            unread=unread,
        )
        return as_listing(self, options, items)


@dataclass
class _Sample:
    """Members of one name."""

    shard: str  # its file name
    key: str
    stamp: int
    split: str | None
    uri: str | None = None
    size: int = 0
    facts: dict[str, Any] = field(default_factory=dict)  # what the small members say
    stands_in: bool = False  # for what could not be read


def _beginnings(shards: Iterable[Location]) -> tuple[str, ...]:
    """Return the prefixes of the ids and uris of the shards' items."""
    return tuple(one for shard in shards for one in (f"{shard.stem}/", f"{shard.name}#"))


def has_shards(folder: Location) -> bool:
    """Whether a folder holds tar files directly."""
    return bool(_shard_names(folder))


def _leads_out(shard: Location, folder: Location) -> bool:
    path = Path(shard.text)
    return path.is_symlink() and not path.resolve().is_relative_to(Path(folder.text).resolve())


def _shard_names(folder: Location) -> list[str]:
    if folder.is_url:
        names = [path for path, _, _ in folder.files() if "/" not in path]
    else:
        names = [one.name for one in Path(folder.text).iterdir() if one.is_file()]
    return sorted(name for name in names if name.lower().endswith(".tar") and name[0] != ".")


def expand_braces(text: str) -> list[str]:
    """Return what ``{000..003}`` stands for.

    >>> expand_braces("a-{8..10}.tar")
    ['a-8.tar', 'a-9.tar', 'a-10.tar']
    """
    parts = _RANGE.split(text)  # text, first, last, text, first, last, text
    ranges = [
        [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3], strict=True)
    ]
    fixed = parts[0::3]
    return [
        "".join(a + b for a, b in zip(fixed, [*chosen, ""], strict=True))
        for chosen in product(*ranges)
    ]


def _samples(shard: Location, damaged: list[tuple[Location, str]]) -> Iterator[_Sample]:
    """Yield the samples of a shard.

    Samples before a damaged place are kept. The damage itself becomes a sample that cannot be
    read, so that it is counted as a failure.
    """
    size, stamp = shard.stat()
    split = next((SPLITS[w] for w in re.split(r"\W|_", shard.stem.lower()) if w in SPLITS), None)
    sample: _Sample | None = None
    try:
        with shard.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for key, member in _members(tar, shard):
                if sample is not None and sample.key != key:
                    yield sample
                    sample = None
                sample = sample or _Sample(shard.name, key, stamp, split)
                _add_member(sample, tar, member, shard, damaged)
            _check_end(file, tar)
    except (tarfile.TarError, EOFError) as error:
        damaged.append((shard, str(error)))
        if sample is not None:
            yield sample
        beyond = member_uri(shard.name, size, 1)
        key = f"{shard.stem}/damaged"
        sample = _Sample(shard.name, key, stamp, split, beyond, size=1, stands_in=True)
    if sample is not None:
        yield sample


def _members(tar: tarfile.TarFile, shard: Location) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield the files of a shard, hidden ones left out, each with the key of its sample."""
    for member in tar:
        tar.members = []  # type: ignore[attr-defined] # keep no list of a million
        folder, _, base = member.name.rpartition("/")
        if member.isfile() and not base.startswith("."):
            stem = base.partition(".")[0]
            yield "/".join(part for part in (shard.stem, folder, stem) if part), member


def _add_member(
    sample: _Sample,
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    shard: Location,
    damaged: list[tuple[Location, str]],
) -> None:
    """Note where an image lies, or what a small member says."""
    ending = member.name.rpartition("/")[2].partition(".")[2].lower()
    if ending in IMAGES:
        sample.uri = member_uri(shard.name, member.offset_data, member.size)
        sample.size = member.size
    elif ending in _SMALL:
        content = tar.extractfile(member)
        assert content is not None, "a regular file"
        sample.facts |= _facts(ending, content.read(), shard, member.name, damaged)


def _check_end(file: IO[bytes], tar: tarfile.TarFile) -> None:
    """Raise ReadError if a shard is cut short: tarfile stops silently at a bad header."""
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends without the mark of its end")
    if block.count(0) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no header of a member at byte {tar.offset}")


def _facts(
    ending: str, content: bytes, shard: Location, name: str, damaged: list[tuple[Location, str]]
) -> dict[str, Any]:
    """Read a small member; a damaged one is noted, and only its item loses it."""
    try:
        text = content.decode()
        if ending == "txt":
            return {"txt": text}
        if ending == "cls":
            return {"label": text.strip()}
        value = json.load(io.StringIO(text))
    except ValueError as error:
        damaged.append((shard, f"{name}: {error}"))
        return {"txt": None} if ending == "txt" else {}
    if not isinstance(value, dict):
        return {"json": text}
    return value
