"""What is embedded once stays right: runs that are repeated, overwrite, or are cut short."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.compute as pc
import pytest

from featurestore.errors import NotAStore, TooManyFailures, UnknownDataset, UnknownView
from featurestore.pipeline import writer
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage import user_cache
from featurestore.storage.files import read_json, write_json
from featurestore.store.store import Store, open_store
from tests.test_store import PIXELS, embed


def test_each_item_has_the_vector_of_its_own_pixels(empty_store, tiny_images):
    report = embed(empty_store, tiny_images)
    assert (report.n_items, report.n_encoded, report.n_failed) == (6, 6, 0)
    found = open_store(empty_store.path).view("d", PIXELS).load()
    assert found.ids.tolist() == [
        f"{label}/{n}.png" for label in ("dark", "light") for n in range(3)
    ]
    assert found.labels.tolist() == ["dark"] * 3 + ["light"] * 3
    expected = [[v / 255, 0, 0] for v in (10, 20, 30)] + [
        [1, (255 - v) / 255, 1] for v in (10, 20, 30)
    ]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    assert found.vectors.dtype == np.float32


def test_a_second_run_embeds_nothing_and_makes_no_version(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    before = empty_store.view("d", PIXELS).snapshot
    report = embed(empty_store, tiny_images)
    assert (report.n_encoded, report.n_unchanged) == (0, 6)
    assert empty_store.view("d", PIXELS).snapshot == before


def test_only_new_and_changed_items_are_embedded(empty_store, tiny_images, write_image):
    embed(empty_store, tiny_images)
    write_image(tiny_images / "dark" / "1.png", (99, 0, 0))
    write_image(tiny_images / "new" / "0.png", (7, 7, 7))
    report = embed(empty_store, tiny_images)
    assert (report.n_encoded, report.n_unchanged) == (2, 5)
    found = empty_store.view("d", PIXELS).load()
    assert len(found) == len(set(found.ids)) == 7
    by_id = dict(zip(found.ids, found.vectors, strict=True))
    np.testing.assert_allclose(by_id["dark/1.png"], [99 / 255, 0, 0], atol=1e-6)
    np.testing.assert_allclose(by_id["new/0.png"], [7 / 255] * 3, atol=1e-6)


def test_an_older_snapshot_reads_as_it_was(empty_store, tiny_images, write_image):
    embed(empty_store, tiny_images)
    view = empty_store.view("d", PIXELS)
    before, snapshot = view.load(), view.snapshot
    write_image(tiny_images / "dark" / "1.png", (99, 0, 0))
    embed(empty_store, tiny_images)
    again = view.load(snapshot=snapshot)
    np.testing.assert_array_equal(again.vectors, before.vectors)
    assert again.content_hashes.tolist() == before.content_hashes.tolist()


def test_a_touched_file_of_equal_content_is_not_encoded(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    os.utime(tiny_images / "dark" / "0.png")
    report = embed(empty_store, tiny_images)
    assert (report.n_encoded, report.n_copied, report.n_unchanged) == (0, 0, 6)
    assert embed(empty_store, tiny_images).n_unchanged == 6


def test_rehash_finds_other_bytes_under_the_same_size_and_time(empty_store, tmp_path, write_image):
    folder = tmp_path / "pictures"
    for name, grey in (("a.bmp", 10), ("b.bmp", 20)):
        write_image(folder / name, (grey, grey, grey))
    embed(empty_store, folder)
    status = (folder / "a.bmp").stat()
    write_image(folder / "a.bmp", (90, 90, 90))
    os.utime(folder / "a.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (folder / "a.bmp").stat().st_size == status.st_size
    assert embed(empty_store, folder).n_unchanged == 2
    report = embed(empty_store, folder, rehash=True)
    assert (report.n_encoded, report.n_unchanged) == (1, 1)
    found = empty_store.view("d", PIXELS).load()
    assert np.allclose(found.vectors[list(found.ids).index("a.bmp")], 90 / 255, atol=1e-6)
    assert embed(empty_store, folder).n_unchanged == 2


class Crowded:
    """An encoder beside something that takes the memory, for a while."""

    version = "1"
    most = 3

    def encode_images(self, images):
        if len(images) > self.most:
            raise MemoryError("out of memory")
        return np.ones((len(images), 2), np.float32)


def test_a_batch_size_that_memory_cut_short_is_not_remembered(empty_store, tiny_images):
    (report,) = empty_store.embed([tiny_images], dataset="d", encoders=[Crowded()])
    assert (report.n_encoded, report.batch_size) == (6, 3)
    assert user_cache.recall_all("batch_sizes") == {}


def test_equal_content_is_encoded_once_and_each_item_has_its_row(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    shutil.copy(tiny_images / "dark" / "0.png", tiny_images / "light" / "copy.png")
    report = embed(empty_store, tiny_images)
    assert (report.n_encoded, report.n_copied) == (0, 1)
    found = empty_store.view("d", PIXELS).load()
    by_id = dict(zip(found.ids, found.vectors.tolist(), strict=True))
    assert by_id["light/copy.png"] == by_id["dark/0.png"]


def test_content_that_comes_back_is_not_encoded_again(empty_store, tiny_images, write_image):
    first = (tiny_images / "dark" / "0.png").read_bytes()
    embed(empty_store, tiny_images)
    write_image(tiny_images / "dark" / "0.png", (99, 0, 0))
    embed(empty_store, tiny_images)
    (tiny_images / "dark" / "0.png").write_bytes(first)
    assert embed(empty_store, tiny_images).n_encoded == 0
    found = empty_store.view("d", PIXELS).load()
    assert len(found) == 6
    np.testing.assert_allclose(found.vectors[0], [10 / 255, 0, 0], atol=1e-6)


def test_bad_files_land_in_failures_and_are_tried_again_when_they_change(
    empty_store, tiny_images, write_image
):
    bad = tiny_images / "dark" / "bad.png"
    bad.write_bytes(b"garbage")
    shutil.copy(bad, tiny_images / "light" / "bad.png")
    report = embed(empty_store, tiny_images)
    assert (report.n_encoded, report.n_failed) == (6, 2)
    failures = empty_store.dataset("d").failures().to_pylist()
    assert sorted(row["item_id"] for row in failures) == ["dark/bad.png", "light/bad.png"]
    assert {row["stage"] for row in failures} == {"decode"}
    assert "not an image" in failures[0]["error"]
    assert empty_store.view("d", PIXELS).n_rows == 6

    again = embed(empty_store, tiny_images)
    assert (again.n_failed, again.n_known_failures) == (0, 2)
    assert embed(empty_store, tiny_images, retry_failed=True).n_failed == 2
    assert len(empty_store.dataset("d").failures()) == 2

    write_image(bad, (1, 1, 1))
    assert embed(empty_store, tiny_images).n_encoded == 1
    left = empty_store.dataset("d").failures().column("item_id").to_pylist()
    assert left == ["light/bad.png"]


def test_a_limit_on_failures_stops_early_and_keeps_what_was_done(empty_store, tiny_images):
    for number in range(3):
        (tiny_images / "dark" / f"bad{number}.png").write_bytes(b"%d" % number)
    with pytest.raises(TooManyFailures, match="more than --max-failures 1"):
        embed(empty_store, tiny_images, max_failures=1, batch_size=1)
    assert len(empty_store.dataset("d").failures()) == 2


def test_overwrite_embeds_everything_again(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    assert embed(empty_store, tiny_images, overwrite=True).n_encoded == 6
    assert len(empty_store.view("d", PIXELS).load()) == 6


def test_overwriting_one_source_keeps_the_others(empty_store, tmp_path, write_image):
    for number in range(4):
        write_image(tmp_path / "a" / "c" / f"a{number}.png", number)
        write_image(tmp_path / "b" / "c" / f"b{number}.png", number + 10)
    embed(empty_store, tmp_path / "a")
    embed(empty_store, tmp_path / "b")
    before = empty_store.view("d", PIXELS).load()
    (tmp_path / "a" / "c" / "a3.png").unlink()
    assert embed(empty_store, tmp_path / "a", overwrite=True).n_encoded == 3
    after = empty_store.view("d", PIXELS).load()
    assert after.ids.tolist() == before.ids.tolist()
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert len(empty_store.view("d", PIXELS).table.read(["item_id"])) == 8


def test_an_interrupted_overwrite_loses_nothing(empty_store, tiny_images):
    def stop(now):
        raise KeyboardInterrupt

    embed(empty_store, tiny_images)
    before = empty_store.view("d", PIXELS).load()
    how = EmbedOptions(overwrite=True, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        empty_store.embed(
            [tiny_images], dataset="d", encoders=[PIXELS], embed_options=how, progress=stop
        )
    np.testing.assert_array_equal(empty_store.view("d", PIXELS).load().vectors, before.vectors)


def test_overwriting_with_other_weights_replaces_the_view_when_it_is_whole(
    empty_store, tiny_images
):
    def stop(now):
        raise KeyboardInterrupt

    embed(empty_store, tiny_images)
    (path,) = (empty_store.path / "datasets/d/views").glob("*/encoder.json")
    value = read_json(path)
    other = {**value, "fingerprint": "0" * 64, "chosen": {"resize": "x"}}
    path.parent.rename(path.parents[1] / "other-00000000")  # as other weights had made it
    path = path.parents[1] / "other-00000000" / "encoder.json"
    write_json(path, other)
    how = EmbedOptions(overwrite=True, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        empty_store.embed(
            [tiny_images], dataset="d", encoders=[PIXELS], embed_options=how, progress=stop
        )
    assert empty_store.view("d", PIXELS).slug == "other-00000000"
    embed(empty_store, tiny_images, overwrite=True)
    (view,) = empty_store.dataset("d").views()
    assert (view.fingerprint, view.n_rows) == (value["fingerprint"], 6)


def test_items_that_left_their_source_are_named_and_dropped_when_asked(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    (tiny_images / "dark" / "0.png").rename(tiny_images / "light" / "9.png")
    said = []
    empty_store.embed([tiny_images], dataset="d", encoders=[PIXELS], say=said.append)
    assert said == [
        "1 items are gone from their source (first: dark/0.png): kept; --prune drops them"
    ]
    assert len(empty_store.view("d", PIXELS).load()) == 7
    embed(empty_store, tiny_images, prune=True)
    found = empty_store.view("d", PIXELS).load()
    assert found.ids.tolist() == sorted(
        str(path.relative_to(tiny_images)) for path in tiny_images.rglob("*.png")
    )


def test_content_that_changed_unseen_is_noticed_by_the_next_encoder(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    one, other = tiny_images / "dark" / "0.png", tiny_images / "dark" / "1.png"
    status = one.stat()
    content = other.read_bytes().ljust(status.st_size, b"\0")[: status.st_size]
    one.write_bytes(content)
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same time
    embed(empty_store, tiny_images, encoder="baseline:pixels#size=2")
    assert empty_store.view("d", "baseline:pixels#size=2").n_rows == 6
    assert embed(empty_store, tiny_images).n_unchanged == 5  # and the first one catches up
    assert empty_store.view("d", PIXELS).n_rows == 6


def test_a_thumbnail_of_changed_bytes_is_not_kept_under_the_old_content(
    empty_store, tiny_images, write_image
):
    embed(empty_store, tiny_images)
    path = tiny_images / "dark" / "0.png"
    first = path.read_bytes()
    write_image(path, (200, 200, 200))
    dataset = empty_store.dataset("d")
    changed = dataset.thumbnail("dark/0.png", size_px=16)
    path.write_bytes(first)
    assert dataset.thumbnail("dark/0.png", size_px=16) != changed


def test_an_interrupt_keeps_what_was_encoded(empty_store, tiny_images):
    def stop(now):
        if now.n_done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        empty_store.embed(
            [tiny_images],
            dataset="d",
            encoders=[PIXELS],
            embed_options=EmbedOptions(batch_size=2),
            progress=stop,
        )
    assert empty_store.view("d", PIXELS).n_rows == 4
    assert embed(empty_store, tiny_images).n_encoded == 2


CHILD = """
import sys, time
from featurestore import EmbedOptions, open_store
from featurestore.pipeline import writer
from featurestore.encoders.pixels import Pixels
writer.COMMIT_ROWS = 5
encode = Pixels.encode_images
def slow(self, prepared):
    time.sleep(0.02)
    return encode(self, prepared)
