"""Files and folders are written whole or not at all."""

from pathlib import Path

import pytest

from featurestore.storage.files import append, write_file, written_beside


def make_folder(path, text):
    path.mkdir()
    (path / "a.txt").write_text(text)


@pytest.mark.parametrize("make", [lambda path, text: path.write_text(text), make_folder])
def test_what_is_written_beside_takes_the_place_of_what_was_there(make, tmp_path):
    target = tmp_path / "target"
    for text in ("first", "second"):
        with written_beside(target) as temporary:
            make(temporary, text)
        file = target / "a.txt" if target.is_dir() else target
        assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("make", [lambda path, text: path.write_text(text), make_folder])
def test_a_failed_write_changes_nothing_and_leaves_nothing(make, tmp_path):
    target = tmp_path / "target"
    make(target, "first")
    with pytest.raises(KeyboardInterrupt), written_beside(target) as temporary:  # noqa: PT012
        make(temporary, "second")
        raise KeyboardInterrupt
    file = target / "a.txt" if target.is_dir() else target
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    write_file(tmp_path / ("x" * 255), b"content")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"content"


def test_a_half_written_last_line_is_ended_before_lines_are_added(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"whole\nhal")
    append(path, b"next\n")
    assert path.read_bytes() == b"whole\nhal\nnext\n"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "target"
    make_folder(target, "first")
    rename = Path.rename

    def refuse(path, other):
        if other == target and (path / "a.txt").read_text() == "second":
            raise KeyboardInterrupt
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(KeyboardInterrupt), written_beside(target) as temporary:
        make_folder(temporary, "second")
    assert (target / "a.txt").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_must_be_new_leaves_what_is_there(tmp_path):
    target = tmp_path / "target"
    make_folder(target, "first")
    with pytest.raises(OSError, match="not empty"), written_beside(target, over=False) as temporary:
        make_folder(temporary, "second")
    assert (target / "a.txt").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]
