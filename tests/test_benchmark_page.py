"""docs/benchmarks.md says what benchmarks/results/*.json hold, and marks each missed bar."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = {
    path.stem: json.loads(path.read_text())["rows"]
    for path in (ROOT / "benchmarks" / "results").glob("*.json")
}
HEADER = "| what | compared with | figure | bar | met |"
# A row of the page (its first two cells), then the figures of its third by file and name.
FIGURES = (
    ("1,200 images with MobileNetV2", "embed", "ours ÷ timm + ImageFolder + DataLoader", 4.7),
    ("the same | thingsvision", "embed", "ours ÷ thingsvision", 3.3),
    ("the same | FiftyOne", "embed", "ours ÷ FiftyOne compute_embeddings", 3.8),
    ("peak memory at 20,000", "embed", "… 20,000 ÷ 2,000", 0.93),
    ("second run over 10,000 unchanged files", "embed", "warm run, 10,000 unchanged files", 1.0),
    ("`builtin:tiny-image`", "builtin", "mean of the four, tiny-image over its teacher", 1.02),
    ("`builtin:tiny-text`", "builtin", "banking77 test, tiny-text over its teacher", 0.98),
    ("one query, recall@10", "store", "… over ours", 48),
    ("the same | exact search", "store", "… exact over ours", 160),
    ("tuned `logistic`, 50,000 × 512, 100 classes: time", "heads", "… theirs over ours", 6.2),
    ("five heads with choices", "heads", "… ours over theirs", 0.31),
    ("the same | 16 processes that only decode", "gpu",
     "ViT-B-32 TF32: files ÷ min(decode, forward)", 0.83),
)  # fmt: skip


def sections():
    return re.split(r"^## ", PAGE, flags=re.M)[1:]


def rows_of(section):
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines[0] == HEADER
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("section", sections(), ids=lambda text: text.splitlines()[0])
def test_each_section_has_one_table_that_names_what_it_compares_with(section):
    assert section.count(HEADER) == 1
    for what, against, figure, bar, met in rows_of(section):
        assert what
        assert figure
        assert against or "the same" in what, f"{what}: compared with what?"
        assert bool(bar) == bool(met), f"{what}: a bar, and whether it is met, or neither"
        assert re.fullmatch(r"(yes|\*\*no\*\*( \([^)]+\))?)?", met)


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_missed_bars_are_marked_where_there_are_any(name):
    about = "".join(text for text in sections() if f"results/{name}.json" in text)
    assert about, f"no section says that it is from {name}.json"
    if any(row["passes"] is False for row in RESULTS[name]):
        assert "**no**" in about


@pytest.mark.parametrize(("row", "name", "what", "figure"), FIGURES)
def test_figures_are_those_of_the_results(row, name, what, figure):
    (line,) = (one for one in PAGE.splitlines() if one.startswith(f"| {row}"))
    shown = f"{figure:.1f}" if f"{figure:.1f} " in line else f"{figure}"
    assert re.search(rf"(?<![\d.]){re.escape(shown)}(?!\d)", line.split("|")[3]), line
    places = len(shown.partition(".")[2])
    value = next(one["value"] for one in RESULTS[name] if one["what"] == what)
    assert round(value, places) == figure


def test_the_figures_of_the_readme_are_on_the_page():
    table = README.partition("## Beside others")[2].partition("\n## ")[0]
    for figure in ("4.7 ×", "3.8 ×", "3.3 ×", "6.2 ×", "48 ×", "1.7 points"):
        assert figure in table
        assert figure.lstrip("+") in PAGE
