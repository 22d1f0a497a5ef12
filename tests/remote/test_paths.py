"""Paths in an object store act as pathlib's do; a file is replaced only as it was read."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import BadName, MissingExtra, StoreBusy
from featurestore.storage.files import append, rewrite
from featurestore.storage.remote import ABSENT, RemotePath
from featurestore.store.store import open_store
from tests.remote.conftest import at_once


@given(st.lists(st.sampled_from(["a", "b.json", "c.tar.gz", ".hidden", "x y"]), min_size=1))
def test_a_path_is_taken_apart_as_pathlib_does(parts):
    ours, theirs = RemotePath.parse("s3://bucket/" + "/".join(parts)), Path("/".join(parts))
    assert (ours.name, ours.stem, ours.suffix) == (theirs.name, theirs.stem, theirs.suffix)
    assert str(ours / "z") == f"s3://bucket/{theirs / 'z'}"
    assert str(ours.with_name("z")) == f"s3://bucket/{theirs.with_name('z')}"
    assert RemotePath.parse(str(ours)) == ours


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3://b/a//b", "s3://b/../x", "s3://b/./x", "s3://b/a%20b", "s3://b?x"],
)
def test_what_names_no_folder_is_refused(url):
    with pytest.raises(BadName, match="expected s3://BUCKET/FOLDER"):
        open_store(url)


def test_without_obstore_the_line_to_run_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra, match=r"pip install 'featurestore\[s3\]'"):
        open_store("s3://bucket/x")


def test_patterns_find_what_pathlib_finds(s3, tmp_path):
    names = [
        "a/card.json",
        "a/x.json",
        "b/card.json",
        "b/deep/card.json",
        ".h/card.json",
        "card.json",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        (s3 / name).write_bytes(name.encode())
    for pattern in (
        "*",
        "*.json",
        "*/card.json",
        "[!.]*/card.json",
        "a/*",
        "*/*/card.json",
        "no/*",
    ):
        ours = {str(one)[len(str(s3)) + 1 :] for one in s3.glob(pattern)}
        assert ours == {str(one.relative_to(tmp_path)) for one in tmp_path.glob(pattern)}, pattern
    assert {one.name for one in s3.iterdir()} == {one.name for one in tmp_path.iterdir()}
    assert (s3 / "a").exists()
    assert (s3 / "a").is_dir()
    assert not (s3 / "a").is_file()
    assert (s3 / "card.json").exists()
    assert not (s3 / "card").exists()
    assert (s3 / "card.json").stat().st_size == len("card.json")
    assert abs((s3 / "card.json").stat().st_mtime - time.time()) < 60
    assert {one.known.st_size for one in s3.glob("a/*")} == {len("a/card.json"), len("a/x.json")}
    with pytest.raises(FileNotFoundError):
        (s3 / "no").read_bytes()
    with pytest.raises(FileNotFoundError):
        (s3 / "no").unlink()
    (s3 / "no").unlink(missing_ok=True)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_part_is_the_part_of_the_whole(gateway, data):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in gateway.items():
            patch.setenv(name, value)
        whole = np.random.default_rng(0).bytes(200_000)
        path = RemotePath("bucket", "parts")
        if not path.is_file():
            path.write_bytes(whole)
        with path.open_parts() as file:
            for _ in range(4):
                at = data.draw(st.integers(0, len(whole)))
                n = data.draw(st.integers(0, 90_000))
                file.seek(at)
                assert file.read(n) == whole[at : at + n]
                assert file.tell() == min(len(whole), at + n)


def test_only_what_was_read_is_replaced(s3):
    path = s3 / "x"
    path.write_bytes(b"1", over=ABSENT)
    with pytest.raises(StoreBusy):
        path.write_bytes(b"2", over=ABSENT)
    _, e_tag = path.read_version()
    path.write_bytes(b"2", over=e_tag)
    with pytest.raises(StoreBusy):
        path.write_bytes(b"3", over=e_tag)
    assert path.read_bytes() == b"2"


def _append(path, name):
    for number in range(10):
        append(path, f"{name}-{number}\n".encode())


def test_lines_of_several_machines_all_arrive(s3):
    at_once(_append, [(s3 / "lines", name) for name in "abc"])
    lines = (s3 / "lines").read_text().splitlines()
    assert sorted(lines) == sorted(f"{name}-{n}" for name in "abc" for n in range(10))


def test_who_never_gets_through_says_so(s3):
    def change(now):
        (s3 / "x").write_bytes(os.urandom(8))  # another one, each time
        return b"mine"

    with pytest.raises(StoreBusy, match="written by another process"):
        rewrite(s3 / "x", change)
