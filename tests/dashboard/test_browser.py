"""The dashboard in a real browser: a real server over a real store, a real click."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pytest

import heads
from dashboard.page_data import home
from dashboard.page_data.explore import inside as within
from dashboard.page_data.explore import parse_outline
from featurestore.curation.reviews import read_reviews
from featurestore.curation.slices import read_slice
from featurestore.maps.projection import project
from featurestore.store.store import Store

REQUIRED = os.environ.get("FEATURESTORE_REQUIRE_BROWSER") == "1"
if not REQUIRED:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402 (optional)

pytestmark = pytest.mark.browser

WAIT_MS = 120_000  # a busy machine draws slowly; a page that is there is seen at once
expect.set_options(timeout=WAIT_MS)

# Quiet: no requests of the browser's own.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SERVE = "import sys; from dashboard.launch import launch; sys.exit(launch(sys.argv[1], "
SERVE += "port=int(sys.argv[2]), open_browser=False))"


@pytest.fixture(scope="module")
def chromium() -> Path:
    """The browser's program."""
    path = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
    if not path.exists():
        reason = f"no browser at {path}: apt-get install chromium, or set CHROMIUM"
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="module")
def address(chromium: Path, full_store: Store) -> Iterator[str]:
    """Where the dashboard of the full store is served."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(full_store.path), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    said = []
    for line in server.stdout:  # ends when it serves, or when it died
        said.append(line)
        if "URL:" in line:
            break
    assert server.poll() is None, "".join(said)
    yield f"http://localhost:{port}"
    server.terminate()
    rest, _ = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "Traceback" not in rest


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    """A browser that all tests share; each has a context of its own."""
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=str(chromium), args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab; at its end, nothing outside of this machine was asked for."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    tab = context.new_page()
    tab.set_default_timeout(WAIT_MS)
    asked: set[str | None] = set()
    tab.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
    yield tab
    context.close()
    assert asked <= {"localhost", None}  # None: blob and data


@pytest.fixture
def problems(page: Page) -> Iterator[list[str]]:
    """What the console complains of; nothing, at the end."""
    found: list[str] = []
    page.on("console", lambda said: found.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    yield found
    assert found == []


def expect_neighbors(page: Page, store: Store, item_id: str) -> None:
    """Wait until the page shows what Python finds, picture by picture, and nothing else."""
    item = page.get_by_role("group", name="Item", exact=True).locator("button")
    expect(item).to_have_attribute("data-id", item_id)
    found = store.view("pictures", "baseline:pixels").neighbors(item_id, k=10)
    cards = page.get_by_role("group", name="Neighbors", exact=True).locator("button")
    expect(cards).to_have_count(10)
    for i in range(10):
        expect(cards.nth(i)).to_have_attribute("data-id", found.ids[0, i])
        expect(cards.nth(i).locator(".score")).to_have_text(f"{found.scores[0, i]:.3f}")
        image = cards.nth(i).locator("img")
        image.evaluate("image => image.decode()")
        assert image.evaluate("image => image.naturalWidth") == 32


def expect_drawn(page: Page) -> None:
    """Wait until the page has run."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def press(page: Page, key: str) -> None:
    """Press a key once the page is drawn: what is pressed before decides nothing."""
    expect_drawn(page)
    page.keyboard.press(key)


def open_page(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).first.click()  # of the sidebar
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def test_the_first_link_of_a_server_restores_its_state(
    page: Page, address: str, full_store: Store, picture_id: str
) -> None:
    page.goto(f"{address}/search?dataset=pictures&item={picture_id}")
    expect(page.get_by_role("heading", name="Search")).to_be_visible()
    expect_neighbors(page, full_store, picture_id)


LOOKED_AT = "explore", "heads", "quality"
CONTRASTS = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


@pytest.mark.usefixtures("problems")  # a deep link must not ask for what is not there
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_1280_pixels_and_can_be_read_in_both_themes(
    page: Page, address: str, scheme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 1280, "height": 900})
    for name in LOOKED_AT:
        page.goto(f"{address}/{name}?dataset=pictures")
        expect(page.get_by_test_id("stMain").locator("button").first).to_be_visible()
        expect_drawn(page)
        expect(page.locator(".dot, .length, .scatterlayer .point").first).to_be_visible()
        looked = page.evaluate(CONTRASTS)
        assert looked["n"] > 30
        assert looked["found"] == []
        assert page.evaluate("document.documentElement.scrollWidth") == 1280


@pytest.mark.usefixtures("problems")
def test_open_click_an_item_see_its_neighbors_by_mouse_and_by_key(
    page: Page, address: str, full_store: Store
) -> None:
    page.goto(address)
    expect(page.get_by_test_id("stMetricValue")).to_have_text(["33", "3", "1", "1"])
    expect(page).to_have_title("Home · featurestore")

    open_page(page, "Search")
    items = page.get_by_role("group", name="Items").locator("button")
    expect(items).to_have_count(24)
    clicked = str(items.nth(1).get_attribute("data-id"))
    items.nth(1).click()
    expect_neighbors(page, full_store, clicked)
    expect(page).to_have_url(re.compile(r"/search\?.*item="))

    # From neighbor to neighbor, by keyboard.
    first = page.get_by_role("group", name="Neighbors").locator("button").first
    closest = str(first.get_attribute("data-id"))
    first.focus()
    page.keyboard.press("Enter")
    expect_neighbors(page, full_store, closest)


