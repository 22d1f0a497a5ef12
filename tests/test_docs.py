"""What the README shows runs as written."""

import importlib
import os
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from featurestore.cli import cli, run
from featurestore.demo.data import write_digits

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


WHERE_IT_HELPS = {"steel": "builtin:tiny-image", "digits": "baseline:pixels"}


def test_the_first_example_runs(tmp_path, monkeypatch, capsys, shared):
    """All commands in order; with FEATURESTORE_WHOLE_EXAMPLE=1 on all pictures, to the figure."""
    photos = shared("data", "neu_steel")
    is_whole = os.environ.get("FEATURESTORE_WHOLE_EXAMPLE") == "1"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATURESTORE_STORE", raising=False)
    write_digits(tmp_path / "digits", every=1 if is_whole else 6)
    for kind in sorted(photos.iterdir()):
        (tmp_path / "steel" / kind.name).mkdir(parents=True)
        for path in sorted(kind.iterdir())[:: 1 if is_whole else 6]:
            shutil.copy(path, tmp_path / "steel" / kind.name)
    (tmp_path / "new").mkdir()
    for kind in ("crazing", "scratches"):
        path = next((photos / kind).iterdir())
        shutil.copy(path, tmp_path / "new")
    for block in blocks("console"):
        said = re.split(r"^\$ ", block, flags=re.M)[1:]
        for command, _, shown in (one.partition("\n") for one in said):
            assert run(shlex.split(command)[1:]) == 0, command
            printed = capsys.readouterr()
            if "compare" in command:
                _check_table(shown, printed.out, shlex.split(command)[2], are_all=is_whole)
            elif is_whole:
                for line in shown.replace("…", "").split("\n"):
                    assert line in printed.out + printed.err
    (python,) = blocks("python")
    exec(compile(python, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] == "['crazing' 'crazing' 'crazing']"


def _check_table(shown, printed, dataset, *, are_all):
    """The rows are the README's, and their figures, seconds left aside."""
    rows = [line.replace("–", "").split()[:5] for line in shown.splitlines() if " – " in line]
    assert len(rows) == 5
    found = [line.replace("–", "").split()[:5] for line in printed.splitlines() if " – " in line]
    assert found[0][0] == WHERE_IT_HELPS[dataset]
    values = {(encoder, head): figures for encoder, head, *figures in found}
    for encoder, head, *figures in rows:
        for figure, one in zip(figures, values[encoder, head], strict=True):
            # Sums differ in the last bits between processors, and a prediction may flip.
            assert not are_all or float(figure) == pytest.approx(float(one), abs=0.004)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 1000


def commands():
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
        for block in blocks("sh", path.read_text(encoding="utf-8")):
            for line in block.splitlines():
                if line.startswith("featurestore"):
                    yield shlex.split(line, comments=True)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_shown_has_the_arguments_that_exist(words):
    command, words = cli, words[1:]
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(command.name, words, resilient_parsing=False) as context:
        assert context.command is command


def test_links_lead_to_files():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_code_map_names_every_room_and_only_files_that_exist():
    for package in ("featurestore", "heads", "dashboard"):
        for path in (ROOT / package).iterdir():
            if (path / "__init__.py").exists() and path.name not in ("weights", "probes"):
                assert re.search(rf"\b{path.name}\b", ARCHITECTURE), f"{path} is not in the map"
    for name in re.findall(r"`([\w/]+\.py)`", ARCHITECTURE):
        homes = [ROOT, *(ROOT / package for package in ("featurestore", "tests", "tools"))]
        assert any((home / name).exists() for home in homes), f"the map names {name}"


WHERE = re.findall(
    r"^- (an? [^:]+): a (?:file like `([^`]+)`|function like `(\w+)` in `([^`]+)`), "
    r"a line in `(\w+)` of `([^`]+)`",
    ARCHITECTURE,
    re.M,
)


def test_where_to_add_is_a_list():
    assert {what for what, *_ in WHERE} >= {
        "an encoder family", "a kind of source", "a head", "a metric", "a page", "a command",
    }  # fmt: skip


@pytest.mark.parametrize(("what", "like", "function", "home", "table", "file"), WHERE)
def test_where_to_add_names_what_is_there(what, like, function, home, table, file):
    """The file or function to copy is there, and the table names it."""
    lines = (ROOT / file).read_text()
    assert re.search(rf"^(def )?{table}\b", lines, re.M), f"{what}: no {table} in {file}"
    if function:
        assert f"def {function}(" in (ROOT / home).read_text(), f"{what}: no {function} in {home}"
        assert function in lines, f"{what}: {file} does not name {function}"
    else:
        assert (ROOT / like).exists(), f"{what}: no {like}"
        stem = Path(like).stem
        assert re.search(rf"\b{stem}\b", lines) or re.search(
            rf"\b{'|'.join(_classes(ROOT / like))}\b", lines
        ), f"{what}: {file} does not name {like}"


def _classes(path):
    return re.findall(r"^class (\w+)", path.read_text(), re.M)


def _resolves(name):
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_names_of_ours_in_backquotes_are_there():
    """Docstrings and pages follow when code moves; decisions tell of their day."""
    ours = re.compile(r"``?((?:featurestore|heads|dashboard)(?:\.\w+)+)``?")
    places = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    for folder in ("featurestore", "heads", "dashboard", "benchmarks", "tools"):
        places += (ROOT / folder).rglob("*.py")
    files = (".json", ".md", ".py", ".parquet", ".toml")
    names = {
        name: path.relative_to(ROOT)
        for path in places
        for name in ours.findall(path.read_text(encoding="utf-8"))
        if not name.endswith(files)
    }
    assert len(names) > 20
    assert {name: str(path) for name, path in names.items() if not _resolves(name)} == {}
