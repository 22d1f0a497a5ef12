"""Whether two pictures are the same one, cropped, brightened or saved again.

Both are made small, the light is evened out, and one is laid over the other at every place and
at several sizes. Where they fit best they are cut into tiles: of a copy every tile fits, of two
pictures that share a line or a shadow only some do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 64
SAME = 0.68  # a copy has more; chosen on planted copies of neu_steel (benchmarks/quality.py)
_SIZES = tuple(range(SIDE_PX, 49, -2))  # of the one within the other: down to 0.78
_BLUR_PX = 6.0
_EVEN = 4.0  # grey levels: weaker contrast is noise
_EDGE_PX = 2  # of the smaller one, which the blur has spoilt
_TILES = 4
_FAINT = 0.2  # root mean square of an evened tile: below, it is mostly noise
_HOPELESS = 0.5  # fit of the whole


@dataclass(frozen=True, eq=False)
class Print:
    """A picture, ready to be laid on others."""

    even: NDArray[np.float32]  # (SIDE_PX, SIDE_PX)
    spectrum: NDArray[np.complex64]  # of it
    loud: tuple[NDArray[np.float32], ...]  # of each size: 1 / length of what lies under it
    small: tuple[NDArray[np.float32], ...]  # the picture in each size, of mean 0 and length 1
    small_spectra: NDArray[np.complex64]  # (n_sizes, …), conjugate


def print_of(image: Image.Image) -> Print:
    """Prepare a picture; its sides are squeezed to a square."""
    from scipy.fft import rfft2

    grey = image.convert("L")
    even = _evened(grey, SIDE_PX)
    small = []
    for size in _SIZES:
        inner = _evened(grey, size)[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX]
        inner = inner - inner.mean()
        small.append((inner / max(float(np.linalg.norm(inner)), 1e-6)).astype(np.float32))
    shape = (SIDE_PX, SIDE_PX)
    return Print(
        even,
        rfft2(even),
        tuple(_loudness(even, len(one)) for one in small),
        tuple(small),
        np.stack([np.conj(rfft2(one, shape)) for one in small]),
    )


def likeness(first: Print, second: Print) -> float:
    """Return the mean correlation of tiles where the pictures fit best, in [-1, 1]."""
    return max(_laid_on(first, second), _laid_on(second, first))


def _laid_on(ground: Print, one: Print) -> float:
    from scipy.fft import irfft2

    shape = (SIDE_PX, SIDE_PX)
    products = irfft2(ground.spectrum * one.small_spectra, shape)  # (n_sizes, SIDE_PX, SIDE_PX)
    best, at = _HOPELESS, None
    for i, loud in enumerate(ground.loud):
        n = len(loud)
        fit = products[i, :n, :n] * loud
        place = int(fit.argmax())
        if fit.flat[place] > best:
            best, at = float(fit.flat[place]), (i, *divmod(place, n))
    if at is None:
        return 0.0
    i, y, x = at
    small = one.small[i]
    under = ground.even[y : y + len(small), x : x + len(small)]
    return _tilewise(under, small)


def _evened(grey: Image.Image, size: int) -> NDArray[np.float32]:
    """Return a small picture without slow changes of brightness, its local contrast evened out."""
    from scipy.ndimage import gaussian_filter

    small = grey.resize((size, size), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32)
    detail = pixels - gaussian_filter(pixels, _BLUR_PX)
    strength = gaussian_filter(detail * detail, 2 * _BLUR_PX)
    return np.asarray(detail / np.sqrt(strength + _EVEN**2), np.float32)


def _loudness(even: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return 1 over the centred length of each window, from sums over rectangles."""
    sums, squares = (
        np.pad(one.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        for one in (even, even * even)
    )

    def over(table: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(
            table[size:, size:]
            - table[:-size, size:]
            - table[size:, :-size]
            + table[:-size, :-size]
        )

    spread = over(squares) - over(sums) ** 2 / size**2
    return np.asarray(1 / np.sqrt(np.maximum(spread, 1e-6)), np.float32)


def _tilewise(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the mean correlation of the tiles; tiles with little contrast weigh less."""
    alike = b * (np.linalg.norm(a) / max(float(np.linalg.norm(b)), 1e-6))
    rows = np.array_split(np.stack([a, alike]), _TILES, axis=1)
    found, weights = [], []
    for tile in (tile for row in rows for tile in np.array_split(row, _TILES, axis=2)):
        one, other = (pixels - pixels.mean() for pixels in tile)
        length = float(np.sqrt((one * one).sum() * (other * other).sum()))
        found.append(float((one * other).sum()) / max(length, 1e-9))
        weights.append(min(1.0, length / one.size / _FAINT**2))
    return float(np.average(found, weights=weights)) if sum(weights) > 1 else 0.0
