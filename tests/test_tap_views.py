"""A tap: whole activations of items, kept as vectors are and read where they lie."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import heads
from featurestore.errors import (
    BadQuery,
    EncoderChanged,
    EncoderDrift,
    NoRoom,
    StoreCorrupt,
    UnknownItem,
    UnknownView,
)
from featurestore.exchange.exports import export
from featurestore.pipeline import writer
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage import shards, tap_shards
from featurestore.storage.columns import drop_equal
from featurestore.storage.tables import Table
from featurestore.storage.tap_shards import TAP, ShardFile, open_tap, tap_rows
from featurestore.store.default_view import default_view
from featurestore.upkeep.erase import delete, erase, select_ids
from featurestore.upkeep.repair import repair
from featurestore.upkeep.verify import verify
from featurestore.upkeep.versions import vacuum
from tests.tapping import Pictures, Texts, embed_texts, picture, take_encoders_as_they_are, words


@pytest.fixture
def encoder(monkeypatch):
    take_encoders_as_they_are(monkeypatch)
    return Pictures()


@pytest.fixture
def tapped(empty_store, tiny_images, write_image, encoder):
    """A data set of six pictures and a copy of one, with vectors and a tap."""
    for number, path in enumerate(sorted(tiny_images.rglob("*.png"))):
        write_image(path, number)
    shutil.copy(tiny_images / "dark" / "0.png", tiny_images / "light" / "twin.png")
    empty_store.embed([tiny_images], dataset="d", encoders=[encoder, "baseline:pixels"])
    return empty_store.dataset("d")


def tap_of(dataset):
    (tap,) = dataset.store.dataset(dataset.name).taps()
    return tap


def check(tap, folder):
    """The tap holds what its encoder gives for the files there are, and is sound."""
    acts = tap.activations()
    rows = np.arange(len(acts))
    expected = np.stack([picture(folder / one) for one in acts.ids])
    for variant in (0, 1):
        np.testing.assert_array_equal(acts.batch(rows, variant), expected[:, variant])
    assert tap.items().column("item_id").to_pylist() == acts.ids.tolist()
    assert tap.n_rows == len(acts)
    assert verify(tap.dataset.folder, canary=False) == []
    return acts


def test_pictures_come_back_as_the_encoder_gave_them(tapped, tiny_images, encoder):
    tap = tap_of(tapped)
    acts = check(tap, tiny_images)
    assert (len(acts), acts.shape, acts.variants) == (7, (3, 4, 4), ("plain", "flip"))
    assert encoder.n_encoded == 6 + 2, "six contents and two probes"
    some = tap.activations(["light/2.png", "dark/1.png"])
    assert some.ids.tolist() == ["light/2.png", "dark/1.png"]
    np.testing.assert_array_equal(some.batch(np.array([1])), acts.batch(np.array([1])))
    with pytest.raises(UnknownItem, match=r"no activations of 1 of 2 items \(first: nobody\)"):
        tap.activations(["dark/1.png", "nobody"])
    with pytest.raises(UnknownView, match="holds vectors, no activations"):
        tapped.view("baseline:pixels").activations()


def test_texts_come_back_each_of_its_length(empty_store, tmp_path, monkeypatch):
    take_encoders_as_they_are(monkeypatch)
    embed_texts(empty_store, tmp_path / "t.csv")
    dataset = empty_store.dataset("t")
    acts = tap_of(dataset).activations()
    texts = {one["item_id"]: one["text"] for one in dataset.items().to_pylist()}
    expected = [words(texts[one]) for one in acts.ids]
    flat, lengths = acts.ragged(np.arange(len(acts))[::-1])
    np.testing.assert_array_equal(flat, np.concatenate(expected[::-1]))
    assert lengths.tolist() == [len(one) for one in expected[::-1]]
    assert verify(dataset.folder, canary=False) == []


def embed_again(dataset, encoder, *sources, **how):
    (report,) = dataset.store.embed(
        sources, dataset=dataset.name, encoders=[encoder], embed_options=EmbedOptions(**how)
    )
    return report


# -- what a tap is not for ----------------------------------------------------------------


def test_commands_for_vectors_leave_a_tap_alone(tapped):
    assert [str(view.spec) for view in tapped.views()] == ["baseline:pixels"]
    view, _ = default_view(tapped)
    assert str(view.spec) == "baseline:pixels"
    assert tapped.view().spec == view.spec
    assert tapped.listed_views() == ["@1 baseline:pixels"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda tap, _: tap.load(),
        lambda tap, _: tap.to_arrow(),
        lambda tap, _: next(tap.batches()),
        lambda tap, _: tap.search(np.zeros((1, 96), np.float32)),
        lambda tap, _: tap.neighbors("dark/0.png"),
        lambda tap, _: tap.build_index(),
        lambda tap, _: tap.encode([b"x"]),
        lambda tap, _: heads.fit(tap, "prototype"),
        lambda tap, path: export(tap, path / "x.parquet"),
        lambda tap, _: tap.dataset.store.sql(f'select * from "{tap.name}"'),
    ],
)
def test_what_needs_vectors_says_what_a_tap_is_for(ask, tapped, tmp_path):
    with pytest.raises(BadQuery) as raised:
        ask(tap_of(tapped), tmp_path)
    said = str(raised.value)
    assert "is a tap" in said
    assert "--head finetune" in said
    assert "featurestore embed --dataset d -e python:tests:Pictures`" in said


def test_ls_and_info_name_taps(tapped, fs):
    _, out, _ = fs("ls", "--json", "--store", tapped.store.path)
    assert json.loads(out)[0]["taps"] == ["python:tests:Pictures"]
    _, out, _ = fs("info", "d", "--json", "--store", tapped.store.path)
    (tap,) = json.loads(out)["taps"]
    assert (tap["cut"], tap["shape"], tap["variants"]) == (2, [3, 4, 4], ["plain", "flip"])
    assert tap["rows"] == 7
    _, out, _ = fs("info", "d", "--store", tapped.store.path)
    assert "tap python:tests:Pictures" in out
    assert "3x4x4" in out


# -- which items --------------------------------------------------------------------------


def test_labelled_items_are_kept_and_those_that_get_a_label_later(
    empty_store, tmp_path, monkeypatch
):
    take_encoders_as_they_are(monkeypatch)
    said = []
    embed_texts(empty_store, tmp_path / "t.csv", say=said.append)
    dataset = empty_store.dataset("t")
    assert embed_again(dataset, "baseline:hashing").n_encoded == 12
    labelled = [f"t{n:02d}" for n in range(12) if n % 3]
    assert tap_of(dataset).activations().ids.tolist() == labelled
    (line,) = [one for one in said if "is a tap" in one]
    each = 80 + 6 * np.mean([n % 5 + 2 for n in range(12) if n % 3])
    assert f"{8 * round(each) / 1000:.1f} KB for 8 items, those with a label; all 12" in line

    dataset.attach(pa.table({"item_id": ["t03"], "topic": ["odd"]}))
    report = embed_again(dataset, Texts())
    assert (report.n_encoded, report.n_unchanged, report.n_updated) == (1, 8, 0)
    assert sorted([*labelled, "t03"]) == tap_of(dataset).activations().ids.tolist()
    report = embed_again(dataset, Texts(), all_items=True)
    assert (report.n_encoded, report.n_unchanged) == (3, 9)
    assert len(tap_of(dataset).activations()) == 12


def test_a_head_asks_for_the_items_that_it_needs(fs, empty_store, tiny_images):
    fs("embed", tiny_images, "--dataset", "d", "-e", "tiny-image", "--store", empty_store.path)
    dataset = empty_store.dataset("d")
    wanted = ["dark/0.png", "light/1.png"]
    said = []
    tap = dataset.embed_tap("builtin:tiny-image#tap=auto", wanted, say=said.append)
    cut = tap.tap.cut
    assert str(tap.spec) == f"builtin:tiny-image#tap={cut}"
    assert tap.activations().ids.tolist() == wanted
    assert any("is a tap: " in one for one in said)
    version = tap.table.version()
    again = dataset.embed_tap("builtin:tiny-image#tap=auto", wanted[:1])
    assert again.table.version() == version, "nothing was to do"
    more = dataset.embed_tap(tap.spec, ["light/2.png", *wanted])
    assert more.activations().ids.tolist() == [*wanted, "light/2.png"]
    everything = dataset.embed_tap("tiny-image#tap=auto")
    assert len(everything.activations()) == 6
    assert dataset.n_items == 6
    code, _, err = fs("search", f"d@tiny-image#tap={cut}", "--item", wanted[0],
                      "--store", empty_store.path)  # fmt: skip
    assert code == 1
    assert "is a tap" in err


# -- room ---------------------------------------------------------------------------------


def test_a_tap_larger_than_the_free_disk_is_refused(empty_store, tiny_images, encoder, monkeypatch):
    usage = shutil.disk_usage(tiny_images)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoRoom, match=r"takes 1\.6 KB, and 1\.0 KB are free") as raised:
        empty_store.embed([tiny_images], dataset="d", encoders=[encoder])
    assert "--where" in str(raised.value)
    assert empty_store.dataset("d").taps() == []
    monkeypatch.undo()
    take_encoders_as_they_are(monkeypatch)
    assert embed_again(empty_store.dataset("d"), encoder).n_encoded == 6


def test_a_full_disk_keeps_what_was_committed(
    empty_store, tiny_images, write_image, encoder, monkeypatch
):
    for number, path in enumerate(sorted(tiny_images.rglob("*.png"))):
        write_image(path, number)
    append, n_writes = Table.append, []

    def fill(self, rows):
        if "activations" in rows.column_names:
            n_writes.append(len(rows))
            if len(n_writes) == 3:
                raise OSError(28, "No space left on device", str(self.path))
        return append(self, rows)

    monkeypatch.setattr(Table, "append", fill)
    monkeypatch.setattr(writer, "COMMIT_BYTES", 300)  # an item has 192
    with pytest.raises(OSError, match="No space left"):
        empty_store.embed(
            [tiny_images], dataset="d", encoders=[encoder],
            embed_options=EmbedOptions(batch_size=1),
        )  # fmt: skip
    dataset = empty_store.dataset("d")
    assert n_writes == [2, 2, 2]
    assert len(check(tap_of(dataset), tiny_images)) == 4
    monkeypatch.setattr(Table, "append", append)
    assert embed_again(dataset, encoder).n_encoded == 2
    assert len(check(tap_of(dataset), tiny_images)) == 6


def test_an_interrupt_keeps_what_was_encoded(tapped, tiny_images, write_image, encoder):
    for number in range(4):
        write_image(tiny_images / "dark" / f"new{number}.png", 50 + number)
    encode, n_new = encoder.encode_images, []

    def stop(prepared):
        n_new.append(len(prepared))
        if len(n_new) > 4:  # of which the first was of probes
            raise KeyboardInterrupt
        return encode(prepared)

    encoder.encode_images = stop
    with pytest.raises(KeyboardInterrupt):
        embed_again(tapped, encoder, tiny_images, batch_size=1)
    assert len(check(tap_of(tapped), tiny_images)) == 7 + 3
    encoder.encode_images = encode
    assert embed_again(tapped, encoder, tiny_images).n_encoded == 1


def test_copies_are_written_in_parts_of_the_limit(tapped, tiny_images, encoder, monkeypatch):
    for number in range(5):
        shutil.copy(tiny_images / "dark" / "1.png", tiny_images / "dark" / f"copy{number}.png")
    monkeypatch.setattr(writer, "COMMIT_BYTES", 400)
    sizes = []
    append = Table.append

    def note(self, rows):
        if "activations" in rows.column_names:
            sizes.append(len(rows))
        return append(self, rows)

    monkeypatch.setattr(Table, "append", note)
    report = embed_again(tapped, encoder, tiny_images)
    assert (report.n_copied, report.n_encoded) == (5, 0)
    assert sizes == [4, 1], "of 192 bytes each, at most twice the limit"
    assert len(check(tap_of(tapped), tiny_images)) == 12


# -- as any view --------------------------------------------------------------------------


def test_changed_files_snapshots_and_overwriting(tapped, tiny_images, write_image, encoder):
    tap = tap_of(tapped)
    before, old = tap.snapshot, tap.activations().batch(np.arange(7))
    write_image(tiny_images / "dark" / "1.png", 99)
    report = embed_again(tapped, encoder)
    assert (report.n_encoded, report.n_unchanged) == (1, 6)
    check(tap_of(tapped), tiny_images)
    then = tap_of(tapped).as_of(before).activations()
    np.testing.assert_array_equal(then.batch(np.arange(7)), old)
    assert embed_again(tapped, encoder, overwrite=True).n_encoded == 6
    check(tap_of(tapped), tiny_images)
    assert sum(shard.n_rows for shard in tap_of(tapped).table.shards()) == 7


def test_other_weights_are_refused_unless_they_take_the_place(tapped, tiny_images, encoder):
    with pytest.raises(EncoderChanged, match="changed: version"):
        embed_again(tapped, Pictures("2"))
    encode = encoder.encode_images
    encoder.encode_images = lambda prepared: encode(prepared)[:, :, ::-1]
    (tiny_images / "dark" / "more.png").write_bytes((tiny_images / "dark/1.png").read_bytes())
    with pytest.raises(EncoderDrift):
        embed_again(tapped, encoder, tiny_images)
    report = embed_again(tapped, Pictures("2"), overwrite=True)
    assert report.n_encoded == 6
    assert len(check(tap_of(tapped), tiny_images)) == 8


def test_deleted_items_are_gone_and_erased_ones_leave_no_trace(tapped, tiny_images):
    folder = tapped.folder
    before = tap_of(tapped).snapshot
    delete(folder, select_ids(folder, ["dark/1.png"]))
    (tiny_images / "dark" / "1.png").unlink()
    assert len(check(tap_of(tapped), tiny_images)) == 6
    assert len(tap_of(tapped).as_of(before).activations()) == 7
    gone = picture(tiny_images / "dark" / "2.png").tobytes()

    def traces():
        return [path for path in folder.path.rglob("*") if path.is_file()
                and gone in path.read_bytes()]  # fmt: skip

    assert traces()
    erase(folder, select_ids(folder, ["dark/2.png"]))
    (tiny_images / "dark" / "2.png").unlink()
    assert traces() == []
    assert len(check(tap_of(tapped), tiny_images)) == 5


def add_two(dataset, folder, write_image, encoder):
    for number in range(2):
        write_image(folder / "dark" / f"new{number}.png", 77 + number)
    assert embed_again(dataset, encoder, folder).n_encoded == 2
    assert len(tap_of(dataset).table.shards()) == 2


def test_dropping_rows_of_large_shards_holds_a_part_at_a_time(
    tapped, tiny_images, write_image, encoder, monkeypatch
):
    add_two(tapped, tiny_images, write_image, encoder)
    monkeypatch.setattr("featurestore.storage.tables.COMPACT_BYTES", 300)
    write, n_rows = Table._write_all, []

    def note(self, rows):
        n_rows.append(len(rows))
        return write(self, rows)

    monkeypatch.setattr(Table, "_write_all", note)
    for name in ("dark/1.png", "dark/new0.png"):
        (tiny_images / name).unlink()
    tap_of(tapped).table.merge(
        None,
        drop=drop_equal({"item_id": pa.array(["dark/1.png", "dark/new0.png"])}, ["item_id"]),
        keys=["item_id"],
    )
    assert sorted(n_rows) == [1, 6], "not all at once"
    delete(tapped.folder, select_ids(tapped.folder, ["dark/1.png", "dark/new0.png"]))
    assert len(check(tap_of(tapped), tiny_images)) == 7


def test_compaction_and_vacuum_keep_the_rows_and_let_readers_be(
    tapped, tiny_images, write_image, encoder
):
    add_two(tapped, tiny_images, write_image, encoder)
    tap = tap_of(tapped)
    acts = tap.activations()
    expected = acts.batch(np.arange(9))
    assert tap.table.compact() == 1
    vacuum(tapped.folder, older_than_s=-1)
    np.testing.assert_array_equal(acts.batch(np.arange(9)), expected)  # its files are open
    np.testing.assert_array_equal(check(tap_of(tapped), tiny_images).batch(np.arange(9)), expected)
    late = tap_of(tapped).activations()
    late.blocks[0].path.unlink()
    with pytest.raises(StoreCorrupt, match="cannot read"):
        late.batch(np.array([0]))


def test_damage_is_named_and_a_lost_log_is_mended(tapped, tiny_images):
    tap = tap_of(tapped)
    ids, hashes = pa.array(["x", "y"]), pa.array(["h", "h2"])
    whole, bad = np.ones(96, np.float16), np.full(96, np.nan, np.float16)
    tap.table.append(tap_rows(ids, hashes, [whole, bad]))
    tap.table.append(tap_rows(ids, hashes, [whole, whole[:50]]))
    found = [one.what for one in verify(tapped.folder, canary=False)]
    assert sorted(found) == [
        "1 items have 100 bytes or so, expected 192",
        "the activations of 1 items hold NaN or infinity",
    ]
    with pytest.raises(StoreCorrupt, match="another size than its view says"):
        tap_of(tapped).activations()
    shutil.rmtree(tap.table.path / "_commits")
    for version in (tap.table.version() - 1, tap.table.version()):
        (tap.table.path / "_delta_log" / f"{version:020d}.json").unlink()
    repaired = [one.what for one in repair(tapped.folder, unnamed=True)]
    assert "not taken in: 1 items have 100 bytes or so, expected 192" in repaired
    assert any("hold NaN" in one for one in repaired)


def test_a_view_that_another_program_packed_is_read_from_a_copy(tapped, tiny_images, caplog):
    tap = tap_of(tapped)
    expected = tap.activations().batch(np.arange(7), 1)
    rows = pa.concat_tables([pq.read_table(one.path) for one in tap.table.shards()])
    packed = tap.table.path / "packed.parquet"
    pq.write_table(rows, packed, compression="zstd", row_group_size=3)
    tap.table.clear()
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

    table = DeltaTable(str(tap.table.path))
    stats = json.dumps({"numRecords": len(rows)})
    add = AddAction(packed.name, packed.stat().st_size, {}, 0, True, stats)
    table.create_write_transaction([add], "append", table.schema())
    for _ in range(2):
        acts = tap_of(tapped).activations()
        np.testing.assert_array_equal(acts.batch(np.arange(7), 1), expected)
    (copy,) = (tapped.folder.local / "cache" / "taps").glob("*/packed/rows.parquet")
    content = copy.read_bytes()
    copy.write_bytes(content[:-9] + b"damagedxx")
    np.testing.assert_array_equal(tap_of(tapped).activations().batch(np.arange(7), 1), expected)
    assert "made anew" in caplog.text
    assert copy.read_bytes() == content
    tap_of(tapped).table.compact()
    delete(tapped.folder, select_ids(tapped.folder, ["dark/0.png"]))
    assert len(tap_of(tapped).activations()) == 6
    assert copy.exists(), "readers of earlier snapshots may not have opened it yet"
    np.testing.assert_array_equal(acts.batch(np.arange(7), 1), expected)
    packed.unlink()
    assert len(tap_of(tapped).activations()) == 6
    assert not copy.exists(), "of a shard that is gone"


def test_copies_of_another_snapshot_stay(tmp_path):
    for name in "ab":
        rows = tap_rows(pa.array([name]), pa.array([name]), [np.full(8, ord(name), np.float16)])
        pq.write_table(rows, tmp_path / f"{name}.parquet", compression="zstd")
    files, _ = open_tap([tmp_path / "a.parquet", tmp_path / "b.parquet"], 16, tmp_path / "copies")
    open_tap([tmp_path / "a.parquet"], 16, tmp_path / "copies")
    read = np.zeros(16, np.uint8)
    files[1].read_into(read, 4)  # opened only now
    assert read.any(), "its copy lies there, though another snapshot needs it no more"


# -- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_ragged", [False, True])
def test_many_rows_in_many_pages_and_groups(tmp_path, is_ragged, monkeypatch):
    monkeypatch.setattr(shards, "_GROUP_BYTES", 3000)
    monkeypatch.setattr(shards, "_PAGE_BYTES", 500)
    monkeypatch.setattr(tap_shards, "_CHUNK_BYTES", 4000)
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(rng.integers(0, 9) if is_ragged else 5, 7)).astype(np.float16)
        for _ in range(300)
    ]
    names = pa.array([f"i{n}" for n in range(300)])
    rows = tap_rows(names, names, arrays)
    assert rows.column("activations").num_chunks > 1
    table = Table.create(tmp_path / "v", TAP)
    table.append(rows)
    (shard,) = table.shards()
    assert pq.ParquetFile(shard.path).metadata.num_row_groups > 5
    assert table.read().column("activations").to_pylist() == [one.tobytes() for one in arrays]
    files, places = open_tap([shard.path], None if is_ragged else 70, tmp_path / "copies")
    assert not (tmp_path / "copies").exists(), "read where they lie"
    for one, (number, at, size) in zip(arrays, places.tolist(), strict=True):
        out = np.empty(size, np.uint8)
        files[number].read_into(out, at)
        assert out.tobytes() == one.tobytes()


def test_few_files_are_open_at_once_and_none_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(tap_shards, "_N_OPEN", 3)
    tap_shards._open_files.clear()
    files = []
    for number in range(6):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes([number] * 4))
        files.append(ShardFile(path))
    for number in (*range(6), *range(6)):
        out = np.empty(4, np.uint8)
        files[number].read_into(out, 0)
        assert out.tolist() == [number] * 4
        assert sum(one._file is not None for one in files) <= 3
    with pytest.raises(StoreCorrupt, match="cut short"):
        files[0].read_into(np.empty(5, np.uint8), 0)


def test_without_labels_all_items_are_kept(empty_store, tmp_path, monkeypatch):
    take_encoders_as_they_are(monkeypatch)
    path = tmp_path / "t.csv"
    path.write_text("id,words\na,one word\nb,two words more\n")
    options = SourceOptions(text="words", id="id")
    empty_store.embed([path], dataset="t", encoders=[Texts()], source_options=options)
    assert tap_of(empty_store.dataset("t")).activations().lengths.tolist() == [2, 3]
