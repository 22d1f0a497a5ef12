"""Explore: hover, bars that are brushed, two maps; over a real store, without a browser."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import heads
from dashboard import hover
from dashboard.page_data import coloring, item_rows
from dashboard.page_data import explore as shown
from featurestore.maps.projection import project
from featurestore.store.store import Store
from featurestore.store.view import View
from featurestore.upkeep.erase import erase
from tests.dashboard.test_app import opened, texts_of
from tests.dashboard.test_pages import floats, map_of

SECOND = "random:builtin:tiny-image"


@pytest.fixture(scope="module")
def two_views(full_store: Store) -> Store:
    full_store.embed([], dataset="pictures", encoders=[SECOND])
    return full_store


@pytest.fixture(autouse=True)
def store(two_views: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FEATURESTORE_STORE", str(two_views.path))
    return two_views


def test_a_head_colors_by_margin_and_by_how_far_out_items_lie(store: Store) -> None:
    view = store.view("pictures", "baseline:pixels")
    [card] = heads.list_heads(view.dataset)
    said = heads.read_predictions(view.dataset, card["head_id"])
    ordered = np.sort(np.array(said.column("probabilities").to_pylist()), axis=1)
    ids = pa.chunked_array([["none", *said.column("item_id").to_pylist()]])
    found = coloring.predicted(ids, said).column("margin").to_pylist()
    assert found[0] is None
    np.testing.assert_allclose(found[1:], ordered[:, -1] - ordered[:, -2])
    shown = map_of(
        opened(
            "explore", encoder="baseline:pixels", map_head=card["head_id"], color="head: unlikeness"
        )
    )
    told = heads.load_head(view.dataset, card["head_id"]).unlike_training(view.load().vectors)
    assert told is not None
    expected = coloring.coloring(pa.chunked_array([told.shares])).legend()
    assert shown["legend"] == expected  # type: ignore[index]


def test_a_brush_keeps_items_of_its_categories_on_both_maps(store: Store) -> None:
    app = opened("explore", encoder="baseline:pixels", only="1,99,x", second_map=SECOND)
    labels = store.view("pictures", "baseline:pixels").items().column("label").to_pylist()
    second = map_of(app, "pca beside")
    name = second["names"][1]  # type: ignore[index]
    assert second["only"] == [1]  # type: ignore[index]
    linked = map_of(opened("explore", encoder="baseline:pixels", second_map=SECOND,
                           lasso="pca:-1,-1;0,-1;0,1;-1,1"), "pca beside")  # fmt: skip
    left = project(store.view("pictures", "baseline:pixels"))[:, 0] < 0
    np.testing.assert_array_equal(floats(linked["among"]), left)
    assert f"**{labels.count(name)} items selected**" in texts_of(app.markdown)


def test_the_item_under_the_mouse_is_answered_without_a_run_of_the_page(
    store: Store, small_store: Store
) -> None:
    view = store.view("pictures", "baseline:pixels").now()
    name = hover.keep(view, view.items())
    ids = view.load().ids
    assert hover.item(name, 3) == {"id": ids[3], **item_rows.picture(view.dataset, ids[3])}
    assert hover.item(name, len(ids)) is None
    assert hover.item("another", 0) is None
    texts = small_store.view("texts", "baseline:hashing").now()
    assert hover.item(hover.keep(texts, texts.items()), 0) == {"id": "a", "text": "red apple"}


def test_what_was_erased_is_not_under_the_mouse_any_more(texts_view: View) -> None:
    name = hover.keep(texts_view, texts_view.items())
    assert hover.item(name, 0) is not None
    erase(texts_view.dataset.folder, pa.array([texts_view.load().ids[0]]))
    assert hover.item(name, 0) is None
    assert name not in hover._kept


def test_places_are_the_rows_of_the_same_items_in_another_view() -> None:
    known, rows = shown.places(pa.chunked_array([["a", "b", "c"]]), pa.chunked_array([["c", "a"]]))
    assert (known.tolist(), rows.tolist()) == ([0, 2], [1, 0])
