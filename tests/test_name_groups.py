"""Names that look like groups are said before rows are dealt at random, and no others."""

import os
import re
import shlex

import pytest

from featurestore.errors import BadName
from featurestore.sources.name_groups import PATTERNS, as_expression, group_of, name_groups
from featurestore.storage.query import evaluate

PICTURES = (".jpg", ".jpeg", ".png")


def numbered(pattern, first=range(9), second=range(4)):
    return [pattern.format(a, b) for a in first for b in second]


@pytest.mark.parametrize(
    ("names", "n", "example"),
    [
        (numbered("exp{}_{:03}.png"), 9, "exp0"),
        (numbered("clip{}_frame_{:04}.png"), 9, "clip0_frame"),
        (numbered("{}_frame{}.png", ["highway", "park"]), 2, "highway"),
        (numbered("P{:03}_{}.png", range(9), ["left", "right"]), 9, "P000"),
        (numbered("tumor/P{:03}/{}.png", range(9), ["left", "right"]), 9, "P000"),
        (numbered("{:08}_{:03}.png"), 9, "00000000"),
        (numbered("slide-{:02}_tile_{}.png"), 9, "slide-00_tile"),
        (numbered("TCGA-{}-A0_{}.png"), 9, "TCGA-0-A0"),
        (numbered("damage/-95.{}2345_29.{}1234.jpeg", range(10, 19), [11, 11]), 9, "-95.10_29.11"),
    ],
)
def test_names_of_groups(names, n, example):
    found = name_groups(names, [n % 2 for n in range(len(names))])
    assert (found.n_groups, found.examples[0]) == (n, example)
    assert found.pattern in PATTERNS
    line = found.sentence("featurestore embed --dataset d")
    assert shlex.split(re.search("`(.*)`", line)[1])[-2:] == ["--group-from", found.pattern]


@pytest.mark.parametrize(
    "pattern",
    ["{0}{1:03}.png", "img_{0}{1}.jpg", "IMG_{0}{1}.JPG", "DSC_{0}{1:04}.jpg", "scan{0}{1}.png",
     "page-{0}{1}.png", "img ({0}{1}).jpg", "ISIC_{0}{1:06}.jpg", "{0}{1:07}_000.png",
     "COCO_train2014_{0}{1:09}.jpg", "cifar10_{0}{1:05}.jpg", "x{0}/{1}.png", "n{0}_{1}.JPEG"],
)  # fmt: skip
def test_plain_numbers_and_classes_are_no_groups(pattern):
    names = numbered(pattern)
    labels = [f"class {name}" for name in numbered("{}")]  # the first number is the class
    assert name_groups(names, labels) is None


def test_rows_of_a_table_are_no_groups():
    assert name_groups([f"v2_{n % 3}.csv:{n}" for n in range(20)]) is None
    assert name_groups([]) is None
    assert name_groups(numbered("200{}_{:06}.jpg")) is None  # years


@pytest.mark.parametrize(
    ("name", "n_groups"),
    [("blood_cells", 364), ("hurricane_damage", 381), ("mednist", None), ("neu_steel", None),
     ("sign_digits", None), ("cifar10", None)],
)  # fmt: skip
def test_the_names_of_real_data(shared, name, n_groups):
    """Smears and places are groups; classes and plain numbers are none."""
    root = shared("data", name)
    files = [os.path.relpath(one, root) for one in sorted(root.rglob("*"))]
    files = [one for one in files if one.lower().endswith(PICTURES)]
    labels = [one.split("/")[-2] for one in files]
    found = name_groups(files, labels)
    assert (found and found.n_groups) == n_groups


@pytest.mark.parametrize("pattern", [*PATTERNS, "exp", r"it's(\d)", "(a)(b)?"])
def test_the_store_finds_what_python_finds(pattern):
    import pyarrow as pa

    names = ["exp1_001.png", "a/-95.631171_29.823711.jpeg", "it's4.png", "P012/left.png", "ac", "x"]
    rows = pa.table({"item_id": names, "uri": [None, *names[1:]]})
    found = evaluate(as_expression(pattern), rows).to_pylist()
    assert found == [group_of(pattern, name) for name in names]
    with pytest.raises(BadName, match="is no regular expression"):
        as_expression("exp(")


def test_a_hint_before_folds_and_the_command_that_heeds_it(fs, tmp_path, write_image):
    for n in range(16):
        write_image(tmp_path / "pics" / "ab"[n % 2] / f"exp{n // 4}_{n}.png", n)
    code, _, err = fs("embed", tmp_path / "pics", "--dataset", "p", "-e", "pixels")
    assert "the names look like 4 groups (exp0, exp1, …)" in err
    store = tmp_path / "store"
    place = ["p", "--store", store]
    for words in (["compare", "--head", "prototype"], ["split"]):
        _, _, err = fs(words[0], *place, *words[1:])
        (line,) = [one for one in err.splitlines() if "look like 4 groups" in one]
        command = shlex.split(re.search("`(featurestore .*)`", line)[1])
        assert command[-2:] == ["--store", str(store)]
    _, _, err = fs("compare", *place, "--head", "prototype", "--ignore-groups")
    assert "look like" not in err
    code, _, err = fs(*command[1:])
    assert code == 0
    assert (
        "16 pictures: 2 classes from folder names (sizes 8); 4 groups (4 items) by their n" in err
    )
    assert "look like" not in fs("compare", *place, "--head", "prototype")[2]


def test_a_pattern_that_no_name_has_is_refused_and_a_wrong_column_is_guessed(fs, tiny_images):
    embed = ("embed", tiny_images, "--dataset", "tiny", "-e", "baseline:pixels#size=2")
    code, _, err = fs(*embed, "--group-from", "^([0-9]+)_")
    assert code != 0
    assert "--group-from finds no group in the 6 names, such as dark/0.png" in err
    assert "the folder is part of the name" in err
    code, _, err = fs(*embed, "--group", "labels")
    assert code != 0
    assert "no column 'labels': did you mean 'label'" in err
