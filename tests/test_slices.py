"""Slices, graphs and maps: what follows from a view, and parts of it under a name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import heads
from featurestore.cli import run
from featurestore.curation.slices import Slice, drop_slice, read_slice, save_slice, slices
from featurestore.errors import BadName, BadQuery, MissingExtra, UnknownItem, UnknownSlice
from featurestore.maps.graph import K, neighbor_graph
from featurestore.maps.kept_arrays import path_of
from featurestore.maps.projection import fit_to_square, project
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store
from featurestore.store.view import View
from featurestore.terms.vectors import principal
from featurestore.upkeep.erase import erase, select_ids


@pytest.fixture
def view(texts_view: View) -> View:
    return texts_view


def test_a_slice_is_kept_under_its_name_and_forgotten(view: View) -> None:
    folder = view.dataset.folder
    with pytest.raises(UnknownItem, match="no item 'gone'"):
        save_slice(folder, "odd", ["t03", "gone"])
    made = save_slice(folder, "odd", ["t03", "t01", "t01"], origin={"where": "x"})
    assert made.item_ids == ("t01", "t03")
    assert read_slice(folder, "odd") == made
    assert slices(folder) == [made]
    with pytest.raises(BadName, match="there is a slice 'odd'"):
        save_slice(folder, "odd", ["t02"])
    assert save_slice(folder, "odd", ["t02"], overwrite=True).item_ids == ("t02",)
    drop_slice(folder, "odd")
    with pytest.raises(UnknownSlice, match="no slice 'odd'"):
        read_slice(folder, "odd")


@pytest.mark.parametrize("name", ["", "Odd", "../x", "a b"])
def test_a_slice_needs_a_name_that_files_can_bear(view: View, name: str) -> None:
    with pytest.raises(BadName, match="is not a slice name"):
        save_slice(view.dataset.folder, name, ["t01"])


def test_a_view_within_a_slice_reads_those_items_alone(view: View) -> None:
    save_slice(view.dataset.folder, "few", ["t01", "t04"])
    few = view.within("few")
    whole = view.load()
    np.testing.assert_array_equal(few.load().ids, ["t01", "t04"])
    np.testing.assert_array_equal(few.load().vectors, whole.vectors[[1, 4]])
    assert few.n_rows == 2
    assert few.state != view.state
    assert sorted(part.ids.tolist() for part in few.batches(1)) == [["t01"], ["t04"]]
    assert few.neighbors("t01", k=5).ids.tolist() == [["t04"]]
    assert few.items().column("item_id").to_pylist() == ["t01", "t04"]
    assert view.dataset.within("few").view(str(view.spec)).n_rows == 2


def test_heads_learn_from_a_slice_alone_and_say_so(view: View) -> None:
    ids = [f"t{i:02d}" for i in range(20)]
    save_slice(view.dataset.folder, "half", ids)
    fitted = heads.fit(view.within("half"), "prototype", save=False)
    assert fitted.card["n_items"] == 20
    assert fitted.card["slice"] == "half"
    run = heads.compare(view.within("half"), ["prototype"])
    assert set(run.item_ids) == set(ids)
    again = heads.run_again(view.dataset, run)
    assert again.rows()[0]["value"] == run.rows()[0]["value"]
    save_slice(view.dataset.folder, "half", ids[:-1], overwrite=True)
    with pytest.raises(BadName, match="holds other items"):
        heads.run_again(view.dataset, run)


def test_erasing_an_item_takes_it_out_of_slices_graphs_and_maps(view: View) -> None:
    save_slice(view.dataset.folder, "few", ["t01", "t04"])
    project(view)
    neighbor_graph(view)
    assert path_of(view, "graphs").exists()
    folder = view.dataset.folder
    erase(folder, select_ids(folder, ["t01"]))
    assert read_slice(folder, "few").item_ids == ("t04",)
    assert not list((view.dataset.path / "cache").rglob("*.npz"))


def test_the_graph_holds_what_exact_search_finds_and_is_made_once(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = neighbor_graph(view)
    unit = view.load().vectors
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    assert graph.k == K
    np.testing.assert_allclose(graph.scores, -np.sort(-cosines, axis=1)[:, :K], atol=1e-6)
    np.testing.assert_allclose(
        np.take_along_axis(cosines, graph.rows.astype(int), axis=1), graph.scores, atol=1e-6
    )
    monkeypatch.setattr(View, "index", lambda self: pytest.fail("made again"))
    np.testing.assert_array_equal(neighbor_graph(view).rows, graph.rows)


def test_no_item_is_its_own_neighbour_even_among_many_equal_ones(
    empty_store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "same.csv"
    path.write_text("id,words\n" + "".join(f"s{n:02d},the same\n" for n in range(40)))
    options = SourceOptions(text="words", id="id")
    empty_store.embed(
        [path], dataset="same", encoders=["builtin:tiny-text"], source_options=options
    )
    graph = neighbor_graph(empty_store.view("same", "builtin:tiny-text"))
    assert graph.rows.shape == (40, K)
    assert (graph.rows != np.arange(40)[:, None]).all()
    assert all(len(set(row)) == K for row in graph.rows.tolist())


def test_a_graph_is_of_the_state_it_is_kept_under(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit while the graph is made."""
    from featurestore.upkeep.erase import delete

    plain = View.index

    def busy(self: View, **options: object) -> object:
        found = plain(self, **options)  # type: ignore[arg-type]
        delete(self.dataset.folder, select_ids(self.dataset.folder, ["t59"]))
        return found

    before = view.snapshot
    monkeypatch.setattr(View, "index", busy)
    assert len(neighbor_graph(view).rows) == 60
    monkeypatch.setattr(View, "index", plain)
    assert len(neighbor_graph(view).rows) == 59
    assert len(neighbor_graph(view.as_of(before)).rows) == 60


