"""The files of a source lie elsewhere now."""

import shutil

import pytest

from featurestore.cli import run
from featurestore.errors import BadSource, UnknownItem
from featurestore.sources.listing import SourceOptions
from featurestore.upkeep.relocate import relocate

PIXELS = "baseline:pixels#size=2"


def test_items_are_read_at_the_new_place_and_nothing_is_embedded_anew(
    empty_store, tiny_images, tmp_path, capsys
):
    empty_store.embed([tiny_images], dataset="d", encoders=[PIXELS])
    dataset = empty_store.dataset("d")
    content = dataset.read_bytes("dark/0.png")
    elsewhere = tmp_path / "archive" / "pictures"  # under another name
    elsewhere.parent.mkdir()
    shutil.move(tiny_images, elsewhere)
    with pytest.raises(UnknownItem, match="is gone"):
        dataset.read_bytes("dark/0.png")
    store = ["--store", str(empty_store.path)]
    assert run(["relocate", "d", str(elsewhere), *store]) == 0
    assert f"tiny: {elsewhere}, formerly {tiny_images}" in capsys.readouterr().err
    assert empty_store.dataset("d").read_bytes("dark/0.png") == content
    (report,) = empty_store.embed([], dataset="d", encoders=[PIXELS])
    assert report.n_unchanged == 6


def test_a_table_moves_with_what_it_names(empty_store, tiny_images, tmp_path):
    folder = tmp_path / "before"
    shutil.move(tiny_images, folder / "tiny")
    table = folder / "cells.csv"
    table.write_text("file,kind\ntiny/dark/0.png,a\ntiny/light/0.png,b\n")
    options = SourceOptions(image="file", label=("kind",))
    empty_store.embed([table], dataset="d", encoders=[PIXELS], source_options=options)
    folder.rename(tmp_path / "after")
    found = relocate(empty_store.dataset("d").folder, tmp_path / "after")
    assert (found.n_checked, found.n_same) == (2, 2)
    record = empty_store.dataset("d").description.sources["cells.csv"]
    assert record.locations == (str(tmp_path / "after" / "cells.csv"),)
    (report,) = empty_store.embed([], dataset="d", encoders=[PIXELS])
    assert report.n_unchanged == 2


def test_a_place_that_is_not_it_is_refused(empty_store, tiny_images, tmp_path, capsys):
    empty_store.embed([tiny_images], dataset="d", encoders=[PIXELS])
    folder = empty_store.dataset("d").folder
    with pytest.raises(BadSource, match="there is nothing at"):
        relocate(folder, tmp_path / "absent")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(BadSource, match="holds none of 6 items drawn from 'tiny'"):
        relocate(folder, other)
    with pytest.raises(BadSource, match=r"has no source 'tin': did you mean 'tiny'"):
        relocate(folder, other, source="tin")
    assert folder.read().sources["tiny"].root == str(tiny_images)
    shutil.copytree(tiny_images / "dark", other / "dark")  # half of it, one of them changed
    (other / "dark" / "0.png").write_bytes(b"another")
    assert run(["relocate", "d", str(other), "--store", str(empty_store.path)]) == 0
    assert "4 of 6 items drawn are not there, or others" in capsys.readouterr().err
