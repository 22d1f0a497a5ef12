"""One command says what to take: in five lines, within its time, and honestly."""

from __future__ import annotations

import shlex
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import heads
from featurestore.cli import run
from featurestore.store.commands import command_line
from heads.advice.advise import _retraining
from heads.advice.clock import LEAST, Clock
from heads.advice.next_step import rows_asked, typed
from heads.advice.within_time import allowed, little_left
from heads.labels.options import PlanOptions
from heads.labels.tasks import Task
from heads.measures.choice import Choice, choose
from heads.measures.metrics import METRICS
from heads.transfer.verdict import Kind
from tests.heads.topics import two_topics


def test_five_lines_the_last_a_command_that_works_and_a_second_call_fits_nothing(
    embed, monkeypatch
):
    store = embed(two_topics(60))
    advice = heads.advise(store, "texts")
    said = advice.sentences()
    assert len(said) == 5
    assert said[0].startswith("Take ")
    assert "balanced accuracy (" in said[0]
    assert advice.command == said[-1]
    assert said[-1].endswith(f"--store {store.path}")
    assert repr(advice).startswith("<Advice on texts: ")
    kept = advice.to_json()
    assert kept["take"]["head"] == advice.head
    assert kept["sentences"] == said
    monkeypatch.setattr("heads.experiments.cells.Exam", lambda *a, **k: pytest.fail("it fits"))
    assert replace(heads.advise(store, "texts"), seconds=0) == replace(advice, seconds=0)
    monkeypatch.undo()
    assert run(shlex.split(said[-1])[1:]) == 0


@pytest.mark.parametrize(
    ("rows", "labels", "said", "command"),
    [
        (two_topics(24), (), "this data set has no labels", "advise texts --label topic"),
        (
            [{"text": f"word {i}", "n": i} for i in range(20)], (),
            "this data set has no labels", "suggest texts -e builtin:tiny-text",
        ),
        (
            [{"text": f"word {i}", "topic": "food"} for i in range(20)], ("topic",),
            "heads need two classes", "labels texts LABELS.csv --id item_id",
        ),
        (
            [{"text": f"word {i}", "topic": "food" if i < 5 else ""} for i in range(20)],
            ("topic",), "heads need two classes", "suggest texts -e builtin:tiny-text",
        ),
    ],
    ids=["no labels", "no label column", "one class", "one class so far"],
)  # fmt: skip
def test_without_labels_it_says_what_to_do_first(embed, rows, labels, said, command):
    store = embed(rows, labels or None)
    advice = heads.advise(store, "texts")
    assert said in advice.sentences()[0]
    assert advice.command == command_line(*shlex.split(command), store=store.path)
    if "LABELS.csv" not in command:  # which the user has to write
        assert run(shlex.split(advice.command)[1:]) == 0


def test_numbers_several_labels_groups_and_a_test_split(embed):
    store = embed(
        two_topics(
            48,
            price=lambda i, topic: 3.5 * (topic == "food") + 0.1 * (i % 7),
            tags=lambda i, topic: "|".join([topic, *(["odd"] if i % 3 else [])]),
            place=lambda i, topic: f"place {i % 20}",
        ),
        ("tags", "price"),
        group="place",
    )
    for label, metric in (("price", "r2"), ("tags", "macro_f1")):
        advice = heads.advise(store, "texts", label=label, seed=0)
        assert advice.choice.metric == metric
        assert advice.head in shlex.split(advice.command) or advice.encoder == "baseline:tfidf"
        assert ("--label" in advice.command) == (label != "tags")
        assert any(one.startswith("labels ") for one in advice.left_out)  # the other columns


