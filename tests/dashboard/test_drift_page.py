"""The Drift page over a real store, without a browser."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

import heads
from dashboard.page_data import drift
from featurestore.store.store import Store
from heads.drift.compare import Day, Drift, UnlikeItem
from heads.saved.answer_log import About, AnswerLog
from tests.dashboard.test_app import opened


@pytest.fixture(autouse=True)
def store(full_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FEATURESTORE_STORE", str(full_store.path))
    return full_store


def test_drift_is_shown_with_days_and_pictures(store: Store, tmp_path: Path) -> None:
    dataset = store.dataset("pictures")
    head = heads.load_head(dataset, heads.list_heads(dataset)[0].head_id)
    root = Path(dataset.description.sources["pictures"].root)
    log = AnswerLog(tmp_path / "answers", items=True)
    for number in range(3, 10):
        for shade in ("grey", "white", "black"):
            path = root / "train" / shade / f"{number}.png"
            about = [About(f"{shade}{number}", path=str(path))]
            log.write(head, head.ask([path]), about)
    app = opened("drift", head=head.head_id)
    assert "--log-to answers/" in app.code[0].value
    app = opened("drift", head=head.head_id, log=str(tmp_path / "answers"))
    assert not app.exception
    [said] = [*app.success, *app.warning]
    assert "21 items" in said.value
    assert any("unlike the training items" in one.value for one in app.markdown)
    app = opened("drift", head=head.head_id, log=str(tmp_path / "none"))
    assert "holds no log of" in app.error[0].value


def test_pictures_and_days_of_drift(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (300, 200)).save(content, "PNG")
    (tmp_path / "a.png").write_bytes(content.getvalue())
    (tmp_path / "b.png").write_bytes(b"no picture")
    at = datetime(2026, 12, 1, 9, tzinfo=UTC)

    def item(name: str | None) -> UnlikeItem:
        return UnlikeItem("x", at, 0.99, ["a", "b"], picture=name and tmp_path / name)

    assert max(Image.open(io.BytesIO(drift.picture_of(item("a.png")))).size) == drift.THUMB_PX
    assert [drift.picture_of(item(one)) for one in ("b.png", "c.png", None)] == [None] * 3
    days = [Day("2026-12-01", 10, 2, 0.6), Day("2026-12-02", 5, 0, 0.5)]
    found = Drift("h", 15, at, at, [], [], [item(None)], days)
    figure = drift.days_figure(found)
    assert list(figure.data[1].y) == [20, 0]
    assert drift.rows(found)[0]["prediction"] == "a|b"
