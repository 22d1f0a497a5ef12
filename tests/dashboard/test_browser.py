"""The dashboard in a real browser: a real server over a real store, a real click."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from featurestore.store import Store

REQUIRED = os.environ.get("FEATURESTORE_REQUIRE_BROWSER") == "1"
if not REQUIRED:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402 (optional)

pytestmark = pytest.mark.browser

WAIT_MS = 20_000  # for a machine that does other things as well
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
def address(chromium: Path, small_store: Store) -> Iterator[str]:
    """Where the dashboard of the small store is served."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(small_store.path), str(port)],
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
    rest, _ = server.communicate(timeout=20)
    assert server.returncode == 0
    assert "Traceback" not in rest


@pytest.fixture
def page(chromium: Path) -> Iterator[Page]:
    """A tab; at its end, nothing outside of this machine was asked for."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(chromium), args=FLAGS)
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.set_default_timeout(WAIT_MS)
        asked: set[str | None] = set()
        tab.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
        yield tab
        browser.close()
        assert asked <= {"localhost", None}  # None: blob and data


def expect_neighbours(page: Page, store: Store, item_id: str) -> None:
    """Wait until the page shows what Python finds, picture by picture, and nothing else."""
    item = page.get_by_role("group", name="Item", exact=True).locator("button")
    expect(item).to_have_attribute("data-id", item_id)
    found = store.view("pictures", "baseline:pixels").neighbors(item_id, k=10)
    cards = page.get_by_role("group", name="Neighbours", exact=True).locator("button")
    expect(cards).to_have_count(10)
    for i in range(10):
        expect(cards.nth(i)).to_have_attribute("data-id", found.ids[0, i])
        expect(cards.nth(i).locator(".score")).to_have_text(f"{found.scores[0, i]:.3f}")
        image = cards.nth(i).locator("img")
        image.evaluate("image => image.decode()")
        assert image.evaluate("image => image.naturalWidth") == 32


def test_the_first_link_of_a_server_restores_its_state(
    page: Page, address: str, small_store: Store, picture_id: str
) -> None:
    page.goto(f"{address}/neighbors?dataset=pictures&item={picture_id}")
    expect(page.get_by_role("heading", name="Neighbours")).to_be_visible()
    expect_neighbours(page, small_store, picture_id)


def test_open_see_the_counts_click_an_item_see_its_neighbours(
    page: Page, address: str, small_store: Store
) -> None:
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))

    page.goto(address)
    metrics = page.get_by_test_id("stMetricValue")
    expect(metrics).to_have_text(["31", "3", "1", "1"])

    page.get_by_role("link", name="Neighbours").click()
    items = page.get_by_role("group", name="Items").locator("button")
    expect(items).to_have_count(24)
    clicked = str(items.nth(1).get_attribute("data-id"))
    items.nth(1).click()
    expect_neighbours(page, small_store, clicked)
    expect(items.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(re.compile(r"/neighbors\?.*item="))

    # From neighbour to neighbour, by keyboard.
    first = page.get_by_role("group", name="Neighbours").locator("button").first
    closest = str(first.get_attribute("data-id"))
    first.focus()
    page.keyboard.press("Enter")
    expect_neighbours(page, small_store, closest)
    assert problems == []
