"""Values in Python: one line as text, a table and items in notebooks, data frames."""

from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import heads
from featurestore.errors import MissingExtra
from featurestore.terms.shown import html_strip, html_table
from heads.measures.confusion import Confusion


@pytest.fixture
def values(texts_view):
    """Return everything public that is tabular or holds arrays, by name."""
    comparison = heads.compare([texts_view], heads=["prototype"])
    drawn = heads.curve(texts_view, "prototype", per_class=(1, 2), n_draws=2)
    fitted = heads.fit(texts_view, "prototype")
    return {
        "DataSet": texts_view.dataset,
        "View": texts_view,
        "Embeddings": texts_view.load(),
        "Neighbors": texts_view.neighbors("t00", k=3),
        "Comparison": comparison,
        "ComparedHead": comparison.heads[0],
        "Report": comparison.heads[0].report,
        "Curve": drawn,
        "Budget": drawn.budgets[0],
        "Issues": heads.find_issues(texts_view, head="prototype"),
        "FittedHead": fitted,
        "Answers": fitted.ask(["the bread and the cheese"]),
        "Confusion": fitted.confusion(),
        "Calibration": fitted.calibration(),
    }


TABLES = {
    "DataSet": 60, "View": 60, "Embeddings": 60, "Neighbors": 3, "Curve": 4, "Answers": 1,
    "Confusion": 3,
}  # fmt: skip


def test_values_are_one_line_a_table_and_data_frames(values):
    for name, value in values.items():
        said = repr(value)
        assert re.match(rf"<{name}\b.*>$", said), said
        assert len(said) < 200, said
        if hasattr(value, "to_arrow"):
            table = value.to_arrow()
            assert table.num_rows == TABLES.get(name, table.num_rows)
            assert value.to_pandas().shape == table.shape
            assert value.to_polars().shape == table.shape
            html = value._repr_html_()
            assert "<table>" in html or not table.num_rows
            assert "array(" not in html
    assert repr(values["View"]) == "<View texts@builtin:tiny-text, 256 numbers a vector>"
    assert "1 query: 3 each" in repr(values["Neighbors"])
    np.testing.assert_array_equal(
        np.stack(values["Embeddings"].to_pandas()["vector"]), values["Embeddings"].vectors
    )
    near = values["Neighbors"]
    assert near.to_pandas()["item_id"].tolist() == near.ids[0].tolist()
    assert near.to_pandas()["rank"].tolist() == [1, 2, 3]
    for name in ("DataSet", "View", "Neighbors"):
        html = values[name]._repr_html_()
        assert html.count("<figure") == min(8, TABLES[name])
        assert "the bread and the" in html or name == "Neighbors"
    ids = values["Neighbors"].ids[0].tolist()
    assert re.findall("<figcaption>(.*?)</figcaption>", values["Neighbors"]._repr_html_()) == ids


def test_pictures_stand_in_notebooks(empty_store, tiny_images):
    empty_store.embed([tiny_images], dataset="tiny", encoders=["baseline:pixels"])
    html = empty_store.view("tiny")._repr_html_()
    pictures = re.findall('src="data:image/jpeg;base64,(.*?)"', html)
    assert [base64.b64decode(one)[:2] for one in pictures] == [b"\xff\xd8"] * 6


def test_suggestions_are_a_list_and_a_table(texts_view):
    import pyarrow as pa

    texts_view.dataset.attach(pa.table({"item_id": ["t00", "t01"], "topic": [None, None]}))
    found = heads.suggest(texts_view.dataset.store.view("texts"), 2)
    assert isinstance(found, list)
    assert found.to_pandas()["item_id"].tolist() == [one.item_id for one in found]
    assert repr(found).startswith("<Suggestions of 2 items of texts: ")
    assert found._repr_html_().count("<figure") == 2


def test_what_values_hold_is_text_in_notebooks():
    hostile = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
    tags = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, attrs))

    Tags().feed(html_table([{hostile: hostile}]) + html_strip([(hostile, None, hostile)]))
    Tags().feed(Confusion.of([hostile], [hostile])._repr_html_())
    assert {tag for tag, _ in tags} <= {"table", "tr", "th", "td", "div", "figure", "figcaption",
                                        "p", "b"}  # fmt: skip
    assert {name for _, attrs in tags for name, _ in attrs} <= {"style"}


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_is_one_line_to_type(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=f"pip install {package}"):
        getattr(Confusion.of(["a"], ["a"]), f"to_{package}")()
