"""docs/commands.md runs as a script, in its order (tests/test_docs.py: those of the README)."""

import re
import shlex
import tarfile
from pathlib import Path

import click
import pytest

from featurestore.cli import cli, run

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def lines_of(text):
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("featurestore "):
                yield line


@pytest.fixture
def workplace(tmp_path, monkeypatch, write_image):
    """The files that the page names: pictures of two kinds, tables, tar shards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATURESTORE_STORE", raising=False)
    colours = {"cat": (200, 60, 10), "dog": (20, 60, 200)}
    rows = ["file,grade,patient"]
    for n in range(12):
        for kind, (red, green, blue) in colours.items():
            write_image(Path("photos") / kind / f"{n}.jpg", (red - 5 * n, green + n, blue - n), 16)
            rows.append(f"{kind}/{n}.jpg,{n % 3},p{n // 2}")
    Path("grades.csv").write_text("\n".join(rows) + "\n")
    for name in "abc":
        write_image(Path("new-photos") / f"{name}.jpg", (190, 70, 20), 16)
    topics = {"cards": "my card is lost", "travel": "a train to the airport"}
    for name, n_rows in (("train", 16), ("test", 6)):
        texts = [f"{topics[t]} {n},{t}" for n in range(n_rows) for t in topics]
        Path(f"{name}.csv").write_text("text,topic\n" + "\n".join(texts) + "\n")
    cells = [f"photos/cat/{n}.jpg,{'ab'[n % 2]},s{n // 4}" for n in range(12)]
    Path("cells.csv").write_text("path,kind,smear\n" + "\n".join(cells) + "\n")
    Path("shards").mkdir()
    for shard in (0, 1):
        with tarfile.open(f"shards/train-{shard:02}.tar", "w") as tar:
            for n in range(8):
                tar.add(f"photos/dog/{n}.jpg", f"{shard}-{n}.jpg")
    return tmp_path


def test_the_page_runs_from_its_first_line_to_its_last(workplace, capsys):
    for line in lines_of(PAGE):
        code = run(shlex.split(line)[1:])
        said = capsys.readouterr()
        assert code == 0, f"{line}\n{said.err}"
        _do_what_a_person_would(line)
    taken = [line for line in said.err.splitlines() if line.startswith("from ")]
    assert not taken


def _do_what_a_person_would(line):
    """Fill the label column of what `suggest` wrote."""
    if " -o todo.csv" in line:
        header, *rows = Path("todo.csv").read_text().splitlines()
        at = header.split(",").index("label")
        cells = [row.split(",") for row in rows]
        filled = [",".join([*row[:at], "fine", *row[at + 1 :]]) for row in cells]
        Path("todo.csv").write_text("\n".join([header, *filled]) + "\n")


def test_the_page_names_every_command():
    named = {words[1] if words[1] != "store" else " ".join(words[1:3])
             for words in map(shlex.split, lines_of(PAGE))}  # fmt: skip
    top = {name for name, one in cli.commands.items() if not one.hidden}
    inside = {f"store {name}" for name in cli.commands["store"].commands}
    assert isinstance(cli.commands["store"], click.Group)
    # test_publish.py; tests/heads: test_drift.py, test_hub.py, test_upgrade.py,
    # test_export_model.py, test_export_onnx.py and test_serve_command.py run these
    in_words = {
        "dashboard", "serve", "store export-model", "store export-onnx", "store publish",
        "store drift", "store upgrade", "store push", "store pull",
    }  # fmt: skip
    assert (top | inside) - named == {"store", *in_words}
    assert all(f"`featurestore {one}" in PAGE for one in in_words)
