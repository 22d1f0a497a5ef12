"""Which members of a tar shard make an item: every picture is one, or is named with its reason."""

import bz2
import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
from PIL import Image

from featurestore.errors import BadSource
from featurestore.sources.listing import SourceOptions
from featurestore.sources.opening import open_source
from featurestore.sources.reading import Reader


def png(value):
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


A, B, C, D = (png(value) for value in (1, 2, 3, 4))


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def listing(path, **options):
    return open_source(path).listing(SourceOptions(**options))


def items(path, **options):
    """Return (id, bytes of the picture, label) of each item."""
    rows = listing(path, **options).rows
    read = Reader("webdataset", open_source(path).root)
    labels = (
        rows.column("label").to_pylist() if "label" in rows.column_names else [None] * len(rows)
    )
    ids, uris = (rows.column(name).to_pylist() for name in ("item_id", "uri"))
    return list(zip(ids, map(read, uris), labels, strict=True))


RIGHT = {
    "plain": (
        [("a.png", A), ("a.cls", b"x"), ("b.PNG", B)],
        [("s/a", A, "x"), ("s/b", B, None)],
    ),
    "a date in the name": (
        [("IMG_2024.01.15.png", A), ("IMG_2024.01.15.cls", b"x"), ("IMG_2024.01.16.png", B)],
        [("s/IMG_2024.01.15", A, "x"), ("s/IMG_2024.01.16", B, None)],
    ),
    "a version in the name, in a folder": (
        [("v1.2/scan.v1.0.jpg", A), ("v1.2/scan.v1.0.cls", b"x"), ("v1.2/scan.v1.1.jpg", B)],
        [("s/v1.2/scan.v1.0", A, "x"), ("s/v1.2/scan.v1.1", B, None)],
    ),
    "one picture of two endings": ([("c.rgb.png", A)], [("s/c.rgb", A, None)]),
    "one picture of two endings beside a class": (
        [("c.rgb.png", A), ("c.cls", b"x")],
        [("s/c", A, "x")],
    ),
    "a number behind the name of another picture": (
        [("a.png", A), ("a.cls", b"x"), ("a.2.png", B), ("a.2.cls", b"y")],
        [("s/a", A, "x"), ("s/a.2", B, "y")],
    ),
    "a mask beside its picture": (
        [("a.png", A), ("a.seg.png", B), ("a.cls", b"x"), ("b.seg.png", C), ("b.png", D)],
        [("s/a", A, "x"), ("s/b", D, None)],
    ),
    "classes apart from their pictures": (
        [("a.png", A), ("b.png", B), ("a.cls", b"x"), ("b.cls", b"y")],
        [("s/a", A, "x"), ("s/b", B, "y")],
    ),
    "classes before their pictures": (
        [("b.cls", b"y"), ("a.cls", b"x"), ("a.png", A), ("b.png", B)],
        [("s/b", B, "y"), ("s/a", A, "x")],
    ),
    "one name in two folders": (
        [("x/a.png", A), ("y/a.png", B), ("x/a.cls", b"1"), ("y/a.cls", b"2")],
        [("s/x/a", A, "1"), ("s/y/a", B, "2")],
    ),
    "other files of a sample": (
        [("a.png", A), ("a.features.npy", b"n"), ("a.meta.json", b"{}"), ("README", b"r")],
        [("s/a", A, None)],
    ),
    "hidden files": ([("._a.png", b"junk"), ("a.png", A)], [("s/a", A, None)]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_each_picture_is_an_item_with_its_class(tmp_path, name):
    members, expected = RIGHT[name]
    assert items(write_tar(tmp_path / "s.tar", members)) == expected


REFUSED = {
    "a member twice": (
        [("a.png", A), ("a.cls", b"x"), ("a.png", B), ("a.cls", b"y")],
        "has two members named a.png",
    ),
    "a class twice, far apart": (
        [("a.png", A), ("a.cls", b"x"), ("b.png", B), ("a.cls", b"y")],
        "has two members named a.cls",
    ),
    "two kinds of picture": (
        [("a.jpg", A), ("a.png", B)],
        r"has 2 pictures \(a.jpg, a.png\): say which ending is meant, as with --image jpg",
    ),
    "two pictures of a class": (
        [("c.rgb.png", A), ("c.depth.png", B), ("c.cls", b"x")],
        r"2 pictures \(c.rgb.png, c.depth.png\).* --image rgb.png",
    ),
    "names that differ in case": ([("a.png", A), ("a.PNG", B)], "differ in case alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_by_name(tmp_path, name):
    members, message = REFUSED[name]
    with pytest.raises(BadSource, match=message):
        listing(write_tar(tmp_path / "s.tar", members))


def test_the_picture_is_chosen_by_its_ending(tmp_path):
    members = [
        ("a.rgb.png", A), ("a.depth.png", B), ("a.cls", b"x"), ("b.cls", b"y"), ("b.rgb.png", C),
    ]  # fmt: skip
    path = write_tar(tmp_path / "s.tar", members)
    assert items(path, image="rgb.png") == [("s/a", A, "x"), ("s/b", C, "y")]
    found = listing(path, image=".DEPTH.png")
    assert found.rows.column("item_id").to_pylist() == ["s/a"]
    assert "1 samples of" in found.notes[0]
    assert "(first: s/b): left out" in found.notes[0]
    with pytest.raises(BadSource, match=r"--image jpg: no member of .* has that ending"):
        listing(path, image="jpg")
    with pytest.raises(BadSource, match="give one of them"):
        listing(path, image="rgb.png", text="txt")


def test_what_is_left_out_is_said(tmp_path):
    members = [("a.png", A), ("a.seg.png", B), ("b.png", C), ("b.seg.png", D), ("c.cls", b"x")]
    notes = "\n".join(listing(write_tar(tmp_path / "s.tar", members)).notes)
    assert "2 pictures of" in notes
    assert "(first: a.seg.png): left out; --image ENDING takes them instead" in notes
    assert "have no image (first: s/c): left out" in notes


def test_a_hard_link_is_the_file_that_it_names(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(A)
        tar.addfile(info, io.BytesIO(A))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        tar.addfile(link)
    assert items(tmp_path / "s.tar") == [("s/a", A, None), ("s/b", A, None)]
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.addfile(link)
    with pytest.raises(BadSource, match=r"b.png in .* is a link to a.png, which does not stand"):
        listing(tmp_path / "t.tar")


COMPRESSED = {
    "s.tar.gz": (gzip.compress, "gunzip"),
    "s.TGZ": (gzip.compress, "gunzip"),
    "s.tar": (gzip.compress, "gunzip"),
    "t.tar": (bz2.compress, "bunzip2"),
    "u.tar": (lzma.compress, "unxz"),
    "s.tar.bz2": (bz2.compress, "bunzip2"),
    "s.txz": (lzma.compress, "unxz"),
}


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_shard_says_so(tmp_path, name, as_folder):
    compress, program = COMPRESSED[name]
    whole = write_tar(tmp_path / "whole.tar", [("a.png", A)]).read_bytes()
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / name).write_bytes(compress(whole))
    with pytest.raises(BadSource, match=rf"{name} is compressed.*\({program}\)"):
        listing(folder if as_folder else folder / name)
    (folder / "b.tar").write_bytes(whole)  # one among others is not passed over
    with pytest.raises(BadSource, match=f"{name} is compressed"):
        listing(folder)


def test_an_archive_beside_pictures_is_left_out_with_a_note(tmp_path, write_image):
    write_image(tmp_path / "set" / "cat" / "1.png")
    (tmp_path / "set" / "all.tar.gz").write_bytes(b"")
    found = listing(tmp_path / "set")
    assert len(found.rows) == 1
    assert "1 compressed archives were left out (first: all.tar.gz)" in found.notes[0]


def test_any_order_of_members_gives_the_same_items(tmp_path):
    members = [(f"{i}.{j}.png", png(10 * i + j)) for i in range(4) for j in range(3)]
    members += [(f"{i}.{j}.cls", f"{i}{j}".encode()) for i in range(4) for j in range(3)]
    members += [(f"n{i}.png", png(100 + i)) for i in range(5)]
    members += [(f"n{i}.cls", b"n") for i in range(5)]
    expected = sorted(items(write_tar(tmp_path / "s.tar", members)))
    assert len(expected) == 17
    assert all(label is not None for _, _, label in expected)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(members))
        path = write_tar(tmp_path / str(seed) / "s.tar", [members[i] for i in order])
        assert sorted(items(path)) == expected


@pytest.mark.parametrize(
    ("cls", "written", "label"),
    [
        ("dog", '{"label": "dog"}', "dog"),
        ("07", '{"label": "07", "score": 1}', "07"),
        ("3", '{"label": 3}', "3"),
        ("1.10", '{"label": 1.10}', "1.10"),
        ("cat|dog", '{"label": ["cat", "dog"]}', "cat|dog"),
        ("dog", '{"label": null}', "dog"),
        ("dog", '{"other": "cat"}', "dog"),
        ("dog", '{"label": "cat"}', None),
        ("7", '{"label": "07"}', None),
        ("dog", '{"label": ["cat", "dog"]}', None),
    ],
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_two_members_that_give_a_label_agree_or_are_refused(
    cls, written, label, is_reversed, tmp_path
):
    beside = [("a.cls", cls.encode()), ("a.json", written.encode())]
    members = [("a.png", A), *(beside[::-1] if is_reversed else beside)]
    path = write_tar(tmp_path / "s.tar", members)
    if label is None:
        with pytest.raises(
            BadSource, match=r"s/a in .*'label': '.*', and .* in a\.json; make them"
        ):
            listing(path)
    else:
        assert items(path) == [("s/a", A, label)]
