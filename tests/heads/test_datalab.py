"""cleanlab, handed what is known here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import heads
from featurestore.curation.labels import attach
from featurestore.errors import MissingColumn, NotEnoughData
from featurestore.maps.graph import neighbor_graph
from featurestore.store.view import View

pytest.importorskip("cleanlab", reason="cleanlab is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # of cleanlab, in pandas


def label(view: View, changes: dict[str, str | None]) -> None:
    """Give some items another topic."""
    table = pa.table({"item_id": list(changes), "topic": list(changes.values())})
    attach(view.dataset.folder, table)


@pytest.fixture
def swapped(texts_view: View) -> View:
    """Two labels are swapped; classes are numbers, of which 10 sorts before 2."""
    ids, topics = texts_view.load().ids.tolist(), texts_view.load().labels.astype(str)
    numbers = dict(zip(np.unique(topics), ("10", "2", "33"), strict=False))
    given = {item: numbers[topic] for item, topic in zip(ids, topics, strict=True)}
    given["t00"], given["t10"] = given["t10"], given["t00"]
    label(texts_view, given)
    return texts_view


def test_it_finds_swapped_labels_with_our_probabilities_and_neighbours(swapped: View) -> None:
    lab = heads.datalab(swapped)
    found = lab.get_issues("label")
    assert found["given_label"].tolist() == lab.data["label"]
    ids = np.asarray(lab.data["item_id"])
    worst = ids[found["label_score"].to_numpy().argsort()[:2]]
    assert set(worst) == {"t00", "t10"}
    graph = neighbor_graph(swapped)
    used = lab.get_info("statistics")["weighted_knn_graph"]
    rows = used.indices.reshape(len(ids), -1)
    np.testing.assert_array_equal(rows, graph.rows[:, : rows.shape[1]])
    np.testing.assert_allclose(used.data, 1 - graph.scores[:, : rows.shape[1]].ravel(), atol=1e-6)


def test_items_without_a_label_are_no_rows_and_no_neighbours(swapped: View) -> None:
    label(swapped, {"t01": None, "t11": None})
    lab = heads.datalab(swapped, issue_types={"outlier": {}})
    n = len(swapped.load()) - 2
    assert len(lab.data["item_id"]) == n
    assert not {"t01", "t11"} & set(lab.data["item_id"])
    assert lab.get_info("statistics")["weighted_knn_graph"].shape == (n, n)


def test_without_classes_it_says_so(texts_view: View) -> None:
    with pytest.raises(MissingColumn, match="no column 'colour'"):
        heads.datalab(texts_view, label="colour")
    label(texts_view, dict.fromkeys(texts_view.load().ids.tolist(), "food"))
    with pytest.raises(NotEnoughData, match="Labels were not judged: one class"):
        heads.datalab(texts_view)
