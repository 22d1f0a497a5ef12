"""Three real data sets out of installed packages: digits, docstrings, names of pictographs."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np

DIGIT_SIZE_PX = 32
TEXT_CHARACTERS = 500  # the summary and what follows: short texts, as people have them

SUBPACKAGES = (
    "fft", "integrate", "interpolate", "linalg", "ndimage", "optimize",
    "signal", "sparse", "spatial", "special", "stats",
)  # fmt: skip

# Where Unicode's charts keep pictographs of a kind: first and last code point of each run.
PICTOGRAPHS = {
    "animal": ((0x1F400, 0x1F43E), (0x1F980, 0x1F9AE)),
    "food": ((0x1F32D, 0x1F32F), (0x1F345, 0x1F37F), (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB)),
    "transport": ((0x1F680, 0x1F6A4), (0x1F6E5, 0x1F6E5), (0x1F6F0, 0x1F6FC)),
    "clothing": ((0x1F451, 0x1F462), (0x1F97B, 0x1F97F), (0x1F9E2, 0x1F9E6)),
    "building": ((0x1F3E0, 0x1F3F0), (0x1F3D4, 0x1F3DF)),
    "music or sport": ((0x1F3A0, 0x1F3D3),),
}


def write_digits(folder: Path) -> Path:
    """Write scikit-learn's 1,797 handwritten digits as PNG files in class folders."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8))
        grey.resize((DIGIT_SIZE_PX, DIGIT_SIZE_PX), Image.Resampling.NEAREST).save(path)
    return folder


def write_docstrings(path: Path) -> Path:
    """Write the docstrings of scipy's public functions and classes as JSON lines.

    The label is the subpackage. Import paths and package names are masked and only the
    beginning is kept, so that the text must tell by what it says. Objects that several
    subpackages share are left out.
    """
    found: dict[str, tuple[str, str]] = {}
    shared: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns on old names while we look at them
        for subpackage in SUBPACKAGES:
            for name, thing in _public(f"scipy.{subpackage}"):
                text = inspect.getdoc(thing)
                if not text or len(text) < 200:
                    continue
                masked = mask(text)[:TEXT_CHARACTERS]
                if masked in found and found[masked][0] != subpackage:
                    shared.add(masked)
                found.setdefault(masked, (subpackage, f"{subpackage}.{name}"))
    rows = [
        {"id": name, "text": text, "subpackage": subpackage}
        for text, (subpackage, name) in found.items()
        if text not in shared
    ]
    unique = {row["id"]: row for row in sorted(rows, key=lambda row: row["id"])}
    lines = [json.dumps(row, ensure_ascii=False) for row in unique.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_pictographs(path: Path) -> Path:
    """Write the names of Unicode's pictographs as JSON lines; the label is what they show.

    Names such as ``goat`` and ``dumpling`` share no words, so that only somebody who knows
    what they mean can sort them.
    """
    lines = [
        json.dumps({"id": f"U+{code:X}", "text": name.lower(), "kind": kind})
        for kind, runs in PICTOGRAPHS.items()
        for first, last in runs
        for code in range(first, last + 1)
        if (name := unicodedata.name(chr(code), ""))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def mask(text: str) -> str:
    """Hide import paths and package names.

    >>> mask("See scipy.fft.dct and `from scipy import signal`; stats.norm works.")
    'See _ and `from _ import _`; _.norm works.'
    """
    names = "|".join(SUBPACKAGES)
    return re.sub(rf"\b(?:scipy(?:\.\w+)*|{names})\b", "_", text, flags=re.IGNORECASE)


def _public(package: str) -> list[tuple[str, object]]:
    module = importlib.import_module(package)
    things = {name: getattr(module, name) for name in getattr(module, "__all__", [])}
    for child in pkgutil.iter_modules(module.__path__):  # sparse.linalg, stats.mstats, …
        if not child.name.startswith("_") and child.name not in ("tests", "setup"):
            inner = importlib.import_module(f"{package}.{child.name}")
            things |= {
                f"{child.name}.{name}": getattr(inner, name)
                for name in getattr(inner, "__all__", [])
                if hasattr(inner, name)
            }
    return [(name, thing) for name, thing in things.items() if callable(thing)]
