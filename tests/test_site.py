"""The documentation site is built without a warning, and none of its links is broken."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]


class Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, page):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links |= {found[key] for key in ("href", "src") if found.get(key)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    made = subprocess.run(
        [*words, "-d", out / "doctrees", ROOT / "docs", out / "html"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return out / "html"


def test_no_link_of_the_site_is_broken(site):
    pages = {page: Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    broken = []
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            is_there = target.is_file()
            if is_there and parts.fragment and target in pages:
                is_there = unquote(parts.fragment) in pages[target].anchors
            if not is_there:
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []
    assert len(pages) > 60


def test_the_site_has_each_command_and_each_public_name(site):
    import featurestore
    import heads
    from featurestore.cli import cli

    commands = (site / "cli.html").read_text()
    for name, command in cli.commands.items():
        assert command.hidden or f'id="featurestore-{name}"' in commands, name
    for package in (featurestore, heads):
        for name in package.__all__:
            assert (site / "api" / f"{package.__name__}.{name}.html").is_file(), name
