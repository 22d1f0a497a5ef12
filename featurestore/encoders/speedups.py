"""What the user's choices would gain: measured on a few of the items, never assumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from featurestore.encoders.base import Encoder
from featurestore.encoders.images import decode_image


def measure_gains(encoder: Encoder, contents: Sequence[bytes]) -> dict[str, float]:
    """Return how many times as fast ``decode=fast`` and ``precision=bf16`` would be.

    Parameters
    ----------
    encoder : Encoder
        Of images. An option that it does not have, or has already, is left out.
    contents : sequence of bytes
        Some pictures of the data set.

    Returns
    -------
    dict of str to float
        By option: for ``decode=fast`` of decoding and preparing, for ``precision=bf16`` of the
        forward pass.
    """
    pictures = [decode_image(one) for one in contents]
    prepared = [encoder.prepare_image(one) for one in pictures]
    gains = {}
    shrink_px = encoder.shrink_px
    if shrink_px is not None and encoder.decode_px is None:

        def prepare(at_least_px: int | None) -> None:
            for one in contents:
                encoder.prepare_image(decode_image(one, at_least_px=at_least_px))

        gains["decode=fast"] = _best_s(lambda: prepare(None)) / _best_s(lambda: prepare(shrink_px))
    half = encoder.in_half_precision()
    if half is not None:
        full_s = _best_s(lambda: encoder.encode_images(prepared))
        gains["precision=bf16"] = full_s / _best_s(lambda: half.encode_images(prepared))
    return gains


def _best_s(work: Callable[[], object], repeats: int = 3) -> float:
    work()  # warms up
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)
