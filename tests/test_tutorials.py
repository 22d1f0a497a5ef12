"""docs/tutorials/ run as written, and print what is printed there."""

import re
import shlex
from pathlib import Path

import pytest

from featurestore.cli import run
from tests.tutorial_data import DATA

PAGES = Path(__file__).parents[1] / "docs" / "tutorials"
# Other processors sum in another order, so that single predictions may flip.
SLACK = 0.02


def test_each_page_is_run():
    assert {path.stem for path in PAGES.glob("*.md")} - {"index"} == set(DATA)


@pytest.mark.parametrize("name", sorted(DATA))
def test_the_tutorial_runs_and_prints_what_it_says(name, tmp_path, monkeypatch, capsys, shared):
    shared("data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATURESTORE_STORE", raising=False)
    DATA[name](tmp_path)
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert "**The decision:** " in page
    for block in re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        for one in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *shown = one.splitlines()
            assert run(shlex.split(command)[1:]) == 0, command
            said = capsys.readouterr()
            printed = [line.split() for line in (said.out + said.err).splitlines()]
            for line in shown:
                if line.strip() != "…":
                    assert any(_begins_with(row, line.split()) for row in printed), line


def _begins_with(printed, shown):
    """Tell whether a printed line begins as a line of the page does, seconds being left out."""
    return len(printed) >= len(shown) and all(map(_is_same, printed, shown))


def _is_same(one, other):
    if re.fullmatch(r"\d\.\d+", one) and re.fullmatch(r"\d\.\d+", other):
        return float(one) == pytest.approx(float(other), abs=SLACK)
    return one == other
