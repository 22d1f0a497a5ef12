"""Encode a few things now, beside the pipeline: queries, and items that a head is asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.base import Encoder
from featurestore.encoders.canary import PROBE_TEXTS, check_canary, check_probes, probe_pictures
from featurestore.encoders.images import decode_image
from featurestore.encoders.loading import load_encoder
from featurestore.encoders.trust import Trust, asked_for, either
from featurestore.errors import EncoderMismatch, ModalityMismatch
from featurestore.terms.activations import Activations
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

if TYPE_CHECKING:
    from featurestore.encoders.torch_network import TorchEncoder

BATCH_ITEMS = 64


def open_encoder(
    info: Mapping[str, Any], spec: EncoderSpec | None = None, *, trust: Trust = False
) -> Encoder:
    """Load the encoder that encoder.json describes, and make sure that it is the same.

    Parameters
    ----------
    info : mapping
        ``spec``, ``fingerprint`` and ``canary`` of a view.
    spec : EncoderSpec, optional
        Where the encoder is now, if not where ``info`` says; the caller names it, so that code
        of this name may run.
    trust : bool or names
        Which code that ``info`` names may run, besides.

    Raises
    ------
    EncoderMismatch
        If it has another fingerprint.
    EncoderDrift
        If it gives other vectors.
    NotTrusted
        If its code may not run.
    """
    if spec is None:
        spec = EncoderSpec.parse(info["spec"])
    else:
        trust = either(trust, asked_for(str(spec)))
    encoder = load_encoder(spec, trust=trust, made=info["fingerprint"])
    _check_same(encoder.resolved, info)
    check_canary(encoder, info["canary"])
    return encoder


def _check_same(now: ResolvedEncoder, info: Mapping[str, Any]) -> None:
    if now.fingerprint != info["fingerprint"]:
        raise EncoderMismatch(
            f"{now.spec} is another encoder now than the one that made these vectors: fingerprint "
            f"{now.fingerprint[:8]}, expected {info['fingerprint'][:8]}"
        )


def open_tap(
    info: Mapping[str, Any], cut: int, spec: EncoderSpec | None = None, *, trust: Trust = False
) -> TorchEncoder:
    """Load the encoder that encoder.json describes, cut after so many blocks; see `open_encoder`.

    That it is the same is seen by the fingerprint that it has without the cut, and by the vectors
    of the probes, which its upper part gives.
    """
    if spec is None:
        spec = EncoderSpec.parse(info["spec"])
    else:
        trust = either(trust, asked_for(str(spec)))
    encoder = cast("TorchEncoder", load_encoder(spec.with_option("tap", cut), trust=trust))
    whole = {key: one for key, one in encoder.resolved.chosen.items() if key != "tap"}
    _check_same(replace(encoder.resolved, spec=spec, chosen=whole), info)
    probes: dict[Modality, Sequence[str | bytes]] = {
        Modality.IMAGE: probe_pictures(),
        Modality.TEXT: PROBE_TEXTS,
    }
    now = {str(one): _through_the_cut(encoder, probes[one]) for one in encoder.resolved.modalities}
    check_probes(now, info["canary"], str(spec))
    return encoder


def _through_the_cut(encoder: TorchEncoder, contents: Sequence[str | bytes]) -> list[list[float]]:
    """Return the vectors that the upper part makes of contents, one at a time."""
    import torch

    from featurestore.encoders.upper_part import upper_of

    held, upper = activations(encoder, contents), upper_of(encoder)
    found = []
    for at in range(len(held)):
        row = np.array([at])
        values, lengths = held.ragged(row) if held.is_ragged else (held.batch(row), None)
        batch = torch.from_numpy(values[None] if held.is_ragged else values).to(encoder.device)
        with torch.inference_mode():
            of_text = None if lengths is None else torch.from_numpy(lengths).to(encoder.device)
            found.append(upper(batch, of_text)[0].tolist())
    return found


def activations(encoder: TorchEncoder, contents: Sequence[str | bytes]) -> Activations:
    """Return what a network holds at its cut of texts, or of the bytes of images, as they are.

    Raises
    ------
    ModalityMismatch, Undecodable
        As of `encode_each`.
    """
    known, found = encoder.resolved, []
    for begin in range(0, len(contents), BATCH_ITEMS):
        batch = contents[begin : begin + BATCH_ITEMS]
        if isinstance(batch[0], str):
            check_reads(known.spec, known.modalities, Modality.TEXT)
            found += encoder.encode_texts([str(one) for one in batch])
            continue
        check_reads(known.spec, known.modalities, Modality.IMAGE)
        px = encoder.decode_px
        images = [decode_image(one, at_least_px=px) for one in batch if isinstance(one, bytes)]
        found += list(encoder.encode_images([encoder.prepare_image(one) for one in images]))
    assert encoder.tap is not None, "an encoder of a tap"
    is_ragged = encoder.tap.is_ragged
    return Activations.of(found if is_ragged else np.stack(found), encoder.tap.variants)


def check_reads(spec: EncoderSpec, modalities: frozenset[Modality], modality: Modality) -> None:
    """Stop where an encoder does not read such contents.

    Raises
    ------
    ModalityMismatch
    """
    if modality not in modalities:
        raise ModalityMismatch(
            f"{spec} cannot read {modality}s: it reads "
            f"{' and '.join(sorted(modalities))}s; texts and images meet only in an "
            "encoder that was trained on both, such as open_clip:ViT-B-32/laion2b_s34b_b79k"
        )


def encode(
    encoder: Encoder, contents: Sequence[str | bytes], *, as_queries: bool = False
) -> NDArray[np.float32]:
    """Encode texts, or the bytes of images; returns (n, dim) float32; see `encode_each`."""
    (vectors,) = encode_each([encoder], contents, as_queries=as_queries)
    return vectors


def encode_each(
    encoders: Sequence[Encoder], contents: Sequence[str | bytes], *, as_queries: bool = False
) -> list[NDArray[np.float32]]:
    """Encode the same texts, or bytes of images, by several encoders: (n, dim) float32 of each.

    Texts are encoded as items are, or, where the model has a prompt for them, as queries. An
    image is decoded once for all encoders that take it whole.

    Raises
    ------
    ModalityMismatch
        If an encoder does not read such contents.
    Undecodable
        If bytes are no picture.
    """
    known = [encoder.resolved for encoder in encoders]
    if len(contents) == 0:
        return [np.empty((0, one.dim), dtype=np.float32) for one in known]
    modality = Modality.TEXT if isinstance(contents[0], str) else Modality.IMAGE
    for one in known:
        check_reads(one.spec, one.modalities, modality)
    batches: list[list[NDArray[np.float32]]] = [[] for _ in encoders]
    for begin in range(0, len(contents), BATCH_ITEMS):
        batch = contents[begin : begin + BATCH_ITEMS]
        images = [one for one in batch if isinstance(one, bytes)]
        decoded: dict[int | None, Any] = {}  # whole, or shrunk for those who ask for it
        for encoder, done in zip(encoders, batches, strict=True):
            if modality is Modality.TEXT:
                encode_texts = encoder.encode_queries if as_queries else encoder.encode_texts
                done.append(encode_texts([str(one) for one in batch]))
                continue
            px = encoder.decode_px
            if px not in decoded:
                decoded[px] = [decode_image(one, at_least_px=px) for one in images]
            done.append(encoder.encode_images([encoder.prepare_image(one) for one in decoded[px]]))
    return [np.concatenate(done).astype(np.float32, copy=False) for done in batches]
