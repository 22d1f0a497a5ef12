"""What encoders are called, and what decides their vectors: pure values, no models."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from featurestore.errors import BadName
from featurestore.terms.taps import TapShape

# In this order in every spec, so that two spellings of one encoder are one view.
SPEC_OPTIONS = (
    "layer", "pool", "tap", "variants", "size", "max_length", "prompt", "truncate_dim", "precision",
    "decode", "seed",
)  # fmt: skip
_KEYS = "|".join(SPEC_OPTIONS)
# A comma that another key follows: a prompt may hold commas of its own.
_NEXT_OPTION = re.compile(rf",(?=(?:{_KEYS})=)")
# A prompt in quotes ends at the first such quote that another key or nothing follows.
_QUOTED = re.compile(rf"""(?:^|,)(prompt=(['"]).*?\2)(?=\s*$|,(?:{_KEYS})=)""", re.DOTALL)
LOCAL_DIR = "local-dir:"
ALL_LAYERS = "all"  # #layer=all
_PATH_STARTS = ("/", "./", "../", "~")


class Modality(StrEnum):
    """What an item is made of."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True)
class EncoderSpec:
    """The name of a frozen encoder: ``family:model[/weights][@revision][#key=value,…]``.

    A pure value: it says what is meant, not whether it exists.

    >>> str(EncoderSpec.parse("random:timm:resnet18#seed=1"))
    'random:timm:resnet18#seed=1'
    >>> EncoderSpec.parse("timm:local-dir:/models/a@b").model
    'local-dir:/models/a@b'
    """

    family: str
    model: str  # with its weights, as the family writes them: "ViT-B-32/laion2b_s34b_b79k"
    revision: str | None = None
    options: tuple[tuple[str, str], ...] = ()  # in the order of SPEC_OPTIONS

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a spec; a relative path in it (a folder, a checkpoint) is made absolute."""
        body, _, tail = text.lstrip().partition("#")
        body = body.rstrip()  # but a prompt may end with a space
        family, colon, model = body.partition(":")
        if not colon or not family or not model:
            raise BadName(
                f"{text!r} is not an encoder spec: expected family:model, "
                "such as timm:resnet18, open_clip:ViT-B-32/laion2b_s34b_b79k or baseline:pixels"
            )
        revision = None
        head, marker, path = model.partition(LOCAL_DIR)
        if marker:  # everything up to '#' is the path, '@' included
            model = f"{head}{LOCAL_DIR}{_absolute(path)}"
        elif (named := model.partition("/"))[2].startswith(_PATH_STARTS):  # ViT-B-32/./a.pt
            model = f"{named[0]}/{_absolute(named[2])}"
        elif "@" in model:
            model, _, revision = model.rpartition("@")
        options = dict(_parse_option(part, text) for part in _option_parts(tail) if part.strip())
        ordered = tuple((key, options[key]) for key in SPEC_OPTIONS if key in options)
        return cls(family, model, revision, ordered)

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        tail = ",".join(f"{key}={value}" for key, value in self.options)
        return f"{self.family}:{self.model}{at}" + (f"#{tail}" if tail else "")

    def option(self, key: str, default: str) -> str:
        """Return the value of an option, or ``default`` where the spec does not say."""
        return dict(self.options).get(key, default)

    def with_option(self, key: str, value: str | int | None) -> EncoderSpec:
        """Return this spec with one option set, or without it (None).

        >>> str(EncoderSpec.parse("timm:resnet18#size=96").with_option("layer", 2))
        'timm:resnet18#layer=2,size=96'
        """
        options = {k: v for k, v in self.options if k != key}
        if value is not None:
            options |= [_parse_option(f"{key}={value}", str(self))]
        return replace(self, options=tuple((k, options[k]) for k in SPEC_OPTIONS if k in options))

    @property
    def local_dir(self) -> Path | None:
        """The folder that holds the weights, for ``local-dir:`` specs."""
        _, marker, path = self.model.partition(LOCAL_DIR)
        return Path(path) if marker else None

    @property
    def local_file(self) -> Path | None:
        """The checkpoint that holds the weights, for specs such as ``ViT-B-32//path/a.pt``."""
        _, _, path = self.model.partition("/")
        return Path(path) if self.local_dir is None and path.startswith("/") else None

    @property
    def network(self) -> EncoderSpec:
        """The spec without layer and pooling: one forward pass serves all that share it."""
        return self.with_option("layer", None).with_option("pool", None)

    @property
    def has_layers(self) -> bool:
        """Whether several layers are meant, side by side in one vector."""
        layer = self.option("layer", "")
        return layer == ALL_LAYERS or "+" in layer

    @property
    def has_tap(self) -> bool:
        """Whether whole activations are meant (``#tap=5``), not vectors."""
        return bool(self.option("tap", ""))

    @property
    def untapped(self) -> EncoderSpec:
        """The spec of the vectors that follow from a tap's activations."""
        return self.with_option("tap", None).with_option("variants", None)

    @property
    def label(self) -> str:
        """A short name for tables and plots: a local folder's name instead of its path."""
        if self == ALL_TOGETHER:
            return "all encoders together"
        if self.family == ALL_TOGETHER.family:
            return self.model.replace("+", " and ")
        path = self.local_dir or self.local_file
        return str(self) if path is None else str(self).replace(str(path), path.name)


ALL_TOGETHER = EncoderSpec("mix", "all")  # a mix of all inputs of a comparison


def encoder_label(spec: str) -> str:
    """Return an encoder's short name for tables and plots."""
    return EncoderSpec.parse(spec).label


def parse_specs(texts: Iterable[str]) -> list[EncoderSpec]:
    """Read specs, in their order, each once."""
    return list(dict.fromkeys(map(EncoderSpec.parse, texts)))


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - `..` goes as well


def literal_prompt(value: str) -> str | None:
    """Return the text of a prompt in quotes; None for one that is not in quotes.

    >>> literal_prompt("'query: '"), literal_prompt("query")
    ('query: ', None)
    """
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if is_quoted else None


def _option_parts(tail: str) -> list[str]:
    """Cut ``key=value,key=value`` at its commas, but not inside a prompt in quotes."""
    if found := _QUOTED.search(tail):
        before, after = tail[: found.start(1)].rstrip(","), tail[found.end(1) :].lstrip(",")
        return [*_NEXT_OPTION.split(before), found[1], *_NEXT_OPTION.split(after)]
    return _NEXT_OPTION.split(tail)


def _parse_option(part: str, text: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals or key not in SPEC_OPTIONS:
        raise BadName(
            f"{part!r} in {text!r} is not an encoder option: expected key=value "
            f"with a key among {', '.join(SPEC_OPTIONS)}"
        )
    if key == "prompt" and (literal := literal_prompt(value)) is not None:  # two spellings, one
        value = value if "'," in literal else f"'{literal}'" if literal else ""
    return key, value


@dataclass(frozen=True)
class ResolvedEncoder:
    """An encoder that exists here: what its vectors are, and what decides them."""

    spec: EncoderSpec
    dim: int
    modalities: frozenset[Modality]
    chosen: Mapping[str, Any]  # everything chosen that changes a vector; JSON-able
    versions: Mapping[str, str] = field(default_factory=dict)  # measured by canaries, not hashed
    n_parameters: int | None = None  # of the whole network, whatever the layer; not hashed
    # What is put before texts, for models that have prompts; not hashed, those of items are chosen.
    prompts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything chosen that changes a vector."""
        text = json.dumps(dict(self.chosen), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def tap(self) -> TapShape | None:
        """What it gives of an item where it gives activations; None: a vector."""
        return TapShape.of(self.chosen)

    @property
    def slug(self) -> str:
        """A folder name: readable, unique by the last 8 characters."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", self.spec.label.replace(LOCAL_DIR, ""))
        return f"{readable.strip('-.')[:80]}-{self.fingerprint[:8]}"
