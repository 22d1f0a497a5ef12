"""A source that is as it was is not listed; whatever happened to its items is seen all the same."""

import os
import shutil
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from featurestore.pipeline import job, kept_listings, listed_sources
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources import stamps
from featurestore.sources.listing import SourceOptions
from featurestore.sources.opening import open_source
from featurestore.sources.stamps import stamp_of
from featurestore.storage import kept_counts
from featurestore.upkeep.erase import delete
from featurestore.upkeep.versions import compact

TEXTS = SourceOptions(text="text", id="id", label=("label",))


class Numbers:
    """The number at the end of a text."""

    version = "1"

    def encode_texts(self, texts):
        last = [one.split()[-1] for one in texts]
        return np.array([[float(one) if one.isdigit() else 0, 1] for one in last])


class Others(Numbers):
    """The same, under another name."""


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    """Keep listings of small data sets, too; return the locations that were listed."""
    for module in (job, kept_listings, kept_counts):
        monkeypatch.setattr(module, "WORTH_ROWS", 0)
    monkeypatch.setattr(stamps, "_SETTLED_S", -1e9)
    names = []
    real = listed_sources.listings

    def listings(source, options):
        names.append(source.location.name)
        return real(source, options)

    monkeypatch.setattr(listed_sources, "listings", listings)
    return names


def write(path, texts, labels=None):
    n = len(texts)
    columns = {"id": [f"{path.stem}{i}" for i in range(n)], "text": texts}
    pq.write_table(pa.table(columns | {"label": labels or ["x"] * n}), path)
    return path


@pytest.fixture
def texts(empty_store, tmp_path):
    """A store with a table of five texts, and what embeds it again."""
    path = write(tmp_path / "t.parquet", [f"text {i}" for i in range(5)])

    def again(*paths, encoders=(Numbers,), options=TEXTS, say=lambda _: None, **how):
        return empty_store.embed(
            paths or [path], dataset="d", encoders=[one() for one in encoders],
            source_options=options, embed_options=EmbedOptions(**how), say=say,
        )  # fmt: skip

    again()
    return empty_store.dataset("d"), path, again


def counts(reports):
    return [(one.n_items, one.n_encoded, one.n_unchanged, one.n_known_failures) for one in reports]


def test_a_table_as_it_was_is_not_read(texts, listed):
    _, path, again = texts
    listed.clear()
    assert counts(again()) == [(5, 0, 5, 0)]
    assert listed == []
    write(path, [f"text {i}" for i in range(6)])
    assert counts(again()) == [(6, 1, 5, 0)]
    assert listed == ["t.parquet"]
    assert counts(again()) == [(6, 0, 6, 0)]
    assert listed == ["t.parquet"]
    os.utime(path, ns=(1, 1))  # nobody can say that it is as it was
    assert counts(again()) == [(6, 0, 6, 0)]
    assert listed == ["t.parquet"] * 2


def test_notes_are_said_each_time(empty_store, tmp_path, listed):
    path = write(tmp_path / "t.parquet", ["one 1", "two 2"])
    said = [[], [], []]
    for of_run in said:
        empty_store.embed(
            [path], dataset="d", encoders=[Numbers()], source_options=SourceOptions(text="text"),
            say=of_run.append,
        )  # fmt: skip
    assert any("items of t.parquet are named by row" in one for one in said[1])
    assert said[1] == said[2]
    assert listed == ["t.parquet"]


LOOKS_AGAIN = {
    "another label column": {"options": SourceOptions(text="text", id="id", label=("id",))},
    "another encoder": {"encoders": (Others,)},
    "one encoder more": {"encoders": (Numbers, Others)},
    "overwrite": {"overwrite": True},
    "retry failed": {"retry_failed": True},
    "rehash": {"rehash": True},
}


@pytest.mark.parametrize("how", LOOKS_AGAIN.values(), ids=LOOKS_AGAIN)
def test_what_asks_for_more_lists_again(texts, listed, how):
    _, _, again = texts
    listed.clear()
    reports = again(**how)
    assert listed == ["t.parquet"]
    assert [one.n_items for one in reports] == [5] * len(reports)


def test_items_that_were_deleted_come_back(texts, listed):
    dataset, _, again = texts
    delete(dataset.folder, pa.array(["t1", "t3"]))
    assert counts(again()) == [(5, 2, 3, 0)]
    assert dataset.n_items == 5
    listed.clear()
    assert counts(again()) == [(5, 0, 5, 0)]
    assert listed == []


@pytest.mark.parametrize("what", ["attach", "compact", "clear"])
def test_where_files_were_taken_out_it_is_listed_once_more(texts, listed, tmp_path, what):
    dataset, _, again = texts
    again(write(tmp_path / "u.parquet", ["text 7"]))
    listed.clear()
    if what == "attach":
        dataset.attach(pa.table({"item_id": ["t1"], "label": ["y"]}))
    elif what == "compact":
        compact(dataset.folder)
    else:
        dataset.views()[0].table.clear()
    encoded = 5 if what == "clear" else 0
    assert counts(again()) == [(5, encoded, 5 - encoded, 0)]
    assert counts(again()) == [(5, 0, 5, 0)]
    assert listed == ["t.parquet"]


