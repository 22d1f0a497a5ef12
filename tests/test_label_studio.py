"""What Label Studio exports becomes decisions: skips, order, changes, questions, formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featurestore.cli import run
from featurestore.curation.reviews import (
    Action,
    Review,
    add_reviews,
    read_reviews,
    standing,
    with_known_classes,
)
from featurestore.errors import BadName, BadSource
from featurestore.exchange import review_files
from featurestore.store.view import View

EARLY, LATE = "2026-03-01T10:00:00.000001Z", "2026-03-01T11:00:00.000001Z"


def choice(*names: str, question: str = "topic", **more: Any) -> dict[str, Any]:
    value = {"choices": list(names), **more}
    return {"id": "x", "from_name": question, "to_name": "text", "type": "choices", "value": value}


COMMENT = {"from_name": "why", "type": "textarea", "value": {"text": ["not sure", "“naïve”\n"]}}
RATING = {"from_name": "stars", "type": "rating", "value": {"rating": 3}}
TAXONOMY = {"from_name": "tree", "type": "taxonomy", "value": {"taxonomy": [["food", "fish"]]}}
PAIR = {"from_name": "pair", "type": "pairwise", "value": {"selected": "left"}}


def annotation(*result: Any, at: str = EARLY, number: int = 1, **more: Any) -> dict[str, Any]:
    base = {"id": number, "result": list(result), "created_at": at, "updated_at": at}
    return {**base, "completed_by": 1, "was_cancelled": False, **more}


def task(*annotations: Any, item: Any = "t01", **more: Any) -> dict[str, Any]:
    return {"id": 9, "data": {"item_id": item, "text": "a"}, "annotations": [*annotations], **more}


def read(path: Path, content: Any, history: Any = ()) -> list[tuple[str, str | None]]:
    path.write_text(json.dumps(content))
    found = review_files.read(path, "topic", ["topic"], history)
    assert all(one.action is Action.RELABEL for one in found)
    return [(one.item_id, one.value) for one in found]


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([task(annotation(choice("food")))], [("t01", "food")]),
        ([task(annotation(choice("food"), was_cancelled=True))], []),
        ([task(annotation(COMMENT, choice("food")))], [("t01", "food")]),
        ([task(annotation(RATING, COMMENT, TAXONOMY, PAIR, choice("food")))], [("t01", "food")]),
        ([task(annotation(RATING)), task(annotation(COMMENT)), task(annotation())], []),
        ([task(annotation(TAXONOMY)), task(annotation(PAIR)), task()], []),
        ([task(annotation(choice("food", start=0, end=3)))], []),  # of a part of the text
        ([task(annotation(choice()))], []),
        ([task(annotation(choice("food", "music")))], [("t01", "food|music")]),
        ([task(annotation(choice("food", question="any")))], [("t01", "food")]),
        ([task(annotation(choice("no", question="ok"), choice("food")))], [("t01", "food")]),
        (
            [task(annotation(choice("food"), at=LATE), annotation(choice("music"), number=2))],
            [("t01", "music"), ("t01", "food")],
        ),
        (
            [task(annotation(choice("food"), updated_at=LATE), annotation(choice("music")))],
            [("t01", "music"), ("t01", "food")],
        ),
        ([task(drafts=[{"result": [choice("food")]}])], []),
        ([task(predictions=[{"result": [choice("food")]}])], []),
        ([task(annotation(choice("food"), ground_truth=True))], [("t01", "food")]),
        ([task(annotation(choice("food")), item=7)], [("7", "food")]),
        ([task(annotation(choice("1"))), task(annotation(choice("2")), item=None)], [("t01", "1")]),
        (task(annotation(choice("food"))), [("t01", "food")]),  # a task alone
    ],
)
def test_json(tmp_path: Path, tasks: Any, expected: list[tuple[str, str]]) -> None:
    assert read(tmp_path / "tasks.json", tasks) == expected


ROW = {"id": 9, "item_id": "t01", "annotation_id": 1, "annotator": 1, "created_at": EARLY,
       "updated_at": EARLY, "lead_time": 1.5, "text": "a"}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"topic": "food"}, [("t01", "food")]),
        ({"sentiment": "food", "stars": 3}, [("t01", "food")]),
        ({"topic": {"choices": ["food", "music"]}, "why": 'said, "so"\n'},
         [("t01", "food|music")]),
        ({"topic": "", "why": "a"}, []),
        ({"stars": 3}, []),
        ({"stars": [{"rating": 3}]}, []),
        ({"tree": [["food", "fish"]]}, []),
        ({"topic": "1"}, [("t01", "1")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["json", "csv", "tsv"])
def test_a_row_for_each_annotation(
    tmp_path: Path, more: dict[str, Any], expected: list[tuple[str, str]], kind: str
) -> None:
    import csv

    path = tmp_path / f"rows.{kind}"
    row = ROW | more
    if kind == "json":
        path.write_text(json.dumps([row]))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            cells = [
                json.dumps(one) if isinstance(one, dict | list) else one for one in row.values()
            ]
            writer.writerows([list(row), cells])
    found = review_files.read(path, "topic", ["topic"])
    assert [(one.item_id, one.value) for one in found] == expected
    assert all(one.who == "1" for one in found)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([task(annotation(choice("a", question="p"), choice("b", question="q")))],
         r"questions \(p, q\)"),
        ([task(annotation(choice("food")), item=None)], "with item_id in its data"),
        ([3], "expected a list of tasks"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(tmp_path: Path, tasks: Any, said: str) -> None:
    with pytest.raises(BadSource, match=said):
        read(tmp_path / "tasks.json", tasks)


def test_again_adds_nothing_and_a_change_back_counts(texts_view: View, tmp_path: Path) -> None:
    folder, path = texts_view.dataset.folder, tmp_path / "tasks.json"

    def take(name: str, at: str) -> int:
        path.write_text(json.dumps([task(annotation(choice(name), updated_at=at))]))
        history = read_reviews(folder)
        return len(add_reviews(folder, review_files.read(path, "topic", ["topic"], history)))

    at = [f"2026-03-0{n}T10:00:00Z" for n in range(1, 5)]
    assert [take("food", at[0]), take("food", at[0])] == [1, 0]
    assert take("food", at[1]) == 0  # touched, not changed
    assert [take("music", at[2]), take("food", at[3])] == [1, 1]
    [stands] = standing(read_reviews(folder)).values()
    assert (stands.value, stands.who) == ("food", "1")


def test_our_own_tasks_come_back_with_what_was_changed(texts_view: View, tmp_path: Path) -> None:
    folder, path = texts_view.dataset.folder, tmp_path / "tasks.json"
    made = add_reviews(
        folder,
        [
            Review("t00", Action.CONFIRM, "topic", who="ann", note="sure"),
            Review("t01", Action.RELABEL, "topic", "food", "ann", note='"a"\nb'),
            Review("t02", Action.EXCLUDE, "topic", who="bob"),
        ],
    )
    review_files.write(path, made, texts_view.dataset)
    tasks = json.loads(path.read_text())
    assert all("completed_by" not in one["annotations"][0] for one in tasks)
    assert review_files.read(path, "topic") == made
    for one, name in zip(tasks, ["music", "travel", "food"], strict=True):
        [own] = one["annotations"]
        own |= {"id": 5, "result": [COMMENT, choice(name)], "was_cancelled": False}
        own |= {"created_at": LATE, "updated_at": LATE, "completed_by": {"email": "eve@x"}}
    path.write_text(json.dumps(tasks))
    found = review_files.read(path, "topic")
    assert [(one.item_id, one.value, one.who) for one in found] == [
        ("t00", "music", "eve@x"), ("t01", "travel", "eve@x"), ("t02", "food", "eve@x"),
    ]  # fmt: skip
    assert [one.content_hash for one in found] == [one.content_hash for one in made]
    assert found[0].note == "not sure\n“naïve”\n"


def test_the_order_of_several_choices_and_another_column_are_told_apart(tmp_path: Path) -> None:
    mark = {"review_id": "o", "review_action": "relabel", "review_label": "topic",
            "review_value": "b|a"}  # fmt: skip
    for results, expected in (
        ([choice("a", "b")], ["o"]),
        ([choice("a")], ["ls"]),
        ([choice("a", "b", question="tags")], ["ls"]),
        ([], []),
    ):
        one = task(annotation(*results))
        one["data"] |= mark
        (tmp_path / "a.json").write_text(json.dumps([one]))
        found = review_files.read(tmp_path / "a.json", "topic", ["topic", "tags"])
        assert [of.id.partition("-")[0] for of in found] == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", json.dumps([task(annotation(choice("fod")))]), "did you mean 'food'"),
        ("a.csv", "item_id,action,value\nt01,relabel,fod\n", "did you mean 'food'"),
    ],
)
def test_a_class_that_does_not_exist_is_refused_unless_meant(
    texts_view: View, tmp_path: Path, capsys: Any, name: str, content: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    command = ["review", "texts", "--import", str(path)]
    command += ["--store", str(texts_view.dataset.store.path)]
    assert run(command) != 0
    error = capsys.readouterr().err
    assert said in error
    assert "--new-class" in error
    assert read_reviews(texts_view.dataset.folder) == []
    assert run([*command, "--new-class"]) == 0
    assert [one.value for one in read_reviews(texts_view.dataset.folder)] == ["fod"]
    assert run(command) == 0  # it was meant


@pytest.mark.parametrize(
    ("choices", "said"),
    [(("food", "music"), "holds one class an item"), (("Food",), "did you mean 'food'")],
)
def test_choices_that_the_column_cannot_hold_are_refused(
    texts_view: View, tmp_path: Path, choices: tuple[str, ...], said: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([task(annotation(choice(*choices)))]))
    read = review_files.read(tmp_path / "a.json", "topic", ["topic"])
    with pytest.raises(BadName, match=said):
        with_known_classes(texts_view.dataset.folder, read)


def test_what_is_not_counted_is_said(tmp_path: Path) -> None:
    tasks = [
        task(annotation(choice("food"), choice("no", question="ok"))),
        task(annotation(choice("food")), item=None),
        task(annotation(choice("food"), was_cancelled=True), annotation(RATING, number=2)),
    ]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    assert review_files.read_noted(tmp_path / "a.json", "topic")[1] == [
        "1 skipped annotations are not counted",
        "1 annotations without a choice are not counted",
        "1 tasks have no item_id: not counted",
        "the answers to ok are not about a label",
    ]
    (tmp_path / "a.json").write_text(json.dumps([task(annotation(choice("a", question="mood")))]))
    [note] = review_files.read_noted(tmp_path / "a.json", "topic")[1]
    assert note == "the answers to 'mood' are taken for 'topic'"


def test_bools_and_numbers_in_a_parquet_of_reviews_are_values(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for values, expected in (([False, True], ["False", "True"]), ([0.0, 2.0], ["0", "2"])):
        path = tmp_path / "r.parquet"
        table = pa.table({"item_id": [0, 1], "action": ["relabel"] * 2, "value": values})
        pq.write_table(table, path)
        found = review_files.read(path, "ok")
        assert [(one.item_id, one.value) for one in found] == list(zip("01", expected, strict=True))


# -- what a real server wrote (tools/label_studio.py) -----------------------------------------

RECORDED = Path(__file__).parent / "data" / "label-studio"


@pytest.fixture(params=["topic", "tags"])
def recorded(request: Any, tmp_path: Path) -> tuple[str, list[str]]:
    """The data set whose tasks were sent; returns its label and the command that imports."""
    from tools.label_studio import decided

    decided(tmp_path, request.param)
    return request.param, ["review", "t", "--store", str(tmp_path / "store"), "--import"]


@pytest.mark.parametrize("order", [["json", "min.json", "csv"], ["csv", "min.json", "json"]])
def test_the_exports_of_a_server_are_read_and_again_adds_nothing(
    recorded: tuple[str, list[str]], order: list[str], capsys: Any
) -> None:
    import featurestore

    label, command = recorded
    new = 'a "new", one'
    one, two = ("music", "food|music") if label == "tags" else ("food", "music")
    first = str(RECORDED / f"{label}.{order[0]}")
    assert run([*command, first]) != 0
    assert "--new-class" in capsys.readouterr().err
    for kind in order * 2:
        assert run([*command, str(RECORDED / f"{label}.{kind}"), "--new-class"]) == 0
        said = capsys.readouterr().err
        assert "1 annotations without a choice are not counted" in said
        assert ("1 skipped annotations are not counted" in said) == (kind == "json")
    dataset = featurestore.open_store(command[3]).dataset("t")
    added = [of for of in dataset.reviews() if of.id.startswith("ls-")]
    bob = "2" if label == "topic" else "3"  # the server's number of a user of that project
    assert sorted((of.item_id, of.value, of.who) for of in added) == sorted(
        [("01", one, "1"), ("1", two, bob), ("c", "food", "1"), ("c", new, bob)]
    )
    stands = {item: of.value for (item, _), of in standing(dataset.reviews()).items()}
    kept = {"001": None, "e": "food", "g": None}  # touched, skipped, rated
    assert stands == {**kept, "01": one, "1": two, "c": new}


@pytest.mark.parametrize("is_shard", [False, True])
def test_pictures_have_an_address_that_is_shown(
    tmp_path: Path, capsys: Any, is_shard: bool
) -> None:
    import tarfile

    from PIL import Image

    folder, store = tmp_path / "it's here", str(tmp_path / "store")
    folder.mkdir()
    Image.new("RGB", (32, 32), "teal").save(folder / "ä 1%.png")
    source = folder
    if is_shard:
        source = tmp_path / "shard.tar"
        with tarfile.open(source, "w") as file:
            file.add(folder / "ä 1%.png", "a.png")
    embed = ["embed", str(source), "--dataset", "p", "-e", "baseline:pixels", "--store", store]
    assert run(embed) == 0
    import featurestore

    dataset = featurestore.open_store(store).dataset("p")
    [item] = dataset.items(["item_id"]).column("item_id").to_pylist()
    dataset.add_reviews([Review(item, Action.EXCLUDE, "")])
    sent = tmp_path / "tasks.json"
    capsys.readouterr()
    assert run(["review", "p", "--export", str(sent), "--store", store]) == 0
    said = capsys.readouterr().err
    [one] = json.loads(sent.read_text())
    if is_shard:
        assert one["data"]["image"].startswith("data:image/jpeg;base64,")
        assert "LOCAL_FILES" not in said
    else:
        assert one["data"]["image"] == "/data/local-files/?d=it%27s%20here/%C3%A4%201%25.png"
        assert f"DOCUMENT_ROOT={tmp_path}, and add {folder} to the project" in said
    assert run(["review", "p", "--import", str(sent), "--store", store]) == 0
    assert "0 decisions" in capsys.readouterr().err
