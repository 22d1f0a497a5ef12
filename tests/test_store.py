"""The store as its users hold it: sources, encoders, views, and what is refused."""

import os
import shutil
import sys

import numpy as np
import pytest

from featurestore.encoders import families, loading
from featurestore.encoders.loading import load_encoder
from featurestore.errors import (
    BadName,
    BadSource,
    DuplicateIds,
    EncoderChanged,
    EncoderDrift,
    EncoderMismatch,
    MissingExtra,
    ModalityMismatch,
    NotAStore,
    StoreCorrupt,
    UnknownDataset,
    UnknownItem,
    UnknownView,
)
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage import store_marker, user_cache
from featurestore.storage.files import read_json, write_json
from featurestore.store.store import open_store
from featurestore.terms.specs import EncoderSpec

PIXELS = "baseline:pixels#size=1"  # one colour in, that colour out


def embed(store, source, dataset="d", encoder=PIXELS, options=None, **how):
    sources = [source] if source is not None else []
    (report,) = store.embed(
        sources,
        dataset=dataset,
        encoders=[encoder],
        source_options=options,
        embed_options=EmbedOptions(**how),
    )
    return report


TABLE = "id,body,topic,n\n1,alpha beta,x,3\n2,gamma delta,y,4\n3,alpha beta,x,5\n"
TEXTS = SourceOptions(text="body", label=("topic",), id="id")