def test_rows_of_others_change_nothing(texts, listed, tmp_path):
    dataset, path, again = texts
    other = write(tmp_path / "u.parquet", [f"text {i}" for i in range(7, 10)])
    listed.clear()
    assert counts(again(path, other)) == [(8, 3, 5, 0)]
    assert listed == ["u.parquet"]
    assert counts(again(path, other)) == [(8, 0, 8, 0)]
    assert listed == ["u.parquet"]
    (report,) = dataset.store.embed([], dataset="d", encoders=[Numbers()])  # all that it knows
    assert (report.n_items, report.n_unchanged) == (8, 8)
    assert listed == ["u.parquet"]
    # Two sources with one id are refused, although one of them is not listed.
    clash = pa.table({"id": ["t1"], "text": ["text 1"], "label": ["x"]})
    pq.write_table(clash, other)
    with pytest.raises(Exception, match="1 ids come from two sources"):
        again(path, other)


def test_known_failures_are_counted(texts, listed):
    _, path, again = texts
    write(path, ["text 0", "", "text 2", "text 3", "text 4"])
    assert counts(again()) == [(5, 0, 4, 0)]
    assert counts(again()) == [(5, 0, 4, 1)]
    listed.clear()
    assert counts(again()) == [(5, 0, 4, 1)]
    assert listed == []


def test_items_that_are_gone_are_named_each_time(texts, listed):
    _, path, again = texts
    write(path, ["text 0", "text 1"])
    for _ in range(3):
        said = []
        again(say=said.append)
        assert [one for one in said if "3 items are gone from their source" in one]
    again(prune=True)
    listed.clear()
    again()
    again()
    assert listed == ["t.parquet"]


def test_a_backup_is_seen(texts, tmp_path, listed):
    """The tables are those of before; the cache tells of later."""
    dataset, path, again = texts
    shutil.copytree(dataset.path, tmp_path / "backup")
    write(path, [f"text {i}" for i in range(9)])
    again()
    again()
    for name in ("items", "views", "failures"):
        shutil.rmtree(dataset.path / name)
        shutil.copytree(tmp_path / "backup" / name, dataset.path / name)
    assert counts(again()) == [(9, 4, 5, 0)]


def test_what_is_kept_may_be_damaged_or_deleted(texts, listed):
    dataset, _, again = texts
    again()
    (kept,) = (dataset.path / "cache").glob("listed-*.json")
    listed.clear()
    for content in (b"", b"{}", kept.read_bytes()[:-9], kept.read_bytes().replace(b"5", b"4")):
        kept.write_bytes(content)
        assert counts(again()) == [(5, 0, 5, 0)]
    kept.unlink()
    again()
    assert listed == ["t.parquet"] * 5


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)
    return path


def test_a_folder_is_as_it_was_while_no_picture_is(empty_store, tmp_path, listed):
    root = tmp_path / "set"
    for i in range(4):
        picture(root / "ab"[i % 2] / f"{i}.png", i)

    def again():
        (report,) = empty_store.embed([root], dataset="d", encoders=["baseline:pixels#size=2"])
        return report.n_items, report.n_encoded + report.n_copied, report.n_updated

    assert again() == (4, 4, 0)
    listed.clear()
    assert again() == (4, 0, 0)
    assert listed == []
    changes = [
        (lambda: picture(root / "a" / "9.png", 9), (5, 1, 0)),
        (lambda: picture(root / "a" / "9.png", 10), (5, 1, 0)),
        (lambda: (root / "a" / "9.png").rename(root / "b" / "9.png"), (5, 1, 0)),
        (lambda: os.utime(root / "b" / "1.png"), (5, 0, 0)),
        (lambda: (root / "a").rename(root / ".a"), (3, 0, 0)),
    ]
    for change, found in changes:
        listed.clear()
        time.sleep(0.01)
        change()
        assert again() == found
        assert listed == ["set"]


def test_shards_are_as_they_were_while_none_changes(empty_store, tmp_path, listed):
    def shard(name, values):
        with tarfile.open(tmp_path / "set" / name, "w") as tar:
            for one in values:
                tar.add(picture(tmp_path / f"{one}.png", one), f"{one}.png")

    (tmp_path / "set").mkdir()
    shard("0.tar", [1, 2])
    shard("1.tar", [3])

    def again():
        (report,) = empty_store.embed(
            [tmp_path / "set"], dataset="d", encoders=["baseline:pixels#size=2"]
        )
        return report.n_items, report.n_encoded

    assert again() == (3, 3)
    assert again() == (3, 0)
    assert listed == ["set"]
    shard("2.tar", [5, 6])
    assert again() == (5, 2)
    assert again() == (5, 0)
    shard("1.tar", [3, 8])
    assert again() == (6, 1)
    assert listed == ["set"] * 3
    (tmp_path / "set" / "0.tar").unlink()  # what is gone is told each time
    assert again() == (4, 0)
    assert again() == (4, 0)
    assert listed == ["set"] * 5


def test_what_only_reading_tells_has_no_stamp(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", ["one 1"])
    assert stamp_of(open_source(path), SourceOptions(text="text"))
    assert stamp_of(open_source(path), SourceOptions(image="text")) is None  # files beside it
    pictures = pa.table({"image": [b"x"]})
    pq.write_table(pictures, tmp_path / "p.parquet")
    assert stamp_of(open_source(tmp_path / "p.parquet"), SourceOptions(image="image"))
    assert stamp_of(open_source(tmp_path / "p.parquet"), SourceOptions()) is None
    (tmp_path / "set").mkdir()
    picture(tmp_path / "set" / "a" / "1.png", 1)
    source = open_source(tmp_path / "set")
    follows = stamp_of(source, SourceOptions(follow_links=True))
    assert follows != stamp_of(source, SourceOptions())
    monkeypatch.setattr(stamps, "_SETTLED_S", 1e6)
    assert stamp_of(open_source(path), SourceOptions(text="text")) is None  # too young
