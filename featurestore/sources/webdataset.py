"""WebDataset shards: tar files whose members of one name make a sample; never unpacked.

Listing walks the headers and reads the small members (.cls, .json, .txt); an image is later read
by its offset in the shard. ``0042.jpg``, ``0042.cls``, ``0042.json`` make the item ``shard/0042``.
"""

from __future__ import annotations

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
from featurestore.sources.archives import MAGIC_BYTES, check_uncompressed, is_compressed_tar
from featurestore.sources.as_written import WrittenFloat, as_written, columns_of
from featurestore.sources.folder import IMAGE_ENDINGS
from featurestore.sources.listing import SPLITS, Listing, SourceOptions
from featurestore.sources.locations import Location
from featurestore.sources.metadata import SourceItems, as_listing
from featurestore.sources.uris import member_uri
from featurestore.terms.specs import Modality

IMAGES = frozenset(ending[1:] for ending in IMAGE_ENDINGS)
_SMALL = frozenset({"txt", "json", "cls"})
_MOST_BYTES = 64 << 20  # of a small member
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
            for name in sorted(filter(is_compressed_tar, _names(self.location))):
                check_uncompressed(self.location.join(name).text)
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
        if options.columns is not None:
            raise BadSource(f"--columns is for tables, but {self.location} is tar shards")
        if options.image is not None and options.text is not None:
            raise BadSource(
                "--image and --text name two contents: a data set has one; give one of them"
            )
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
        samples = [one for shard in shards for one in _samples(shard, options, damaged)]
        stand_ins = [sample for sample in samples if sample.stands_in]
        readable = [sample for sample in samples if not sample.stands_in]
        has_images = options.text is None and (
            not readable or any(sample.uri is not None for sample in readable)
        )
        if options.image is not None and readable and not has_images:
            raise BadSource(
                f"--image {options.image}: no member of {self.location} has that ending; expected "
                "what stands behind the first dot of a name, as in --image rgb.png"
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
        wanted = (options.image or "image") if has_images else name
        notes = [f"{shard} is damaged: {error}" for shard, error in damaged]
        notes += self._left_out(len(links), samples, kept, wanted)
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

    def _left_out(
        self, n_links: int, samples: list[_Sample], kept: list[_Sample], wanted: str
    ) -> list[str]:
        """Note what in the shards is not taken as an item, and how to take it."""
        notes = []
        if n_links:
            notes.append(
                f"{n_links:,} links lead out of {self.location} and were left out: "
                "--follow-links takes them"
            )
        if len(kept) < len(samples):
            first = next(one.key for one in samples if one not in kept)
            notes.append(
                f"{len(samples) - len(kept):,} samples of {self.location} have no {wanted} "
                f"(first: {first}): left out"
            )
        beside = [one for sample in kept for one in sample.beside]
        if beside:
            notes.append(
                f"{len(beside):,} pictures of {self.location} stand beside another one of their "
                f"sample (first: {beside[0]}): left out; --image ENDING takes them instead"
            )
        return notes


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a shard."""

    name: str
    stem: str  # with its folder, up to the first dot of its name
    ending: str  # behind that dot
    offset: int
    size: int
    facts: dict[str, Any]  # what it says, where it is a small one


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
    beside: list[str] = field(default_factory=list)  # other pictures of the sample
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


def _names(folder: Location) -> list[str]:
    if folder.is_url:
        return [path for path, _, _ in folder.files() if "/" not in path]
    return [one.name for one in Path(folder.text).iterdir() if one.is_file()]


def _shard_names(folder: Location) -> list[str]:
    return sorted(
        name for name in _names(folder) if name.lower().endswith(".tar") and name[0] != "."
    )


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


def _samples(
    shard: Location, options: SourceOptions, damaged: list[tuple[Location, str]]
) -> list[_Sample]:
    """Return the samples of a shard, in the order in which their first members stand.

    What stands before a damaged place is kept. The damage itself becomes a sample that cannot be
    read, so that it is counted as a failure.
    """
    size, stamp = shard.stat()
    split = next((SPLITS[w] for w in re.split(r"\W|_", shard.stem.lower()) if w in SPLITS), None)
    members: dict[str, _Member] = {}
    is_whole = True
    try:
        _read_members(shard, members, damaged)
    except (tarfile.TarError, EOFError) as error:
        damaged.append((shard, str(error)))
        is_whole = False
    samples = []
    for key, fields in _grouped(members.values()).items():
        sample = _Sample(shard.name, f"{shard.stem}/{key}", stamp, split)
        for name in sorted(_SMALL & fields.keys()):
            _add_facts(sample, fields[name], shard)
        if options.text is None:
            _take_picture(sample, fields, shard, options.image)
        samples.append(sample)
    if not is_whole:
        beyond = member_uri(shard.name, size, 1)
        key = f"{shard.stem}/damaged"
        samples.append(_Sample(shard.name, key, stamp, split, beyond, size=1, stands_in=True))
    return samples


def _read_members(
    shard: Location, members: dict[str, _Member], damaged: list[tuple[Location, str]]
) -> None:
    """Fill in the files of a shard by name, as far as it can be read."""
    with shard.open() as file:
        check_uncompressed(shard.text, file.read(MAGIC_BYTES))
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for one in _members(tar, shard, damaged):
                if one.name in members:
                    raise BadSource(
                        f"{shard} has two members named {one.name}, so it is unclear which "
                        "one is meant: pack it again with a name for each"
                    )
                members[one.name] = one
            _check_end(file, tar)


def _members(
    tar: tarfile.TarFile, shard: Location, damaged: list[tuple[Location, str]]
) -> Iterator[_Member]:
    """Yield the files of a shard, hidden ones left out; of the small ones, what they say."""
    places: dict[str, tuple[int, int, dict[str, Any]]] = {}  # what a hard link stands for
    for member in tar:
        tar.members = []  # type: ignore[attr-defined] # keep no list of a million
        folder, _, base = member.name.rpartition("/")
        if base.startswith(".") or not (member.isfile() or member.islnk()):
            continue
        stem, _, ending = base.partition(".")
        facts: dict[str, Any] = {}
        if member.islnk():  # two names of one file when the shard was packed
            if member.linkname not in places:
                raise BadSource(
                    f"{member.name} in {shard} is a link to {member.linkname}, which does not "
                    "stand before it: pack the shard again with --hard-dereference"
                )
            offset, size, facts = places[member.linkname]
        else:
            offset, size = member.offset_data, member.size
            if (small := ending.rpartition(".")[2].lower()) in _SMALL:
                facts = _facts(tar, member, small, shard, damaged)
        places[member.name] = offset, size, facts
        yield _Member(
            member.name, f"{folder}/{stem}" if folder else stem, ending, offset, size, facts
        )


def _grouped(members: Iterable[_Member]) -> dict[str, dict[str, _Member]]:
    """Return the members of each sample by their ending.

    A name ends at its first dot, as WebDataset has it, where some member of that name has nothing
    behind it but a known ending: ``a.png``, ``a.cls`` and ``a.seg.png`` are one sample. Where
    none has, the dots are of the name: ``IMG_2024.01.15.png`` is a sample of its own. So is what
    has a digit behind the first dot, beside another picture: ``a.png``, ``a.2.png``.
    """
    members = list(members)
    plain: dict[str, set[str]] = {}
    for one in members:
        if (ending := one.ending.lower()) in IMAGES or ending in _SMALL:
            plain.setdefault(one.stem, set()).add(ending)
    samples: dict[str, dict[str, _Member]] = {}
    for one in members:
        key, ending = one.stem, one.ending
        middle, _, last = one.ending.rpartition(".")
        if middle and (last.lower() in IMAGES or last.lower() in _SMALL):
            beside = plain.get(one.stem, set())
            if not beside or (middle[0].isdigit() and beside & IMAGES):
                key, ending = f"{one.stem}.{middle}", last
        fields = samples.setdefault(key, {})
        other = fields.setdefault(ending.lower(), one)
        if other is not one:
            raise BadSource(
                f"{other.name} and {one.name} differ in case alone, so it is unclear which one is "
                "meant: rename one"
            )
    return samples


def _take_picture(
    sample: _Sample, fields: dict[str, _Member], shard: Location, wanted: str | None
) -> None:
    """Note where the picture of a sample lies: the wanted ending, the plain one, the only one."""
    pictures = [one for one in fields if one.rpartition(".")[2] in IMAGES]
    plain = [one for one in pictures if "." not in one]
    if wanted is not None:
        chosen = [one for one in fields if one == wanted.lower().lstrip(".")]
    else:
        chosen = plain or pictures
    if len(chosen) > 1:
        names = ", ".join(fields[one].name for one in chosen)
        raise BadSource(
            f"a sample of {shard} has {len(chosen)} pictures ({names}): say which ending is meant, "
            f"as with --image {chosen[0]}"
        )
    for one in chosen:
        member = fields[one]
        sample.uri = member_uri(shard.name, member.offset, member.size)
        sample.size = member.size
    sample.beside = [fields[one].name for one in pictures if one not in chosen]


def _check_end(file: IO[bytes], tar: tarfile.TarFile) -> None:
    """Raise ReadError if a shard is cut short: tarfile stops silently at a bad header."""
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends without the mark of its end")
    if block.count(0) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no header of a member at byte {tar.offset}")


def _add_facts(sample: _Sample, member: _Member, shard: Location) -> None:
    """Add what a small member says; refuse what another one of the sample has contradicted."""
    for name, value in member.facts.items():
        known = sample.facts.get(name)
        if known is not None and value is not None and as_written(known) != as_written(value):
            raise BadSource(
                f"two members of {sample.key} in {shard} say different things of {name!r}: "
                f"{as_written(known)!r}, and {as_written(value)!r} in {member.name}; make them "
                "agree, or leave one out"
            )
        if known is None:
            sample.facts[name] = value


def _facts(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    ending: str,
    shard: Location,
    damaged: list[tuple[Location, str]],
) -> dict[str, Any]:
    """Read a small member; a damaged one is noted, and only its item loses it."""
    try:
        if member.size > _MOST_BYTES:
            raise ValueError(
                f"{member.size:,} bytes; up to {_MOST_BYTES:,} are read of a .{ending}"
            )
        content = tar.extractfile(member)
        assert content is not None, "a regular file"
        text = content.read().decode()
        if ending == "txt":
            return {"txt": text}
        if ending == "cls":
            return {"label": text.removesuffix("\n").removesuffix("\r")}  # else as written
        value = json.loads(text, parse_float=WrittenFloat)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        damaged.append((shard, f"{member.name}: {reason}"))
        return {"txt": None} if ending == "txt" else {}
    if not isinstance(value, dict):
        return {"json": text}
    return value
