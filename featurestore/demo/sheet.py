"""A page of pictures: some, and what lies near each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

SIDE_PX, GAP_PX = 72, 10
MARGIN_PX, FONT_PX = 20, 17


def draw_neighbors(
    path: Path, found: Mapping[Path, Sequence[Sequence[Path]]], titles: Sequence[str]
) -> Path:
    """Draw a row for each picture: itself, then its neighbours in one block for each title.

    Parameters
    ----------
    path : Path
        Where the PNG goes.
    found : mapping of paths to sequences of paths
        For each picture its neighbours, one list for each title.
    titles : sequence of str
        What stands above the blocks.
    """
    from PIL import Image, ImageDraw, ImageFont

    step = SIDE_PX + GAP_PX
    n = max(len(block) for blocks in found.values() for block in blocks)
    starts = [MARGIN_PX + round(step * (1.5 + (n + 0.5) * number)) for number in range(len(titles))]
    top = MARGIN_PX + 2 * FONT_PX
    size = (starts[-1] + n * step + MARGIN_PX, top + step * len(found) + MARGIN_PX)
    page = Image.new("RGB", size, "white")
    font = ImageFont.load_default(FONT_PX)
    pen = ImageDraw.Draw(page)
    for left, title in zip([MARGIN_PX, *starts], ["picture", *titles], strict=True):
        pen.text((left, MARGIN_PX), title, "black", font)
    for row, (item, blocks) in enumerate(found.items()):
        _paste(page, item, MARGIN_PX, top + row * step)
        for left, block in zip(starts, blocks, strict=True):
            for column, one in enumerate(block):
                _paste(page, one, left + column * step, top + row * step)
    page.save(path)
    return path


def _paste(page: Image.Image, path: Path, left: int, top: int) -> None:
    from PIL import Image as images

    with images.open(path) as picture:
        page.paste(picture.convert("RGB").resize((SIDE_PX, SIDE_PX)), (left, top))
