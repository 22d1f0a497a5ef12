"""Frozen encoders: one file per family; `load_encoders` is the only door to torch and its kin.

`known_encoder` answers from the user's cache when nothing that decides a vector has changed, so
that a run with nothing to embed never imports torch.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurestore import user_cache
from featurestore.encoders.weights import SHA256
from featurestore.errors import BadName, MissingExtra, UnknownEncoder, nearest
from featurestore.values import EncoderSpec, Modality, ResolvedEncoder

if TYPE_CHECKING:
    from PIL import Image

ENTRY_POINTS = "featurestore.encoders"  # group: another package's families


class Encoder(Protocol):
    """What every frozen encoder has."""

    @property
    def resolved(self) -> ResolvedEncoder:
        """What it is and what decides its vectors."""

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda:0``, ``mps``."""


class ImageEncoder(Encoder, Protocol):
    """An encoder whose modalities include images."""

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Turn an RGB picture into what `encode_images` takes; runs in decode workers."""

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Encode a batch; returns (n, dim) float32, as the encoder's library returns it."""


class TextEncoder(Encoder, Protocol):
    """An encoder whose modalities include texts."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode a batch; returns (n, dim) float32, as the encoder's library returns it."""


@dataclass(frozen=True)
class LoadOptions:
    """How to load an encoder; none of it is part of its name."""

    device: str = "auto"  # a GPU where there is one; cpu, cuda, cuda:1, mps
    trust_remote_code: bool = False  # run code that comes with a model from a hub
    compile: bool = False  # torch.compile: slow to start, faster on long runs


@dataclass(frozen=True)
class Family:
    """A kind of encoder: where its code is and what a user may write.

    The module has ``load(specs, how)``: given specs that differ in layer and pooling alone and
    `LoadOptions`, it returns one encoder each, all on one network. Another package adds a
    family with an entry point of the group ``featurestore.encoders`` that names a `Family`.
    """

    module: str
    packages: tuple[str, ...]  # distributions whose versions are recorded with the vectors
    options: frozenset[str]
    example: str
    about: str
    has_revisions: bool = False  # weights on a hub, where @revision means something
    is_remembered: bool = True  # whether name, files and versions decide what it is


_DEPTH = frozenset({"layer", "pool"})
_IMAGES = frozenset({"precision", "decode"})

# What `embed` uses where no encoder is named.
BUILTIN = {Modality.IMAGE: "builtin:tiny-image", Modality.TEXT: "builtin:tiny-text"}

FAMILIES = {
    "builtin": Family(
        "featurestore.encoders.builtin",
        ("featurestore", "torch", "pillow", "tokenizers", "safetensors"),
        _IMAGES | _DEPTH,
        "builtin:tiny-image",
        "small, pretrained, in the package: builtin:tiny-image and builtin:tiny-text",
    ),
    "baseline": Family(
        "featurestore.encoders.baselines",
        ("pillow", "numpy", "scikit-learn"),
        frozenset({"size"}),
        "baseline:pixels",
        "no pretraining: baseline:pixels (32 × 32, #size=…) and, for texts, baseline:hashing",
    ),
    "timm": Family(
        "featurestore.encoders.timm_models",
        ("torch", "timm", "torchvision", "pillow"),
        _IMAGES | _DEPTH | {"size"},
        "timm:vit_small_patch14_dinov2.lvd142m",
        "any timm model by name, or timm:local-dir:/path; #size=224 for another input size",
        has_revisions=True,
    ),
    "open_clip": Family(
        "featurestore.encoders.open_clip_models",
        ("torch", "open_clip_torch", "timm", "torchvision", "pillow"),
        _IMAGES | _DEPTH,
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "any open_clip model with its weights (a tag, or the path of a checkpoint), "
        "open_clip:hf-hub:org/name or open_clip:local-dir:/path; images and texts",
    ),
    "st": Family(
        "featurestore.encoders.sentence_models",
        ("torch", "sentence-transformers", "transformers", "tokenizers"),
        frozenset({"max_length", "prompt", "precision"}),
        "st:all-MiniLM-L6-v2",
        "any sentence-transformers text model by name, or st:local-dir:/path",
        has_revisions=True,
    ),
    "hf": Family(
        "featurestore.encoders.transformers_models",
        ("torch", "transformers", "tokenizers", "torchvision", "pillow"),
        _IMAGES | _DEPTH | {"max_length"},
        "hf:facebook/dinov2-small",
        "any Hugging Face image or text model by name, or hf:local-dir:/path",
        has_revisions=True,
    ),
    "random": Family(
        "featurestore.encoders.random_weights",
        ("torch", "timm", "open_clip_torch", "torchvision", "pillow"),
        frozenset({"seed", "size"}) | _IMAGES | _DEPTH,
        "random:timm:mobilenetv2_100#seed=0",
        "the same architecture with random weights: random:timm:… or random:open_clip:…",
    ),
    "import": Family(
        "featurestore.encoders.imported",
        (),
        frozenset(),
        "import:clip-from-elsewhere",
        "vectors that another program made: featurestore import",
        is_remembered=False,
    ),
    "python": Family(
        "featurestore.encoders.custom",
        (),
        frozenset(),
        "python:my_package.my_module:MyEncoder",
        "your own: an object, or a class without arguments, with encode_images or encode_texts",
        is_remembered=False,
    ),
}