def test_a_damaged_graph_is_made_anew(view: View, caplog: pytest.LogCaptureFixture) -> None:
    expected = neighbor_graph(view).rows
    path = path_of(view, "graphs")
    path.write_bytes(path.read_bytes()[:-40])
    np.testing.assert_array_equal(neighbor_graph(view).rows, expected)
    assert "made anew" in caplog.text


def test_a_damaged_slice_stops_no_erasure(view: View) -> None:
    folder = view.dataset.folder
    save_slice(folder, "odd", ["t03"])
    (folder.path / "slices" / "odd.json").write_text("{")
    erase(folder, select_ids(folder, ["t01"]))
    assert slices(folder) == []
    with pytest.raises(BadQuery, match="an index is of a whole view"):
        view.within(Slice("x", ("t02",), "")).build_index()


def test_pca_agrees_with_scikit_learn_and_does_not_depend_on_signs() -> None:
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(200, 8)) * np.arange(1, 9)).astype(np.float32)
    ours = principal(vectors, 2)
    theirs = PCA(2).fit_transform(vectors)
    for i in range(2):
        sign = np.sign(ours[:, i] @ theirs[:, i])
        np.testing.assert_allclose(ours[:, i], sign * theirs[:, i], atol=1e-3)
    fitted = fit_to_square(ours)
    assert np.abs(fitted).max() == pytest.approx(0.95, abs=1e-6)
    ratio = np.ptp(ours, axis=0) / np.ptp(fitted, axis=0)
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-5)  # shapes stay


PROJECT = """
import sys
import numpy as np
from featurestore import open_store
from featurestore.maps.projection import project

dataset = open_store(sys.argv[1]).dataset("texts")
xy = project(dataset.view("builtin:tiny-text").within("few"), "umap")
np.save(dataset.folder.path / "x.npy", xy)
"""


def test_umap_keeps_neighbours_together_and_is_kept(view: View) -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    save_slice(view.dataset.folder, "few", [f"t{n:02d}" for n in range(24)])
    view = view.within("few")
    done = subprocess.run(
        [sys.executable, "-c", PROJECT, str(view.dataset.folder.path.parents[1])],
        capture_output=True, text=True, check=False,
        # The same steps without a compiler, which alone takes half a minute where it has no cache.
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    labels = view.load().labels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.maps.projection.find_spec", lambda name: None)
        xy = project(view, "umap")  # made before: nothing is needed
        with pytest.raises(MissingExtra, match="featurestore\\[maps\\]"):
            project(view, "umap", seed=1)
    assert xy.shape == (len(labels), 2)
    assert np.abs(xy).max() <= 0.95 + 1e-6
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(axis=1)] == labels).mean() > 0.9
    np.testing.assert_array_equal(np.load(view.dataset.folder.path / "x.npy"), xy)
    with pytest.raises(BadName, match="no map 'tsne'"):
        project(view, "tsne")


def test_transfer_tells_how_far_two_slices_lie_apart(
    view: View, capsys: pytest.CaptureFixture[str]
) -> None:
    items = view.items()
    ids, topics = (items.column(name).to_pylist() for name in ("item_id", "topic"))
    music = [one for one, topic in zip(ids, topics, strict=True) if topic == "music"]
    save_slice(view.dataset.folder, "mixed", ids[:24])
    save_slice(view.dataset.folder, "music", music)
    store = str(view.dataset.path.parents[1])
    code = run([
        "transfer", "texts", "-e", "builtin:tiny-text", "--slice", "mixed", "--head", "prototype",
        "--no-blend", "--shift-to", "texts:music", "--json", "--store", store,
    ])  # fmt: skip
    assert code == 0
    (shift,) = json.loads(capsys.readouterr().out)["shifts"].values()
    assert shift["between"] == "the items here and those of texts:music"
    assert (shift["n_first"], shift["n_second"]) == (24, len(set(music) - set(ids[:24])))
    assert set(shift["beyond_of_class"]) == {"music"}
    argv = ["transfer", "texts", "-e", "builtin:tiny-text", "--head", "prototype", "--no-blend"]
    assert run([*argv, "--shift-to", "texts:music", "--json", "--store", store]) == 0
    (shift,) = json.loads(capsys.readouterr().out)["shifts"].values()
    assert shift["between"] == "the items of texts:music and the others"
    assert (shift["n_first"], shift["n_second"]) == (60 - len(music), len(music))


def test_a_data_set_keeps_slices_and_lists_runs(view: View) -> None:
    dataset = view.dataset
    kept = dataset.save_slice("few", ["t01", "t00"], origin={"by": "hand"})
    assert dataset.slices() == [kept] == slices(dataset.folder)
    assert dataset.view(str(view.spec)).within("few").load().ids.tolist() == ["t00", "t01"]
    with pytest.raises(BadName, match="there is a slice"):
        dataset.save_slice("few", ["t02"])
    assert dataset.save_slice("few", ["t02"], overwrite=True).item_ids == ("t02",)
    dataset.drop_slice("few")
    assert dataset.slices() == []
    dataset.folder.write_run("curve", {"label": "topic"})
    assert [card["kind"] for card in dataset.runs()] == ["curve", "embed"]
    assert [card["label"] for card in dataset.runs("curve")] == ["topic"]
    assert dataset.runs("quality") == []
