"""From Home to a report in a real browser: what is on the screen, and what is in the store."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import heads
from featurestore.curation.reviews import read_reviews
from featurestore.curation.run_notes import run_notes
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store

from tests.dashboard.test_browser import (  # isort: skip
    Page, address, browser, chromium, expect, expect_drawn, open_page, page, press, problems,
)  # fmt: skip

__all__ = ["address", "browser", "chromium", "page", "problems"]  # fixtures
pytestmark = pytest.mark.browser
WORDS = {"car": ("engine", "wheel", "brake", "gear"), "fruit": ("apple", "pear", "plum", "cherry")}


def kind_of(text: str) -> str:
    return next(kind for kind, words in WORDS.items() if any(word in text for word in words))


@pytest.fixture(scope="module")
def full_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """64 texts of two kinds, a third of them without a label; two encoders, a comparison."""
    folder = tmp_path_factory.mktemp("story")
    texts = [f"the {word} {one} again" for words in WORDS.values() for word in words
             for one in ["red", "old", "new", "big", "small", "good", "dark", "cheap"]]  # fmt: skip
    with (folder / "texts.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("name", "words", "kind"))
        for i, text in enumerate(texts):
            lines.writerow((f"t{i:02d}", text, "" if i % 3 == 0 else kind_of(text)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_CACHE", str(folder / "cache"))
        store = open_store(folder / "store", create=True)
        options = SourceOptions(text="words", label=("kind",), id="name")
        store.embed([folder / "texts.csv"], dataset="texts", source_options=options,
                    encoders=["builtin:tiny-text", "baseline:hashing"])  # fmt: skip
        heads.compare(store.view("texts", "builtin:tiny-text"), ["prototype", "ridge"])
    return store


@pytest.mark.usefixtures("problems")
def test_from_home_to_a_report(page: Page, address: str, full_store: Store, tmp_path: Path) -> None:
    dataset = full_store.dataset("texts")
    page.goto(address)
    expect(
        page.get_by_text("64 texts · 2 classes: car, fruit · 22 without a label")
    ).to_be_visible()
    page.get_by_role("button", name="Explore", exact=True).click()
    expect(page.get_by_role("heading", name="Explore", exact=True)).to_be_visible()

    look_at_two_maps(page)
    label_ten(page, full_store)
    page.get_by_role("button", name="Make 10 labels those of the data set").click()
    expect(page.get_by_text("All labels are the data set's own.")).to_be_visible()
    assert dataset.items(["kind"]).column("kind").null_count == 12

    open_page(page, "Leaderboard")
    page.get_by_role("button", name="Train a head").click()
    page.get_by_role("button", name="Train this head").click()
    expect(page.get_by_text(re.compile("Trained logistic"))).to_be_visible()
    [card] = heads.list_heads(dataset)
    assert (card["head"], card["evaluation"]["n_tested"]) == ("logistic", 52)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Tags and note").click()
    page.get_by_role("textbox", name="Tags, with commas between").fill("before labels")
    page.get_by_role("button", name="Keep them with the run").click()
    expect(page.get_by_text("#before labels")).to_be_visible()
    [run] = heads.runs(dataset)
    assert run_notes(dataset.folder)[str(run.card["created"])].tags == ("before labels",)

    open_page(page, "Compare two")
    first, second = ((row["encoder"], row["head"]) for row in run.rows()[:2])
    sentence = run.difference(first, second, n_claims=run.n_claims).sentence()
    expect(page.get_by_text(sentence)).to_be_visible()

    open_page(page, "Try it")
    page.get_by_role("textbox", name="Texts, one a line").fill("a cherry and a plum")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="fruit", exact=True)).to_be_visible()

    open_page(page, "Run")
    page.get_by_role("button", name="Write a report").click()
    page.get_by_role("spinbutton", name="Minutes").fill("0.5")
    page.keyboard.press("Enter")
    expect_drawn(page)
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text(re.compile(r"report · texts .*· done")).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the report").click()
    assert "before labels" not in (html := download.value.path().read_text())
    assert "builtin:tiny-text" in html


def look_at_two_maps(page: Page) -> None:
    """Draw both encoders' maps, brush one class on the second: both and the gallery follow."""
    page.get_by_label("Second map").click()
    page.get_by_role("option", name="baseline:hashing").click()
    maps = page.locator(".map[data-points='64']")
    expect(maps).to_have_count(2)
    maps.nth(1).locator(".bar-of-one", has_text="fruit").click()
    expect(page.get_by_text("21 items selected")).to_be_visible()
    pressed = maps.nth(0).locator(".bar-of-one[aria-pressed=true]")
    expect(pressed).to_have_count(1)
    expect(pressed).to_contain_text("fruit")
    labels = page.get_by_role("group", name="Items").locator(".label")
    expect(labels).to_have_text(["fruit"] * 21)
    expect_drawn(page)
    maps.nth(0).locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(maps.nth(0).locator(".tip .words")).to_contain_text(re.compile("the .* again"))


def label_ten(page: Page, store: Store) -> None:
    """Label ten texts by keyboard, as their words say."""
    open_page(page, "Label")
    question = page.get_by_test_id("stMain").locator("h5")
    for n in range(1, 11):
        expect(question).to_be_visible()
        text = question.inner_text()
        press(page, str(1 + sorted(WORDS).index(kind_of(text))))
        expect(page.get_by_text(f"{n} labels given here")).to_be_visible()
    expect(page.get_by_text("10 labels given here")).to_be_visible()
    dataset = store.dataset("texts")
    texts = {row["item_id"]: row["text"] for row in dataset.items(["item_id", "text"]).to_pylist()}
    given = read_reviews(dataset.folder)
    assert len(given) == 10
    assert all(one.value == kind_of(texts[one.item_id]) and one.who for one in given)
