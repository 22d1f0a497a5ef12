"""One bad member never ends a run: what would block, fill the memory or never end is not opened."""

import importlib.util
import io
import json
import os
import socket
import tarfile

import pytest

from featurestore.sources.locations import MOST_BYTES

DEEP = "[" * 100_000 + "]" * 100_000


def fifo(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def huge(path):
    with path.open("wb") as file:
        file.truncate(6 << 30)  # a hole: it takes no room on the disk


REASONS = {
    fifo: "not a file but a FIFO, which is never opened",
    a_socket: "not a file but a socket, which is never opened",
    huge: f"6,442,450,944 bytes; up to {MOST_BYTES:,} are read of one item",
}


@pytest.mark.parametrize("make", REASONS)
def test_what_is_no_picture_beside_pictures_fails_alone(make, tiny_images, fs):
    make(tiny_images / "dark" / "x.png")
    code, out, err = fs("embed", tiny_images, "--dataset", "d", "-e", "baseline:pixels")
    assert code == 3
    assert "6 embedded, 1 failed" in out + err
    assert f"dark/x.png: {REASONS[make]}" in out + err


NO_AIOHTTP = importlib.util.find_spec("aiohttp") is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/zero", "not a file but a device, which is never opened"),
        ("pipe.png", "not a file but a FIFO, which is never opened"),
        ("nothing.png", "No such file or directory"),
        ("http://127.0.0.1:9/x.png", "needs a package" if NO_AIOHTTP else "127.0.0.1"),
        ("nothing://x/y.png", "expected a path or a URL"),
    ],
)
def test_a_path_of_a_table_that_cannot_be_read_fails_alone(path, reason, tiny_images, fs):
    fifo(tiny_images / "pipe.png")
    table = tiny_images / "t.csv"
    table.write_text(f"image,label\ndark/0.png,a\n{path},b\nlight/1.png,b\n")
    arguments = ("--image", "image", "--dataset", "d", "-e", "baseline:pixels")
    code, out, err = fs("embed", table, *arguments)
    assert code == 3, err
    assert "2 embedded, 1 failed" in out + err
    assert reason in out + err


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "tar"])
def test_a_fifo_is_no_source(ending, tmp_path, fs):
    fifo(tmp_path / f"x.{ending}")
    code, _, err = fs("embed", tmp_path / f"x.{ending}", "--text", "t", "--dataset", "d")
    assert code == 1
    assert f"x.{ending} is not a file but a FIFO, which is never opened: write it to a file" in err


def test_a_fifo_is_not_opened_by_other_commands(tmp_path, tiny_images, fs):
    assert fs("embed", tiny_images, "--dataset", "d", "-e", "baseline:pixels")[0] == 0
    for ending in ("parquet", "arrow", "npy", "csv", "json"):
        fifo(tmp_path / f"x.{ending}")
    for arguments in (
        ["import", tmp_path / "x.parquet", "--dataset", "e", "--name", "n"],
        ["import", tmp_path / "x.arrow", "--dataset", "e", "--name", "n"],
        ["import", tmp_path / "x.npy", "--dataset", "e", "--name", "n"],
        ["labels", "d", tmp_path / "x.csv", "--id", "a", "--label", "b"],
        ["labels", "d", tmp_path / "x.parquet", "--id", "a", "--label", "b"],
        ["search", "d", "--image", tmp_path / "x.npy"],
        ["review", "d", "--import", tmp_path / "x.json"],
        ["review", "d", "--import", tmp_path / "x.csv"],
    ):
        code, _, err = fs(*arguments)
        assert (code, "FIFO, which is never opened" in err) == (1, True), (arguments, err)


def add(tar, name, content, size=None):
    member = tarfile.TarInfo(name)
    member.size = len(content) if size is None else size
    tar.addfile(member, io.BytesIO(content))


def test_small_members_of_a_shard_have_a_limit_of_size_and_depth(tmp_path, write_image, fs):
    picture = [write_image(tmp_path / "p" / f"{n}.png", n).read_bytes() for n in range(4)]
    shard = tmp_path / "s.tar"
    with shard.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            add(tar, "0.png", picture[0])
            add(tar, "0.json", json.dumps({"label": "x"}).encode())
            add(tar, "1.png", picture[1])
            add(tar, "1.json", DEEP.encode())
            add(tar, "2.png", picture[2])
            end = tar.offset
        file.seek(end)
        member = tarfile.TarInfo("2.json")
        member.size = 6 << 30
        file.write(member.tobuf())
        file.seek(6 << 30, os.SEEK_CUR)
        with tarfile.open(fileobj=file, mode="w") as tar:
            add(tar, "3.png", picture[3])
    code, out, err = fs("embed", shard, "--dataset", "d", "-e", "baseline:pixels")
    said = out + err
    assert (code, "4 embedded" in said) == (0, True), said
    assert "1.json: nested too deep" in said
    assert "2.json: 6,442,450,944 bytes; up to 67,108,864 are read of a .json" in said


def test_a_deep_file_of_reviews_is_refused(tmp_path, tiny_images, fs):
    assert fs("embed", tiny_images, "--dataset", "d", "-e", "baseline:pixels")[0] == 0
    (tmp_path / "deep.json").write_text('[{"data": ' + DEEP + "}]")
    code, _, err = fs("review", "d", "--import", tmp_path / "deep.json")
    assert code == 1
    assert "deep.json is not an export of Label Studio" in err


def test_an_empty_npy_is_an_error_and_no_interruption(tmp_path, fs):
    (tmp_path / "x.npy").write_bytes(b"")
    code, _, err = fs("import", tmp_path / "x.npy", "--dataset", "e", "--name", "n")
    assert code == 1
    assert "cannot read" in err
    assert "x.npy" in err


@pytest.mark.parametrize("deep", [DEEP, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_a_deep_line_of_a_table_fails_alone(deep, tmp_path, fs):
    lines = ['{"text": "a"}', f'{{"text": "b", "more": {deep}}}', '{"text": "c [[["}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    arguments = ("--text", "text", "--dataset", "d", "-e", "builtin:tiny-text")
    code, out, err = fs("embed", tmp_path / "t.jsonl", *arguments)
    assert code == 3, out + err
    assert "2 embedded, 1 failed" in out + err
    assert "line 2: nested too deep" in out + err
