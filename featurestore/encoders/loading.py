"""`load_encoders` is the only door to torch and its kin.

`known_encoder` answers from the user's cache when nothing that decides a vector has changed, so
that a run with nothing to embed never imports torch.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from featurestore.encoders.base import Encoder, LoadOptions
from featurestore.encoders.families import family_of, versions_of
from featurestore.encoders.trust import PYTHON, Trust, check_trusted
from featurestore.encoders.weights import SHA256
from featurestore.errors import BadName, MissingExtra, UnknownEncoder
from featurestore.storage import user_cache
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder


def check_device_name(device: str) -> str:
    """Return a device name that is well formed; whether the device exists, torch knows.

    Raises
    ------
    BadName
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise BadName(f"no device {device!r}: expected auto, cpu, cuda, cuda:1 or mps")
    return device


def known_encoder(spec: EncoderSpec, made: str | None = None) -> ResolvedEncoder | None:
    """Return what the user's cache knows of an encoder; None if it has to be loaded.

    ``made`` is the fingerprint of a view of this spec; see `LoadOptions.made`.
    """
    family = family_of(spec)
    if not family.is_remembered:
        return None
    if "prompt" not in family.options:
        return _known(spec, str(spec))
    keys = [str(spec)] if made is None else [str(spec), _key_as_made(spec, made)]
    all_known = [_known(spec, key) for key in keys]
    return next((one for one in all_known if one and made in (None, one.fingerprint)), None)


def with_known_cut(spec: EncoderSpec) -> EncoderSpec:
    """Return a tap's spec with its cut as a number from below (``tap=5``), if that is known.

    That of ``tap=auto`` and ``tap=-3`` is known once the encoder was loaded.
    """
    known = None if spec.option("tap", "").isdecimal() else known_encoder(spec)
    return spec if known is None else known.spec


def _known(spec: EncoderSpec, key: str) -> ResolvedEncoder | None:
    known, family = user_cache.recall("encoders", key), family_of(spec)
    if not known or known["files"] != _files(spec) or known["versions"] != versions_of(family):
        return None
    if "prompt" in family.options and "prompts" not in known:
        return None  # noted by 0.1, where a spec could mean another prompt
    return ResolvedEncoder(
        EncoderSpec.parse(known.get("spec", str(spec))),
        known["dim"],
        frozenset(map(Modality, known["modalities"])),
        known["chosen"],
        known["versions"],
        known.get("n_parameters"),
        known.get("prompts", {}),
    )


def _key_as_made(spec: EncoderSpec, made: str) -> str:
    return f"{spec} as {made}"


def load_encoder(
    spec: EncoderSpec, *, device: str = "auto", trust: Trust = False, made: str | None = None
) -> Encoder:
    """Load one encoder; see `load_encoders`."""
    of_then = {} if made is None else {spec: made}
    return load_encoders([spec], LoadOptions(device, trust, made=of_then))[0]


def load_encoders(
    specs: Sequence[EncoderSpec], load_options: LoadOptions | None = None
) -> list[Encoder]:
    """Load encoders, in the order of the specs; those of one network share it.

    Raises
    ------
    UnknownEncoder
        If there is no such model, or its weights cannot be had here.
    MissingExtra
        If the package of the family is not installed.
    NotTrusted
        If its name or its model brings code, and ``load_options.trust`` does not allow it.
    """
    load_options = load_options or LoadOptions()
    loaded: dict[EncoderSpec, Encoder] = {}
    for network in dict.fromkeys(spec.network for spec in specs):
        sharing = [spec for spec in dict.fromkeys(specs) if spec.network == network]
        for spec, encoder in zip(sharing, _load(sharing, load_options), strict=True):
            loaded[spec] = encoder
            _remember(spec, encoder.resolved)
    return [loaded[spec] for spec in specs]


def _load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> Sequence[Encoder]:
    spec, family = specs[0], family_of(specs[0])
    for one in specs:
        family_of(one)
        if str(one).startswith(PYTHON):
            check_trusted(str(one), load_options.trust, where="the store or bundle", what="encoder")
    if spec.local_dir is not None and not spec.local_dir.is_dir():
        raise UnknownEncoder(
            f"{spec.local_dir} is not a folder: expected one that holds the model of {spec}"
        )
    if spec.local_file is not None and not spec.local_file.is_file():
        raise UnknownEncoder(f"{spec.local_file} is not a file: expected the checkpoint of {spec}")
    # Read once, when OpenMP loads. Its default, spinning at barriers, takes the cores that
    # decode workers and other programs need: measured here under load, 6 images/s against 23.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if spec.has_tap:  # a pass that ends at the cut is not compiled
        load_options = replace(load_options, compile=False)
    try:
        module = importlib.import_module(family.module)
        encoders: Sequence[Encoder] = module.load(specs, load_options)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("featurestore."):
            raise UnknownEncoder(
                f"the family {spec.family!r} of another package imports {error.name}, which has "
                "moved: see docs/encoders.md for what a family imports now"
            ) from error
        raise MissingExtra(
            f"{spec} needs the package {error.name!r}, which is not installed: {family.to_install}"
        ) from error
    for encoder in encoders:
        if not isinstance(encoder, Encoder):
            raise UnknownEncoder(
                f"{spec} gave a {type(encoder).__qualname__}: expected one that derives from "
                "featurestore.encoders.Encoder (docs/encoders.md shows a whole family)"
            )
    return encoders


def _remember(spec: EncoderSpec, resolved: ResolvedEncoder) -> None:
    family = family_of(spec)
    entry = {
        "files": _files(spec),
        "versions": versions_of(family),
        "dim": resolved.dim,
        "modalities": sorted(resolved.modalities),
        "chosen": dict(resolved.chosen),
        "n_parameters": resolved.n_parameters,
        "prompts": dict(resolved.prompts),
    } | ({} if resolved.spec == spec else {"spec": str(resolved.spec)})  # of #tap=auto
    key = _key_as_made(spec, resolved.fingerprint) if "now" in resolved.prompts else str(spec)
    if family.is_remembered and user_cache.recall("encoders", key) != entry:
        user_cache.remember("encoders", key, entry)


def _files(spec: EncoderSpec) -> list[list[Any]]:
    """Return (name, size, mtime_ns) of a local model's files; they tell whether it changed."""
    if spec.family == "builtin":
        return [[name, digest] for name, digest in SHA256.items()]
    folder, file = spec.local_dir, spec.local_file
    paths = sorted(folder.rglob("*")) if folder is not None else [file] if file else []
    entries = []
    for path in paths:
        if path.is_file():
            status = path.stat()
            name = path.relative_to(folder) if folder is not None else path.name
            entries.append([str(name), status.st_size, status.st_mtime_ns])
    return entries
