"""Draw the canary's probe pictures. They are shipped as bytes; never redraw them.

Run: python tools/make_probes.py OUTPUT_FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw(seed: int) -> Image.Image:
    """Draw gratings, dead leaves and noise: edges and texture at all scales."""
    rng = np.random.default_rng(seed)
    height, width = 576, 704
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x * rng.normal() + y * rng.normal()) / rng.uniform(4, 60)) for _ in range(3)]
    pixels = np.stack(waves, axis=-1) * 60 + 128 + rng.normal(0, 12, (height, width, 1))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(60):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.pareto(1.5) * 8 + 6
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape([cx - r, cy - r, cx + r, cy + r * rng.uniform(0.5, 1.5)], fill=colour)
    return image


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    draw(0).save(folder / "probe-0.jpg", quality=80)
    draw(1).quantize(32).save(folder / "probe-1.png", optimize=True)
