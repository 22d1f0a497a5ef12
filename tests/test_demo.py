import json
from contextlib import nullcontext

import heads
from featurestore.demo.data import PICTOGRAPHS, SUBPACKAGES, write_docstrings, write_pictographs
from featurestore.demo.run import run_demo
from featurestore.store.store import open_store


def test_the_docstrings_are_real_labelled_and_masked(tmp_path):
    path = write_docstrings(tmp_path / "docs.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) > 1000
    assert {row["subpackage"] for row in rows} == set(SUBPACKAGES)
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    words = {word.lower() for row in rows for word in row["text"].replace("_", " ").split()}
    assert not words & {"scipy", *SUBPACKAGES}


def test_the_pictographs_are_unicodes(tmp_path):
    path = write_pictographs(tmp_path / "names.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) > 350
    assert {row["kind"] for row in rows} == set(PICTOGRAPHS)
    assert {"id": "U+1F410", "text": "goat", "kind": "animal"} in rows


def test_the_demo_embeds_searches_and_tells_what_to_type_next(tmp_path):
    said, compared, judged = [], [], []

    def compare(views, heads):
        compared.append([view.name for view in views])
        return views

    def show(views):
        assert all(view.n_rows > 1000 for view in views)

    def assess(views, **options):
        judged.append([view.name for view in views])

    for _ in range(2):  # a second run finds everything done
        run_demo(
            tmp_path / "s", compare=compare, assess=assess, say=said.append, show=show,
            show_verdict=lambda found: None, progress_bar=lambda: nullcontext(None),
        )  # fmt: skip
    assert compared[0] == [
        "digits@builtin:tiny-image",
        "digits@baseline:pixels",
        "digits@random:builtin:tiny-image#seed=0",
    ]
    assert judged[:2] == [["pictographs@builtin:tiny-text"], ["digits@builtin:tiny-image"]]
    text = "\n".join(said)
    assert "digits@baseline:pixels: 1,797 embedded" in text
    assert "digits@baseline:pixels: 0 embedded, 1,797 unchanged" in text
    assert f"featurestore dashboard --store {tmp_path / 's'}" in text
    # What the demo ends with, from the store that it made: here it helps, there it harms.
    store = open_store(tmp_path / "s")
    kinds = {}
    for view in (
        store.view("pictographs", "builtin:tiny-text"), store.view("digits", "builtin:tiny-image"),
    ):  # fmt: skip
        found = heads.assess_transfer(view, heads=("prototype", "knn"), blend=False, save=False)
        kinds[view.dataset.name] = found.verdicts[0].kind
    assert kinds == {"pictographs": "positive", "digits": "negative"}
