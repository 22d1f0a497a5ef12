"""The pages on transfer: what they show of stored runs, and what they say where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

import heads
from dashboard.page_data import transfer as shown
from featurestore.store.store import Store
from heads.transfer.verdict import Kind
from tests.dashboard.test_app import opened, texts_of


@pytest.fixture(scope="module")
def judged(small_store: Store) -> heads.Assessment:
    """An assessment and a curve of the pictures, kept in the store."""
    view = small_store.view("pictures", "baseline:pixels")
    if not heads.curves(view.dataset):
        heads.curve(view, "prototype", per_class=(1, 2))
        twin = replace(view, info={**view.info, "spec": "baseline:pixels#size=33"})
        heads.assess_transfer(view, reference=twin, heads=("prototype",), rank=True)
    return heads.assessments(view.dataset)[0]


def test_tables_and_figures_say_what_the_verdict_says(judged: heads.Assessment) -> None:
    (row,) = shown.verdict_rows(judged)
    verdict = judged.verdicts[0]
    assert (row["verdict"], row["difference"], row["low"]) == (
        str(verdict.kind),
        0,
        pytest.approx(100 * verdict.low),
    )
    figure = shown.verdict_figure(judged)
    (point,) = figure.data
    assert point.x == (0.0,)
    assert point.error_x.array == (pytest.approx(100 * verdict.high),)
    assert figure.layout.shapes[0].x0 == -1.0  # the margin, a point
    assert {one["class or value"] for one in shown.slice_rows(judged, "baseline:pixels")} == {
        "black",
        "grey",
        "white",
    }
    assert shown.ranking_rows(judged)[0]["encoder"] == "baseline:pixels"
    assert set(shown.VERDICT_COLORS) == set(Kind)


def test_layers_are_drawn_by_depth_and_scores_against_heads(judged: heads.Assessment) -> None:
    one = judged.ranking[0]
    assert shown.depth_figure(judged) is None  # a baseline has no layers
    assert shown.score_figure(judged, "ridge_loo") is None  # one encoder shows nothing
    layers = [
        replace(one, encoder=f"builtin:tiny-image{name}", head_value=value, dim=dim)
        for name, value, dim in (("", 0.9, 320), ("#layer=4", 0.8, 64), ("#layer=2", 0.5, 24))
    ]
    several = replace(judged, ranking=(*layers, replace(one, head_value=0.4)))
    depths = shown.depth_figure(several)
    assert depths is not None
    [line] = depths.data
    assert line.x == ("2", "4", "the last")
    assert line.y == (50.0, 80.0, 90.0)
    scores = shown.score_figure(several, "ridge_loo")
    assert scores is not None
    assert [(point.x, point.y) for point in scores.data] == [
        ((one.scores["ridge_loo"],), (value,)) for value in (90.0, 80.0, 50.0, 40.0)
    ]


def test_a_curve_is_drawn_with_its_band(judged: heads.Assessment, small_store: Store) -> None:
    (found,) = heads.curves(small_store.dataset("pictures"))
    band, line = shown.curve_figure(found).data
    budgets = found.of("baseline:pixels")
    assert line.x == tuple(one.n_labels for one in budgets)
    assert line.y == tuple(100 * one.mean for one in budgets)
    assert max(band.y) <= 100
    assert "prototype" in shown.curve_title(found)


@pytest.mark.usefixtures("store_variable", "judged")
def test_the_transfer_page_shows_verdict_figure_and_table() -> None:
    app = opened("transfer", dataset="pictures")
    said = " ".join(texts_of(app.markdown))
    assert "baseline:pixels" in said
    assert "between baseline:pixels and baseline:pixels#size=33 can be seen" in said
    assert len(app.get("plotly_chart")) == 1
    assert app.dataframe[0].value["encoder"].tolist() == ["baseline:pixels"]


@pytest.mark.usefixtures("store_variable", "judged")
def test_the_curve_page_answers_the_wanted_score() -> None:
    app = opened("curves", dataset="pictures")
    assert len(app.get("plotly_chart")) == 1
    app.slider[0].set_value(60.0).run()
    assert any("for 60 % balanced accuracy" in one for one in texts_of(app.markdown))
    assert app.query_params["target"] == "60"
    again = opened("curves", dataset="pictures", target="70")
    assert any("for 70 % balanced accuracy" in one for one in texts_of(again.markdown))
    for nonsense in ("nan", "1e9", "x"):
        again = opened("curves", dataset="pictures", target=nonsense)
        assert again.slider[0].value == 90.0


@pytest.mark.usefixtures("store_variable")
@pytest.mark.parametrize(("page", "command"), [("transfer", "transfer"), ("curves", "curve")])
def test_without_runs_the_pages_say_what_to_type(page: str, command: str) -> None:
    app = opened(page, dataset="texts")
    assert f"featurestore {command} texts" in app.code[0].value
