"""Charts are values; the report draws them as SVG, matplotlib as pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import heads
from featurestore.cli import run
from featurestore.errors import MissingExtra, NotEnoughData
from heads.charts import axes
from heads.charts.charts import Grid, Line, Lines, Span, Spans, ticks
from heads.charts.svg import svg
from heads.measures.confusion import Calibration, Confusion

HOSTILE = "<script>&\"'$x$"
SPANS = Spans(
    [Span(HOSTILE, 94.3, 92.0, 96.5, "a", "94.3"), Span("b", 90.0, None, None, "b", "90.0")],
    "accuracy (%)",
)
DIFFERENCES = Spans([Span("x", 4.0, -3.7, 11.9, "x", "+4.0")], "points", margin=1.0)
LINES = Lines(
    [Line(HOSTILE, [7, 14, 28], [60, 70, 80], [50, 62, 75], [70, 78, 85]),
     Line("b", [7, 14, 28], [50, 60, 70], [40, 52, 65], [60, 68, 75])],
    "labels in all", "accuracy (%)", is_log=True,
)  # fmt: skip
DIAGONAL = Lines([Line("r", [55, 95], [50, 97], [40, 90], [60, 99])], "x", "y", is_square=True)
GRID = Grid([HOSTILE, "dog"], [[8, 2], [0, 5]])
CHARTS = [SPANS, DIFFERENCES, LINES, DIAGONAL, GRID]


@pytest.mark.parametrize("chart", CHARTS, ids=["spans", "margin", "lines", "diagonal", "grid"])
def test_svg_is_well_formed_names_are_text_and_all_lies_within(chart):
    drawn = ET.fromstring(svg(chart, HOSTILE))
    assert drawn.get("aria-label") == HOSTILE
    _, _, width, height = map(float, drawn.get("viewBox").split())
    kinds = {one.tag for one in drawn.iter()}
    assert kinds <= {"svg", "text", "title", "line", "rect", "circle", "polyline", "polygon"}
    for one in drawn.iter():
        for name, most in (("cx", width), ("cy", height), ("x", width), ("y", height)):
            assert 0 <= float(one.get(name, 0)) <= most
    if HOSTILE in str(chart):
        assert HOSTILE in [one.text for one in drawn.iter()]


def test_a_point_lies_where_its_value_is():
    drawn = ET.fromstring(svg(DIFFERENCES, "d"))
    (dot,) = drawn.iter("circle")
    at = {
        float(one.text): float(one.get("x")) for one in drawn.iter("text") if _is_number(one.text)
    }
    scale = (at[10.0] - at[0.0]) / 10
    assert float(dot.get("cx")) == pytest.approx(at[0.0] + 4 * scale, abs=0.2)


def _is_number(text):
    return text is not None and text.lstrip("-").replace(".", "").isdigit()


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_within(low, width):
    found = ticks(low, low + width)
    assert 1 <= len(found) <= 8
    slack = 1e-8 * width + 1e-10  # a tick at an edge is not lost to rounding
    assert all(low - slack <= one <= low + width + slack for one in found)


def test_a_confusion_counts_pairs_and_says_recall_precision_and_f1():
    truth = ["cat"] * 8 + ["dog"] * 2
    said = ["cat"] * 6 + ["dog"] * 4
    confusion = Confusion.of(truth, said)
    assert confusion.classes == ("cat", "dog")
    np.testing.assert_array_equal(confusion.counts, [[6, 2], [0, 2]])
    cat, dog = confusion.rows()
    assert (cat["class"], cat["items"], cat["recall"], cat["precision"]) == ("cat", 8, 0.75, 1.0)
    assert (dog["recall"], dog["precision"], dog["f1"]) == (1.0, 0.5, pytest.approx(2 / 3))
    assert repr(confusion) == "<Confusion of 2 classes: 8 of 10 right>"
    np.testing.assert_array_equal(confusion.most_confused(1).counts, [[6]])


def test_calibration_counts_in_bins():
    found = Calibration.of([0.05, 0.95, 0.92, 1.0], [False, True, True, False])
    assert [(one["items"], one["right"]) for one in found.rows()] == [
        (1, 0.0), (3, pytest.approx(2 / 3)),
    ]  # fmt: skip


def test_a_fitted_head_has_both_and_a_comparison_the_first(texts_view, tmp_path):
    fitted = heads.fit(texts_view, "ridge")
    table = heads.read_predictions(texts_view.dataset, fitted.head_id)
    loaded = heads.load_head(texts_view.dataset, fitted.head_id)
    both = (table.column(name).to_pylist() for name in ("label", "predicted"))
    n_right = sum(a == b for a, b in zip(*both, strict=True))
    assert loaded.confusion().counts.trace() == n_right
    assert sum(one["items"] for one in loaded.calibration().rows()) == len(table)
    bundle = heads.load_bundle(fitted.save(tmp_path / "bundle"))
    with pytest.raises(NotEnoughData, match="a bundle holds none"):
        bundle.confusion()
    comparison = heads.compare([texts_view], heads=["prototype"])
    cell = comparison.cell("builtin:tiny-text", "prototype")
    np.testing.assert_array_equal(
        comparison.confusion("builtin:tiny-text", "prototype").counts, cell.report.confusion(3)
    )


def test_without_matplotlib_one_line_says_what_to_type(monkeypatch, texts_view, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'featurestore\[plot\]'"):
        Confusion.of(["a"], ["a"]).plot()
    store = str(texts_view.dataset.store.path)
    words = ["compare", "texts", "--store", store, "--plot", str(tmp_path / "x.png")]
    monkeypatch.setattr(heads, "compare", None, raising=False)  # said before anything is run
    assert run(words) == 1
    assert capsys.readouterr().err == (
        "error: plots need matplotlib: pip install 'featurestore[plot]'\n"
    )


def test_matplotlib_draws_every_chart(tmp_path):
    pytest.importorskip("matplotlib")
    for n, chart in enumerate(CHARTS):
        path = axes.save_plot(chart, tmp_path / "plots" / f"{n}.svg")
        assert b"<svg" in path.read_bytes()
    given_axes = axes.draw(SPANS)
    assert axes.draw(DIFFERENCES, given_axes) is given_axes
    assert [one.get_text() for one in given_axes.get_yticklabels()] == ["x"]


def test_plot_writes_a_picture_of_the_kind_that_the_name_says(texts_view, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    store = str(texts_view.dataset.store.path)
    words = ["compare", "texts", "--store", store, "--head", "prototype", "--plot"]
    assert run([*words, str(tmp_path / "x.bmp")]) == 1
    assert ".png, .svg or .pdf" in capsys.readouterr().err
    assert run([*words, str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
