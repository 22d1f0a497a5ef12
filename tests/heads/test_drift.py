"""What comes in, compared with what a head learned from: the log, the verdict, the command."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import heads
from featurestore.cli import run
from featurestore.errors import BadName, BadSource
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.drift.compare import drift
from heads.saved import answer_log
from heads.saved.answer_log import About, AnswerLog, read_log
from heads.saved.card import predicted_by
from heads.saved.serve import answer
from tests.heads.serving_world import TEXTS, serving, write_world

DIM = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of texts and a head on them; its folder and its bundle."""
    folder = tmp_path_factory.mktemp("world")
    table, photos = write_world(folder)
    store = open_store(folder / "store", create=True)
    options = SourceOptions(id="id", text="words", label=("topic",))
    store.embed([table], dataset="t", source_options=options, encoders=["baseline:hashing"])
    store.embed([photos], dataset="p", encoders=["baseline:pixels#size=4"])
    for name in "tp":
        heads.fit(store.dataset(name).views()[0], "ridge").save(folder / name)
    return folder


@pytest.fixture
def head(world):
    return heads.load_bundle(world / "t")


@pytest.fixture
def fs(capsys):
    def call(*words):
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def answered(head, texts):
    return head.ask(texts)


def write(folder, head, texts, **how):
    """Log the answers about texts."""
    found = answered(head, texts)
    about = [About(answer_log.digest_of(one), one) for one in texts]
    AnswerLog(folder, **how).write(head, found, about)
    return found


