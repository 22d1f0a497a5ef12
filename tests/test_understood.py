"""embed says what it took the items for, and what of it looks like an oversight."""

import json

import pytest

PIXELS = ["-e", "baseline:pixels"]
WORDS = ["-e", "baseline:hashing#size=16"]


@pytest.fixture
def pictures(tmp_path, write_image):
    for split, n in (("train", 3), ("test", 2)):
        for kind in ("cat", "dog"):
            for i in range(n + (kind == "cat")):
                write_image(tmp_path / "set" / split / kind / f"{'ab'[i % 2]}_{i}.png", i)
    return tmp_path / "set"


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_pictures_their_classes_groups_and_splits(fs, pictures, dry_run):
    group = ["--group", "split_part(stem, '_', 1)"]
    code, out, err = fs("embed", pictures, "--dataset", "d", *PIXELS, *group, *dry_run)
    assert (code, out) == (0, "")
    assert (
        "12 pictures: 2 classes from folder names (sizes 5–7); 2 groups (5–7 items) by "
        "split_part(stem, '_', 1); splits train 7, test 5\n"
    ) in err
    if not dry_run:
        code, out, err = fs("info", "d")
        assert "  group: 2 groups (5–7 items)\n" in out
        assert "  split: train: 7, test: 5\n" in out
        found = json.loads(fs("info", "d", "--json")[1])
        assert found["groups"] == {"n": 2, "min": 5, "max": 7, "without": 0}
        code, _, err = fs("embed", pictures, "--dataset", "d", *PIXELS)
        assert "12 pictures" not in err  # it was said
        code, _, err = fs("embed", pictures, "--dataset", "d", *PIXELS, "--group", "stem")
        assert "12 pictures: 2 classes from folder names (sizes 5–7); 4 groups" in err
        code, _, err = fs("embed", "--dataset", "d", *PIXELS, "--dry-run")
        assert "12 pictures: 2 classes from folder names" in err


def test_no_labels_at_all(fs, tmp_path, write_image):
    write_image(tmp_path / "set" / "1.png")
    assert "1 picture: no labels, groups or splits" in fs(
        "embed", tmp_path / "set", "--dataset", "d", *PIXELS, "--dry-run"
    )[2]  # fmt: skip


def rows(*labels):
    return [(f"words {i}", label) for i, label in enumerate(labels)]


TABLES = {
    "plain": (rows(*"aab"), ["3 texts: 2 classes in y (sizes 1–2)"]),
    "unlabelled": (rows("a", "a", ""), ["3 texts: 1 class in y (sizes 2, 1 items without)"]),
    "none at all": ([("one", ""), ("two", "")], ["2 texts: no classes in y"]),
    "numbers": (rows("0.5", "1.25", "-1"), ["numbers in y (-1 to 1.25)"]),
    "several": (rows("a|b", "b", "c"), ["3 classes in y (sizes 1–2, several an item)"]),
    "copies": ([("one", "a"), ("one", "a"), ("two", "b")], ["; 1 exact copies"]),
    "case": (
        rows("Cat", "Cat", "cat", "dog"),
        ["classes of y differ by blanks or case alone: 'Cat' (2), 'cat' (1); they stay apart"],
    ),
    "missing": (
        rows("NA", "n/a", "ok", "ok", "NULL"),
        ["classes of y that look like a missing value: 'NA' (1), 'NULL' (1), 'n/a' (1); they"],
    ),
    "a number that is missing": (rows("0", "1", "2", "-1", "-1"), ["missing value: '-1' (2)"]),
    "one class": (
        rows(*"aaaaa"),
        ["all 5 labels of y are 'a', and heads need two classes: --limit takes the first items"],
    ),
    "ids": (
        rows(*(f"id {i}" for i in range(25)), "x", "x"),
        ["25 classes of y have one item each: is it an id column?"],
    ),
}
QUIET = {
    "plain": (rows(*"aabbcc"),),
    "yes and no": (rows("1", "-1", "1", "-1"),),
    "one class of few": (rows(*"aaaa"),),
    "few single ones": (rows(*(f"c{i}" for i in range(19))),),
    "numbers": (rows(*(f"{i}.5" for i in range(40))),),
}


def write(path, items):
    lines = [",".join(f'"{one}"' if one else "" for one in item) for item in items]
    path.write_text("\n".join(["x,y", *lines]) + "\n")
    return path


@pytest.mark.parametrize("name", TABLES)
def test_what_a_table_holds(fs, tmp_path, name):
    items, expected = TABLES[name]
    if name in ("numbers", "a number that is missing"):
        path = tmp_path / "t.jsonl"
        lines = [json.dumps({"x": x, "y": json.loads(y)}) for x, y in items]
        path.write_text("\n".join(lines) + "\n")
    else:
        path = write(tmp_path / "t.csv", items)
    words = ["embed", path, "--dataset", "d", "--text", "x", "--label", "y", *WORDS, "--dry-run"]
    code, _, err = fs(*words)
    assert code == 0, err
    for one in expected:
        assert one in err
    assert fs("ls", "--json")[1] in ("", "[]\n")  # nothing was written


@pytest.mark.parametrize("name", QUIET)
def test_what_is_as_it_should_be_is_not_remarked_on(fs, tmp_path, name):
    path = write(tmp_path / "t.csv", QUIET[name][0])
    words = ["embed", path, "--dataset", "d", "--text", "x", "--label", "y", *WORDS, "--dry-run"]
    code, _, err = fs(*words)
    assert code == 0, err
    for word in ("alone", "missing", "id column"):
        assert word not in err


@pytest.mark.parametrize(
    ("names", "options", "split"),
    [
        (["test.csv"], [], "test"),
        (["Validation.tsv"], [], "val"),
        (["words.csv"], [], None),
        (["train.csv", "test.csv"], [], None),
        (["test.csv"], ["--split", "part"], None),
    ],
)
def test_a_split_that_only_the_name_of_a_file_gives_is_said(fs, tmp_path, names, options, split):
    for name in names:
        by = "\t" if name.endswith(".tsv") else ","
        rows = [("text", "part"), (f"one of {name}", "train"), (f"two of {name}", "train")]
        (tmp_path / name).write_text("".join(f"{by.join(row)}\n" for row in rows))
    paths = [tmp_path / name for name in names]
    words = ["--dataset", "d", "--text", "text", *options, *WORDS]
    code, _, err = fs("embed", *paths, *words, "--dry-run")
    assert code == 0, err
    said = f"all items are in the split {split!r}, after the name of their file: where that is"
    assert err.count("after the name of their file") == (split is not None)
    assert split is None or said in err