def test_time_that_is_too_short_is_kept_and_said(embed, monkeypatch):
    monkeypatch.setattr("heads.advice.clock.LEAST", 1e-6)
    rows = [{key: row[key] for key in ("text", "topic")} for row in two_topics(60)]
    advice = heads.advise(embed(rows), "texts", minutes=1e-6)
    assert advice.choice is None
    assert advice.seconds < 20  # a round of fits, while the machine has other work
    assert "Left out: the comparison" in advice.sentences()[1]
    assert shlex.split(advice.command)[1:5] == ["advise", "texts", "--minutes", "3"]


def test_raw_pixels_are_added_as_the_reference_and_few_labels_are_enough_to_run(
    empty_store, tiny_images
):
    empty_store.embed([tiny_images], dataset="tiny", encoders=["builtin:tiny-image"])
    advice = heads.advise(empty_store, "tiny", minutes=3)
    assert [str(view.spec) for view in empty_store.dataset("tiny").views()] == [
        "baseline:pixels", "builtin:tiny-image",
    ]  # fmt: skip
    assert "raw pixels" in advice.sentences()[1]
    assert advice.kind is Kind.INCONCLUSIVE  # six pictures
    assert advice.labels.n_more > 0


def test_retraining_is_named_where_errors_are_left_and_labels_suffice(empty_store, tiny_images):
    empty_store.embed([tiny_images], dataset="tiny", encoders=["builtin:tiny-image"])
    dataset = empty_store.dataset("tiny")
    view, options = dataset.view("builtin:tiny-image"), PlanOptions(evaluation="folds")

    def said(value, n):
        plan = SimpleNamespace(task=Task.MULTICLASS, ids=range(n))
        study = SimpleNamespace(
            judged=[view], metric="accuracy", options=options, ground=SimpleNamespace(plan=plan)
        )
        choice = SimpleNamespace(taken=("builtin:tiny-image", "lda"), value=value)
        return _retraining(study, choice, dataset)

    assert said(0.97, 500) == said(0.8, 60) == []
    (line,) = said(0.8, 500)
    assert "transfer tiny -e builtin:tiny-image --finetune --evaluation folds" in line


def test_only_a_baseline_ends_in_a_first_encoder(empty_store, tiny_images):
    empty_store.embed([tiny_images], dataset="tiny", encoders=["baseline:pixels"])
    advice = heads.advise(empty_store, "tiny")
    assert advice.encoder.startswith("baseline:")
    assert advice.sentences()[1].startswith("Does the encoder help? No pretrained encoder is")
    assert "embed --dataset tiny -e builtin:tiny-image" in advice.command
    assert run(shlex.split(advice.command)[1:]) == 0


def _comparison(make_view, n=240, noise=2.0, **more):
    rng = np.random.default_rng(0)
    codes = np.arange(n) % 3
    vectors = 2 * rng.normal(size=(3, 8))[codes] + noise * rng.normal(size=(n, 8))
    labels = [f"class {c}" for c in codes]
    views = [make_view(vectors, labels, spec="timm:a"), make_view(vectors, labels, spec="timm:b")]
    return heads.compare(views, ["ridge", "lda"], save=False, **more)


def test_ties_are_closed_by_cost_and_the_interval_allows_for_the_picking(make_view):
    found = _comparison(make_view)  # two encoders of equal vectors: all but kNN are as good
    cheap = choose(found, {"timm:a": (5.0,), "timm:b": (1.0,)})
    assert cheap.taken[0] == "timm:b"
    assert cheap.taken[1] in ("ridge", "lda")
    assert choose(found, {"timm:a": (1.0,), "timm:b": (5.0,)}).taken[0] == "timm:a"
    assert "as good as far as 240 items can tell" in cheap.others
    plain = found.cell(*cheap.taken).report.estimate(found.metric)
    assert cheap.low < plain.low < plain.high < cheap.high  # of all rows at once
    assert choose(found, among={"baseline:majority"}).take.startswith(
        "No head is clearly better than"
    )