def rows_in(folder):
    return [
        json.loads(line)
        for file in sorted(folder.glob("*/*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def test_a_log_gives_back_what_was_answered(head, tmp_path):
    found = write(tmp_path, head, TEXTS[:5], vectors=True)
    log = read_log(tmp_path, head)
    assert log.ids == found.ids.tolist()
    assert log.predicted == found.predicted.tolist()
    assert np.allclose(log.unlike, found.unlike.shares, atol=1e-6)
    assert log.n_training == found.unlike.n_training
    rows, vectors = log.vectors(head.card.dim)
    assert rows.tolist() == list(range(5))
    assert np.allclose(vectors, found.vectors, atol=1e-3)


def test_neither_texts_nor_vectors_nor_paths_are_kept_unasked(head, tmp_path):
    write(tmp_path, head, ["a secret about bread and soup"])
    header, row = rows_in(tmp_path)
    assert set(header) == {"format", "head", "created", "fingerprint", "n_training"}
    assert set(row) == {"at", "id", "content", "predicted", "confidence", "unlike"}
    row.pop("id")  # of texts in a list it is the text: the caller's choice
    assert "secret" not in json.dumps([header, row])


def test_nothing_is_logged_unasked(fs, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, _ = fs("predict", world / "t", world / "texts.csv", "--text", "words")
    assert (code, list(tmp_path.iterdir())) == (0, [])


def test_equal_content_counts_once_and_damaged_lines_are_counted(head, tmp_path):
    write(tmp_path, head, TEXTS[:4])
    write(tmp_path, head, TEXTS[2:6])
    (first, _) = sorted(tmp_path.glob("*/*.jsonl"))
    with first.open("ab") as file:
        file.write(b'{"at": "yesterday", "id": "x"}\n[1]\nno json\n{"at": "2026-12-0')
    log = read_log(tmp_path, head)
    assert (len(log), log.n_again, log.n_odd) == (6, 2, 4)
    notes = " ".join(drift(head, log).notes)
    assert "2 answers about content that came again count once" in notes
    assert "4 lines of the log cannot be read" in notes


def test_a_log_is_read_from_a_moment_on_and_before_another(head, tmp_path):
    write(tmp_path, head, TEXTS[:4])
    now = datetime.now(UTC)
    assert len(read_log(tmp_path, head, since=now - timedelta(minutes=5))) == 4
    assert len(read_log(tmp_path, head, since=now + timedelta(minutes=5))) == 0
    assert len(read_log(tmp_path, head, until=now - timedelta(minutes=5))) == 0


def test_a_log_that_somebody_else_wrote_leads_nowhere(head, tmp_path):
    write(tmp_path, head, TEXTS[:2], items=True)
    (file,) = tmp_path.glob("*/*.jsonl")
    (tmp_path / "secret.png").write_bytes(b"x")
    now = "2026-12-01T00:00:00+00:00"
    rows = [
        {"at": now, "id": "a", "content": "../../secret.png", "unlike": 1.0},
        {"at": now, "id": "b", "content": "c" * 64, "unlike": "far", "vector": "!", "path": 3},
        {"at": "2026-12-01T00:00:00", "id": "c"},  # of no time zone
        {"at": now, "unlike": 2},
    ]
    with file.open("a") as sink:
        sink.write("\n".join(map(json.dumps, rows)) + "\n")
        sink.write("[" * 100_000 + "\n" + "x" * (3 << 20) + "\n")
    log = read_log(tmp_path, head)
    assert {"a", "b"} < set(log.ids)
    assert log.n_odd >= 4
    assert [log.picture(n) for n in range(len(log))] == [None] * 4
    assert len(log.vectors(head.card.dim)[1]) == 0
    drift(head, log)


def test_a_log_is_in_a_folder_of_this_machine(head, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadName, match="folder of this machine"):
        AnswerLog("s3://bucket/answers")
    with pytest.raises(BadName, match="folder of this machine"):
        read_log("s3://bucket/answers", head)
    assert list(tmp_path.iterdir()) == []


def test_logs_of_another_head_or_a_newer_release_are_refused(head, world, tmp_path):
    write(tmp_path, head, TEXTS[:4])
    other = heads.load_bundle(world / "p")
    with pytest.raises(BadSource, match=f"holds no log of {other.head_id}.*{head.head_id}"):
        read_log(tmp_path, other)
    (file,) = tmp_path.glob("*/*.jsonl")
    again = replace(head.card, created="2020-01-01T00:00:00+00:00")
    with pytest.raises(BadSource, match="is of another head named"):
        read_log(tmp_path, replace(head, card=again))
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(BadSource, match="newer release"):
        read_log(tmp_path, head)
    with pytest.raises(BadName, match="--log-to"):
        AnswerLog(file)


def test_a_full_disk_is_said_once_and_stops_no_answer(head, tmp_path, monkeypatch):
    said = []
    log = AnswerLog(tmp_path, say=said.append)
    whole = answer_log._add

    def full(file, lines):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(answer_log, "_add", full)
    found = answered(head, TEXTS[:3])
    about = [About(answer_log.digest_of(one)) for one in TEXTS[:3]]
    log.write(head, found, about)
    log.write(head, found, about)
    assert (log.n_lost, len(said)) == (6, 1)
    assert "No space left on device" in said[0]
    monkeypatch.setattr(answer_log, "_add", whole)
    log.write(head, found, about)
    assert len(read_log(tmp_path, head)) == 3


def test_a_killed_writer_leaves_a_log_that_is_read(head, world, tmp_path):
    program = (
        "import sys, heads\n"
        "from heads.saved.answer_log import About, AnswerLog\n"
        "head = heads.load_bundle(sys.argv[1]); log = AnswerLog(sys.argv[2], vectors=True)\n"
        "found = head.ask(['bread and cheese'] * 50)\n"
        "print('begun', flush=True)\n"
        "n = 0\n"
        "while True:\n"
        "    log.write(head, found, [About(f'{n}-{i}') for i in range(50)]); n += 1\n"
    )
    for wait in (0.03, 0.08):
        child = subprocess.Popen(
            [sys.executable, "-c", program, world / "t", tmp_path], stdout=subprocess.PIPE
        )
        child.stdout.readline()
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    log = read_log(tmp_path, head)
    assert len(log) >= 100
    assert log.n_odd <= 2  # a last line each


# -- the verdict ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Heads for three classes, several labels and a number on made-up vectors, and these."""
    from featurestore.exchange.imports import import_vectors, read_vectors

    rng = np.random.default_rng(2)
    folder = tmp_path_factory.mktemp("made")
    code = np.arange(240) % 3
    vectors = (rng.normal(size=(3, DIM))[code] * 2 + rng.normal(size=(240, DIM))).astype("f4")
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [["a"], ["a", "b"], []]
    table = {
        "item_id": [f"{n:03d}" for n in range(240)],
        "vector": list(vectors),
        "kind": [f"class {c}" for c in code],
        "number": (vectors[:, 0] * 3 + code).tolist(),
        "several": [labels[c] for c in code],
    }
    pq.write_table(pa.table(table), folder / "v.parquet")
    view = import_vectors(
        open_store(folder / "store", create=True), read_vectors(str(folder / "v.parquet")),
        dataset="d", name="made", origin="made", labels=["kind", "number", "several"],
    )  # fmt: skip
    return {one: heads.fit(view, "ridge", label=one) for one in ("kind", "number", "several")}, (
        vectors,
        code,
    )


def week(folder, head, vectors):
    """Log the answers about vectors, and compare them with the training items."""
    ids = np.array([str(n) for n in range(len(vectors))], dtype=object)
    AnswerLog(folder, vectors=True).write(
        head, answer(head, ids, vectors), [About()] * len(vectors)
    )
    return read_log(folder, head)


def like(made, rng, n):
    vectors, code = made
    means = np.stack([vectors[code == c].mean(axis=0) for c in range(3)])
    return (means[rng.integers(0, 3, n)] + rng.normal(size=(n, DIM))).astype("f4")


@pytest.mark.parametrize("label", ["kind", "number", "several"])
def test_items_of_the_same_kind_raise_no_alarm_and_others_do(made, label, tmp_path):
    fitted, known = made
    head, rng = fitted[label], np.random.default_rng(7)
    alarms = 0
    for n in range(10):
        log = week(tmp_path / f"same{n}", head, like(known, rng, 100))
        found = drift(head, log, training=known[0])
        assert {one.name for one in found.tests} == {"unlike", "farther", "predictions", "vectors"}
        alarms += found.is_drift
    assert alarms <= 2
    found = drift(head, week(tmp_path / "far", head, like(known, rng, 100) + 3))
    assert found.is_drift
    assert "unlike" in {one.name for one in found.found}
    assert found.items[0].share == max(one.share for one in found.items)


def test_a_class_that_becomes_frequent_is_found_and_named(made, tmp_path):
    fitted, (vectors, code) = made
    head, rng = fitted["kind"], np.random.default_rng(8)
    some = vectors[code == 1][:60] + rng.normal(size=(60, DIM)).astype("f4") * 0.05
    found = drift(head, week(tmp_path, head, some))
    assert "predictions" in {one.name for one in found.found}
    assert found.classes[0].n == 0 or found.classes[0].name == "class 1"
    one = next(one for one in found.classes if one.name == "class 1")
    assert one.share > 0.9
    assert one.before == pytest.approx(0.35, abs=0.05)
    assert one.p < 1e-6
    assert any("class 1: 9" in line or "class 1: 100" in line for line in found.sentences())


def test_few_items_and_old_bundles_say_what_they_cannot_tell(made, tmp_path):
    fitted, known = made
    head, rng = fitted["kind"], np.random.default_rng(9)
    found = drift(head, week(tmp_path / "few", head, like(known, rng, 5)))
    assert (found.is_enough, found.is_drift) == (False, False)
    assert found.sentences()[0].startswith("Too few to tell: 5 items")
    card = replace(head.card, predicted=None)  # as of November: the confusion says it
    assert predicted_by(card) == head.card.predicted
    old = replace(fitted["number"], card=replace(fitted["number"].card, predicted=None))
    found = drift(old, week(tmp_path / "old", old, like(known, rng, 40)))
    assert "train it again" in " ".join(found.notes)


def test_days_are_counted_apart(made, tmp_path):
    fitted, known = made
    head = fitted["kind"]
    log = week(tmp_path, head, like(known, np.random.default_rng(1), 30))
    log = replace(log, at=[at - timedelta(days=n % 2) for n, at in enumerate(log.at)])
    days = drift(head, log).days
    assert [one.n for one in days] == [15, 15]
    assert days[0].day < days[1].day


# -- the commands --------------------------------------------------------------------------------


def test_the_command_ends_with_0_5_or_6_and_names_the_items(fs, world, tmp_path):
    log, where = tmp_path / "log", ("--store", world / "store")
    same = (world / "texts.csv", "--text", "words", "--log-to", log)
    assert fs("predict", world / "t", *same, "-o", tmp_path / "a.csv")[0] == 0
    code, out, _ = fs("drift", world / "t", log, *where)
    assert (code, out.startswith("No drift seen: ")) == (0, True)
    table = tmp_path / "other.csv"
    lines = [f"zzz{n} qqq{n * 7} xx{n * 3} ww{n}" for n in range(120)]
    table.write_text("words\n" + "\n".join(lines) + "\n")
    items = ("--text", "words", "--log-to", log, "--log-items")
    assert fs("predict", world / "t", table, *items, "-o", tmp_path / "b.csv")[0] == 0
    code, out, _ = fs("drift", world / "t", log, *where)
    assert code == 5
    assert out.startswith("Drift: ")
    assert "zzz" in out
    assert "featurestore suggest t -o todo.csv" in out
    code, out, _ = fs("drift", world / "t", log, *where, "--json")
    found = json.loads(out)
    assert (code, found["is_drift"], found["items"][0]["text"][:3]) == (5, True, "zzz")
    code, out, _ = fs("drift", world / "t", log, *where, "--until", "2020-01-01")
    assert (code, "Too few to tell" in out) == (6, True)
    code, _, err = fs("drift", world / "t", tmp_path / "nowhere", *where)
    assert (code, "holds no log of" in err) == (1, True)


def test_vectors_are_compared_with_those_of_the_store(fs, world, tmp_path):
    words = ("--text", "words", "--log-to", tmp_path / "log", "--log-vectors")
    fs("predict", world / "t", world / "texts.csv", *words, "-o", tmp_path / "a.csv")
    code, out, _ = fs("drift", world / "t", tmp_path / "log", "--store", world / "store")
    assert "A-distance" in out, out
    assert code == 0, out
    code, _, err = fs("drift", world / "t", tmp_path / "log", "--store", tmp_path / "none")
    assert (code, "vectors are not compared: there is no store" in err) == (0, True)


def test_one_picture_and_a_folder_are_logged_with_their_paths(fs, world, tmp_path):
    one = world / "photos" / "dark" / "0.png"
    for source in (one, world / "photos"):
        fs("predict", world / "p", source, "--log-to", tmp_path / "log", "--log-items")
    head = heads.load_bundle(world / "p")
    log = read_log(tmp_path / "log", head)
    assert (len(log), log.n_again) == (40, 1)  # the one came twice
    assert {row["path"] for row in log.rows} == {str(p) for p in world.glob("photos/*/*.png")}
    assert log.picture(0) is not None


def test_a_server_logs_what_it_answers(world, tmp_path):
    head = heads.load_bundle(world / "t")
    with serving({"t": head}, log=AnswerLog(tmp_path, items=True)) as (_, client):
        body = {"texts": TEXTS[:3], "ids": ["a", "b", "c"]}
        said = client.post("/predict", json=body).json()["predictions"]
        assert client.post("/predict", json={"texts": TEXTS[3:5]}).status_code == 200
        assert client.post("/predict", json={**body, "ids": ["a"]}).status_code == 422
    log = read_log(tmp_path, head)
    assert sorted(log.ids[:3]) == ["a", "b", "c"]
    assert len(log) == 5
    by_id = dict(zip(log.ids, log.predicted, strict=True))
    assert [by_id[one] for one in "abc"] == [one["predicted"] for one in said]
    assert {row["text"] for row in log.rows} == set(TEXTS[:5])


def test_a_server_keeps_pictures_that_are_unlike_and_only_if_asked(world, tmp_path):
    head = heads.load_bundle(world / "p")
    near = (world / "photos" / "dark" / "0.png").read_bytes()
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.new("RGB", (40, 40), (255, 0, 0)).save(sink, "PNG")
    for items in (True, False):
        folder = tmp_path / str(items)
        with serving({"p": head}, log=AnswerLog(folder, items=items)) as (_, client):
            for content in (near, sink.getvalue()):
                headers = {"Content-Type": "image/png"}
                client.post("/predict", content=content, headers=headers)
        kept = list(folder.glob("*/pictures/*"))
        assert [one.read_bytes() for one in kept] == ([sink.getvalue()] if items else [])
        log = read_log(folder, head)
        assert [log.picture(n) is not None for n in np.argsort(log.unlike)] == [False, items]


def test_a_server_goes_on_where_its_log_cannot_be_written(world, tmp_path):
    head, said = heads.load_bundle(world / "t"), []
    log = AnswerLog(tmp_path / "log", say=said.append)
    with serving({"t": head}, log=log) as (_, client):
        (tmp_path / "log").rmdir()
        (tmp_path / "log").write_text("in its place")
        assert client.post("/predict", json={"texts": TEXTS[:3]}).status_code == 200
        until = time.monotonic() + 5
        while not log.n_lost and time.monotonic() < until:
            time.sleep(0.01)
        assert client.get("/health").json()["answers_not_logged"] == 3
    assert len(said) == 1


def test_two_processes_write_files_of_their_own(head, tmp_path):
    first, second = AnswerLog(tmp_path), AnswerLog(tmp_path)
    found = answered(head, TEXTS[:2])
    for n, log in enumerate((first, second, first)):
        log.write(head, found, [About(f"{n}{i}") for i in range(2)])
    files = list(tmp_path.glob("*/*.jsonl"))
    assert len(files) == 2
    assert all(str(os.getpid()) in one.name for one in files)
    assert len(read_log(tmp_path, head)) == 6