@pytest.mark.usefixtures("problems")
def test_explore_lasso_slice_neighbors_export(page: Page, address: str, full_store: Store) -> None:
    dataset = full_store.dataset("pictures")
    view = dataset.view("baseline:pixels")
    page.goto(address)
    open_page(page, "Explore")
    frame = page.locator(".map")
    expect(frame).to_have_attribute("data-points", "32")

    # A box over the left half of the map selects what lies there.
    page.get_by_role("button", name="Box", exact=True).click()
    canvas = page.locator(".frame canvas")
    box = canvas.bounding_box()
    assert box is not None
    x, y, width, height = (box[key] for key in ("x", "y", "width", "height"))
    page.mouse.move(x + 3, y + 3)
    page.mouse.down()
    page.mouse.move(x + 4, y + 4)  # a drag begins with its first move
    page.mouse.move(x + width / 4, y + height / 2, steps=5)
    page.mouse.move(x + width / 2, y + height - 3, steps=5)
    page.mouse.up()
    expect(page).to_have_url(re.compile("lasso="))
    method, outline = parse_outline(parse_qs(urlsplit(page.url).query)["lasso"][0])
    assert method == "pca"
    inside = np.flatnonzero(within(project(view), outline))
    assert 0 < len(inside) < 32
    # Places on the screen are those of the map: the middle is 0.
    np.testing.assert_array_equal(inside, np.flatnonzero(project(view)[:, 0] < 0))
    expect(page.get_by_text(f"{len(inside)} items selected")).to_be_visible()

    page.get_by_role("button", name="Export or keep these items").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("Download CSV")).click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == len(inside) + 1
    page.get_by_role("textbox", name="Slice name").fill("left")
    page.get_by_role("button", name=f"Keep {len(inside)} items as a slice").click()
    expect(page.get_by_text(f"Slice left: {len(inside)} items")).to_be_visible()
    ids = view.load().ids
    assert read_slice(dataset.folder, "left").item_ids == tuple(ids[inside].tolist())

    page.keyboard.press("Escape")  # closes the export, and no more
    expect(page).to_have_url(re.compile("lasso="))
    page.get_by_role("button", name="Clear selection").click()
    expect(page.get_by_text("32 items on the map")).to_be_visible()
    # The selection's cards stand there until those of all items are drawn, classes in turn.
    first = ids[int(home.mixed(pa.array(view.load().labels))[0])]
    card = page.get_by_role("group", name="Items").locator("button").first
    expect(card).to_have_attribute("data-id", first)
    card.click()
    expect_neighbors(page, full_store, first)


@pytest.mark.usefixtures("problems")
def test_a_lasso_a_point_and_a_filter_on_the_map(
    page: Page, address: str, full_store: Store
) -> None:
    view = full_store.view("pictures", "baseline:pixels")
    xy, ids = project(view), view.load().ids
    labels = view.items().column("label").to_pylist()
    page.goto(address)
    open_page(page, "Explore")
    expect(page.locator(".map")).to_have_attribute("data-points", "32")
    box = page.locator(".frame canvas").bounding_box()
    assert box is not None
    x, y, width, height = (box[key] for key in ("x", "y", "width", "height"))

    def at(row: int) -> tuple[float, float]:
        """Where on the screen a point is drawn: -1 to 1 fills the frame."""
        across, up = (float(one) for one in xy[row])
        return x + (1 + across) / 2 * width, y + (1 - up) / 2 * height

    page.get_by_role("button", name="Lasso", exact=True).click()
    corners = [(0.52, 0.02), (0.98, 0.02), (0.98, 0.98), (0.52, 0.98), (0.52, 0.05)]
    page.mouse.move(x + 0.52 * width, y + 0.02 * height)
    page.mouse.down()
    for a, b in corners:
        page.mouse.move(x + a * width, y + b * height, steps=8)
    page.mouse.up()
    expect(page).to_have_url(re.compile("lasso="))
    _, outline = parse_outline(parse_qs(urlsplit(page.url).query)["lasso"][0])
    n_inside = int(within(xy, outline).sum())
    assert 0 < n_inside < 32
    expect(page.get_by_text(f"{n_inside} items selected")).to_be_visible()

    # A click whose hand shakes is no outline.
    page.mouse.move(x + 5, y + 5)
    page.mouse.down()
    page.mouse.move(x + 6, y + 5)
    page.mouse.up()
    page.wait_for_timeout(500)
    expect(page.get_by_text(f"{n_inside} items selected")).to_be_visible()

    # A click on the point that stands most apart, the outline left as it is.
    page.get_by_role("button", name="Move", exact=True).click()
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 9 * np.eye(len(xy))
    row = int(apart.min(axis=1).argmax())
    page.mouse.move(*at(row))
    page.mouse.click(*at(row))
    expect_neighbors(page, full_store, str(ids[row]))
    expect(page).to_have_url(re.compile("lasso="))

    # With fewer points on the map, the same item is marked, and a click is about what is drawn.
    page.get_by_role("button", name="Clear selection").click()
    expect(page.get_by_text("32 items on the map")).to_be_visible()
    line = page.get_by_role("textbox", name="Filter (SQL over the items)")
    line.fill(f"label = '{labels[row]}'")
    line.press("Enter")
    expect(page.locator(".map")).to_have_attribute("data-points", str(labels.count(labels[row])))
    page.mouse.move(*at(row))
    page.mouse.click(*at(row))
    expect_neighbors(page, full_store, str(ids[row]))


