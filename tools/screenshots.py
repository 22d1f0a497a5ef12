"""Take the pictures in docs/images/ from a real store: that of the demo.

Run: python tools/screenshots.py   (some five minutes; needs Chromium and playwright)
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
ENCODER = "builtin:tiny-image"
DATASET, ITEM = "emoji", "animal/tiger face.png"
COMMANDS = (
    ("demo",),
    ("train", DATASET, "-e", ENCODER, "--head", "ridge"),
    ("quality", DATASET, "-e", ENCODER),
    ("curve", DATASET, "-e", ENCODER, "-e", "baseline:pixels", "--head", "ridge",
     "--per-class", "1,2,4,8,16"),
    ("store", "project", DATASET, "-e", ENCODER, "--method", "umap"),
)  # fmt: skip
# name, address; an outline, an item or a choice is part of it
PAGES = {
    "overview": f"?dataset={DATASET}",
    "explore": f"explore?dataset={DATASET}&encoder={ENCODER}&map=umap&item={quote(ITEM)}",
    "search": f"search?dataset={DATASET}&encoder={ENCODER}&beside=baseline:pixels"
    f"&item={quote(ITEM)}",
    "leaderboard": f"heads?dataset={DATASET}",
    "head": f"one_head?dataset={DATASET}",
    "compare": f"compare?dataset={DATASET}",
    "quality": f"quality?dataset={DATASET}&kind=label",
    "transfer": f"transfer?dataset={DATASET}",
    "curves": f"curves?dataset={DATASET}",
}


def main() -> int:
    """Make a store and photograph each page of it."""
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(os.environ.get("SCREENSHOT_STORE", Path(temporary) / "store"))
        if not store.exists():
            for words in COMMANDS:
                _run(*words, "--store", str(store))
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "featurestore.cli", "dashboard", "--store", str(store),
                   "--port", str(port), "--no-browser"]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        for line in server.stdout:
            if "URL:" in line:
                break
        try:
            _photograph(f"http://localhost:{port}")
        finally:
            server.terminate()
            server.wait()
    return 0


def _run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "featurestore.cli", *words], check=True, cwd=ROOT)


def _photograph(address: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": 1400, "height": 1000}, color_scheme=scheme
            )
            page = context.new_page()
            for name, query in PAGES.items():
                if scheme == "dark" and name != "explore":
                    continue  # one, to see that it can be read
                page.goto(f"{address}/{query}")
                _settled(page)
                suffix = "-dark" if scheme == "dark" else ""
                page.screenshot(path=IMAGES / f"{name}{suffix}.png")
            context.close()
        browser.close()


def _settled(page: Page) -> None:
    """Wait until the page has run and its pictures are there."""
    page.get_by_test_id("stApp").wait_for()
    page.get_by_role("heading").first.wait_for(timeout=120_000)
    page.wait_for_timeout(1500)
    page.wait_for_function(
        "!document.querySelector('[data-testid=stStatusWidget], [data-testid=stSpinner]')"
    )
    page.wait_for_timeout(2500)  # animations


if __name__ == "__main__":
    sys.exit(main())
