"""Label Studio's ML backend: predictions for tasks, labels sent back, heads trained again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import heads
from featurestore.curation.reviews import Action
from featurestore.errors import BadName
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.experiments.suggest import suggest
from heads.saved.serve import predict_items
from heads.serving.label_studio import asked_in
from heads.serving.limits import Refused
from tests.heads.serving_world import as_images, picture, serving, write_world
from tools.label_studio_backend import INTERFACE, N_OPEN, write_texts

RECORDED = Path(__file__).parents[1] / "data" / "label-studio" / "requests.json"


@pytest.fixture
def texts(tmp_path):
    """A store of sixty texts, ten of them without a label, and a head on the others."""
    written = write_texts(tmp_path / "texts.csv")
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(text="words", label=("topic",), id="id")
    store.embed([tmp_path / "texts.csv"], dataset="texts", encoders=["builtin:tiny-text"],
                source_options=options)  # fmt: skip
    return store, heads.fit(store.view("texts", "builtin:tiny-text"), "prototype"), written


@pytest.fixture
def backend(texts):
    store, head, _ = texts
    with serving({"h": head}, store=store, label_studio="texts") as (server, client):
        yield server.label_studio, client


def tasks_of(written):
    return [{"id": n, "data": {"item_id": key, "text": text}}
            for n, (key, text) in enumerate(list(written.items())[-N_OPEN:])]  # fmt: skip


def annotated(task, number, *choices, action="ANNOTATION_CREATED", at="2026-03-01T10:00:00Z"):
    result = {"from_name": "topic", "to_name": "text", "type": "choices",
              "value": {"choices": list(choices)}}  # fmt: skip
    made = {"id": number, "result": [result], "created_at": at, "updated_at": at,
            "completed_by": 1, "was_cancelled": False}  # fmt: skip
    return {"action": action, "task": task, "annotation": made, "project": {"id": 1}}


def test_what_label_studio_sent_is_answered_and_kept(texts, backend):
    """The requests of a real Label Studio (tools/label_studio_backend.py), one after the other."""
    store, head, written = texts
    ours, client = backend
    for one in json.loads(RECORDED.read_text(encoding="utf-8")):
        answer = client.request(one["method"], one["path"], json=one["body"])
        assert answer.status_code == one["status"] == 200, (one["path"], answer.text)
        assert ours.retrainer.wait(60)
        if one["path"].endswith("/predict"):
            tasks, results = one["body"]["tasks"], answer.json()["results"]
            said = predict_items(ours.head, [task["data"]["text"] for task in tasks]).predicted
            given = [row["result"][0]["value"]["choices"] for row in results]
            assert given == [[str(name)] for name in said]
            assert {row["model_version"] for row in results} == {ours.head.head_id}
    assert ours.retrainer.error == ""
    kept = store.dataset("texts").reviews()
    assert [one.action for one in kept].count(Action.RELABEL) == 4
    assert [one.action for one in kept].count(Action.UNDO) == 1
    assert {one.item_id for one in kept if one.item_id} <= written.keys()
    assert ours.head.head_id != head.head_id
    assert ours.head.card.reviews is not None


def test_predictions_come_in_the_order_of_suggest(texts, backend):
    store, _, written = texts
    _, client = backend
    asked = {"tasks": tasks_of(written), "label_config": INTERFACE, "project": "1.1"}
    found = client.post("/label-studio/predict", json=asked).json()["results"]
    by_score = sorted(zip(found, tasks_of(written), strict=True), key=lambda one: one[0]["score"])
    order = [one.item_id for one in suggest(store.view("texts", "tiny-text"), N_OPEN)]
    assert [task["data"]["item_id"] for _, task in by_score] == order
    tasks = client.get("/label-studio/tasks").json()
    assert tasks == [{"data": {"item_id": key, "text": written[key]}} for key in order]
    labelled = [{"id": 1, "data": {"item_id": "t00", "text": written["t00"]}}]
    (known,) = client.post(
        "/label-studio/predict", json={**asked, "tasks": labelled}
    ).json()["results"]  # fmt: skip
    assert 0.5 <= known["score"] <= 1


def test_an_annotation_counts_once_changes_and_is_taken_back(texts, backend):
    store, _, written = texts
    ours, client = backend
    task = tasks_of(written)[0]
    item = task["data"]["item_id"]

    def send(value):
        answer = client.post("/label-studio/webhook", json=value)
        assert answer.status_code == 200, answer.text
        assert ours.retrainer.wait(60)
        return answer.json()

    created = annotated(task, 7, "food")
    assert send(created)["n_labels"] == 1
    first = ours.head.head_id
    assert send(created)["n_labels"] == 0  # sent again
    assert ours.head.head_id == first
    later = "2026-03-01T11:00:00Z"
    assert send(annotated(task, 7, "music", action="ANNOTATION_UPDATED", at=later))["n_labels"] == 1
    assert send({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 7}]})["n_undone"] == 2
    kept = store.dataset("texts").reviews()
    assert [(one.item_id, one.value) for one in kept][:2] == [(item, "food"), (item, "music")]
    assert [one.action for one in kept][2:] == [Action.UNDO, Action.UNDO]
    assert ours.retrainer.n_runs == 3
    assert send({"action": "PROJECT_UPDATED", "project": {"id": 1}}) == {"status": "ok"}
    send({"action": "START_TRAINING", "project": {"id": 1}})
    assert ours.retrainer.n_runs == 4


def test_a_training_that_fails_leaves_the_old_head_and_is_said(backend, monkeypatch):
    ours, client = backend
    before = ours.head.head_id

    def fails(*_, **__):
        raise BadName("no")

    monkeypatch.setattr("heads.serving.label_studio.fit", fails)
    client.post("/label-studio/webhook", json={"action": "START_TRAINING"})
    assert ours.retrainer.wait(10)
    setup = client.post("/label-studio/setup", json={"schema": INTERFACE, "access_token": "x"})
    assert setup.json() == {"model_version": before, "is_training": False, "error": "no"}


def test_pictures_come_from_the_data_set_the_task_or_the_allowed_folder(tmp_path):
    _, photos = write_world(tmp_path)
    store = open_store(tmp_path / "store", create=True)
    store.embed([photos], dataset="photos", encoders=["baseline:pixels"])
    head = heads.fit(store.view("photos", "pixels"), "prototype", save=False)
    config = "<View><Image name='i' value='$image'/><Choices name='label' toName='i'/></View>"
    (inside,) = as_images(picture(9, 190))["images"]
    data = [
        {"item_id": "dark/3.png", "image": "http://elsewhere.example/x.png"},
        {"image": f"data:image/png;base64,{inside}"},
        {"image": "/data/local-files/?d=photos/light/2.png"},
        {"image": "/data/local-files/?d=dark/2.png"},
        {"image": "/data/local-files/?d=photos/../texts.csv"},
        {"image": "http://elsewhere.example/x.png"},
        {"item_id": "absent.png"},
        {},
    ]
    options = {"label_studio": "photos", "allow_folder": photos}
    with serving({"h": head}, store=store, **options) as (_, client):
        tasks = [{"id": n, "data": one} for n, one in enumerate(data)]
        answer = client.post("/label-studio/predict", json={"tasks": tasks, "label_config": config})
    found = [row["result"] and row["result"][0]["value"]["choices"]
             for row in answer.json()["results"]]  # fmt: skip
    assert found == [["dark"], ["light"], ["light"], ["dark"], [], [], [], []]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("predict", {}),
        ("predict", {"tasks": [1], "label_config": INTERFACE}),
        ("predict", {"tasks": [], "label_config": "<View"}),
        ("predict", {"tasks": [], "label_config": "<View/>"}),
        ("setup", {"schema": "<!DOCTYPE v [<!ENTITY a 'b'>]><View>&a;</View>"}),
        ("webhook", {"action": "ANNOTATION_CREATED"}),
        ("webhook", {"action": "ANNOTATION_CREATED", "task": 1, "annotation": {}}),
        ("webhook", annotated({"data": {"item_id": "absent"}}, 1, "food")),
        ("webhook", {"action": "ANNOTATIONS_DELETED", "annotations": 3}),
        ("train", {"annotations": ["a"]}),
    ],
)
def test_bad_requests_change_nothing(texts, backend, path, body):
    answer = backend[1].post(f"/label-studio/{path}", json=body)
    assert answer.status_code in (404, 422), answer.text
    assert set(answer.json()) == {"error"}
    assert texts[0].dataset("texts").reviews() == []


def test_the_question_is_that_of_the_label_or_the_only_one():
    two = "<V><Choices name='a' toName='t'/><Choices name='b' toName='t'/></V>"
    assert asked_in(two, "b").from_name == "b"
    with pytest.raises(Refused, match="needs one"):
        asked_in(two, "c")
    only = "<V><Text name='t' value='$words'/><Number name='n' toName='t'/></V>"
    found = asked_in(only, "age")
    assert (found.from_name, found.to_name, found.variable) == ("n", "t", "words")
    assert found.is_number


def test_a_data_set_is_needed(texts):
    with pytest.raises(BadName, match="--label-studio needs"):
        serving({"h": texts[1]}, label_studio="texts").__enter__()
