"""Any name that is printed is accepted: of encoders, of views, of data sets with a view."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import heads
from featurestore.cli import run
from featurestore.encoders.named import encoder_named
from featurestore.errors import BadName, UnknownView
from featurestore.exchange.imports import import_vectors, read_vectors
from featurestore.terms.names import meant_by

FOLDER = "timm:local-dir:/models/mobilenetv2_100-imagenet"
SPECS = [
    "baseline:pixels",
    "baseline:pixels#size=2",
    "builtin:tiny-image",
    "open_clip:ViT-B-32/laion2b_s34b_b79k",
    f"random:{FOLDER}#seed=0",
    FOLDER,
    f"{FOLDER}#layer=3",
    "timm:vit_small_patch14_dinov2.lvd142m",
]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tiny-image", "builtin:tiny-image"),
        ("builtin:tiny-image", "builtin:tiny-image"),
        ("@3", "builtin:tiny-image"),
        ("3", "builtin:tiny-image"),
        ("@9", None),
        ("mobilenetv2", FOLDER),
        ("mobilenetv2_100-imagenet", FOLDER),
        ("timm:local-dir:mobilenetv2_100-imagenet", FOLDER),
        ("local-dir:mobilenetv2_100-imagenet", FOLDER),
        ("mobilenetv2#layer=3", f"{FOLDER}#layer=3"),
        ("mobilenetv2#layer=4", None),
        ("random:timm:local-dir:mobilenetv2_100-imagenet#seed=0", f"random:{FOLDER}#seed=0"),
        ("pixels", "baseline:pixels"),
        ("pixels#size=2", "baseline:pixels#size=2"),
        ("vit-b-32", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
        ("laion2b_s34b_b79k", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
        ("dinov2", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("inov2", None),  # no word begins so
        ("open_clip:tiny-image", None),  # a spec of another encoder
        ("nothing", None),
    ],
)
def test_a_name_means_one_spec(text, spec):
    assert meant_by(text, SPECS) == spec


def test_a_name_of_several_lists_them():
    with pytest.raises(BadName, match=r"'vit' may mean open_clip:ViT-B-32/\S+, timm:vit_small"):
        meant_by("vit", SPECS)
    with pytest.raises(BadName, match="'a' may mean import:x/a, import:y/a: write more"):
        meant_by("a", ["import:x/a", "import:y/a"])


def test_every_label_that_tables_print_means_its_own_spec():
    from featurestore.terms.specs import encoder_label

    assert [meant_by(encoder_label(one), SPECS) for one in SPECS] == SPECS


def test_encoders_to_embed_with_have_short_names(shared):
    assert encoder_named("tiny-image") == "builtin:tiny-image"
    assert encoder_named("pixels#size=4") == "baseline:pixels#size=4"
    assert encoder_named("all-MiniLM-L6-v2") == "st:all-MiniLM-L6-v2"
    assert encoder_named("timm:resnet18") == "timm:resnet18"  # any spec is itself
    assert encoder_named("mobilenetv2", [FOLDER]) == FOLDER
    assert encoder_named("mobilenetv2#layer=3", [FOLDER]) == f"{FOLDER}#layer=3"
    assert encoder_named("timm:local-dir:mobilenetv2_100-imagenet", [FOLDER]) == FOLDER
    folder = shared("encoders", "mobilenetv2_100-imagenet")
    assert encoder_named(str(folder)) == f"timm:local-dir:{folder}"
    with pytest.raises(
        BadName, match="no encoder is called 'tiny-imago': did you mean 'tiny-image'"
    ):
        encoder_named("tiny-imago")
    with pytest.raises(BadName, match="'tiny' may mean builtin:tiny-image, builtin:tiny-text"):
        encoder_named("tiny")


@pytest.fixture
def view(texts_view, tmp_path):
    """Sixty texts with three views: tiny-text, import:noise (worse) and baseline:hashing."""
    store = texts_view.dataset.store
    vectors = texts_view.load()
    noise = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    columns = {"id": vectors.ids, "vector": list(noise)}
    pq.write_table(pa.table(columns), tmp_path / "noise.parquet")
    read = read_vectors(str(tmp_path / "noise.parquet"), item_id="id")
    import_vectors(store, read, dataset="texts", name="noise", origin="a test")
    store.embed([], dataset="texts", encoders=["hashing"])
    return texts_view


@pytest.fixture
def command(view, capsys, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_STORE", str(view.dataset.store.path))

    def call(*words):
        code = run([*words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_what_ls_prints_is_accepted(command, view):
    listed = command("ls")[1]
    search = ["--item", "t00", "-n", "1", "--json"]
    for name, spec in (
        ("@1", "baseline:hashing"), ("@2", "builtin:tiny-text"), ("@3", "import:noise"),
    ):  # fmt: skip
        assert f"{name} {spec}" in listed
        for words in (
            ["texts", "-e", name], [f"texts{name}"], ["texts", "-e", spec], [f"texts@{spec}"],
            ["texts", "-e", spec.partition(":")[2]], ["texts", "-e", f"texts@{spec}"],
        ):  # fmt: skip
            code, out, _ = command("search", *words, *search)
            assert (code, json.loads(out)["view"]) == (0, f"texts@{spec}")
    assert command("info", "texts@2")[0] == 0
    code, _, err = command("search", "texts", "-e", "tiny-txt", "--item", "t00")
    assert code == 1
    assert "did you mean 'builtin:tiny-text'" in err
    store = view.dataset.store
    assert store.view("texts", "noise").name == store.view("texts@3").name == "texts@import:noise"


def test_a_view_may_have_a_name_of_its_own(command, view, monkeypatch):
    assert command("embed", "--dataset", "texts", "-e", "tiny-text", "--name", "words")[0] == 0
    assert "@2 words (builtin:tiny-text)" in command("ls")[1]
    found = json.loads(command("search", "texts@words", "--item", "t00", "--json")[1])
    assert found["view"] == "texts@builtin:tiny-text"
    with pytest.raises(BadName, match="'words' is builtin:tiny-text already"):
        view.dataset.name_view("noise", "words")
    with pytest.raises(BadName, match="cannot be the name"):
        view.dataset.name_view("noise", "@1")


def test_the_default_view_is_no_baseline_and_the_best_of_the_last_comparison(command, view):
    code, _, err = command("search", "texts", "--item", "t00")
    assert code == 2
    assert "texts has @1 baseline:hashing, @2 builtin:tiny-text, @3 import:noise" in err
    with pytest.raises(UnknownView, match="say which view of 'texts': @1"):
        view.dataset.store.view("texts")
    best = heads.compare(view.dataset.views(), heads=["prototype"]).heads[0]
    assert best.encoder in ("builtin:tiny-text", "baseline:hashing")
    code, out, err = command("search", "texts", "--item", "t00", "--json")
    assert (code, json.loads(out)["view"]) == (0, "texts@builtin:tiny-text")
    (line,) = err.splitlines()
    assert line.startswith("using builtin:tiny-text, the best encoder in the comparison of 20")
    assert view.dataset.store.view("texts").name == "texts@builtin:tiny-text"


def test_one_view_beside_baselines_needs_no_name(fs, tiny_images):
    for encoder in ("pixels", "baseline:pixels#size=2"):
        assert fs("embed", tiny_images, "--dataset", "tiny", "-e", encoder)[0] == 0
    assert fs("search", "tiny", "--item", "dark/0.png")[0] == 2  # two baselines
    assert fs("embed", tiny_images, "--dataset", "tiny", "-e", "tiny-image")[0] == 0
    code, _, err = fs("search", "tiny", "--item", "dark/0.png")
    assert code == 0
    assert err.splitlines()[0] == (
        "using builtin:tiny-image; the others are baselines (baseline:pixels, "
        "baseline:pixels#size=2); -e names another"
    )


CODE = """
import numpy as np

class Bright:
    def encode_images(self, images):
        open("ran", "w").close()
        return np.array([[np.asarray(one).mean(), 1] for one in images], np.float32)
"""


def test_a_short_name_is_no_leave_to_run_code(fs, tiny_images, tmp_path, monkeypatch):
    """Only who types python:… asks for that code; the store may name what it likes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "brightness.py").write_text(CODE)
    full = "python:brightness:Bright"
    assert fs("embed", tiny_images, "--dataset", "tiny", "-e", full)[0] == 0
    (tmp_path / "ran").unlink()
    (tiny_images / "dark" / "0.png").rename(tiny_images / "dark" / "9.png")
    query = ["--image", str(tiny_images / "dark" / "1.png")]
    code, _, err = fs("embed", tiny_images, "--dataset", "other", "-e", "Bright")
    assert code == 1
    assert "--trust" in err
    code, _, err = fs("search", "tiny", "-e", "Bright", *query)
    assert code == 1
    assert "--trust" in err
    assert not (tmp_path / "ran").exists()
    assert fs("search", "tiny", "-e", full, *query)[0] == 0
    assert fs("search", "tiny", "-e", "Bright", "--trust", *query)[0] == 0
