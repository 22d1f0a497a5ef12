"""Frozen values that travel between the parts: numpy only, no files and no models."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, MissingColumn, ShapeMismatch

# The canonical order of options in a spec: two spellings of one encoder are one view.
MOST_CLASSES = 20  # more whole numbers than that in a column of floats are a quantity
SEPARATOR = "|"  # between the labels of an item that has several
SPEC_OPTIONS = ("layer", "pool", "size", "max_length", "prompt", "precision", "decode", "seed")

# What picks a depth of a network: specs that differ in these alone share one forward pass.
_DEPTH_OPTIONS = ("layer", "pool")

# A comma that another key follows: a prompt may hold commas of its own.
_NEXT_OPTION = re.compile(rf",(?=(?:{'|'.join(SPEC_OPTIONS)})=)")

LOCAL_DIR = "local-dir:"
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
                f"{text!r} is no encoder spec: expected family:model, "
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
        options = dict(
            _parse_option(part, text) for part in _NEXT_OPTION.split(tail) if part.strip()
        )
        ordered = tuple((key, options[key]) for key in SPEC_OPTIONS if key in options)
        return cls(family, model, revision, ordered)

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        tail = ",".join(f"{key}={value}" for key, value in self.options)
        return f"{self.family}:{self.model}{at}" + (f"#{tail}" if tail else "")

    def option(self, key: str, default: str) -> str:
        """Return the value of an option, or ``default`` where the spec does not say."""
        return dict(self.options).get(key, default)

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
        """The spec without layer and pooling: what one forward pass can serve."""
        options = tuple(one for one in self.options if one[0] not in _DEPTH_OPTIONS)
        return replace(self, options=options)

    @property
    def label(self) -> str:
        """A short name for tables and plots: a local folder's name instead of its path."""
        place = self.local_dir or self.local_file
        return str(self) if place is None else str(self).replace(str(place), place.name)


def parse_specs(texts: Iterable[str]) -> list[EncoderSpec]:
    """Read specs; one with several layers means one encoder a layer.

    >>> [str(one) for one in parse_specs(["timm:resnet18#layer=2+3"])]
    ['timm:resnet18#layer=2', 'timm:resnet18#layer=3']
    """
    specs: dict[EncoderSpec, None] = {}  # in order, each once
    for text in texts:
        spec = EncoderSpec.parse(text)
        for layer in spec.option("layer", "").split("+"):
            options = tuple((k, layer if k == "layer" else v) for k, v in spec.options)
            specs[replace(spec, options=options)] = None
    return list(specs)


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - `..` goes as well


def _parse_option(part: str, text: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals or key not in SPEC_OPTIONS:
        raise BadName(
            f"{part!r} in {text!r} is no encoder option: expected key=value "
            f"with a key among {', '.join(SPEC_OPTIONS)}"
        )
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything chosen that changes a vector."""
        text = json.dumps(dict(self.chosen), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def slug(self) -> str:
        """A folder name: readable, unique by the last 8 characters."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", self.spec.label.replace(LOCAL_DIR, ""))
        return f"{readable.strip('-.')[:80]}-{self.fingerprint[:8]}"


