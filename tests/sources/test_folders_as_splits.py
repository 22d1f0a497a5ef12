"""A folder named like a split is one only where the folders around it say so."""

import pytest

from featurestore.errors import BadSource
from featurestore.sources.listing import SourceOptions
from featurestore.sources.opening import open_source


def put(folder, paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"a picture, for all that a listing knows")


def found(folder, **options):
    """Return path → (label, split), and the notes."""
    listing = open_source(folder).listing(SourceOptions(**options))
    rows = listing.rows
    if "label" not in rows.column_names:
        rows = rows.append_column("label", rows.column("text"))  # nothing but nulls
    of = {one["item_id"]: (one["label"], one["split"]) for one in rows.to_pylist()}
    return of, listing.notes


CASES = {
    "a class between classes": {
        "bus/1.png": ("bus", None), "car/1.png": ("car", None), "train/1.png": ("train", None),
    },
    "the same, upper case": {"Bus/1.png": ("Bus", None), "TRAIN/1.png": ("TRAIN", None)},
    "two classes named like splits among others": {
        "dev/1.png": ("dev", None), "ops/1.png": ("ops", None), "test/1.png": ("test", None),
    },
    "classes of kinds": {
        "bus/red/1.png": ("bus", None), "train/steam/1.png": ("train", None),
    },
    "a class inside splits": {
        "train/car/1.png": ("car", "train"), "train/train/1.png": ("train", "train"),
        "test/train/1.png": ("train", "test"),
    },
    "a class of the split's own name alone": {"train/train/1.png": ("train", "train")},
    "a class two folders below a split": {"test/dev/train/1.png": ("dev", "test")},
    "splits of classes": {
        "train/a/1.png": ("a", "train"), "Validation/a/1.png": ("a", "val"),
        "dev/b/1.png": ("b", "val"), "testing/b/1.png": ("b", "test"),
    },
    "a test split without classes": {"train/a/1.png": ("a", "train"), "test/1.png": (None, "test")},
    "flat splits": {"train/1.png": (None, "train"), "test/1.png": (None, "test")},
    "one split alone": {"train/a/1.png": ("a", "train")},
    "splits of classes beside another folder": {
        "train/a/1.png": ("a", "train"), "test/a/1.png": ("a", "test"),
        "samples/1.png": ("samples", None),
    },
    "pictures beside splits": {
        "1.png": (None, None), "train/a/1.png": ("a", "train"), "test/a/1.png": ("a", "test"),
    },
    "splits inside classes": {
        "a/train/1.png": ("a", "train"), "a/test/1.png": ("a", "test"),
        "b/train/1.png": ("b", "train"), "b/test/1.png": ("b", "test"),
    },
    "a class with kinds of which one is called test": {
        "a/old/1.png": ("a", None), "a/test/1.png": ("a", None), "b/1.png": ("b", None),
    },
    "splits in a folder of folds": {
        "fold1/train/a/1.png": ("fold1", "train"), "fold1/test/a/1.png": ("fold1", "test"),
    },
}  # fmt: skip
IN_DOUBT = {
    "a class between classes": "train is named like a split, beside folders of other names: taken "
    "as a class; --split folders",
    "the same, upper case": "TRAIN is named",
    "two classes named like splits among others": "dev, test are each named like a split",
    "classes of kinds": "train is named",
    "splits of classes beside another folder": "test, train are each named like a split, above "
    "class folders: taken as a split, though other folders stand beside it; --split none",
    "a class with kinds of which one is called test": "a/test is named",
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_folder_is(tmp_path, name):
    put(tmp_path / "set", CASES[name])
    of, notes = found(tmp_path / "set")
    assert of == CASES[name]
    if name in IN_DOUBT:
        assert IN_DOUBT[name] in notes[0]
    else:
        assert notes == ()


def test_the_user_has_the_last_word(tmp_path):
    put(tmp_path, ["bus/1.png", "train/1.png"])
    of, notes = found(tmp_path, split="folders")
    assert of == {"bus/1.png": ("bus", None), "train/1.png": (None, "train")}
    assert notes == ()
    put(tmp_path / "set", ["train/a/1.png", "test/a/1.png"])
    of, notes = found(tmp_path / "set", split="none")
    assert of == {"train/a/1.png": ("train", None), "test/a/1.png": ("test", None)}
    with pytest.raises(BadSource, match="--split names a column of a table"):
        found(tmp_path, split="part")


@pytest.mark.parametrize("name", ["a class inside splits", "splits of classes"])
def test_a_split_named_alone_means_the_same_items(tmp_path, name):
    put(tmp_path / "set", CASES[name])
    whole, _ = found(tmp_path / "set")
    for split in {path.split("/")[0] for path in CASES[name]}:
        part, _ = found(tmp_path / "set" / split)
        assert part == {path: whole[path] for path in part}
        assert part


def test_a_folder_of_ones_own_that_is_called_test(tmp_path):
    put(tmp_path / "test", ["train/a/1.png", "val/a/2.png"])
    of, _ = found(tmp_path / "test")
    assert of == {"test/train/a/1.png": ("a", "train"), "test/val/a/2.png": ("a", "val")}


def test_what_was_embedded_by_the_old_rule_is_mended_by_the_next_run(fs, tmp_path, write_image):
    for name in ("bus/1.png", "bus/2.png", "train/3.png", "train/4.png"):
        write_image(tmp_path / "set" / name)
    words = ["embed", tmp_path / "set", "--dataset", "d", "-e", "baseline:pixels"]
    code, _, err = fs(*words, "--split", "folders")  # as the old rule had it
    assert code == 0, err
    code, out, _ = fs("sql", "select label, split, count(*) n from d group by all", "--json")
    assert '"split": "train"' in out
    code, _, err = fs(*words, "--split", "none")
    assert code == 0, err
    assert "2 with new labels or metadata" in err
    code, out, _ = fs("sql", "select label, split, count(*) n from d group by all", "--json")
    assert '"split": "train"' not in out
    assert '"label": "train"' in out
