"""`featurestore report`: one file that opens anywhere, says what was found, and runs nothing."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

import heads
from featurestore.cli import run
from featurestore.errors import BadName
from featurestore.terms.specs import encoder_label
from heads.report_page import found as looked
from tests.heads.topics import two_topics

SECTIONS = [
    "Summary", "Leaderboard", "Does the encoder help?", "Learning curve", "Classes", "Worst items",
    "Data quality", "Where this comes from", "How to find it again",
]  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, headings, and the text that a reader sees."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.texts, self.headings, self.open = [], [], [], []
        self.feed(self.source)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.texts.append(data)

    def values(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def is_harmless(page):
    """Nothing runs, nothing is fetched: no script, no handler, links within the page alone."""
    tags = {tag for tag, _ in page.tags}
    names = {name for _, attrs in page.tags for name in attrs}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "a:href"}
    assert not [name for name in names if name.startswith("on") or name in ("style", "srcset")]
    assert all(one.startswith("#") for one in page.values("href"))
    assert all(one.startswith("data:image/jpeg;base64,") for one in page.values("src"))
    assert "default-src 'none'" in page.source.split("<title>")[0]


def keep_quick_results(view):
    """Draw a short curve and look at the labels with a fast head; the report takes both."""
    heads.curve(view, "ridge", per_class=(1, 2, 4), n_draws=2)
    heads.find_issues(view, head="ridge")


def test_it_holds_what_was_found_and_a_second_one_runs_nothing(embed, tmp_path, monkeypatch):
    store = embed(two_topics())
    view = store.view("texts")
    keep_quick_results(view)
    path = heads.report(store, "texts", tmp_path / "new" / "report.html", minutes=5)
    page = Page(path)
    is_harmless(page)
    assert page.headings == SECTIONS
    advice = heads.advise(store, "texts", minutes=5)
    for said in advice.sentences()[:3]:  # the fourth counts seconds
        assert said in page.text
    assert advice.command in page.text
    for row in heads.runs(view.dataset)[0].rows():
        name = f"{encoder_label(row['encoder'])} {row['head']}"
        assert f"{name} {100 * row['value']:.1f}" in page.text
    assert f"{heads.assessments(view.dataset)[0].verdicts[0].sentence()}." in page.text
    assert "that in the summary holds for all" in page.text
    assert view.fingerprint in page.text
    assert "featurestore curve texts --head ridge" in page.text

    def runs(*args, **kwargs):
        raise AssertionError("it is kept")

    for name in ("curve", "find_issues"):
        monkeypatch.setattr(looked, name, runs)
    monkeypatch.setattr("heads.experiments.cells.Exam", runs)
    with pytest.raises(BadName, match="there already"):
        heads.report(store, "texts", path)
    assert path.read_text() == page.source
    assert Page(heads.report(store, "texts", path, overwrite=True)).headings == SECTIONS


def test_what_a_data_set_holds_is_text_wherever_it_comes_from(embed, tmp_path):
    script, link = "<script>alert(1)</script>", "javascript:alert(2)"
    breakout = '"><img src=x onerror=alert(3)>'
    rows = [
        {
            "id": f"{(script, link, breakout)[n % 3]}{n}",
            "text": f"{row['text']} {breakout} {{{{7*7}}}}",
            breakout: (script, f"</title>{link}")[(row["topic"] == "food") != (n % 11 == 0)],
            "split": row["split"],
        }
        for n, row in enumerate(two_topics(40))
    ]
    store = embed(rows, label=(breakout,), id="id")
    keep_quick_results(store.view("texts"))
    page = Page(heads.report(store, "texts", tmp_path / "report.html", minutes=5))
    is_harmless(page)
    assert {"Leaderboard", "Classes", "Worst items", "Data quality"} <= set(page.headings)
    for said in (script, link, breakout, "{{7*7}}"):
        assert said in page.text
    assert script not in page.source


def test_pictures_are_in_the_file(empty_store, tmp_path, write_image):
    for n in range(12):
        write_image(tmp_path / "tiles" / f"{n:02d}.png", n)  # no labels: the first are shown
    empty_store.embed([tmp_path / "tiles"], dataset="tiles", encoders=["builtin:tiny-image"])
    (tmp_path / "tiles" / "01.png").unlink()  # shown with a reason
    page = Page(heads.report(empty_store, "tiles", tmp_path / "report.html", minutes=1e-5))
    is_harmless(page)
    pictures = page.values("src")
    assert len(pictures) == 11
    assert "no picture: the file of item '01.png' is gone" in page.text
    for one in pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2])))
        assert (picture.format, max(picture.size)) == ("JPEG", 24)


@pytest.mark.parametrize(
    ("topics", "said"),
    [((), "has no labels"), (("food",), "one class"), (("", ""), "label")],
    ids=["no labels", "one class", "empty labels"],
)
def test_little_gives_a_short_honest_report(embed, tmp_path, topics, said):
    rows = [{"text": f"bread and cheese {n}", "baker": f"b{n // 2}"} for n in range(8)]
    if topics:
        rows = [{**row, "topic": topics[n % len(topics)]} for n, row in enumerate(rows)]
    store = embed(rows, label=("topic",) if topics else (), group="baker")
    page = Page(heads.report(store, "texts", tmp_path / "report.html", minutes=5))
    is_harmless(page)
    assert page.headings == [
        "Summary", "Data quality", "Where this comes from", "How to find it again",
    ]  # fmt: skip
    assert heads.advise(store, "texts").sentences()[0] in page.text
    assert "bread and cheese 3" in page.text
    assert "source kind where groups by" in page.text
    assert "rows.csv baker" in page.text


def test_without_time_the_missing_results_are_named(texts_view, tmp_path, capsys):
    store = str(texts_view.dataset.store.path)
    output = tmp_path / "report.html"
    words = ["report", "texts", "-o", str(output), "--minutes", "0.00001", "--store", store]
    assert run(words) == 0
    assert f"written: {output}" in capsys.readouterr().err
    page = Page(output)
    assert "Learning curve" not in page.headings
    assert "There was no time for what may be wrong with the data" in page.text
    assert run(words) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run(["report", "texts", "-o", str(tmp_path), "--store", store]) == 1
    assert "is a folder" in capsys.readouterr().err


def test_results_of_an_earlier_state_are_not_shown(texts_view):
    comparison = heads.compare([texts_view], heads=["ridge"])
    assert looked.holds(comparison.card, texts_view.dataset.views())
    import pyarrow as pa

    texts_view.dataset.attach(pa.table({"item_id": ["t00"], "topic": ["music"]}))
    assert not looked.holds(comparison.card, texts_view.dataset.store.dataset("texts").views())
