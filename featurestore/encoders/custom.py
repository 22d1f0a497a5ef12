"""``python:module:object``: an encoder of the user's own, from a module or given as an object.

    class MeanColour:
        version = "1"  # change it when the vectors change

        def encode_images(self, images):  # a list of RGB pictures (PIL)
            return numpy.stack([numpy.asarray(one).mean(axis=(0, 1)) for one in images])

Instead of, or beside, `encode_images` it may have ``encode_texts(texts)``; both return (n, dim).
Optional: ``encode_queries(texts)``, for texts that items are looked for with;
``prepare_image(image)``, run in decode workers, whose results `encode_images` then
gets; ``device``, such as "cuda". A class that takes ``device=`` is given that of ``--device``,
where one is named. Without ``version``, the module's source text stands for it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders.base import Encoder, LoadOptions
from featurestore.encoders.trust import find_in_working_folder
from featurestore.errors import ShapeMismatch, UnknownEncoder
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

_METHODS = {Modality.IMAGE: "encode_images", Modality.TEXT: "encode_texts"}


@dataclass(frozen=True, eq=False)
class Custom(Encoder):
    """A user's object as an `Encoder`; what it returns is checked."""

    resolved: ResolvedEncoder
    inner: object
    device: str = "cpu"

    def prepare_image(self, image: Image.Image) -> Any:
        """Return what its ``encode_images`` takes: the picture itself if it prepares nothing."""
        return _prepared(self.inner, image)

    def encode_images(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Return its vectors, (n, dim) float32."""
        return _checked(self.inner, "encode_images", list(prepared), self.resolved.dim)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return its vectors, (n, dim) float32."""
        return _checked(self.inner, "encode_texts", list(texts), self.resolved.dim)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return its vectors of queries, those of texts if it tells no difference."""
        method = "encode_queries" if _has_own(self.inner, "encode_queries") else "encode_texts"
        return _checked(self.inner, method, list(texts), self.resolved.dim)


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[Custom]:
    """Import the module and take the object; a class is called, with ``device=`` if it takes it."""
    (spec,) = specs
    name, colon, attribute = spec.model.partition(":")
    if not colon:
        raise UnknownEncoder(f"{spec} names no object: expected python:module:object")
    find_in_working_folder()
    try:
        target: Any = importlib.import_module(name)
        for step in attribute.split("."):
            target = getattr(target, step)
    except (ImportError, AttributeError) as error:
        raise UnknownEncoder(
            f"cannot load {spec}: {error}; expected a module that Python finds "
            "(installed, in this folder, or on PYTHONPATH) and an object in it"
        ) from error
    if inspect.isclass(target):
        make: Any = target
        is_asked = load_options.device != "auto" and "device" in inspect.signature(make).parameters
        target = make(device=load_options.device) if is_asked else make()
    return [adopt(target, spec)]


def adopt(inner: object, spec: EncoderSpec | None = None) -> Custom:
    """Wrap a user's object as an `Encoder`.

    Raises
    ------
    UnknownEncoder
        If it has neither ``encode_images`` nor ``encode_texts``.
    ShapeMismatch
        If they do not return one vector for each item.
    """
    kind = type(inner)
    spec = spec or EncoderSpec("python", f"{kind.__module__}:{kind.__qualname__}")
    modalities = frozenset(
        modality for modality, method in _METHODS.items() if _has_own(inner, method)
    )
    if not modalities:
        raise UnknownEncoder(f"{spec} has neither encode_images nor encode_texts")
    dims = set()
    if Modality.IMAGE in modalities:
        probe = Image.new("RGB", (64, 64), (120, 60, 30))
        dims.add(_checked(inner, "encode_images", [_prepared(inner, probe)]).shape[1])
    if Modality.TEXT in modalities:
        dims.add(_checked(inner, "encode_texts", ["a short text"]).shape[1])
    if len(dims) != 1:
        raise ShapeMismatch(f"{spec} gives images and texts of dims {sorted(dims)}: expected one")
    chosen = {
        "family": "python",
        "object": f"{kind.__module__}:{kind.__qualname__}",
        "version": _version(inner),
    }
    device = str(getattr(inner, "device", "cpu"))
    return Custom(ResolvedEncoder(spec, dims.pop(), modalities, chosen), inner, device)


def _has_own(inner: object, method: str) -> bool:
    """Whether an object has a method, other than the one that `Encoder` gives all who derive."""
    written = getattr(type(inner), method, None)
    return callable(getattr(inner, method, None)) and written is not getattr(Encoder, method)


def _prepared(inner: object, image: Image.Image) -> Any:
    prepare = getattr(inner, "prepare_image", None)
    return image if prepare is None else prepare(image)


def _checked(
    inner: object, method: str, contents: list[Any], dim: int | None = None
) -> NDArray[np.float32]:
    vectors = np.ascontiguousarray(getattr(inner, method)(contents), dtype=np.float32)
    fits = vectors.ndim == 2 and len(vectors) == len(contents)
    if not fits or (dim is not None and vectors.shape[1] != dim):
        raise ShapeMismatch(
            f"{type(inner).__name__}.{method} gave shape {vectors.shape} for {len(contents)} "
            f"items: expected ({len(contents)}, {dim or 'dim'})"
        )
    return vectors


def _version(inner: object) -> str:
    version = getattr(inner, "version", None)
    if version is not None:
        return str(version)
    try:
        source = Path(inspect.getfile(type(inner))).read_bytes()
    except (OSError, TypeError):
        return "unversioned"
    return hashlib.sha256(source).hexdigest()