def test_texts_with_labels_and_free_columns(empty_store, tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    report = embed(
        empty_store, tmp_path / "t.csv", encoder="baseline:hashing#size=64", options=TEXTS
    )
    assert (report.n_encoded, report.n_copied, report.n_items) == (2, 1, 3)
    found = empty_store.view("d", "baseline:hashing#size=64").load()
    assert found.ids.tolist() == ["1", "2", "3"]
    assert found.labels.tolist() == ["x", "y", "x"]
    assert found.column("n").tolist() == [3, 4, 5]
    np.testing.assert_array_equal(found.vectors[0], found.vectors[2])


def test_changed_labels_are_updated_without_embedding(empty_store, tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    embed(empty_store, tmp_path / "t.csv", encoder="baseline:hashing", options=TEXTS)
    (tmp_path / "t.csv").write_text(TABLE.replace("2,gamma delta,y", "2,gamma delta,z"))
    report = embed(empty_store, tmp_path / "t.csv", encoder="baseline:hashing", options=TEXTS)
    assert (report.n_encoded, report.n_updated, report.n_unchanged) == (0, 1, 3)
    assert empty_store.view("d", "baseline:hashing").load().labels.tolist() == ["x", "z", "x"]


def test_a_later_run_remembers_how_a_source_was_read(empty_store, tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    embed(empty_store, tmp_path / "t.csv", encoder="baseline:hashing#size=64", options=TEXTS)
    report = embed(empty_store, None, encoder="baseline:hashing#size=32")
    assert report.n_encoded + report.n_copied == 3
    assert empty_store.view("d", "baseline:hashing#size=32").load().labels.tolist() == [
        "x",
        "y",
        "x",
    ]


def test_several_sources_make_one_data_set(empty_store, tmp_path):
    (tmp_path / "train.csv").write_text("t,label\na a,x\nb b,y\n")
    (tmp_path / "test.csv").write_text("t,label\nc c,x\n")
    empty_store.embed(
        [tmp_path / "train.csv", tmp_path / "test.csv"], dataset="d", encoders=["baseline:hashing"],
        source_options=SourceOptions(text="t", label=("label",)),
    )  # fmt: skip
    view = empty_store.view("d", "baseline:hashing")
    assert view.load(split="train").ids.tolist() == ["train.csv:0", "train.csv:1"]
    assert view.load(split="test").labels.tolist() == ["x"]


def test_ids_that_two_sources_share_are_refused_and_nothing_changes(
    empty_store, tmp_path, write_image
):
    for folder in ("a", "b"):
        write_image(tmp_path / folder / "c" / "1.png", 1)
    embed(empty_store, tmp_path / "a")
    before = empty_store.view("d", PIXELS).snapshot
    with pytest.raises(DuplicateIds, match="embed the folder above them as one source"):
        embed(empty_store, tmp_path / "b")
    assert empty_store.view("d", PIXELS).snapshot == before
    assert list(empty_store.dataset("d").description.sources) == ["a"]


def test_a_source_that_moved_is_the_same_source(empty_store, tiny_images, tmp_path):
    embed(empty_store, tiny_images)
    moved = tmp_path / "elsewhere" / "tiny"
    moved.parent.mkdir()
    tiny_images.rename(moved)
    assert embed(empty_store, moved).n_encoded == 0
    assert (
        empty_store.dataset("d").read_bytes("dark/0.png") == (moved / "dark" / "0.png").read_bytes()
    )


def test_a_table_that_moved_is_the_same_source(empty_store, tmp_path):
    """Its folder may stay where it is: the table itself has gone from there."""
    old, new = tmp_path / "t.csv", tmp_path / "elsewhere" / "t.csv"
    old.write_text("id,text\na,one\nb,two\n")
    options = SourceOptions(text="text", id="id")
    assert embed(empty_store, old, encoder="baseline:hashing", options=options).n_encoded == 2
    new.parent.mkdir()
    old.rename(new)
    assert embed(empty_store, new, encoder="baseline:hashing", options=options).n_unchanged == 2
    old.write_text("id,text\na,one\n")  # a copy is another source: its ids are taken
    with pytest.raises(DuplicateIds, match="1 ids come from two sources"):
        embed(empty_store, old, encoder="baseline:hashing", options=options)


def test_nothing_is_written_when_the_encoder_does_not_fit(tmp_path, tiny_images):
    store = open_store(tmp_path / "s", create=True)
    with pytest.raises(ModalityMismatch, match="reads texts, but data set 'd' holds images"):
        embed(store, tiny_images, encoder="baseline:hashing")
    assert not store.path.exists()


def test_other_weights_under_the_same_name_are_refused(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    path = next((empty_store.path / "datasets/d/views").glob("*/encoder.json"))
    value = read_json(path)
    write_json(
        path, {**value, "fingerprint": "0" * 64, "chosen": {**value["chosen"], "resize": "x"}}
    )
    with pytest.raises(EncoderChanged, match=r"\(changed: resize\).*--overwrite"):
        embed(empty_store, tiny_images)


def remake(folder, seed):
    """Give a tiny_clip folder other weights."""
    import open_clip
    import torch

    network, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")


def test_real_weights_that_change_under_their_name(empty_store, tiny_images, tiny_clip, tmp_path):
    folder = tmp_path / "net"
    shutil.copytree(tiny_clip, folder)
    spec = f"open_clip:local-dir:{folder}"
    embed(empty_store, tiny_images, encoder=spec)
    before = empty_store.view("d", spec)
    weights = folder / "open_clip_pytorch_model.bin"
    status = weights.stat()
    remake(folder, 1)
    with pytest.raises(EncoderChanged, match=r"\(changed: weights\)"):
        embed(empty_store, tiny_images, encoder=spec)
    with pytest.raises(EncoderMismatch, match="another encoder now"):
        empty_store.view("d", spec).search_text("dark")
    np.testing.assert_array_equal(empty_store.view("d", spec).load().vectors, before.load().vectors)

    remake(folder, 2)  # unseen: of equal size, and at the time that the cache remembers
    assert weights.stat().st_size == status.st_size
    remake_time = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(weights, ns=remake_time)
    user_cache.remember("encoders", spec, _entry_of(before, spec))
    embed(empty_store, tiny_images, dataset="other", encoder=spec)
    view = empty_store.view("other", spec)
    assert view.fingerprint != before.fingerprint
    assert view.search_text("dark", k=2).ids.shape == (1, 2)  # it knows its own encoder


def _entry_of(view, spec):
    """Return what the cache held when the view was made."""
    parsed = EncoderSpec.parse(spec)
    return {
        "files": loading._files(parsed),
        "versions": families.versions(parsed),
        "dim": view.dim,
        "modalities": sorted(view.modalities),
        "chosen": view.info["chosen"],
    }


def test_text_finds_pictures_through_both_towers(empty_store, tiny_images, tiny_clip):
    spec = f"open_clip:local-dir:{tiny_clip}"
    embed(empty_store, tiny_images, encoder=spec)
    view = empty_store.view("d", spec)
    found = view.load()
    query = load_encoder(EncoderSpec.parse(spec)).encode_texts(["a dark red square"])
    unit = found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True)
    cosines = (unit @ (query / np.linalg.norm(query)).T)[:, 0]
    near = view.search_text("a dark red square", k=3)
    assert near.ids[0].tolist() == found.ids[np.argsort(-cosines)[:3]].tolist()
    np.testing.assert_allclose(near.scores[0], np.sort(cosines)[::-1][:3], atol=1e-5)


def test_weights_that_moved_are_the_same_encoder(empty_store, tiny_images, tiny_clip, tmp_path):
    for place in ("one", "two"):
        shutil.copytree(tiny_clip, tmp_path / place / "net")
    first, second = (f"open_clip:local-dir:{tmp_path / place / 'net'}" for place in ("one", "two"))
    embed(empty_store, tiny_images, encoder=first)
    assert embed(empty_store, tiny_images, encoder=second).n_encoded == 0
    (view,) = empty_store.dataset("d").views()
    assert str(view.spec) == second


def test_without_faiss_search_says_what_to_install(empty_store, tiny_images, monkeypatch):
    embed(empty_store, tiny_images)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'featurestore\[cpu\]'"):
        empty_store.view("d", PIXELS).neighbors("dark/0.png")


def test_a_drifted_encoder_is_stopped_by_the_canary(empty_store, tiny_images, write_image):
    embed(empty_store, tiny_images)
    path = next((empty_store.path / "datasets/d/views").glob("*/encoder.json"))
    value = read_json(path)
    value["canary"]["image"] = [[1.0, -1.0, 0.5], [0.0, 1.0, -1.0]]
    write_json(path, value)
    before = empty_store.view("d", PIXELS).snapshot
    write_image(tiny_images / "new" / "0.png", (7, 7, 7))
    with pytest.raises(EncoderDrift, match="gives other vectors"):
        embed(empty_store, tiny_images)
    assert empty_store.view("d", PIXELS).snapshot == before
    with pytest.raises(EncoderDrift):
        empty_store.view("d", PIXELS).search_image(tiny_images / "dark" / "0.png")
    assert embed(empty_store, tiny_images, overwrite=True).n_encoded == 7
    assert empty_store.view("d", PIXELS).n_rows == 7


def test_paths_are_one_however_they_are_written(empty_store, tmp_path, write_image, monkeypatch):
    write_image(tmp_path / "set" / "train" / "c" / "1.png", 1)
    write_image(tmp_path / "set" / "test" / "c" / "2.png", 2)
    embed(empty_store, tmp_path / "set" / "train")
    monkeypatch.chdir(tmp_path / "set" / "test")
    embed(empty_store, "../../set")
    embed(empty_store, None)
    record = empty_store.dataset("d").description.sources["set"]
    assert record.locations == (str(tmp_path / "set"),)
    assert empty_store.view("d", PIXELS).load().splits.tolist() == ["test", "train"]


def test_another_content_column_is_another_data_set(empty_store, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\nx y,z w\n")
    embed(
        empty_store, tmp_path / "t.csv", encoder="baseline:hashing", options=SourceOptions(text="a")
    )
    for options in (SourceOptions(text="b"), SourceOptions(image="a"), SourceOptions(id="a")):
        with pytest.raises(BadSource, match="its items would be others"):
            embed(empty_store, tmp_path / "t.csv", encoder="baseline:hashing", options=options)


def test_a_device_that_is_not_there_leaves_no_store(tmp_path, tiny_images):
    store = open_store(tmp_path / "s", create=True)
    with pytest.raises(BadName, match="no device 'gpu': expected auto, cpu"):
        embed(store, tiny_images, device="gpu")
    assert not store.path.exists()


def test_a_damaged_description_says_which_file(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    (encoder,) = (empty_store.path / "datasets/d/views").glob("*/encoder.json")
    for path in (encoder, empty_store.path / "datasets/d/dataset.json"):
        content = path.read_bytes()
        for damaged in (b"{}", b"{", b"[]"):
            path.write_bytes(damaged)
            with pytest.raises(StoreCorrupt, match=path.name):
                open_store(empty_store.path).view("d", PIXELS).load()
        path.write_bytes(content)
    assert empty_store.view("d", PIXELS).n_rows == 6


def test_a_view_without_vectors_has_no_neighbours(empty_store, tmp_path):
    (tmp_path / "set" / "c").mkdir(parents=True)
    (tmp_path / "set" / "c" / "1.png").write_bytes(b"garbage")
    embed(empty_store, tmp_path / "set")
    view = empty_store.view("d", PIXELS)
    assert view.search(np.ones((1, 3), np.float32), k=3).ids.shape == (1, 0)


def test_a_store_may_lie_at_an_odd_path(tmp_path, tiny_images):
    with pytest.raises(BadName, match="use another folder name"):
        open_store(tmp_path / "my%20store", create=True)
    store = open_store(tmp_path / "my 50% störe#1", create=True)
    embed(store, tiny_images)
    assert open_store(store.path).view("d", PIXELS).n_rows == 6
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("my")] == [
        "my 50% störe#1"
    ]


def test_two_views_of_one_data_set_do_not_disturb_each_other(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    embed(empty_store, tiny_images, encoder="baseline:pixels#size=2")
    dims = {str(view.spec): view.load().dim for view in empty_store.dataset("d").views()}
    assert dims == {PIXELS: 3, "baseline:pixels#size=2": 12}


def test_neighbours_are_the_true_ones(empty_store, tmp_path, write_image):
    for number in range(40):
        write_image(tmp_path / "set" / "c" / f"{number:02}.png", number)
    embed(empty_store, tmp_path / "set", encoder="baseline:pixels#size=4")
    view = empty_store.view("d", "baseline:pixels#size=4")
    found = view.load()
    unit = found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True)
    cosines = unit[7] @ unit.T
    order = [row for row in np.argsort(-cosines) if row != 7][:5]
    near = view.neighbors(found.ids[7], k=5)
    assert near.ids[0].tolist() == found.ids[order].tolist()
    np.testing.assert_allclose(near.scores[0], cosines[order], atol=1e-5)
    by_image = view.search_image(tmp_path / "set" / "c" / "07.png", k=1)
    assert by_image.ids[0].tolist() == ["c/07.png"]
    assert view.search(found.vectors[:1], k=1000).ids.shape == (1, 40)


def test_asking_for_what_is_not_there_names_what_is(empty_store, tiny_images, tmp_path):
    embed(empty_store, tiny_images, dataset="steel")
    with pytest.raises(UnknownDataset, match="did you mean 'steel'"):
        empty_store.dataset("steal")
    with pytest.raises(UnknownView, match=r"known: baseline:pixels#size=1; embed it with"):
        empty_store.view("steel", "timm:resnet18")
    with pytest.raises(UnknownItem, match=r"did you mean 'dark/1\.png'"):
        empty_store.view("steel", PIXELS).neighbors("dark/1.pn")
    with pytest.raises(ModalityMismatch, match="cannot read texts"):
        empty_store.view("steel", PIXELS).search_text("dark")


def test_a_url_of_another_kind_is_no_store_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for create in (True, False):
        with pytest.raises(NotAStore, match=r"gs://bucket/x: a store lies in .* or at s3://"):
            open_store("gs://bucket/x", create=create)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    newer = tmp_path / "newer"
    newer.mkdir()
    write_json(newer / "featurestore.json", {"format": 99})
    for path, message in [
        (tmp_path / "other", "is not a store"),
        (newer, "store format 99; this release reads up to 1"),
    ]:
        for create in (False, True):
            with pytest.raises(NotAStore, match=message):
                open_store(path, create=create)
    with pytest.raises(NotAStore, match="there is not a store at"):
        open_store(tmp_path / "absent")
    assert open_store(tmp_path / "absent", create=True).datasets() == []


def test_thumbnails_are_kept_by_content(empty_store, tiny_images):
    embed(empty_store, tiny_images)
    dataset = empty_store.dataset("d")
    first = dataset.thumbnail("dark/0.png", size_px=16)
    shutil.rmtree(tiny_images)
    assert dataset.thumbnail("dark/0.png", size_px=16) == first
    with pytest.raises(UnknownItem, match="is gone"):
        dataset.thumbnail("dark/1.png", size_px=16)


def test_a_store_that_another_process_makes_meanwhile_is_one(tmp_path, monkeypatch):
    """Its marker comes after the first look and before the second: it is no foreign folder."""
    (tmp_path / "datasets").mkdir()

    def seen(path):
        (tmp_path / store_marker.MARKER).write_text('{"format": 1}')
        return True

    monkeypatch.setattr(store_marker, "_is_foreign", seen)
    assert store_marker.check_store(tmp_path)
