"""Lines that say what to do next work as they stand; what is written replaces nothing unasked."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest


@pytest.fixture
def texts(fs, tmp_path, monkeypatch):
    """Forty texts of two topics, a third of them labelled."""
    monkeypatch.chdir(tmp_path)
    words = {"food": "bread cheese soup rice egg", "music": "piano drum song opera jazz"}
    rows = []
    for n in range(40):
        topic = ("food", "music")[n % 2]
        some = words[topic].split()
        label = topic if n % 3 == 0 else ""
        rows.append([f"t{n:02d}", f"{some[n % 5]} and {some[(n + 2) % 5]} {n}", label])
    rows[39][1] = rows[38][1] = "drums are played by a jazz band in the old opera house tonight 38"
    table = "".join(",".join(row) + "\n" for row in [["key", "body", "topic"], *rows])
    Path("t.csv").write_text(table)
    options = ["--text", "body", "--id", "key", "--label", "topic", "-e", "hashing"]
    assert fs("embed", "t.csv", "--dataset", "texts", *options)[0] == 0
    return fs


def test_suggest_writes_what_labels_reads_back(texts, tmp_path):
    code, out, err = texts("suggest", "texts", "-n", "6", "-o", "todo.csv")
    assert code == 0
    rows = list(csv.DictReader(Path("todo.csv").read_text().splitlines()))
    assert list(rows[0]) == ["item_id", "topic", "text", "why"]
    assert len(rows) == 6
    assert all(row["text"][:50] in out and row["topic"] == "" for row in rows)
    command = shlex.split(re.search("`(featurestore labels .*)`", err)[1])
    assert texts(*command[1:])[2].startswith("texts: 0 of 6 items have new labels")  # not yet
    with Path("todo.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({**row, "topic": "food"} for row in rows[:4])
        table.writerows(rows[4:])
    assert texts(*command[1:])[2].startswith("texts: 4 of 6 items have new labels (topic)")
    assert json.loads(texts("info", "texts", "--json")[1])["counts"]["topic"]["None"] == 22
    code, out, _ = texts("suggest", "texts", "-n", "3", "--json")
    assert {row["item_id"] for row in json.loads(out)}.isdisjoint(
        row["item_id"] for row in rows[:4]
    )
    assert all(row["text"] for row in json.loads(out))


def test_quality_shows_texts_beside_ids(texts):
    out = texts("quality", "texts", "--head", "prototype", "--kind", "duplicate", "-n", "40")[1]
    said = r"t3[89] +drums are played by a jazz band in the old opera house toni… "
    assert len(re.findall(said, out)) == 2
    assert "toni…" in texts("store", "show", "texts", "latest")[1]


def test_suggest_shows_where_pictures_are(fs, tiny_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one in (tiny_images / "dark").iterdir():
        one.rename(tiny_images / one.name)  # no class folder: no label
    assert fs("embed", "tiny", "--dataset", "tiny", "-e", "pixels")[0] == 0
    out = fs("suggest", "tiny", "-n", "2")[1]
    assert re.search(r"^ [012]\.png +\d", out, re.M)
    assert "The files lie in tiny/\n" in out


@pytest.mark.parametrize(
    ("words", "target"),
    [
        (["train", "texts", "--head", "prototype", "--save"], "bundle"),
        (["export", "texts"], "out.parquet"),
        (["export", "texts"], "out.npy"),
        (["review", "texts", "--export"], "reviews.csv"),
        (["suggest", "texts", "-o"], "todo.csv"),
        (["predict", "bundle", "t.csv", "-o"], "answers.csv"),
    ],
)
def test_nothing_is_replaced_without_a_word(texts, tmp_path, words, target):
    if words[0] == "review":
        assert texts("review", "texts", "--item", "t00", "--confirm")[0] == 0
    if words[0] == "predict":
        train = ["train", "texts", "--head", "prototype", "--save", "bundle"]
        assert texts(*train)[0] == 0
    assert texts(*words, target)[0] == 0
    path = tmp_path / target
    before = path.read_bytes() if path.is_file() else sorted(path.iterdir())
    code, _, err = texts(*words, target)
    assert code == 1
    assert target in err
    assert "--overwrite" in err
    assert (path.read_bytes() if path.is_file() else sorted(path.iterdir())) == before
    assert texts(*words, target, "--overwrite")[0] == 0


def test_a_head_is_known_by_the_name_that_train_prints(texts, tmp_path):
    for head in ("prototype", "ridge"):
        out = texts("train", "texts", "--head", head)[1]
    head_id = re.search("kept as (.*)", out)[1]
    for name in (f"texts/{head_id}", head_id, tmp_path / "store/datasets/texts/heads" / head_id):
        code, out, _ = texts("predict", name, "t.csv")
        assert code == 0
        assert len(out.splitlines()) == 41
    code, _, err = texts("predict", "texts/", "t.csv")
    assert code == 1
    assert "'texts/' may mean " in err


def test_commands_in_messages_name_the_store_that_was_typed(texts, tmp_path, monkeypatch):
    monkeypatch.delenv("FEATURESTORE_STORE")
    store = ["--store", str(tmp_path / "store")]
    _, _, err = texts("search", "texts", "-e", "nothing", "--item", "t00", *store)
    command = f"`featurestore embed --dataset texts -e nothing --store {tmp_path / 'store'}`"
    assert command in err
    _, _, err = texts("suggest", "texts", "-n", "1", "-o", "a.csv", *store)
    assert f"a.csv --label topic --store {tmp_path / 'store'}`" in err
    monkeypatch.setenv("FEATURESTORE_STORE", str(tmp_path / "store"))
    _, _, err = texts("suggest", "texts", "-n", "1", "-o", "b.csv")
    assert "b.csv --label topic`" in err


def test_ls_shows_the_others_where_one_data_set_is_damaged(texts, tmp_path):
    for words in (["store", "rename", "texts", "second"], ["embed", "t.csv", "--text", "body",
                  "--dataset", "first", "-e", "hashing"]):  # fmt: skip
        assert texts(*words)[0] == 0
    (tmp_path / "store" / "datasets" / "first" / "dataset.json").write_text("{")
    code, out, err = texts("ls")
    assert code == 1
    assert re.search(r"second +text +40 +@1 baseline:hashing", out)
    assert "first is damaged: " in err
    rows = json.loads(texts("ls", "--json")[1])
    assert [row["dataset"] for row in rows] == ["first", "second"]
    assert "dataset.json" in rows[0]["damaged"]


def test_info_says_how_many_have_no_label(texts):
    out = texts("info", "texts")[1]
    assert re.search(r"  topic: (food: 7, music: 7|music: 7, food: 7), 26 without\n", out)
    assert "  split: none\n" in out
    assert "None" not in out


def test_one_is_singular(texts):
    assert "slice one: 1 item\n" in texts("slices", "texts", "--save", "one", "--item", "t00")[2]
    assert "texts: 1 item deleted;" in texts("store", "delete", "texts", "t00", "-y")[2]


def test_transfer_after_a_sample_embeds_the_sample(fs, tmp_path, write_image):
    for n in range(24):
        write_image(tmp_path / "pics" / "ab"[n % 2] / f"{n}.png", n)
    words = ["embed", tmp_path / "pics", "--dataset", "p", "-e", "baseline:pixels#size=2"]
    assert fs(*words, "--sample", "12")[0] == 0
    head = ["--head", "prototype", "--no-blend"]
    _, _, err = fs("transfer", "p", "-e", "@1", *head)
    assert "only the items that p has: 12 new ones are left" in err
    found = json.loads(fs("info", "p", "--json")[1])
    assert (found["items"], [view["rows"] for view in found["views"]]) == (12, [12, 12])
