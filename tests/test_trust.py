"""Code that a store or a bundle names runs only where somebody asked for it: doors × kinds.

The module lies in the working folder and leaves a mark when it is imported, as code of somebody
else's store would.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import dashboard
import heads
from featurestore.cli import run
from featurestore.encoders.trust import asked_for, either, is_trusted
from featurestore.errors import NotTrusted
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from featurestore.upkeep.verify import verify

THEIRS = """
from pathlib import Path
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
Path(__file__).with_name("mark").touch()

class Letters:
    version = "1"
    def encode_texts(self, texts):
        counts = [[text.count(letter) for letter in "abcdefgh"] for text in texts]
        return np.array(counts, dtype="float32") + 0.1

class First(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self
    def predict_proba(self, X):
        one = np.linspace(1, 2, len(self.classes_))
        return np.tile(one / one.sum(), (len(X), 1))
    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
"""
ENCODER, HEAD, TYPE = "python:theirs:Letters", "python:theirs:First", "theirs.First"
HASHING = "baseline:hashing"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a store, bundles and new texts, all of which name code beside them."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "theirs.py").write_text(THEIRS)
    sys.modules.pop("theirs", None)  # of another test
    words = ["bad cab", "deaf egg", "had a bag", "gag fed"]
    lines = [f"t{n},{words[n % 4]} {n},{'xy'[n % 2]}" for n in range(40)]
    (folder / "texts.csv").write_text("\n".join(["id,words,kind", *lines]) + "\n")
    (folder / "new.csv").write_text("id,words\na,bad bag\nb,fed egg\n")
    options = SourceOptions(text="words", label=("kind",), id="id")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_CACHE", str(folder / "cache"))
        patch.syspath_prepend(folder)
        store = open_store(folder / "store", create=True)
        source = [folder / "texts.csv"]
        for name in ("d", "grows"):
            store.embed(source, dataset=name, encoders=[ENCODER], source_options=options)
        store.embed(source, dataset="known", encoders=[HASHING], source_options=options)
        fitted = heads.fit(store.view("d", ENCODER), "prototype")
        fitted.save(folder / "of-encoder")
        heads.fit(store.view("known", HASHING), HEAD, save=False).save(folder / "of-type")
        heads.compare([store.view("known", HASHING)], [HEAD], evaluation="folds")
    sys.modules.pop("theirs")
    (folder / "registered").write_text(str(fitted.path))
    return folder


@pytest.fixture
def world(made, monkeypatch):
    """That folder as the working folder, where nothing of it was imported yet."""
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(made))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("FEATURESTORE_STORE", str(made / "store"))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    (made / "mark").unlink(missing_ok=True)
    yield made
    sys.modules.pop("theirs", None)


def has_run(world: Path) -> bool:
    return (world / "mark").exists()


ZERO_SHOT = ("--head", "zero-shot", "--label", "kind")
DOORS = {  # command → what it names
    "search by text": (("search", "d", "--text", "bad"), ENCODER),
    "predict with a bundle": (("predict", "of-encoder", "new.csv"), ENCODER),
    "predict with a head of the store": (("predict", "REGISTERED", "new.csv"), ENCODER),
    "predict with a type": (("predict", "of-type", "new.csv"), TYPE),
    "train on words": (("train", "d", *ZERO_SHOT), ENCODER),
    "compare on words": (("compare", "d", *ZERO_SHOT), ENCODER),
    "curve on words": (("curve", "d", *ZERO_SHOT), ENCODER),
    "run again": (("show", "known", "latest", "--again"), HEAD),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_command_runs_code_unasked_and_each_does_with_trust(door, world, capsys):
    command, name = DOORS[door]
    registered = (world / "registered").read_text()
    command = [registered if word == "REGISTERED" else word for word in command]
    assert run(command) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f" {name}, which is code" in said
    assert "--trust" in said
    assert not has_run(world)
    assert run([*command, "--trust"]) == 0
    assert has_run(world)


@pytest.mark.parametrize(
    "command",
    [
        ("ls",),
        ("info", "d"),
        ("search", "d", "--item", "t1"),
        ("sql", "select count(*) from d"),
        ("train", "d", "--head", "ridge"),
        ("embed", "--dataset", "grows"),  # by the built-in encoder, not by those of the store
        ("show", "known", "latest"),
        ("export", "d", "out.parquet"),
        ("quality", "d"),
        ("transfer", "d", "--head", "prototype", "--no-blend"),
    ],
    ids=lambda words: words[0],
)
def test_what_needs_no_code_runs_none(command, world):
    assert run(list(command)) == 0
    assert not has_run(world)


@pytest.mark.parametrize(
    "command",
    [
        ("search", "d", "-e", ENCODER, "--text", "bad"),
        ("search", f"d@{ENCODER}", "--text", "bad"),
        ("compare", "d", "-e", ENCODER, *ZERO_SHOT, "--seed", "1"),
        ("train", "known", "-e", HASHING, "--head", HEAD),
        ("embed", "new.csv", "--dataset", "more", "--text", "words", "-e", ENCODER),
        ("predict", "of-encoder", "new.csv", "--encoder", ENCODER),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_is_typed_is_asked_for(command, world):
    assert run(list(command)) == 0
    assert has_run(world)


def test_a_name_that_is_typed_asks_for_no_other(world, capsys):
    assert run(["predict", "of-type", "new.csv", "--encoder", ENCODER]) == 1
    assert TYPE in capsys.readouterr().err
    assert not has_run(world)


def test_verify_checks_the_rest_and_says_what_it_did_not_check(world, capsys):
    assert run(["verify", "d"]) == 0
    said = capsys.readouterr().out
    assert "its encoder was not checked: the store or bundle names the encoder" in said
    assert not has_run(world)
    assert run(["verify", "d", "--trust"]) == 0
    assert "all is well" in capsys.readouterr().out
    assert has_run(world)


PYTHON_DOORS = {
    "view.search_text": lambda store, trust: store.view("d", ENCODER, trust=trust).search_text("b"),
    "views": lambda store, trust: open_store(store.path, trust=trust)
    .dataset("d").views()[0].encode(["b"]),
    "load_bundle": lambda _, trust: heads.load_bundle("of-type", trust=trust),
    "ask": lambda _, trust: heads.load_bundle("of-encoder", trust=trust).ask(["bad"]),
    "load_head": lambda store, trust: heads.load_head(
        store.dataset("d"), Path("registered").read_text().rpartition("/")[2], trust=trust
    ).predict(["bad"]),
    "load_head of a store": lambda store, trust: heads.load_head(
        open_store(store.path, trust=trust).dataset("d"),
        Path("registered").read_text().rpartition("/")[2],
    ).predict(["bad"]),
    "run_again": lambda store, trust: heads.run_again(
        store.dataset("known"), heads.runs(store.dataset("known"))[0], trust=trust
    ),
}  # fmt: skip


@pytest.mark.parametrize("door", PYTHON_DOORS)
def test_no_door_of_python_runs_code_unasked_and_each_does_with_trust(door, world):
    store, names = open_store(world / "store"), (ENCODER, HEAD, TYPE)
    for trust in (False, ["python:theirs:Other"]):
        with pytest.raises(NotTrusted, match="theirs"):
            PYTHON_DOORS[door](store, trust)
        assert not has_run(world)
    for trust in (names, True):
        PYTHON_DOORS[door](store, trust)
        assert has_run(world)


def test_the_dashboard_runs_code_only_where_it_was_started_with_trust(world, monkeypatch):
    def opened() -> AppTest:
        app = AppTest.from_file(Path(dashboard.__path__[0]) / "app.py", default_timeout=60).run()
        app.query_params.update({"dataset": "d", "look": "text", "q": "bad cab"})
        app.switch_page("screens/search.py").run()
        assert not app.exception
        return app

    monkeypatch.setenv("FEATURESTORE_DASHBOARD_TRUST", "")
    assert ENCODER in opened().error[0].value.replace("\\", "")
    assert not has_run(world)
    monkeypatch.setenv("FEATURESTORE_DASHBOARD_TRUST", "1")
    assert not opened().error
    assert has_run(world)


def test_a_spec_that_was_forged_is_refused_under_any_spelling(world, tmp_path):
    store = open_store(world / "store")
    (path,) = store.path.glob("datasets/d/views/*/encoder.json")
    kept = path.read_bytes()
    try:
        for spec in (f" {ENCODER}", f"{ENCODER} ", f"\t{ENCODER}"):
            path.write_text(json.dumps({**json.loads(kept), "spec": spec}))
            with pytest.raises(NotTrusted):
                store.dataset("d").views()[0].encode(["b"])
            assert [one.severity for one in verify(store.folder("d"))] == ["warning"]
    finally:
        path.write_bytes(kept)
    assert not has_run(world)


def test_what_is_trusted_is_all_or_what_is_named():
    assert asked_for(f" {ENCODER}", "st:local-dir:/x", 3) == (ENCODER,)
    assert [is_trusted("a", one) for one in (True, False, "a", "ab", ["a"], ())] == [
        True, False, True, False, True, False,
    ]  # fmt: skip
    assert either(False, ["a"]) == ("a",)
    assert either(["a"], True) is True
    assert either("a", ["b", "a"]) == ("a", "b")
    assert either(False, ()) is False