@dataclass(frozen=True)
class Snapshot:
    """What was read: versions of the items table and of the view's table."""

    items: int
    view: int

    def __str__(self) -> str:
        return f"{self.items}.{self.view}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` gives.

        >>> Snapshot.parse("12.3")
        Snapshot(items=12, view=3)
        """
        items, dot, view = text.partition(".")
        if not (dot and items.isdecimal() and view.isdecimal() and len(text) < 20):
            raise BadName(f"{text!r} is no snapshot: expected two versions, such as 12.3")
        return cls(int(items), int(view))


class LazyColumns(Mapping[str, NDArray[Any]]):
    """Columns that are made when they are first asked for: most of them never are."""

    def __init__(self, names: Iterable[str], make: Callable[[str], NDArray[Any]]) -> None:
        self._names = tuple(names)
        self._make = make
        self._made: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # another process gets them made


class _Late:
    """A field that may be given as a function, which is called when it is first asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        value = instance.__dict__[self.name]
        if callable(value):
            value = instance.__dict__[self.name] = value()
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = value


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of one encoder with what is known of their items; row i belongs to ids[i].

    Rows are sorted by id, so that equal snapshots give equal arrays.
    """

    ids: NDArray[np.str_]  # (n,), object dtype holding str
    vectors: NDArray[np.float32]  # (n, dim), as the encoder returned them, not normalised
    encoder: str  # fingerprint
    columns: Mapping[str, NDArray[Any]]  # each (n,), object dtype; None where nothing is known
    label_column: str | None = None  # the data set's main label
    snapshot: Snapshot | None = None  # what was read

    def __post_init__(self) -> None:
        given = self.__dict__["ids"]
        n = len(self.vectors) if callable(given) else len(given)
        if self.vectors.ndim != 2 or len(self.vectors) != n:
            raise ShapeMismatch(
                f"{n} ids, but vectors of shape {self.vectors.shape}: expected one row for each id"
            )
        checked = {} if isinstance(self.columns, LazyColumns) else self.columns
        for name, values in checked.items():
            if len(values) != n:
                raise ShapeMismatch(f"{n} ids, but {len(values)} values of {name!r}")

    def __len__(self) -> int:
        return len(self.vectors)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ids": self.ids}  # another process gets them made

    @property
    def dim(self) -> int:
        """Length of one vector."""
        return int(self.vectors.shape[1])

    def column(self, name: str) -> NDArray[Any]:
        """Return one column, shape (n,), in the order of ``ids``."""
        try:
            return self.columns[name]
        except KeyError:
            raise MissingColumn(
                f"no column {name!r}; known: {', '.join(sorted(self.columns))}"
            ) from None

    @property
    def labels(self) -> NDArray[Any]:
        """The main label of each item, shape (n,); None where an item has none."""
        if self.label_column is None:
            raise MissingColumn(
                "this data set has no labels: embed it from class folders, or with --label COLUMN"
            )
        return self.column(self.label_column)

    @property
    def splits(self) -> NDArray[Any]:
        """``train``, ``val``, ``test`` or None for each item, shape (n,)."""
        return self.column("split")

    @property
    def groups(self) -> NDArray[Any]:
        """The group of each item, shape (n,); items of one group never part in evaluation."""
        return self.column("group")

    @property
    def content_hashes(self) -> NDArray[Any]:
        """SHA-256 (hex) of each item's bytes, shape (n,); equal content has equal hashes."""
        return self.column("content_hash")

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Embeddings:
        """Return the chosen rows, by position or by mask."""
        return Embeddings(
            self.ids[rows],
            self.vectors[rows],
            self.encoder,
            LazyColumns(self.columns, lambda name: self.columns[name][rows]),
            self.label_column,
            self.snapshot,
        )


# A view gives a function: two hundred thousand strings take as long as their vectors.
Embeddings.ids = _Late("ids")  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The closest items of each query, best first."""

    ids: NDArray[np.str_]  # (n_queries, k), object dtype holding str
    scores: NDArray[np.float32]  # (n_queries, k), cosines in [-1, 1]
    rows: NDArray[np.intp]  # (n_queries, k), positions in the embeddings that were searched
    look_up: Callable[[str, NDArray[np.intp]], NDArray[Any]] | None = None  # column, rows (n,)

    def column(self, name: str) -> NDArray[Any]:
        """Return what is known of the neighbours, (n_queries, k), object dtype; read when asked.

        Raises
        ------
        MissingColumn
            If the items have no such column, or only vectors were searched.
        """
        if self.look_up is None:
            raise MissingColumn(f"no column {name!r}: vectors were searched, without their items")
        return self.look_up(name, self.rows.reshape(-1)).reshape(self.rows.shape)


def class_name(value: Any) -> str:
    """Return the name of a class; a whole number is one, however it is stored.

    >>> class_name(2.0), class_name("cat")
    ('2', 'cat')
    """
    return (
        str(int(value)) if isinstance(value, (float, np.floating)) and not value % 1 else str(value)
    )


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark None, NaN and empty text, shape (n,)."""
    return np.array([v is None or v == "" or v != v for v in values], dtype=bool)