@cache
def families() -> dict[str, Family]:
    """Return our families and those that installed packages add."""
    added = {}
    for one in entry_points(group=ENTRY_POINTS):
        if one.name not in FAMILIES:
            added[one.name] = one.load()
    return FAMILIES | added


def check_device_name(device: str) -> str:
    """Return the name of a device that there can be; whether it is here, torch knows.

    Raises
    ------
    BadName
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise BadName(f"no device {device!r}: expected auto, cpu, cuda, cuda:1 or mps")
    return device


def family_of(spec: EncoderSpec) -> Family:
    """Look up the family of a spec, and check its options.

    Raises
    ------
    UnknownEncoder
        If there is no such family.
    BadName
        If the family does not know one of the options.
    """
    known = FAMILIES if spec.family in FAMILIES else families()
    try:
        family = known[spec.family]
    except KeyError:
        raise UnknownEncoder(
            f"no encoder family {spec.family!r} in {spec}: {nearest(spec.family, known, n=9)}"
        ) from None
    if spec.revision and not family.has_revisions:
        raise BadName(f"{spec.family} encoders have no revisions: write {spec} without @…")
    for key, _ in spec.options:
        if key not in family.options:
            raise BadName(
                f"{spec.family} encoders have no option {key!r} ({spec}); "
                f"they have: {', '.join(sorted(family.options))}"
            )
    return family


def known_encoder(spec: EncoderSpec) -> ResolvedEncoder | None:
    """Tell what an encoder is from the user's cache; None where it has to be loaded."""
    family = family_of(spec)
    known = user_cache.recall("encoders", str(spec)) if family.is_remembered else None
    if known and known["files"] == _files(spec) and known["versions"] == _versions(family):
        return ResolvedEncoder(
            spec,
            known["dim"],
            frozenset(map(Modality, known["modalities"])),
            known["chosen"],
            known["versions"],
            known.get("n_parameters"),
        )
    return None


def load_encoder(spec: EncoderSpec, *, device: str = "auto") -> Any:
    """Load one encoder; see `load_encoders`."""
    return load_encoders([spec], LoadOptions(device))[0]


def load_encoders(specs: Sequence[EncoderSpec], how: LoadOptions | None = None) -> list[Any]:
    """Load encoders, in the order of the specs; those of one network share it.

    Each is an `ImageEncoder`, a `TextEncoder` or both, as its modalities say.

    Raises
    ------
    UnknownEncoder
        If there is no such model, or its weights cannot be had here.
    MissingExtra
        If the package of the family is not installed.
    """
    how = how or LoadOptions()
    found: dict[EncoderSpec, Any] = {}
    for network in dict.fromkeys(spec.network for spec in specs):
        sharing = [spec for spec in dict.fromkeys(specs) if spec.network == network]
        for spec, encoder in zip(sharing, _load(sharing, how), strict=True):
            found[spec] = encoder
            _remember(spec, encoder.resolved)
    return [found[spec] for spec in specs]


def _load(specs: Sequence[EncoderSpec], how: LoadOptions) -> Sequence[Encoder]:
    spec, family = specs[0], family_of(specs[0])
    for one in specs:
        family_of(one)
    if spec.local_dir is not None and not spec.local_dir.is_dir():
        raise UnknownEncoder(
            f"{spec.local_dir} is no folder: expected one that holds the model of {spec}"
        )
    if spec.local_file is not None and not spec.local_file.is_file():
        raise UnknownEncoder(f"{spec.local_file} is no file: expected the checkpoint of {spec}")
    # Read once, when OpenMP loads. Its default, spinning at barriers, takes the cores that
    # decode workers and other programs need: measured here under load, 6 images/s against 23.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        module = importlib.import_module(family.module)
        encoders: Sequence[Encoder] = module.load(specs, how)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{spec} needs the package {error.name!r}, which is not installed: "
            f"pip install {' '.join(family.packages)}"
        ) from error
    return encoders


def _remember(spec: EncoderSpec, resolved: ResolvedEncoder) -> None:
    family = family_of(spec)
    entry = {
        "files": _files(spec),
        "versions": _versions(family),
        "dim": resolved.dim,
        "modalities": sorted(resolved.modalities),
        "chosen": dict(resolved.chosen),
        "n_parameters": resolved.n_parameters,
    }
    if family.is_remembered and user_cache.recall("encoders", str(spec)) != entry:
        user_cache.remember("encoders", str(spec), entry)


def versions(spec: EncoderSpec) -> dict[str, str]:
    """Return the installed versions of the packages that run this encoder."""
    return _versions(family_of(spec))


def _versions(family: Family) -> dict[str, str]:
    found = {}
    for package in family.packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _files(spec: EncoderSpec) -> list[list[Any]]:
    """Return (name, size, mtime_ns) of a local model's files: what tells that weights changed."""
    if spec.family == "builtin":
        return [[name, digest] for name, digest in SHA256.items()]
    folder, file = spec.local_dir, spec.local_file
    paths = sorted(folder.rglob("*")) if folder is not None else [file] if file else []
    found = []
    for path in paths:
        if path.is_file():
            status = path.stat()
            name = path.relative_to(folder) if folder is not None else path.name
            found.append([str(name), status.st_size, status.st_mtime_ns])
    return found
