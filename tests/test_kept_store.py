"""A store, bundles and runs written before the code moved into rooms still read (issue 22)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import heads
from featurestore.curation.reviews import read_reviews
from featurestore.store.store import open_store
from featurestore.upkeep.verify import verify

KEPT = Path(__file__).parent / "data" / "store-rooms"
EXPECTED = json.loads((KEPT / "expected.json").read_text())
HASHING = "baseline:hashing#size=16"


@pytest.fixture
def dataset(tmp_path):
    shutil.copytree(KEPT / "store", tmp_path / "store")
    return open_store(tmp_path / "store").dataset("texts")


def as_json(value):
    return json.loads(json.dumps(value, default=str))


def test_all_of_it_is_sound(dataset):
    assert verify(dataset.folder) == []
    assert len(dataset.within("few").view(HASHING).load()) == 24
    assert [one.value for one in read_reviews(dataset.folder)] == ["s"]


@pytest.mark.parametrize("name", sorted(EXPECTED["heads"]))
def test_heads_load_and_say_what_they_said(name, dataset):
    head = heads.load_head(dataset, EXPECTED["heads"][name]["head_id"])
    found = dataset.view(HASHING).load()
    said = head.predict(found.columns["text"].tolist() if name == "tfidf" else found)
    expected = EXPECTED["heads"][name]["predicted"]
    if name == "numbers":
        np.testing.assert_allclose(said, expected, rtol=1e-6)
    else:
        assert [one if isinstance(one, list) else str(one) for one in said] == expected


@pytest.mark.parametrize("name", ["best", "tfidf"])
def test_bundles_load_and_answer_on_raw_texts(name):
    bundle = heads.load_bundle(KEPT / f"bundle-{name}")
    answers = bundle.ask(["a red apple", "the blue sea"])
    assert [str(one) for one in answers.predicted] == EXPECTED["asked"][name]


def test_a_best_head_is_saved_under_the_name_that_old_bundles_have():
    bundle = heads.load_bundle(KEPT / "bundle-best")
    kind = type(bundle.estimator)
    assert f"{kind.__module__}.{kind.__qualname__}" == "heads.chosen.ChosenHead"


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (heads.runs, "compared"),
        (heads.curves, "curve"),
        (heads.assessments, "assessed"),
        (heads.quality_reports, "issues"),
    ],
)
def test_runs_read_back_as_they_were_written(read, name, dataset):
    found = {json.dumps(as_json(one.to_json()), sort_keys=True) for one in read(dataset)}
    assert json.dumps(EXPECTED[name], sort_keys=True) in found


def test_a_stored_comparison_runs_again_with_the_same_rows(dataset):
    (stored,) = [one for one in heads.runs(dataset) if one.to_json() == EXPECTED["compared"]]
    again = heads.run_again(dataset, stored)
    assert [row["value"] for row in again.rows()] == [row["value"] for row in stored.rows()]
