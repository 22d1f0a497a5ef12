"""Frozen encoders: one file per family; `load_encoder` is the only door to torch and its kin.

`known_encoder` answers from the user's cache when nothing that decides a vector has changed, so
that a run with nothing to embed never imports torch.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurestore import user_cache
from featurestore.errors import BadName, MissingExtra, UnknownEncoder, nearest
from featurestore.values import EncoderSpec, Modality, ResolvedEncoder

if TYPE_CHECKING:
    from PIL import Image


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
class Family:
    """A kind of encoder: where its code is and what a user may write."""

    module: str
    packages: tuple[str, ...]  # distributions whose versions are recorded with the vectors
    options: frozenset[str]
    example: str
    about: str
    has_revisions: bool = False  # weights on a hub, where @revision means something


FAMILIES = {
    "baseline": Family(
        "baselines",
        ("pillow", "numpy", "scikit-learn"),
        frozenset({"size"}),
        "baseline:pixels",
        "no pretraining: baseline:pixels (32 × 32, #size=…) and, for texts, baseline:hashing",
    ),
    "timm": Family(
        "timm_models",
        ("torch", "timm", "torchvision", "pillow"),
        frozenset({"precision"}),
        "timm:vit_small_patch14_dinov2.lvd142m",
        "any timm model by name, or timm:local-dir:/path",
        has_revisions=True,
    ),
    "open_clip": Family(
        "open_clip_models",
        ("torch", "open_clip_torch", "timm", "torchvision", "pillow"),
        frozenset({"precision"}),
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "any open_clip model with its weights, or open_clip:local-dir:/path; images and texts",
    ),
    "st": Family(
        "sentence_models",
        ("torch", "sentence-transformers", "transformers", "tokenizers"),
        frozenset({"max_length", "prompt", "precision"}),
        "st:all-MiniLM-L6-v2",
        "any sentence-transformers text model by name, or st:local-dir:/path",
        has_revisions=True,
    ),
    "random": Family(
        "random_weights",
        ("torch", "timm", "open_clip_torch", "torchvision", "pillow"),
        frozenset({"seed", "precision"}),
        "random:timm:mobilenetv2_100#seed=0",
        "the same architecture with random weights: random:timm:… or random:open_clip:…",
    ),
}


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
    try:
        family = FAMILIES[spec.family]
    except KeyError:
        raise UnknownEncoder(
            f"no encoder family {spec.family!r} in {spec}: {nearest(spec.family, FAMILIES)}"
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
    known = user_cache.recall("encoders", str(spec))
    if known and known["files"] == _files(spec) and known["versions"] == _versions(family):
        return ResolvedEncoder(
            spec,
            known["dim"],
            frozenset(map(Modality, known["modalities"])),
            known["chosen"],
            known["versions"],
        )
    return None


def load_encoder(spec: EncoderSpec, *, device: str = "auto") -> Any:
    """Load an encoder: an `ImageEncoder`, a `TextEncoder` or both, as its modalities say.

    Parameters
    ----------
    spec : EncoderSpec
    device : str
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises
    ------
    UnknownEncoder
        If there is no such model, or its weights cannot be had here.
    MissingExtra
        If the package of the family is not installed.
    """
    family = family_of(spec)
    local = spec.local_dir
    if local is not None and not local.is_dir():
        raise UnknownEncoder(f"{local} is no folder: expected one that holds the model of {spec}")
    # Read once, when OpenMP loads. Its default, spinning at barriers, takes the cores that
    # decode workers and other programs need: measured here under load, 6 images/s against 23.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        module = importlib.import_module(f"featurestore.encoders.{family.module}")
        encoder: Encoder = module.load(spec, device)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{spec} needs the package {error.name!r}, which is not installed: "
            f"pip install {' '.join(family.packages)}"
        ) from error
    resolved = encoder.resolved
    entry = {
        "files": _files(spec),
        "versions": _versions(family),
        "dim": resolved.dim,
        "modalities": sorted(resolved.modalities),
        "chosen": dict(resolved.chosen),
    }
    if user_cache.recall("encoders", str(spec)) != entry:
        user_cache.remember("encoders", str(spec), entry)
    return encoder


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
    folder: Path | None = spec.local_dir
    if folder is None or not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            found.append([str(path.relative_to(folder)), status.st_size, status.st_mtime_ns])
    return found
