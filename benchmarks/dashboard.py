"""The dashboard in a real browser: first paint, interaction, memory, by number of items.

Run: python -m benchmarks.dashboard [10k] [100k] [1M]   (all by default; needs Chromium)
Items are generated: clustered vectors of dim 64 with a label, a split and a text. Times are the
median of three visits with warm caches of the store's files, in a fresh tab.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import Row, at_most, run_sections
from featurestore.store.store import Store, open_store

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
ENCODER = "import:made"
EMPTY = "import streamlit as st\nst.title('empty')\n"
PAGES = {
    "home": ("", "[data-testid=stMetricValue]"),
    "explore": ("explore", ".map[data-points] >> visible=true"),
    "search": ("search?item=i000000", "[aria-label=Neighbors] button"),
    "leaderboard": ("heads", "[data-testid=stPlotlyChart]"),
    "one head": ("one_head", "[data-testid=stPlotlyChart]"),
    "compare": ("compare", "[data-testid=stDataFrame]"),
    "quality": ("quality?kind=outlier", "[data-testid=stProgress]"),
    "transfer": ("transfer", "[data-testid=stPlotlyChart]"),
    "labels needed": ("curves", "[data-testid=stPlotlyChart]"),
    "label": ("label", "[data-testid=stAlert]"),
    "try it": ("try_it", "textarea"),
    "run": ("run", "[data-testid=stPopover]"),
}
AT_1M = ("home", "search")
N_VISITS = 3
WAIT_MS = 300_000
BARS = {"explore, the item under the mouse": 0.1, "explore, a brush, on the map": 0.3}


def made(folder: Path, n: int) -> Store:
    """Make a store of n items with a view, a head, a comparison and a quality report."""
    import pyarrow as pa

    import heads
    from featurestore.curation.slices import Slice
    from featurestore.exchange.imports import Incoming, import_vectors

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 10, n)
    centres = rng.normal(size=(10, 64))
    vectors = (centres[codes] + 1.5 * rng.normal(size=(n, 64))).astype(np.float32)
    ids = pa.array([f"i{i:06d}" for i in range(n)])
    columns = pa.table(
        {
            "label": [f"class {c}" for c in codes],
            "split": np.where(rng.random(n) < 0.2, "test", "train"),
            "text": [f"item number {i} of class {c}" for i, c in enumerate(codes)],
        }
    )
    store = open_store(folder, create=True)
    import_vectors(
        store, Incoming(ids, vectors, columns), dataset="made", name="made", origin=folder,
        text="text", labels=("label",),
    )  # fmt: skip
    view = store.view("made", ENCODER)
    if n <= 100_000:
        heads.fit(view, "ridge")
        heads.compare(view, ["ridge", "prototype"])
        part = Slice("part", tuple(f"i{i:06d}" for i in range(2000)), "")
        few = view.within(part)
        heads.find_issues(few)
        heads.assess_transfer([few], heads=["ridge"], blend=False)
        heads.curve([few], "ridge", per_class=[2, 4, 8], n_draws=3)
    return store


@contextmanager
def serving(command: list[str], **environment: str) -> Iterator[tuple[str, int]]:
    """Serve, and yield the address and the process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [one.replace("PORT", str(port)) for one in command]
    server = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert server.stdout is not None
    for line in server.stdout:
        if "URL:" in line:
            break
    try:
        yield f"http://localhost:{port}", server.pid
    finally:
        server.terminate()
        server.wait()


def first_paint_s(browser: Any, address: str, selector: str) -> float:
    """Seconds from the address to what the page is about, in a fresh tab."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(WAIT_MS)
    begin = time.perf_counter()
    page.goto(address)
    wait_for(page.locator(selector).first)
    seconds = time.perf_counter() - begin
    page.close()
    return seconds


def wait_for(locator: Any) -> None:
    """Wait until it is seen, to 20 ms; Playwright's own wait looks every 500 ms after a while."""
    end = time.perf_counter() + WAIT_MS / 1e3
    while not locator.is_visible():
        if time.perf_counter() > end:
            raise TimeoutError(f"{locator} was not shown within {WAIT_MS / 1e3:.0f} s")
        time.sleep(0.02)


def measured(n: int, name: str, pages: tuple[str, ...]) -> list[Row]:
    """Visit each page, and lasso on the map."""
    from playwright.sync_api import sync_playwright

    rows = []
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as driver:
        folder = Path(temporary)
        store = made(folder / "store", n)
        (folder / "empty.py").write_text(EMPTY)
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        plain = [sys.executable, "-m", "streamlit", "run", str(folder / "empty.py"),
                 "--server.port=PORT", "--server.headless=true",
                 "--browser.gatherUsageStats=false"]  # fmt: skip
        with serving(plain) as (address, _):
            empty = median(first_paint_s(browser, address, "h1") for _ in range(N_VISITS + 1))
        rows.append(Row(f"{name}: an empty Streamlit page, first paint", empty, "s"))
        bar = 1.5 * empty + 1.5
        command = [sys.executable, "-m", "featurestore.cli", "dashboard", "--store",
                   str(store.path), "--port", "PORT", "--no-browser"]  # fmt: skip
        with serving(command) as (address, pid):
            for page in pages:
                path, selector = PAGES[page]
                first = first_paint_s(browser, f"{address}/{path}", selector)
                rows.append(Row(f"{name}: {page}, first visit of the server", first, "s"))
                seconds = median(
                    first_paint_s(browser, f"{address}/{path}", selector) for _ in range(N_VISITS)
                )
                what = f"{name}: {page}, first paint"
                rows.append(
                    at_most(what, seconds, "s", round(bar, 2)) if n <= 100_000
                    else Row(what, seconds, "s")
                )  # fmt: skip
            for what, seconds in interactions(browser, address, pages):
                rows.append(
                    at_most(f"{name}: {what}", seconds, "s", BARS.get(what, 1.0)) if n <= 100_000
                    else Row(f"{name}: {what}", seconds, "s")
                )  # fmt: skip
            rows.append(Row(f"{name}: memory of the server", rss_mb(pid), "MB"))
        browser.close()
    return rows


