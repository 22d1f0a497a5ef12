"""featurestore.toml: defaults of options, said in one line; data, never leave to run code."""

import json

import pytest

from featurestore.store.commands import is_default
from featurestore.store.store import open_store
from heads.advice.next_step import typed

PIXELS, SMALL = "baseline:pixels", "baseline:pixels#size=2"


@pytest.fixture
def tiny(fs, tiny_images, tmp_path, monkeypatch):
    """A store with a data set of two views; the working folder is beside it."""
    assert fs("embed", tiny_images, "--dataset", "tiny", "-e", PIXELS, "-e", SMALL)[0] == 0
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("FEATURESTORE_STORE")
    return fs


def write(folder, text):
    (folder / "featurestore.toml").write_text(text)


def test_store_data_set_and_encoder_are_taken_and_said(tiny, tmp_path):
    write(tmp_path / "work", 'store = "../store"\ndataset = "tiny"\nencoder = "@2"\n')
    code, out, err = tiny("search", "--item", "dark/0.png", "--json")
    assert (code, json.loads(out)["view"]) == (0, f"tiny@{SMALL}")
    assert err == "from featurestore.toml: store ../store; dataset tiny; encoder @2\n"
    code, out, err = tiny("search", "--item", "dark/0.png", "--json", "-e", PIXELS)
    assert (code, json.loads(out)["view"]) == (0, f"tiny@{PIXELS}")
    assert err == "from featurestore.toml: store ../store; dataset tiny\n"
    code, out, err = tiny("search", "tiny@1", "--item", "dark/0.png", "--json")
    assert (code, json.loads(out)["view"]) == (0, f"tiny@{PIXELS}")
    assert err == "from featurestore.toml: store ../store\n"
    assert [one["views"] for one in json.loads(tiny("ls", "--json")[1])] == [[PIXELS, SMALL]]


def test_what_is_typed_wins_then_the_environment_then_the_file(tiny, tmp_path, monkeypatch):
    write(tmp_path / "work", 'store = "nowhere"\n')
    assert "there is not a store at" in tiny("ls")[2]
    monkeypatch.setenv("FEATURESTORE_STORE", str(tmp_path / "store"))
    assert tiny("ls")[0] == 0
    assert "there is not a store at" in tiny("ls", "--store", "elsewhere")[2]


def test_the_rest_counts_for_the_store_and_the_data_set_of_the_file_alone(
    tiny, tmp_path, tiny_images
):
    write(tmp_path / "work", 'store = "../store"\ndataset = "other"\nencoder = "x"\nlabel = "y"\n')
    code, _, err = tiny("search", "tiny", "-e", "@1", "--item", "dark/0.png")
    assert code == 0
    assert err.startswith("from featurestore.toml: store ../store\n")
    code, _, err = tiny("compare", "tiny", "--head", "prototype", "--json")
    assert code == 0, err  # no label y
    code, _, err = tiny("search", "--item", "a", "--store", tmp_path / "third")
    assert code == 2
    assert "DATASET" in err


def test_columns_of_embed(fs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"r{n},word {n},{'ab'[n % 2]},g{n // 2}\n" for n in range(6))
    (tmp_path / "t.csv").write_text("key,body,kind,pack\n" + rows)
    write(
        tmp_path,
        'dataset = "t"\ntext = "body"\nlabel = ["kind", "pack"]\nid = "key"\ngroup = "pack"\n'
        'encoder = "hashing"\n',
    )
    code, _, err = fs("embed", "t.csv")
    assert code == 0
    assert err.splitlines()[0] == (
        "from featurestore.toml: dataset t; encoder hashing; label kind, pack; text body; "
        "group pack; id key"
    )
    found = json.loads(fs("info", "--json")[1])
    assert [one["encoder"] for one in found["views"]] == ["baseline:hashing"]
    assert set(found["counts"]) == {"kind", "pack", "split"}
    assert found["groups"] is not None
    # DATASET may be left out before another argument
    (tmp_path / "more.csv").write_text("key,mood\nr0,good\nr1,bad\n")
    code, _, err = fs("labels", "more.csv")
    assert code == 0, err
    assert err.startswith("from featurestore.toml: dataset t; id key\n")
    assert "t: 2 of 2 items have new labels (mood)" in err
    code, _, err = fs("export", "out.parquet")
    assert code == 0
    assert "t@baseline:hashing: 6 rows in out.parquet" in err


