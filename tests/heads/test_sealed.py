"""Bundles that were edited and sealed again: one line that names the file, or the right answer."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
from safetensors.numpy import load_file, save_file
from sklearn.preprocessing import StandardScaler

import heads
from featurestore.cli import run
from featurestore.errors import BadBundle, EncoderDrift, NotTrusted
from featurestore.sources.listing import SourceOptions
from featurestore.storage.files import sha256_of
from featurestore.store.store import open_store
from heads.measures.json_types import check_fields
from heads.saved import archive
from heads.saved.card import HeadCard, digest_of

NEW = ["a red apple and bread", "the blue sea in may", "bread"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Bundles of each kind: classes, two encoders, words, numbers; and what they answer."""
    folder = tmp_path_factory.mktemp("sealed")
    words = ["apple bread cheese", "sea wave beach", "apple soup", "beach sand sea"]
    lines = [f"{words[n % 4]} {n},{'fs'[n % 2]},{n % 2 + n / 100}" for n in range(48)]
    (folder / "t.csv").write_text("\n".join(["words,kind,size", *lines]) + "\n")
    encoders = [f"baseline:hashing#size={size}" for size in (16, 24)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_CACHE", str(folder / "cache"))
        store = open_store(folder / "store", create=True)
        options = SourceOptions(text="words", label=("kind", "size"))
        store.embed([folder / "t.csv"], dataset="d", encoders=encoders, source_options=options)
        views = [store.view("d", spec) for spec in encoders]
        fitted = {
            "classes": heads.fit(views[0], "ridge", label="kind", coverage=0.8),
            "two encoders": heads.fit(heads.concat(views), "prototype", label="kind"),
            "words": heads.fit(views[0], "tfidf", label="kind"),
            "numbers": heads.fit(views[0], "ridge", label="size", coverage=0.8),
        }
        answers = {}
        for name, head in fitted.items():
            head.save(folder / name)
            answers[name] = answered(heads.load_bundle(folder / name))
    return folder, answers, fitted["classes"].path


@pytest.fixture
def bundle_of(made, tmp_path) -> Callable[[str], Path]:
    """Return a copy of a bundle."""
    return lambda name: Path(shutil.copytree(made[0] / name, tmp_path / "bundle"))


SUMS = {
    "head.skops": "head_sha256",
    "encoder.json": "encoder_sha256",
    "unlike.safetensors": "unlike_sha256",
}


def answered(head):
    """Return all that a head says of new texts."""
    found = head.ask(NEW)
    parts = (found.predicted, found.probabilities, found.confidence, found.interval, found.in_set)
    shares = None if found.unlike is None else found.unlike.shares
    return [None if one is None else np.asarray(one).tolist() for one in (*parts, shares)]


def seal(bundle: Path) -> None:
    """Put the sums of a bundle right, as somebody does who knows how."""
    card = json.loads((bundle / "card.json").read_text())
    for name, key in SUMS.items():
        if card.get(key) is not None and (bundle / name).is_file():
            card[key] = sha256_of(bundle / name)
    if "card_sha256" in card:
        card["card_sha256"] = digest_of(card)
    (bundle / "card.json").write_text(json.dumps(card))


def edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return an edit of one JSON file; ``change`` may return another value for all of it."""

    def edited(bundle: Path) -> None:
        data = json.loads((bundle / name).read_text())
        made = change(data)
        (bundle / name).write_text(json.dumps(data if made is None else made))

    return edited


def written(name: str, content: bytes | str | Callable[[], bytes]) -> Callable[[Path], None]:
    """Return an edit that writes a file anew."""

    def edited(bundle: Path) -> None:
        found = content() if callable(content) else content
        (bundle / name).write_bytes(found.encode() if isinstance(found, str) else found)

    return edited


def dumped(value: object) -> bytes:
    return skops.io.dumps(value)


def rezipped(change: Callable[[dict[str, bytes]], None], **how) -> Callable[[Path], None]:
    """Return an edit of the members of head.skops."""

    def edited(bundle: Path) -> None:
        file = bundle / "head.skops"
        with zipfile.ZipFile(file) as before:
            members = {name: before.read(name) for name in before.namelist()}
        change(members)
        with zipfile.ZipFile(file, "w", **how) as after:
            for name, content in members.items():
                after.writestr(name, content)

    return edited


def an_array(members: dict[str, bytes]) -> str:
    return next(name for name in sorted(members) if name.endswith(".npy"))


def as_objects(members: dict[str, bytes]) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    members[an_array(members)] = stream.getvalue()


def as_long_as_memory(members: dict[str, bytes]) -> None:
    stream = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(stream, header)
    members[an_array(members)] = stream.getvalue() + b"12345678"


def sparse_bomb(members: dict[str, bytes]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as inner:
        inner.writestr("data.npy", b"\0" * (300 << 20))
    members["1.npz"] = stream.getvalue()


def in_schema(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def changed(members: dict[str, bytes]) -> None:
        schema = json.loads(members["schema.json"])
        change(schema)
        members["schema.json"] = json.dumps(schema).encode()

    return rezipped(changed)


def linked(name: str) -> Callable[[Path], None]:
    def edited(bundle: Path) -> None:
        (bundle / name).rename(bundle.parent / name)
        (bundle / name).symlink_to(bundle.parent / name)

    return edited


def first_block(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return edit("encoder.json", lambda data: change(data["blocks"][0]))


def in_arrays(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    """Return an edit of the arrays of unlike.safetensors."""

    def edited(bundle: Path) -> None:
        file = bundle / "unlike.safetensors"
        arrays = load_file(file)
        change(arrays)
        save_file(arrays, file)

    return edited


def other_head(n_dims: int, classes: str = "fs") -> bytes:
    from heads.estimators.prototype import PrototypeHead

    X = np.random.default_rng(0).normal(size=(20, n_dims))
    return dumped(PrototypeHead().fit(X, np.array([*classes] * 10)))


BOMB = {"compression": zipfile.ZIP_DEFLATED}
KINDS = {  # what was edited → (the edit, the file that is named)
    "encoder.json is empty": (written("encoder.json", ""), "encoder.json"),
    "encoder.json is a list": (written("encoder.json", "[]"), "encoder.json"),
    "encoder.json has no blocks": (written("encoder.json", "{}"), "encoder.json"),
    "encoder.json has empty blocks": (written("encoder.json", '{"blocks": []}'), "encoder.json"),
    "encoder.json has odd blocks": (written("encoder.json", '{"blocks": [1]}'), "encoder.json"),
    "encoder.json is deep": (written("encoder.json", "[" * 200_000), "encoder.json"),
    "encoder.json is no UTF-8": (written("encoder.json", b"\xff\xfe\x00"), "encoder.json"),
    "encoder.json is gone": (lambda one: (one / "encoder.json").unlink(), "encoder.json"),
    "encoder.json is a folder": (
        lambda one: [(one / "encoder.json").unlink(), (one / "encoder.json").mkdir()],
        "encoder.json",
    ),
    "encoder.json is a link": (linked("encoder.json"), "encoder.json"),
    "no spec": (first_block(lambda block: block.update(spec="junk")), "encoder.json"),
    "another dim of a block": (first_block(lambda block: block.update(dim=17)), "encoder.json"),
    "NaN probes": (
        first_block(lambda block: block["canary"]["text"][0].__setitem__(0, float("nan"))),
        "encoder.json",
    ),
    "short probes": (
        first_block(lambda block: block["canary"].update(text=[[1.0]])), "encoder.json",
    ),
    "no scale": (first_block(lambda block: block.update(scale=float("inf"))), "encoder.json"),
    "an encoder of pictures": (
        first_block(lambda block: block.update(modalities=["image"])), "encoder.json",
    ),
    "another fingerprint": (
        first_block(lambda block: block.update(fingerprint="0" * 64)), "encoder.json",
    ),
    "an unknown task": (edit("card.json", lambda card: card.update(task="telepathy")), "card.json"),
    "another task": (edit("card.json", lambda card: card.update(task="regression")), "head.skops"),
    "several labels": (
        edit("card.json", lambda card: card.update(task="multilabel")), "head.skops",
    ),
    "a limit of letters": (
        edit("card.json", lambda card: card["conformal"].update(limit="wide")), "card.json",
    ),
    "a limit that is no number": (
        edit("card.json", lambda card: card["conformal"].update(limit=float("nan"))), "card.json",
    ),
    "a limit below 0": (
        edit("card.json", lambda card: card["conformal"].update(limit=-1)), "card.json",
    ),
    "a limit over 1": (
        edit("card.json", lambda card: card["conformal"].update(limit=5)), "card.json",
    ),
    "a coverage of 7": (
        edit("card.json", lambda card: card["conformal"].update(coverage=7)), "card.json",
    ),
    "a dim of 10^30": (edit("card.json", lambda card: card.update(dim=10**30)), "card.json"),
    "a dim below 0": (edit("card.json", lambda card: card.update(dim=-16)), "card.json"),
    "another dim": (edit("card.json", lambda card: card.update(dim=15)), "encoder.json"),
    "other classes": (
        edit("card.json", lambda card: card.update(classes=["f", "x"])), "head.skops",
    ),
    "no classes": (edit("card.json", lambda card: card.update(classes=[])), "card.json"),
    "an id that leads out": (
        edit("card.json", lambda card: card.update(head_id="../../x")), "card.json",
    ),
    "no time": (edit("card.json", lambda card: card.update(created="yesterday")), "card.json"),
    "odd numbers in the confusion": (
        edit("card.json", lambda card: card.update(confusion=[[1, 2]])), "card.json",
    ),
    "a format of letters": (edit("card.json", lambda card: card.update(format="one")), "card.json"),
    "a deep value": (
        edit("card.json", lambda card: card.update(chosen=json.loads("[" * 400 + "]" * 400))),
        "card.json",
    ),
    "a deep value in a key that nobody knows": (
        edit("card.json", lambda card: card.update(later=json.loads("[" * 400 + "]" * 400))),
        "card.json",
    ),
    "card.json is a link": (linked("card.json"), "card.json"),
    "head.skops is a link": (linked("head.skops"), "head.skops"),
    "head.skops is empty": (written("head.skops", ""), "head.skops"),
    "head.skops is a pickle": (written("head.skops", lambda: pickle.dumps([1])), "head.skops"),
    "head.skops is of joblib": (
        lambda one: joblib.dump(StandardScaler(), one / "head.skops"), "head.skops",
    ),
    "head.skops is of torch": (
        rezipped(lambda members: [members.clear(), members.update({"a/data.pkl": b"."})]),
        "head.skops",
    ),
    "head.skops holds no head": (written("head.skops", lambda: dumped([1, 2])), "head.skops"),
    "head.skops is not fitted": (
        written("head.skops", lambda: dumped(StandardScaler())), "head.skops",
    ),
    "head.skops has another dim": (written("head.skops", lambda: other_head(5)), "head.skops"),
    "head.skops has other classes": (
        written("head.skops", lambda: other_head(16, "xy")), "head.skops",
    ),
    "an array of objects": (rezipped(as_objects), "head.skops"),
    "an array longer than memory": (rezipped(as_long_as_memory), "head.skops"),
    "a bomb": (
        rezipped(lambda members: members.update({"1.npy": b"\0" * (300 << 20)}), **BOMB),
        "head.skops",
    ),
    "a bomb in a sparse matrix": (rezipped(sparse_bomb), "head.skops"),
    "a name that leads out": (
        rezipped(lambda members: members.update({"../x.npy": b""})), "head.skops",
    ),
    "no schema": (rezipped(lambda members: members.pop("schema.json")), "head.skops"),
    "a deep schema": (
        rezipped(lambda members: members.update({"schema.json": b'{"a":' * 100_000})), "head.skops",
    ),
    "a schema of another protocol": (
        in_schema(lambda schema: schema.update(protocol="x")), "head.skops",
    ),
    "a schema without content": (in_schema(lambda schema: schema.pop("content")), "head.skops"),
    "an unknown loader": (
        in_schema(lambda schema: schema.update(__loader__="os.system")), "head.skops",
    ),
    "an array that is not there": (
        rezipped(lambda members: members.pop(an_array(members))), "head.skops",
    ),
    "unlike.safetensors is empty": (written("unlike.safetensors", ""), "unlike.safetensors"),
    "unlike.safetensors is text": (
        written("unlike.safetensors", "no tensors"), "unlike.safetensors",
    ),
    "unlike.safetensors is a link": (linked("unlike.safetensors"), "unlike.safetensors"),
    "unlike.safetensors is gone": (
        lambda one: (one / "unlike.safetensors").unlink(), "unlike.safetensors",
    ),
    "unlike.safetensors is cut off": (
        lambda one: os.truncate(one / "unlike.safetensors", 300), "unlike.safetensors",
    ),
    "distances of another dim": (
        in_arrays(lambda found: found.update(means=found["means"][:, :-1].copy())),
        "unlike.safetensors",
    ),
    "distances without means": (
        in_arrays(lambda found: found.pop("means")), "unlike.safetensors",
    ),
    "distances that are whole numbers": (
        in_arrays(lambda found: found.update(reference=np.arange(9))), "unlike.safetensors",
    ),
    "distances that are no numbers": (
        in_arrays(lambda found: found["reference"].__setitem__((-1, 1), np.nan)),
        "unlike.safetensors",
    ),
    "distances of one kind": (
        in_arrays(lambda found: found.update(reference=found["reference"][:, :1].copy())),
        "unlike.safetensors",
    ),
    "no local means": (
        in_arrays(lambda found: found.update(local_means=found["local_means"][:0].copy())),
        "unlike.safetensors",
    ),
    "a variance of 0": (
        in_arrays(lambda found: found["variances"].__setitem__(0, 0)), "unlike.safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_that_was_edited_and_sealed_again_is_refused_in_one_line(kind, bundle_of, capsys):
    bundle = bundle_of("classes")
    change, named = KINDS[kind]
    change(bundle)
    if named != "card.json" or not (bundle / "card.json").is_symlink():
        seal(bundle)
    with pytest.raises(BadBundle) as caught:
        heads.load_bundle(bundle)
    said = str(caught.value)
    assert "\n" not in said
    assert str(bundle / named) in said
    assert len(said) < 600
    (bundle.parent / "new.csv").write_text("words\nbread\n")
    assert run(["predict", str(bundle), str(bundle.parent / "new.csv")]) == 1
    assert capsys.readouterr().err.replace("error: ", "").strip() == said


@pytest.mark.parametrize("kind", ["an unknown task", "head.skops is a pickle", "a limit below 0"])
def test_heads_of_a_store_are_looked_at_likewise(kind, made, tmp_path):
    folder, _, registered = made
    store = open_store(shutil.copytree(folder / "store", tmp_path / "store"))
    dataset = store.dataset("d")
    head = dataset.path / "heads" / registered.name
    change, named = KINDS[kind]
    change(head)
    seal(head)
    with pytest.raises(BadBundle, match=named):
        heads.load_head(dataset, registered.name)
    if named == "card.json":
        with pytest.raises(BadBundle, match=named):
            heads.list_heads(dataset)


def test_sizes_are_looked_at_before_anything_is_unpacked(bundle_of, monkeypatch):
    """Many members, a large file, one name twice: nothing of it is read."""
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 100)
    bundle = bundle_of("classes")
    rezipped(lambda members: members.update({f"{n}.bin": b"" for n in range(200)}))(bundle)
    seal(bundle)
    with pytest.raises(BadBundle, match=r"holds 2\d\d files, expected 100 at most"):
        heads.load_bundle(bundle)
    with (bundle / "head.skops").open("wb") as file:
        file.truncate(archive.MOST_BYTES + 1)  # a sparse file: it takes no room
    with pytest.raises(BadBundle, match=r"head.skops .*has 8,590 MB, expected 8,590 at most"):
        heads.load_bundle(bundle)


def places(value: object, at: tuple = ()) -> list[tuple]:
    """Return the path of every value within JSON; of a list the first and the last."""
    found = [at] if at else []
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = [(n, value[n]) for n in sorted({0, len(value) - 1}) if value]
    else:
        return found
    return found + [one for key, part in inner for one in places(part, (*at, key))]


RETYPED = [None, True, 0, -3, 2.5, float("nan"), float("inf"), 10**40, "", "odd", [], ["a", 1], {},
           {"a": {}}, [[1.0]], {"text": [[1.0, 2.0]]}]  # fmt: skip


def mutated(data: dict, rng: random.Random) -> str:
    """Drop, or type otherwise, one value of JSON; say which."""
    path = rng.choice(places(data))
    holder = data
    for key in path[:-1]:
        holder = holder[key]
    if rng.random() < 0.25:
        del holder[path[-1]]
        return f"without {path}"
    value = rng.choice(RETYPED)
    holder[path[-1]] = value
    return f"{path} = {value!r}"


@pytest.mark.parametrize("name", ["classes", "two encoders", "words", "numbers"])
@pytest.mark.parametrize("file", ["card.json", "encoder.json"])
def test_no_value_of_the_json_leads_to_another_error(name, file, made, bundle_of):
    """150 seeded edits a file: BadBundle, or what the head said before, sets and all."""
    bundle = bundle_of(name)
    before = {one.name: one.read_bytes() for one in bundle.iterdir()}
    if name == "words" and file == "encoder.json":
        pytest.skip("there is nothing in it")
    rng, n_refused = random.Random(f"{name} {file}"), 0
    for _ in range(150):
        for one, content in before.items():
            (bundle / one).write_bytes(content)
        data = json.loads(before[file])
        what = mutated(data, rng)
        (bundle / file).write_text(json.dumps(data))
        seal(bundle)
        try:
            head = heads.load_bundle(bundle)
            said = answered(head)
        except BadBundle:
            n_refused += 1
            continue
        except EncoderDrift:  # no probe can say that it was edited
            assert "'canary'" in what, what
            continue
        except Exception as error:
            raise AssertionError(what) from error
        assert said[0] == made[1][name][0], what
        if "conformal" not in what:
            assert said == made[1][name], what
        json.dumps(head.card)
    assert n_refused > 40


def test_seeded_edits_of_the_estimator_end_in_one_line_or_an_answer(made, bundle_of):
    bundle = bundle_of("classes")
    whole = (bundle / "head.skops").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as inside:
        schema = json.loads(inside.read("schema.json"))
    rng, n_refused = random.Random(24), 0
    for _ in range(120):
        (bundle / "head.skops").write_bytes(whole)
        data = json.loads(json.dumps(schema))
        what = mutated(data, rng)
        rezipped(
            lambda members, data=data: members.update({"schema.json": json.dumps(data).encode()})
        )(bundle)
        seal(bundle)
        try:
            answered(heads.load_bundle(bundle))
        except (BadBundle, NotTrusted):  # a type of another name is nobody's that we trust
            n_refused += 1
        except Exception as error:
            raise AssertionError(what) from error
    assert n_refused > 30


def test_keys_of_a_later_release_may_hold_anything_flat():
    card = {"later": [1, {"a": None}], "format": 1}
    check_fields(HeadCard, card, lenient=frozenset(HeadCard.__dataclass_fields__))
    with pytest.raises(ValueError, match=r"it lacks evaluation\.n_folds"):
        check_fields(
            HeadCard, card | {"evaluation": {"on": "test"}},
            lenient=frozenset(HeadCard.__dataclass_fields__),
        )  # fmt: skip
