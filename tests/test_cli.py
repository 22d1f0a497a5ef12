"""The command line: exit codes, streams, and what a user would do."""

import json
import subprocess
import sys

import pytest

from featurestore.cli import printing, run
from featurestore.cli.exit_codes import FAILED_ITEMS, INTERRUPTED

PIXELS = "baseline:pixels#size=2"


@pytest.fixture
def embedded(fs, tiny_images):
    assert fs("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS)[0] == 0
    return fs


def test_embed_says_what_it_did_and_keeps_stdout_for_data(fs, tiny_images):
    code, out, err = fs("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS)
    assert (code, out) == (0, "")
    understood, report, leads_on = err.splitlines()
    assert understood == "6 pictures: 2 classes from folder names (sizes 3)"
    assert report.startswith(f"tiny@{PIXELS}: 6 embedded (")
    said = "Type next, to see which encoder and head to take: featurestore advise tiny"
    assert leads_on == said
    assert leads_on in fs("info", "tiny")[1]
    code, out, err = fs("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS, "--json")
    assert "Type next" not in err
    assert [(row["n_encoded"], row["n_unchanged"]) for row in json.loads(out)] == [(0, 6)]


def test_a_person_at_a_terminal_sees_how_far_it_is(fs, tiny_images, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = fs("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS)
    assert (code, out) == (0, "")
    assert "6 of 6 items" in err
    assert "limit: " in err
    *_, after = err.partition(f"tiny@{PIXELS}: 6 embedded")
    assert "\x1b[2K" not in after  # the bar was taken away before; it would take the line with it


def test_in_a_terminal_sentences_break_between_words_and_commands_do_not(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    printing.tell("  • lda is likely 2.4 points worse (-0.7 to +5.5), as far as we can tell")
    printing.tell("Type next: featurestore train photos -e builtin:tiny-image")
    assert capsys.readouterr().out.splitlines() == [
        "  • lda is likely 2.4 points", "    worse (-0.7 to +5.5), as", "    far as we can tell",
        "Type next: featurestore train photos -e builtin:tiny-image",
    ]  # fmt: skip


def test_failed_items_give_exit_code_3_once(fs, tiny_images):
    (tiny_images / "dark" / "bad.jpg").write_bytes(b"garbage")
    code, _, err = fs("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS)
    assert code == FAILED_ITEMS
    assert "1 failed" in err
    assert "dark/bad.jpg: not an image" in err
    code, _, err = fs("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS)
    assert code == 0
    assert "1 failed before (--retry-failed tries them again)" in err
    _, out, _ = fs("info", "tiny")
    assert "failed (decode): dark/bad.jpg" in out


def test_ls_and_info_count(embedded):
    _, out, _ = embedded("ls", "--json")
    assert json.loads(out) == [
        {
            "dataset": "tiny",
            "modality": "image",
            "items": 6,
            "views": [PIXELS],
            "taps": [],
            "unfinished": [],
        }
    ]
    _, out, _ = embedded("info", "tiny", "--json")
    found = json.loads(out)
    assert found["counts"]["label"] == {"dark": 3, "light": 3}
    assert [(view["rows"], view["dim"]) for view in found["views"]] == [(6, 12)]
    assert "label: dark: 3, light: 3" in embedded("info", "tiny")[1]


def test_search_by_item_and_by_image(embedded, tiny_images):
    _, out, _ = embedded("search", "tiny", "--item", "light/0.png", "-n", 2, "--json")
    found = json.loads(out)
    assert found["view"] == f"tiny@{PIXELS}"
    assert [row["item_id"] for row in found["neighbors"]] == ["light/1.png", "light/2.png"]
    _, out, _ = embedded(
        "search", f"tiny@{PIXELS}", "--image", tiny_images / "light/2.png", "-k", 1, "--json"
    )
    assert json.loads(out)["neighbors"][0]["item_id"] == "light/2.png"
    assert "light/1.png" in embedded("search", "tiny", "--item", "light/0.png")[1]


def test_sql_over_the_items(embedded):
    _, out, _ = embedded(
        "sql", "select label, count(*) n from tiny group by 1 order by 1", "--json"
    )
    assert json.loads(out) == [{"label": "dark", "n": 3}, {"label": "light", "n": 3}]
    code, out, err = embedded("sql", "copy tiny to '/tmp/x.csv'")
    assert (code, out) == (1, "")
    assert "expected one SELECT" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "tny"], 1, "did you mean 'tiny'"),
        (["embed", "{images}", "--dataset", "Tiny", "-e", PIXELS], 1, "try 'tiny'"),
        (
            ["embed", "{images}", "--dataset", "tiny", "-e", "baseline:hashing"],
            1,
            "reads texts, but",
        ),
        (["embed", "{images}", "--dataset", "tiny", "-e", "pixles"], 1, "no encoder is called"),
        (["embed", "{empty}", "--dataset", "new", "-e", PIXELS], 1, "holds no items"),
        (["embed", "--dataset", "new", "-e", PIXELS], 1, "does not exist yet: name a SOURCE"),
        (["search", "tiny"], 2, "give --item, --image, --text or --vector"),
        (["search", "tiny", "--text", "x"], 1, "cannot read texts"),
        (["search", "tiny", "--item", "nope"], 1, "no vector of 'nope'"),
        (["search", "tiny", "--image", "/nowhere.png"], 1, "cannot read /nowhere.png"),
        (["ls", "--store", "{images}"], 1, "is not a store"),
        (["ls", "--store", "{empty}/s"], 1, "there is not a store at"),
        (["fly"], 2, "No such command"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    embedded, tiny_images, tmp_path, arguments, code, message
):
    (tmp_path / "empty").mkdir()
    places = {"images": tiny_images, "empty": tmp_path / "empty"}
    before = embedded("info", "tiny", "--json")[1]
    found, out, err = embedded(*(one.format(**places) for one in arguments))
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1
    assert embedded("info", "tiny", "--json")[1] == before
    assert [row["dataset"] for row in json.loads(embedded("ls", "--json")[1])] == ["tiny"]


def test_a_full_disk_is_one_line_and_loses_nothing(embedded, tiny_images, write_image, monkeypatch):
    write_image(tiny_images / "dark" / "new.png", 1)

    def full(table, rows):
        raise OSError(28, "No space left on device", str(table.path))

    with monkeypatch.context() as patched:
        patched.setattr("featurestore.storage.tables.Table._write", full)
        code, _, err = embedded("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS)
    assert code == 1
    assert err.startswith("error: No space left on device: ")
    assert len(err.strip().splitlines()) == 1
    assert embedded("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS)[0] == 0
    assert json.loads(embedded("info", "tiny", "--json")[1])["views"][0]["rows"] == 7


def test_an_interrupt_exits_with_130(embedded, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("featurestore.store.store.Store.embed", interrupt)
    code, _, err = embedded("embed", "--dataset", "tiny", "-e", PIXELS)
    assert code == INTERRUPTED
    assert "what was done is kept" in err


HEAVY = (
    "torch",
    "timm",
    "open_clip",
    "streamlit",
    "faiss",
    "pandas",
    "pyarrow",
    "duckdb",
    "sklearn",
)


def imported(code, *heavy):
    """Return which of the heavy modules a fresh interpreter has loaded after ``code``."""
    check = (
        f"{code}\nimport sys\nprint([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return done.stderr.strip().splitlines()[-1]


def test_help_and_the_packages_import_nothing_heavy():
    assert imported("import featurestore, heads; dir(featurestore)", *HEAVY) == "[]"
    assert imported("from featurestore.cli import run; run(['--help'])", *HEAVY, "numpy") == "[]"


def test_a_run_with_nothing_to_do_never_imports_torch(fs, tmp_path, write_image, mobilenet):
    write_image(tmp_path / "set" / "c" / "1.png", 1)
    arguments = ["embed", str(tmp_path / "set"), "--dataset", "d", "-e", mobilenet]
    assert fs(*arguments)[0] == 0
    code = f"from featurestore.cli import run; assert run({arguments!r}) == 0"
    assert imported(code, "torch", "timm") == "[]"


def test_info_of_a_data_set_whose_first_run_was_stopped_before_a_commit(empty_store, capsys):
    from featurestore.storage.dataset_file import DatasetFile
    from featurestore.storage.dataset_folder import DatasetFolder
    from featurestore.storage.store_marker import make_store
    from featurestore.terms.specs import Modality

    make_store(empty_store.path)
    folder = DatasetFolder(empty_store.path / "datasets" / "early")
    folder.create_tables()
    described = DatasetFile(Modality.IMAGE, {"label": {"task": "multiclass"}}, {})
    folder.update(lambda _: described)
    assert run(["info", "early", "--json", "--store", str(empty_store.path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["counts"]) == (0, {"split": {}})
    assert run(["info", "early", "--store", str(empty_store.path)]) == 0
