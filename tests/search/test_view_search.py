"""What a view adds to search: ranges, copies, examples, and what is known of the results."""

import json
import shutil

import numpy as np
import pytest

from featurestore.cli import run
from featurestore.errors import BadQuery, MissingColumn, ShapeMismatch
from featurestore.search.exact import Metric
from featurestore.terms.vectors import unit_rows
from tests.search.conftest import DIM, truth


@pytest.mark.parametrize("is_indexed", [False, True])
def test_a_range_with_filters_holds_all_that_is_near_enough(view, is_indexed):
    if is_indexed:
        view.build_index()
    loaded = view.load()
    queries = loaded.vectors[[4, 700]]
    among = loaded.column("label") == "even"
    rows, scores = truth(loaded.vectors, queries, "cosine", len(loaded))
    found = view.within_score(queries, 0.7, where="label = 'even'")
    for one, row, score in zip(found, rows, scores, strict=True):
        expected = row[(score >= 0.7) & among[row]]
        assert len(expected) > 3
        assert one.rows[0].tolist() == expected.tolist()
        assert set(one.column("label")[0]) == {"even"}


def test_copies_of_several_queries_or_beyond_cosines_are_refused(view):
    vectors = view.load().vectors
    with pytest.raises(BadQuery, match="2 queries"):
        view.search(vectors[:2], dedupe=0.9)
    with pytest.raises(BadQuery, match="expected a cosine"):
        view.search(vectors[:1], dedupe=2)


def test_vectors_of_ones_own_are_examples_too(view):
    loaded = view.load()
    found = view.like(vectors=loaded.vectors[[5]], k=4)
    assert found.ids[0, 0] == "i00005"
    together = view.like(items=["i00001"], vectors=loaded.vectors[[51]], k=3)
    assert together.ids.tolist() == view.like(
        vectors=np.stack([loaded.vectors[1], loaded.vectors[51]]), k=4,
        where="item_id <> 'i00001'",
    ).ids[:, :3].tolist()  # fmt: skip
    with pytest.raises(ShapeMismatch, match=rf"expected vectors \(n, {DIM}\)"):
        view.like(vectors=np.ones((1, 3), np.float32))


def test_what_is_known_of_neighbours_is_read_when_asked(view):
    loaded = view.load()
    found = view.search(loaded.vectors[[0, 9]], k=3)
    assert found.column("label").tolist() == loaded.column("label")[found.rows].tolist()
    with pytest.raises(MissingColumn, match="no column 'lable'"):
        found.column("lable")
    with pytest.raises(MissingColumn, match="without their items"):
        view.index().search(loaded.vectors[:1]).column("label")


def test_the_command_takes_vectors_and_leaves_out_copies(view, tmp_path, capsys):
    np.save(tmp_path / "q.npy", view.load().vectors[7])
    arguments = ["search", "d", "--store", str(view.dataset.store.path), "--json", "-k", "3"]
    assert run([*arguments, "--vector", str(tmp_path / "q.npy")]) == 0
    plain = json.loads(capsys.readouterr().out)["neighbors"]
    assert plain[0]["item_id"] == "i00007"
    assert plain[0]["label"] == "odd"
    assert run([*arguments, "--vector", str(tmp_path / "q.npy"), "--dedupe", "0.5"]) == 0
    apart = json.loads(capsys.readouterr().out)["neighbors"]
    assert apart[0] == plain[0]
    assert apart[1:] != plain[1:]
    (tmp_path / "q.npy").write_text("no array")
    assert run([*arguments, "--vector", str(tmp_path / "q.npy")]) == 2
    assert "expected an array as np.save writes it" in capsys.readouterr().err


def test_what_is_not_asked_for_is_not_read(view, monkeypatch):
    """Without a cache, row groups in which no row is wanted are left alone."""
    from featurestore.storage import shards

    everything = view.load()
    shutil.rmtree(view.dataset.path / "cache", ignore_errors=True)
    read = []
    plain = shards.plain_pages

    def pages(*args, is_wanted, **options):
        def noted(first, n):
            wanted = is_wanted(first, n)
            read.extend([args[0]] * wanted)
            return wanted

        return plain(*args, is_wanted=noted, **options)

    monkeypatch.setattr(shards, "plain_pages", pages)
    part = view.load(where="item_id < 'i00010'", columns=["label"])
    assert part.ids.tolist() == [f"i{n:05d}" for n in range(10)]
    np.testing.assert_array_equal(part.vectors, everything.vectors[:10])
    assert sorted(part.columns) == ["content_hash", "label", "split"]
    n_read = len(read)
    assert n_read > 0
    assert len(view.load(where="false")) == 0
    assert len(read) == n_read  # nothing more
    rows = np.flatnonzero(everything.column("label") == "odd")
    window = "row_number() over (order by item_id) <= 5"  # a condition on all rows together
    assert view.load(where=window).ids.tolist() == [f"i{n:05d}" for n in range(5)]
    assert view.to_arrow(columns=["split", "item_id", "label"], where="false").column_names == [
        "item_id", "split", "label", "vector",
    ]  # fmt: skip
    with pytest.raises(MissingColumn, match="no column 'lable'"):
        view.to_arrow(columns=["lable"])
    odd = view.load(where="label = 'odd'")
    np.testing.assert_array_equal(odd.vectors, everything.vectors[rows])
    assert odd.column("text").tolist() == everything.column("text")[rows].tolist()


def test_several_examples_and_what_they_are_not(view):
    found = view.like(items=["i00001", "i00051"], unlike=["i00002"], k=5)
    assert not {"i00001", "i00051", "i00002"} & set(found.ids[0])
    assert {int(one[1:]) % 50 for one in found.ids[0]} == {1}
    vectors = unit_rows(view.load().vectors)
    query = vectors[[1, 51]].mean(axis=0) - 0.5 * vectors[2]
    scores = vectors @ (query / np.linalg.norm(query))
    scores[[1, 51, 2]] = -1
    assert found.rows[0].tolist() == np.argsort(-scores)[:5].tolist()
    text = view.like(texts=["1"], where="label = 'even'", k=5)
    assert {int(one[1:]) % 2 for one in text.ids[0]} == {0}


@pytest.mark.parametrize("metric", list(Metric))
def test_one_example_is_a_plain_search(metric, view):
    one = view.like(items=["i00007"], metric=metric, k=8)
    other = view.neighbors("i00007", metric=metric, k=8)
    assert one.ids.tolist() == other.ids.tolist()
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-5)
    with pytest.raises(BadQuery, match="expected an item, image, text or vector"):
        view.like(metric=metric)