def interactions(browser: Any, address: str, pages: tuple[str, ...]) -> list[tuple[str, float]]:
    """Time clicks, a lasso and a filter, until the page shows their result."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(WAIT_MS)
    found = []

    def timed(what: str, act: Callable[[], None], done: Callable[[], None]) -> None:
        begin = time.perf_counter()
        act()
        done()
        found.append((what, time.perf_counter() - begin))

    page.goto(f"{address}/search?item=i000000")
    card = page.get_by_role("group", name="Neighbors").locator("button").first
    card.wait_for()
    for turn in ("search, a click to its neighbors (index being read)", "search, a click"):
        item = str(card.get_attribute("data-id"))
        shown = page.get_by_role("group", name="Item", exact=True).locator(f'[data-id="{item}"]')
        timed(turn, card.click, lambda shown=shown: wait_for(shown))
        page.wait_for_timeout(1500)
    if "explore" in pages:
        page.goto(f"{address}/explore")
        page.locator(".map[data-points]").wait_for()
        page.wait_for_timeout(2000)
        page.locator(".frame canvas").focus()
        tip = page.locator(".tip .words, .tip img")
        page.keyboard.press("ArrowRight")  # the first finds the nearest point of all
        wait_for(tip.first)
        seen = page.locator(".tip").get_attribute("data-id")
        other = page.locator(f'.tip:not([data-id="{seen}"])')
        timed(
            "explore, the item under the mouse",
            lambda: page.keyboard.press("ArrowRight"), lambda: wait_for(other),
        )  # fmt: skip
        bar = page.locator(".bar-of-one").first
        timed("explore, a brush, on the map", bar.click,
              lambda: wait_for(page.locator(".bar-of-one[aria-pressed=true]")))  # fmt: skip
        timed("explore, a brush, its items", lambda: None,
              lambda: wait_for(page.get_by_text("items selected")))  # fmt: skip
        page.wait_for_timeout(1500)
        page.get_by_role("button", name="Clear selection").click()
        wait_for(page.get_by_text("items on the map"))
        page.wait_for_timeout(1500)
        page.get_by_role("button", name="Lasso", exact=True).click()
        box = page.locator(".frame canvas").bounding_box()

        def lasso() -> None:
            x, y, width, height = (box[key] for key in ("x", "y", "width", "height"))
            corners = [(0.1, 0.1), (0.8, 0.15), (0.75, 0.85), (0.2, 0.8), (0.1, 0.12)]
            page.mouse.move(x + 0.1 * width, y + 0.1 * height)
            page.mouse.down()
            for a, b in corners:
                page.mouse.move(x + a * width, y + b * height, steps=6)
            page.wait_for_timeout(1000)  # a software renderer draws the line slowly

        lasso()
        timed(
            "explore, a lasso, from its end", page.mouse.up,
            lambda: wait_for(page.get_by_text("items selected")),
        )  # fmt: skip
        page.wait_for_timeout(1500)
        card = page.get_by_role("group", name="Items").locator("button").first
        near = page.get_by_role("group", name="Neighbors").locator("button").first
        for turn in ("first", "second"):
            timed(
                f"explore, the {turn} click on one of the selected",
                card.click,
                lambda: wait_for(near),
            )
            page.wait_for_timeout(1500)
            page.get_by_role("button", name="Back to the selection").click()
            card.wait_for()
            page.wait_for_timeout(1500)
        line = page.get_by_role("textbox", name="Filter (SQL over the items)")
        for kept, text in (("90 %", "label <> 'class 3'"), ("10 %", "label = 'class 3'")):
            n = page.locator(".map[data-points]").get_attribute("data-points")
            line.fill(text)
            drawn = page.locator(f'.map[data-points]:not([data-points="{n}"])')
            timed(
                f"explore, an SQL filter that keeps {kept}, until drawn",
                lambda: line.press("Enter"), lambda drawn=drawn: wait_for(drawn),
            )  # fmt: skip
            page.wait_for_timeout(1500)
    page.close()
    return found


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1e3
    raise RuntimeError("no VmRSS in /proc: this benchmark runs on Linux")


SECTIONS: dict[str, Callable[[], list[Row]]] = {
    "10k": lambda: measured(10_000, "10,000", tuple(PAGES)),
    "100k": lambda: measured(100_000, "100,000", tuple(PAGES)),
    "1M": lambda: measured(1_000_000, "1,000,000", AT_1M),
}

if __name__ == "__main__":
    sys.exit(run_sections("dashboard", SECTIONS, sys.argv[1:]))