@pytest.mark.parametrize("words", [["drop", "-y"], ["delete", "-y"], ["vacuum"], ["rename", "x"]])
def test_what_deletes_or_renames_takes_no_name_that_nobody_typed(tiny, tmp_path, words):
    write(tmp_path / "work", 'store = "../store"\ndataset = "tiny"\n')
    assert tiny(*words)[0] == 2
    assert [one["dataset"] for one in json.loads(tiny("ls", "--json")[1])] == ["tiny"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('datset = "a"', "has an unknown key 'datset': did you mean 'dataset'? known: dataset, en"),
        ("trust = true", "has an unknown key 'trust': type --trust instead"),
        ("dataset = 3", "dataset = 3: expected a text in quotes"),
        ('dataset = ["a"]', "expected a text in quotes"),
        ("label = []", "expected a text in quotes"),
        ('encoder = ""', "expected a text in quotes"),
        ("dataset = tiny", "cannot be read: Invalid value (at line 1, column 11)"),
        ("\udcff", "cannot be read: "),
        ("#" * 70_000, "has 70,000 bytes"),
    ],
)
def test_a_bad_file_is_one_error(tiny, tmp_path, text, message):
    path = tmp_path / "work" / "featurestore.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    code, out, err = tiny("ls")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {path}")
    assert message in err
    assert len(err.splitlines()) == 1
    assert tiny("--help")[0] == tiny("ls", "--help")[0] == 0


CODE = """
import numpy as np

class Bright:
    def encode_images(self, images):
        open("ran", "w").close()
        return np.array([[np.asarray(one).mean(), 1] for one in images], np.float32)
"""


def test_a_file_beside_a_foreign_store_runs_no_code(tiny, tmp_path, tiny_images, monkeypatch):
    """Decision 18: it may name an encoder of its own, which runs only where somebody asks."""
    work, full = tmp_path / "work", "python:brightness:Bright"
    (work / "brightness.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(work))
    for place in (tmp_path, work):  # beside the store; in the working folder
        write(place, f'encoder = "{full}"\n')
        for words in (
            ["embed", str(tiny_images), "--dataset", "mine"],
            ["search", "tiny", "--image", str(tiny_images / "dark" / "1.png")],
            ["train", "tiny"],
        ):  # fmt: skip
            code, _, err = tiny(*words, "--store", tmp_path / "store")
            assert code == 1
            assert f"featurestore.toml names the encoder {full}" in err
            assert not (work / "ran").exists()
    for text in (
        f'encoder = " {full}"\n',
        f'dataset = "tiny@{full}"\n',
        f'dataset = "tiny@ {full}"\n',
    ):
        for place in (tmp_path, work):
            write(place, text)
        for words in (
            ["embed", str(tiny_images)],
            ["search", "--image", str(tiny_images / "dark" / "1.png")],
        ):
            tiny(*words, "--store", tmp_path / "store")
            assert not (work / "ran").exists()
    for place in (tmp_path, work):
        write(place, f'encoder = "{full}"\n')
    words = ["embed", str(tiny_images), "--dataset", "mine", "--store", tmp_path / "store"]
    assert tiny(*words, "--trust")[0] == 0
    assert (work / "ran").exists()


def test_a_file_beside_the_store_is_read_where_the_working_folder_has_none(tiny, tmp_path):
    write(tmp_path, 'store = "store"\ndataset = "tiny"\nencoder = "@1"\n')
    code, out, err = tiny("search", "--item", "dark/0.png", "--json", "--store", "../store")
    assert (code, json.loads(out)["view"]) == (0, f"tiny@{PIXELS}")
    assert err == "from ../featurestore.toml: dataset tiny; encoder @1\n"
    write(tmp_path / "work", "# nothing\n")
    assert tiny("search", "--item", "dark/0.png", "--store", "../store")[0] == 2


def test_lines_to_type_name_what_the_file_would_change(tiny, tmp_path, monkeypatch):
    store = tmp_path / "store"
    assert not is_default(str(store))
    dataset = open_store(store).dataset("tiny")
    assert (
        typed(dataset, "train", "tiny", label="label") == f"featurestore train tiny --store {store}"
    )
    write(tmp_path / "work", 'store = "../store"\nlabel = "other"\n')
    assert is_default(str(store))
    assert typed(dataset, "train", "tiny", label="label") == "featurestore train tiny --label label"
    assert typed(dataset, "train", "tiny", label="other") == "featurestore train tiny"
    monkeypatch.setenv("FEATURESTORE_STORE", str(tmp_path / "third"))
    assert not is_default(str(store))
    write(tmp_path / "work", 'dataset = "another"\nlabel = "other"\n')  # not about this data set
    assert (
        typed(dataset, "train", "tiny", label="label") == f"featurestore train tiny --store {store}"
    )
