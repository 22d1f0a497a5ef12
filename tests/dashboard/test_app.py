from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import dashboard
from featurestore.errors import MissingExtra, NotAStore
from featurestore.store.store import Store, open_store

ROOT = Path(dashboard.__path__[0])


def opened(page: str = "overview", **query: str) -> AppTest:
    """Run one page under a URL."""
    app = AppTest.from_file(ROOT / "app.py", default_timeout=60)
    app.query_params.update(query)
    app.switch_page(f"screens/{page}.py").run()
    assert not app.exception
    return app


def texts_of(elements: object) -> list[str]:
    return [one.value.replace("\\", "") for one in elements]  # type: ignore[attr-defined]


def cards(app: AppTest, key: str) -> list[dict[str, str]]:
    """Return what a gallery was given."""
    found: list[dict[str, str]] = json.loads(app.get_by_key(key).proto.json)["cards"]
    return found


@pytest.mark.usefixtures("store_variable")
def test_home_shows_where_each_data_set_stands_and_the_counts_of_the_first_data_set() -> None:
    app = opened()
    assert {one.label: one.value for one in app.metric} == {
        "Items": "31",
        "Classes": "3",
        "Encoders": "1",
        "Failures": "1",
    }
    assert app.dataframe[0].value["item"].tolist() == ["train/white/broken.png"]
    assert app.dataframe[1].value["embedded"].tolist() == [30, 4]
    assert (
        texts_of(app.main.caption)[0]
        == "31 images · 3 classes: white, black, grey · 1 encoder · 1 failed"
    )
    starts = {one.key: one.label for one in app.button if one.key.startswith("next")}
    assert starts == {
        "next transfer pictures": "Does pretraining help?",
        "next advise texts": "Ask what to take",
    }
    assert dict(app.query_params) == {"dataset": "pictures"}


@pytest.mark.usefixtures("store_variable")
def test_the_leaderboard_shows_the_stored_comparison_and_its_sentence() -> None:
    app = opened("heads", dataset="pictures")
    assert app.dataframe[0].value["head"].tolist() == ["prototype", "knn", "majority"]
    assert len(app.get("plotly_chart")) == 1
    said = " ".join(texts_of(app.markdown))
    assert "9 items of 3 classes" in said
    assert "these fitted heads, on the test split" in said
    assert app.dataframe[0].value["standing"].tolist() == ["take this", "", ""]
    twins, *_ = texts_of(app.main.caption)
    assert "Take prototype on baseline:pixels: " in said
    assert app.code[-1].value.startswith(
        "featurestore train pictures -e baseline:pixels --head pro"
    )
    assert "a near-duplicate (likeness" in twins  # across the split, looked for unasked


@pytest.mark.usefixtures("store_variable")
def test_a_data_set_without_comparison_says_what_to_run(small_store: Store) -> None:
    app = opened("heads", dataset="texts")
    [code] = app.code
    assert code.value == (
        f"featurestore compare texts -e baseline:hashing --store {small_store.path}"
    )


@pytest.mark.usefixtures("store_variable")
def test_the_url_restores_data_set_encoder_and_item(small_store: Store) -> None:
    app = opened("search", dataset="texts", encoder="baseline:hashing", item="a", k="5")
    view = small_store.view("texts", "baseline:hashing")
    expected = view.neighbors("a", k=5)
    shown = [(card["id"], card["score"]) for card in cards(app, f"found by {view.slug}")]
    pairs = zip(expected.ids[0], expected.scores[0], strict=True)
    assert shown == [(item, f"{score:.3f}") for item, score in pairs]
    assert [card["text"] for card in cards(app, "item card a")] == ["red apple"]
    assert "1 of 3 neighbors have the same label (33%)" in texts_of(app.caption)


@pytest.mark.usefixtures("store_variable")
def test_another_data_set_forgets_the_item_and_encoder_of_the_first(picture_id: str) -> None:
    app = opened("search", dataset="pictures", item=picture_id, where="label = 'black'")
    assert app.get_by_key(f"item card {picture_id}")
    app.selectbox("dataset box").set_value("texts").run()
    assert not app.exception
    assert dict(app.query_params) == {
        "dataset": "texts",
        "encoder": "baseline:hashing",
        "beside": "none",
        "k": "10",
        "look": "item",
    }
    assert [card["id"] for card in cards(app, "items")] == ["a", "b", "c", "d"]


@pytest.mark.usefixtures("store_variable")
def test_pages_of_items_follow_one_another() -> None:
    app = opened("search")
    assert len(cards(app, "items")) == 24
    app.pagination[0].set_value(2).run()
    assert len(cards(app, "items")) == 7
    assert dict(app.query_params)["grid"] == "2/31"
    assert len(cards(opened("search", grid="2/31"), "items")) == 7
    for stale in ("2/99", "9/31", "x/31", "2"):  # of other items, or nonsense
        assert len(cards(opened("search", grid=stale), "items")) == 24


@pytest.mark.usefixtures("store_variable")
@pytest.mark.parametrize(
    ("page", "query", "said"),
    [
        (
            "overview",
            {"dataset": "picture"},
            "No data set 'picture' here: did you mean 'pictures'?",
        ),
        ("search", {"encoder": "timm:x"}, "No encoder 'timm:x' here: known: baseline:pixels"),
        ("search", {"item": "nowhere.png"}, "There is no item 'nowhere.png'"),
        ("search", {"item": "train/white/broken.png"}, "There is no vector of"),
        ("heads", {"run": "yesterday"}, "No comparison 'yesterday' here"),
    ],
)
def test_a_url_that_names_nothing_is_answered_in_one_sentence(
    page: str, query: dict[str, str], said: str
) -> None:
    [error] = texts_of(opened(page, **query).error)
    assert error.startswith(said)


def test_no_store_and_a_newer_store_are_each_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURESTORE_STORE", str(tmp_path / "nothing"))
    [error] = texts_of(opened().error)
    assert error.startswith(f"There is not a store at {tmp_path}/nothing")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "featurestore.json").write_text('{"format": 99}')
    monkeypatch.setenv("FEATURESTORE_STORE", str(newer))
    [error] = texts_of(opened().error)
    assert "has store format 99" in error


def test_an_empty_store_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "featurestore.json").write_text('{"format": 1}')
    monkeypatch.setenv("FEATURESTORE_STORE", str(open_store(tmp_path).path))
    [code] = opened().code
    assert code.value == (f"featurestore embed SOURCE --dataset NAME -e ENCODER --store {tmp_path}")


def test_launch_refuses_before_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dashboard.launch import launch

    with pytest.raises(NotAStore, match="there is not a store"):
        launch(tmp_path / "nothing")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'featurestore\[dashboard\]'"):
        launch(tmp_path / "nothing")


def test_launch_turns_telemetry_off_and_warns_of_other_hosts(
    small_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import os

    from streamlit.web import cli

    from dashboard.launch import launch

    asked: list[list[str]] = []
    monkeypatch.setattr(cli, "main", lambda words, **_: asked.append(words))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    monkeypatch.setenv("FEATURESTORE_STORE", "")
    assert launch(small_store.path, open_browser=False) == 0
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert "--server.address=localhost" in asked[0]
    assert caplog.text == ""
    launch(small_store.path, host="0.0.0.0")
    assert "everyone who reaches 0.0.0.0:8501 sees this store" in caplog.text


def test_usage_statistics_are_off() -> None:
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert config["browser"]["gatherUsageStats"] is False
    assert config["logger"]["hideWelcomeMessage"] is True  # and with it the advert on the page