def test_a_row_beyond_the_margin_is_no_tie_however_wide_the_interval(make_view):
    found = _comparison(make_view, n=60, noise=6.0)
    best, choice = found.rows()[0]["value"], choose(found)
    assert choice.next_best is not None
    assert choice.next_best.gain[1] < 0  # the interval holds 0, and yet it is no tie
    for cell in (choice.taken, *choice.as_good):
        assert best - found.cell(*cell).report.estimate(found.metric).value <= 0.01


class _Judged:
    def __init__(self, **kinds):
        self.verdicts = [
            type("V", (), {"encoder": f"timm:{k}", "kind": v})() for k, v in kinds.items()
        ]


def test_what_harms_is_not_taken_and_where_one_helps_no_baseline_is(make_view):
    found = _comparison(make_view)
    every = {"timm:a", "timm:b", "baseline:majority"}
    assert allowed(None, found) == every
    assert allowed(_Judged(a=Kind.NEGATIVE, b=Kind.NEUTRAL), found) == every - {"timm:a"}
    assert allowed(_Judged(a=Kind.POSITIVE, b=Kind.NEUTRAL), found) == {"timm:a", "timm:b"}
    assert allowed(_Judged(a=Kind.INCONCLUSIVE), found) == every


def test_where_little_is_left_to_gain_the_labels_are_enough():
    share = METRICS[Task.MULTICLASS]["balanced_accuracy"]
    sure = Choice(("timm:a", "ridge"), "balanced_accuracy", 1.0, 0.985, 1.0, 400, 5)
    assert little_left(sure, share, 0.01) == pytest.approx(0.015)
    assert little_left(replace(sure, low=0.96), share, 0.01) == pytest.approx(0.04)  # all right
    assert little_left(replace(sure, value=0.985, low=0.96), share, 0.01) is None
    assert little_left(replace(sure, low=0.9), share, 0.01) is None  # too few to be sure
    loss = METRICS[Task.MULTICLASS]["log_loss"]
    assert little_left(replace(sure, low=0.985), loss, 0.01) is None


def test_a_line_to_type_asks_for_the_same_rows(texts_view):
    asked = PlanOptions(evaluation="folds", group=False, seed=3, task="multiclass")
    line = typed(texts_view.dataset, "advise", "texts", **rows_asked(asked))
    assert " --task multiclass --evaluation folds --ignore-groups --seed 3 --store " in line
    assert typed(texts_view.dataset, "advise", "texts", **rows_asked(PlanOptions())).split()[3] == (
        "--store"
    )


def test_each_step_has_its_share_of_the_time():
    clock = Clock(3.0, 100.0, now=lambda: 160.0)  # a minute is over
    assert clock.left() == 2.0
    assert clock.left(0.5) == 0.5
    assert clock.left(0.1) == LEAST  # what is kept is read in any case


def test_words_are_tried_where_labels_are_few_and_that_is_said(embed):
    store = embed(two_topics(10))
    found = heads.compare(store.view("texts", "builtin:tiny-text"))
    assert "zero-shot+probe" in {row["head"] for row in found.rows()}
    assert any(note.startswith("zero-shot+probe was tried as well") for note in found.notes)
    assert "zero-shot+probe" in found.card.heads  # so that it is run again as it was


def test_the_default_store_needs_no_option(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATURESTORE_STORE", raising=False)
    assert command_line("ls", store=tmp_path / "featurestore-data") == "featurestore ls"
    assert command_line("ls", store="/x y") == "featurestore ls --store '/x y'"
    monkeypatch.setenv("FEATURESTORE_STORE", "/x y")
    assert command_line("ls", store="/x y") == "featurestore ls"


def test_a_row_that_no_command_trains_ends_without_one(texts_view):
    """Views side by side, and estimators that have no name."""
    from sklearn.linear_model import LogisticRegression

    from heads.advice.next_step import after_comparison

    found = heads.compare(texts_view, [LogisticRegression()], save=False)
    mine = replace(found, heads=tuple(c for c in found.heads if c.head == "LogisticRegression"))
    assert len(after_comparison(mine, texts_view.dataset)) == 1