@pytest.mark.usefixtures("problems")
def test_the_points_of_the_map_are_reached_by_keyboard(
    page: Page, address: str, full_store: Store
) -> None:
    view = full_store.view("pictures", "baseline:pixels")
    xy = project(view)
    page.goto(address)
    open_page(page, "Explore")
    expect(page.locator(".map")).to_have_attribute("data-points", "32")
    page.locator(".frame canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("status").filter(visible=True).locator("img")).to_be_visible()
    page.keyboard.press("Enter")
    # From the middle, the point to the right that is nearest, twice as far counted across.
    costs = np.where(xy[:, 0] > 0, xy[:, 0] + 2 * np.abs(xy[:, 1]), np.inf)
    expect_neighbors(page, full_store, str(view.load().ids[costs.argmin()]))


@pytest.mark.usefixtures("problems")
def test_three_items_are_reviewed_by_keyboard_and_heads_learn_from_it(
    page: Page, address: str, full_store: Store
) -> None:
    dataset = full_store.dataset("pictures")
    [report] = heads.quality_reports(dataset)
    page.goto(address)
    open_page(page, "Quality")
    page.get_by_label("Kind").click()
    page.get_by_role("option", name=re.compile("both sides of a split")).click()
    leaks = [one.item_id for one in report.of("leak")]
    # While a page runs again, the card before is still there for a moment, behind the new one.
    item = page.get_by_role("group", name="Item", exact=True).locator("button").first
    expect(item).to_have_attribute("data-id", leaks[0])
    page.get_by_role("heading", name="Quality").click()  # out of the box: keys are letters there
    press(page, "d")  # the twin is decided with it
    expect(page.get_by_text("Nothing of this kind is left to decide.")).to_be_visible()
    page.get_by_label("Kind").click()
    page.get_by_role("option", name=re.compile("Near-duplicates")).click()
    twins = [one.item_id for one in report.of("duplicate")]
    expect(item).to_have_attribute("data-id", twins[0])
    page.get_by_role("heading", name="Quality").click()
    press(page, "y")
    expect(item).to_have_attribute("data-id", twins[1])
    press(page, "x")
    expect(page.get_by_text("Nothing of this kind is left to decide.")).to_be_visible()
    decided = [(one.item_id, str(one.action)) for one in read_reviews(dataset.folder)]
    assert decided == [(leaks[0], "duplicate"), (twins[0], "confirm"), (twins[1], "exclude")]

    view = dataset.view("baseline:pixels")
    without = heads.fit(view, "knn", save=False)
    learned = heads.fit(view, "knn", save=False, apply_reviews=True)
    assert without.card["evaluation"]["n_tested"] == learned.card["evaluation"]["n_tested"]
    said = [note for note in learned.card["notes"] if note.startswith("Reviews applied")]
    in_train = [one for one in (leaks[0], twins[1]) if one.startswith("train/")]
    assert said == [f"Reviews applied to training rows: 0 relabelled, {len(in_train)} left out, "
                    "0 added that had no label."]  # fmt: skip
    assert in_train


AS_WRITTEN = [
    "see https://example.com/a?b=1, www.example.org or me@example.com",
    "a -- b -> c <- d <-> e >= f <= g ~= h; x--y ---- z",
    "HTTPS://EXAMPLE.COM http://u:p@h.de/ xmpp:a@b.de/c ::@x :@y.de",
    "*a* _b_ :red[x] :small[] :material/home: $x$ # 1. 2:3 <b>&amp;</b>",
]
WRITES = """
import streamlit as st
from dashboard.page_data.wording import plain
for text in {texts}:
    for write in (st.markdown, st.caption, st.info):
        write(plain(text))
"""


@pytest.mark.usefixtures("problems")
def test_addresses_and_hyphens_are_shown_as_they_are_written(page: Page, tmp_path: Path) -> None:
    script = tmp_path / "written.py"
    script.write_text(WRITES.format(texts=AS_WRITTEN), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = {"port": port, "address": "localhost", "headless": "true"}
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += [f"--server.{name}={value}" for name, value in options.items()]
    command += ["--browser.gatherUsageStats=false", "--global.developmentMode=false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert any("URL:" in line for line in server.stdout)
            page.goto(f"http://localhost:{port}")
            shown = page.get_by_test_id("stMain").locator("p")
            expect(shown).to_have_text([text for text in AS_WRITTEN for _ in range(3)])
            expect(page.get_by_test_id("stMain").locator("a")).to_have_count(0)
        finally:
            server.kill()