Pixels.encode_images = slow
store = open_store(sys.argv[1], create=True)
how = EmbedOptions(batch_size=1)
store.embed([sys.argv[2]], dataset="d", encoders=["baseline:pixels#size=4"], embed_options=how)
"""


def test_kill_at_any_moment_keeps_what_was_committed(tmp_path, write_image):
    n = 60
    for number in range(n):
        write_image(tmp_path / "set" / "c" / f"{number:02}.png", number)
    store_path = tmp_path / "store"
    rows = []
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store_path), str(tmp_path / "set")]
        )
        target = (rows[-1] if rows else 0) + 12
        while child.poll() is None and _n_rows(store_path) < target:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        rows.append(_n_rows(store_path))
    assert rows == sorted(rows)
    assert 12 <= rows[0] < n
    store = open_store(store_path)
    left = embed(store, tmp_path / "set", encoder="baseline:pixels#size=4").n_encoded
    assert left <= n - rows[-1]  # nothing committed is done again
    found = store.view("d", "baseline:pixels#size=4").load()
    clean = Store(tmp_path / "clean")
    embed(clean, tmp_path / "set", encoder="baseline:pixels#size=4")
    expected = clean.view("d", "baseline:pixels#size=4").load()
    assert found.ids.tolist() == expected.ids.tolist()
    np.testing.assert_array_equal(found.vectors, expected.vectors)


def _n_rows(path):
    try:
        return open_store(path).view("d", "baseline:pixels#size=4").n_rows
    except (NotAStore, UnknownDataset, UnknownView):
        return 0


def test_two_writers_make_no_wrong_and_no_double_row(tmp_path, write_image):
    for number in range(30):
        write_image(tmp_path / "set" / "c" / f"{number:02}.png", number)
    specs = ["baseline:pixels#size=4", "baseline:pixels#size=4", "baseline:pixels#size=2"]
    command = [sys.executable, "-m", "featurestore.cli", "embed", str(tmp_path / "set")]
    command += ["--dataset", "d", "--store", str(tmp_path / "s"), "-e"]
    children = [subprocess.Popen([*command, spec]) for spec in specs]
    assert [child.wait() for child in children] == [0, 0, 0]
    store = open_store(tmp_path / "s")
    for spec in set(specs):
        view = store.view("d", spec)
        assert len(view.load()) == 30
        assert len(view.table.read(["item_id"])) == 30  # the lock saved the double work
    assert len(pc.unique(store.dataset("d").items().column("item_id"))) == 30


def test_without_the_lock_readers_still_see_each_row_once(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    view = empty_store.view("d", PIXELS)
    view.table.append(view.table.read())  # what a second writer would have added
    assert view.n_rows == len(view.load()) == 6


def test_commits_come_by_rows_so_that_a_kill_costs_little(empty_store, tiny_images, monkeypatch):
    monkeypatch.setattr(writer, "COMMIT_ROWS", 2)
    embed(empty_store, tiny_images, batch_size=2)
    assert len(empty_store.view("d", PIXELS).table.shards()) == 3


class Offset:
    """Mean colour, and a number that stands for what the encoder was when it ran."""

    version = "1"

    def __init__(self, offset):
        self.offset = offset

    def encode_images(self, images):
        means = [[*np.asarray(one, float).mean(axis=(0, 1)), self.offset] for one in images]
        return np.array(means)


def test_items_that_another_run_commits_meanwhile_are_not_doubled(empty_store, tiny_images):
    class Meanwhile(Offset):
        n_calls = 0

        def encode_images(self, images):
            self.n_calls += 1
            if self.n_calls == 2:  # the probes: the plan is made, nothing is written
                embed(empty_store, tiny_images)
            return super().encode_images(images)

    empty_store.embed([tiny_images], dataset="d", encoders=[Meanwhile(0)])
    dataset = empty_store.dataset("d")
    assert len(dataset.items()) == len(set(dataset.items().column("item_id").to_pylist())) == 6
    assert [view.n_rows for view in dataset.views()] == [6, 6]


def test_only_what_stood_in_for_an_unread_folder_is_dropped_unasked(empty_store, tmp_path):
    (tmp_path / "t.csv").write_text("url,body\nhttp://x/a/,one\nhttp://x/b/,two\n")
    options = SourceOptions(text="body", id="url")
    embed(empty_store, tmp_path / "t.csv", encoder="baseline:hashing", options=options)
    (tmp_path / "t.csv").write_text("url,body\nhttp://x/a/,one\n")
    embed(empty_store, tmp_path / "t.csv", encoder="baseline:hashing", options=options)
    assert empty_store.dataset("d").n_items == 2


def test_one_encoder_that_cannot_take_a_picture_spares_the_others(empty_store, tiny_images):
    class Picky(Offset):
        def prepare_image(self, image):
            if image.getpixel((0, 0))[0] == 10:
                raise ValueError("too dark for me")
            return image

    reports = empty_store.embed([tiny_images], dataset="d", encoders=[PIXELS, Picky(0)])
    assert [(one.n_encoded, one.n_failed) for one in reports] == [(6, 0), (5, 1)]
    (row,) = empty_store.dataset("d").failures().to_pylist()
    assert (row["item_id"], row["stage"]) == ("dark/0.png", "encode")
    assert "too dark for me" in row["error"]
    assert embed(empty_store, tiny_images, encoder="baseline:pixels#size=2").n_encoded == 6
