"""An index finds a measured share of what is nearest, and follows its view."""

import json

import numpy as np
import pyarrow as pa
import pytest

from featurestore.cli import run
from featurestore.errors import BadName, BadQuery, NotEnoughData
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.search.approximate import ApproximateIndex
from featurestore.search.exact import ExactIndex, Metric
from featurestore.search.factory import choose_factory
from featurestore.storage.sums import write_sums
from featurestore.store.view_rows import ViewRows
from featurestore.upkeep import erase
from featurestore.upkeep.verify import verify
from tests.search.conftest import DIM, Clustered, embed, truth, write_table


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("factory", [None, "HNSW16", "SQ8", "PCA8,IVF16,Flat"])
def test_the_recall_is_what_it_says_and_scores_are_exact(metric, factory, view):
    index = view.build_index(recall=0.9, metric=metric, factory=factory)
    facts = index.facts
    assert facts["recall_low"] <= facts["recall"] <= 1
    if factory != "PCA8,IVF16,Flat":  # FAISS sets no effort inside a transform
        assert facts["recall"] >= 0.9
    vectors = view.load().vectors
    queries = Clustered().encode_texts([str(n) for n in range(50_000, 50_300)])
    found = index.search(queries, k=10)
    rows, _ = truth(vectors, queries, metric, 10)
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(found.rows, rows, strict=True)]
    assert np.mean(shares) > facts["recall"] - 0.06
    full = np.take_along_axis(_by_row(vectors, queries, metric), found.rows, axis=1)
    np.testing.assert_allclose(found.scores, full, atol=1e-3)
    assert (np.diff(found.scores, axis=1) <= 1e-6).all()


def _by_row(vectors, queries, metric):
    rows, scores = truth(vectors, queries, metric, len(vectors))
    result = np.empty_like(scores)
    np.put_along_axis(result, rows, scores, axis=1)
    return result


@pytest.mark.parametrize("factory", [None, "HNSW16", "SQ8"])
@pytest.mark.parametrize("share", [0.003, 0.1, 0.9])
def test_filters_give_exactly_k_that_fulfil_them(share, factory, view, monkeypatch):
    monkeypatch.setattr("featurestore.search.exact.EXACT_FLOATS", 0)  # never by brute force
    index = view.build_index(factory=factory)
    among = np.random.default_rng(0).random(2000) < share
    queries = view.load().vectors[:20]
    found = index.search(queries, k=5, among=among)
    assert found.rows.shape == (20, min(5, among.sum()))
    assert among[found.rows].all()
    assert all(len(set(row)) == len(row) for row in found.rows.tolist())


def test_filters_that_leave_few_are_searched_exactly(view):
    index = view.build_index()
    queries = view.load().vectors[:20]
    found = view.search(queries, k=5, where="label = 'odd' and cast(text as int) < 200")
    among = view.matching("label = 'odd' and cast(text as int) < 200")
    assert among.sum() == 100
    rows, _ = truth(view.load().vectors, queries, "cosine", 5, among)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(index.search(queries, k=5, among=among).rows, rows)
    with pytest.raises(BadQuery, match="expected a condition"):
        view.search(queries, where="length(text)")


def test_no_index_is_made_where_exact_search_is_fast_enough(view, monkeypatch, capsys):
    assert isinstance(view.build_index(), ApproximateIndex)
    assert isinstance(view.index(), ApproximateIndex)
    monkeypatch.setattr("featurestore.search.factory.EXACT_FLOATS", 2000 * DIM)
    index = view.build_index()
    assert isinstance(index, ExactIndex)
    assert (index.facts["factory"], index.facts["recall"], index.facts["n"]) == ("exact", 1.0, 2000)
    assert isinstance(view.index(), ExactIndex)  # the earlier one has gone
    assert view.index_facts is None
    assert run(["index", "d", "--store", str(view.dataset.store.path)]) == 0
    assert "exact search of 2,000 vectors, recall 1" in capsys.readouterr().err
    small = view.build_index(memory_bytes=2000 * DIM * 4 - 1)  # the vectors themselves do not fit
    assert isinstance(small, ApproximateIndex)
    assert isinstance(view.build_index(factory="SQ8"), ApproximateIndex)  # who asks gets one
    monkeypatch.setattr("featurestore.search.factory.EXACT_FLOATS", 0)
    assert isinstance(view.build_index(recall=1), ExactIndex)


def test_a_graph_is_tried_where_lists_would_be_slow(view, monkeypatch):
    (name,) = view.build_index().facts["tried"]
    assert name == choose_factory(2000, DIM)
    monkeypatch.setattr("featurestore.search.approximate.SLOW_FLOATS", 0)
    facts = view.build_index(recall=0.99).facts
    assert set(facts["tried"]) == {name, "HNSW32,SQ8"}
    chosen = facts["tried"][facts["factory"]]
    for other in facts["tried"].values():
        better = min(other["recall"], 0.99), -other["query_ms"]
        assert better <= (min(chosen["recall"], 0.99), -chosen["query_ms"])
    found = view.index().search(view.load().vectors[:50], k=10).rows
    rows, _ = truth(view.load().vectors, view.load().vectors[:50], "cosine", 10)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found, rows, strict=True)]) > 9.5
    too_small = view.build_index(recall=0.99, memory_bytes=2000 * (DIM + 271)).facts
    assert set(too_small["tried"]) == {name}


def test_an_index_is_kept_and_used(view):
    built = view.build_index()
    opened = view.index()
    assert isinstance(opened, ApproximateIndex)
    assert opened.facts == built.facts
    queries = view.load().vectors[:9]
    np.testing.assert_array_equal(opened.search(queries).rows, built.search(queries).rows)
    assert isinstance(view.index(exact=True), ExactIndex)
    assert isinstance(view.index(metric="l2"), ExactIndex)  # it was made for cosine
    assert isinstance(view.now().index(), ApproximateIndex)  # pinned to what it is of
    assert opened.neighbors("i00007").ids[0, 0] != "i00007"


def test_new_items_are_added_and_those_that_left_are_masked(view, tmp_path):
    first = view.build_index()
    before = view.now()
    store = view.dataset.store
    view = embed(store, write_table(tmp_path / "t.csv", range(100, 2050)))
    store.dataset("d").folder.items.merge(
        None, drop=lambda part: np.asarray(part.column(0)) < "i00100", keys=["item_id"]
    )
    assert isinstance(before.index(), ExactIndex)  # of a state that is past
    index = view.index()
    assert isinstance(index, ApproximateIndex)
    assert len(index.ids) == 1950
    assert len(index.position_rows) == 2050
    assert index.share_dead == pytest.approx(100 / 2050)
    everything = index.search(view.load().vectors[:50], k=1900)
    assert not {f"i{n:05d}" for n in range(100)} & set(everything.ids.ravel())
    (found,) = index.search(Clustered().encode_texts(["2040"]), k=1).ids
    assert found.tolist() == ["i02040"]
    assert index.facts["n"] == 1950 != first.facts["n"]
    assert index.facts["recall"] > 0.9
    again = view.index()  # what was brought up to date was kept
    assert len(again.position_rows) == 2050
    assert again.facts == index.facts


def test_a_changed_item_is_found_where_it_is_now(view, tmp_path):
    view.build_index()
    table = tmp_path / "t.csv"
    table.write_text(table.read_text().replace("i00003,3,odd", "i00003,70004,odd"))
    view = embed(view.dataset.store, table)
    found = view.index().search(Clustered().encode_texts(["70004"]), k=1)
    assert found.ids[0, 0] == "i00003"
    assert found.scores[0, 0] == pytest.approx(1)


def test_where_much_has_gone_it_is_built_anew(view, tmp_path):
    view.build_index(recall=0.8)
    view.dataset.folder.items.merge(
        None, drop=lambda part: np.asarray(part.column(0)) < "i00500", keys=["item_id"]
    )
    index = view.index()
    assert len(index.ids) == len(index.position_rows) == 1500
    assert index.facts["wanted_recall"] == 0.8


@pytest.mark.parametrize("name", ["index.faiss", "keys.arrow", "index.json"])
@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_index_is_named_and_searched_without(name, content, view, caplog):
    view.build_index()
    (path,) = view.dataset.path.glob(f"indexes/*/{name}")
    path.unlink() if content is None else path.write_bytes(content)
    expected = view.index(exact=True).search(view.load().vectors[:5]).rows
    np.testing.assert_array_equal(view.search(view.load().vectors[:5]).rows, expected)
    if (name, content) != ("index.json", None):  # without it there is none
        assert "delete" in caplog.text


def test_an_index_of_another_format_or_dim_is_named_and_not_used(view, caplog):
    view.build_index()
    (path,) = view.dataset.path.glob("indexes/*/index.json")
    facts = path.read_text()
    path.write_text(json.dumps(json.loads(facts) | {"format": 99}))
    assert isinstance(view.index(), ExactIndex)
    assert "has format 99, this release reads 1" in caplog.text
    (found,) = verify(view.dataset.folder, canary=False)
    assert "has format 99" in found.what
    path.write_text(facts)
    import faiss

    other = faiss.IndexFlatIP(DIM + 1)
    faiss.write_index(other, str(path.with_name("index.faiss")))
    (found,) = verify(view.dataset.folder, canary=False)
    assert "index.faiss is not what was written" in found.what
    path.with_name("sums.json").unlink()
    (found,) = verify(view.dataset.folder, canary=False)
    assert "sums.json is missing or damaged" in found.what
    write_sums(path.parent, ["index.faiss", "keys.arrow"])  # as of an earlier release
    (found,) = verify(view.dataset.folder, canary=False)
    assert f"of dim {DIM + 1}, expected" in found.what
    assert isinstance(view.index(), ExactIndex)
    assert f"of dim {DIM + 1}, expected" in caplog.text


def test_the_choice_follows_rows_and_memory():
    assert choose_factory(200_000, 512) == "IVF512,SQ8"
    assert choose_factory(1_000_000, 512) == "IVF1024,SQ8"
    assert choose_factory(200_000, 512, memory_bytes=30_000_000) == "IVF512,RaBitQ"
    with pytest.raises(BadName, match=r"expected at least 1\.8"):
        choose_factory(200_000, 512, memory_bytes=1_000_000)


@pytest.mark.parametrize("factory", ["nonsense", "IVF10"])
def test_a_factory_string_that_faiss_does_not_know(factory, view):
    with pytest.raises(BadName, match=f"FAISS cannot make '{factory}'"):
        view.build_index(factory=factory)


def test_the_command_builds_and_tells_the_recall(view, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(view.dataset.path))
    where = ["--store", str(view.dataset.store.path)]
    assert run(["index", "d", "--json", "--memory", "1M", *where]) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["recall"] >= 0.9
    assert f"recall@10 {facts['recall']:.3f} (at least {facts['recall_low']:.3f}" in err
    assert run(["index", "d", "--memory", "much", *where]) == 2
    arguments = ["search", "d", "--item", "i00001", "-k", "3", "--json", *where]
    assert run([*arguments, "--where", "label = 'even'"]) == 0
    found = json.loads(capsys.readouterr().out)["neighbors"]
    assert [one["label"] for one in found] == ["even"] * 3
    assert run([*arguments, "--where", "1; drop table items"]) == 1
    assert run([*arguments, "--metric", "l3"]) == 1


def test_ties_are_right_answers(empty_store):
    """Forty vectors, fifty times each: which of the fifty is found does not matter."""
    vectors = np.repeat(np.random.default_rng(0).normal(size=(40, 8)), 50, axis=0)
    incoming = Incoming(
        pa.array([f"i{n}" for n in range(2000)]), vectors.astype(np.float32), pa.table({})
    )
    view = import_vectors(empty_store, incoming, dataset="d", name="x", origin="here")
    facts = view.build_index(factory="IVF16,SQ8").facts
    assert facts["recall"] == 1
    assert 0.97 < facts["recall_low"] < 1  # never of no width


def test_a_view_that_shrank_or_cannot_be_written_is_searched_all_the_same(
    view, monkeypatch, caplog
):
    view.build_index()
    for left in (1000, 1, 0):
        gone = [one for one in view.load().ids if int(one[1:]) >= left]
        erase.delete(view.dataset.folder, pa.array(gone))
        with monkeypatch.context() as patched:
            patched.setattr(ApproximateIndex, "save", lambda *a: (_ for _ in ()).throw(OSError(30)))
            found = view.search(Clustered().encode_texts(["3"]), k=5)
        assert found.ids.shape == (1, min(5, left))


@pytest.mark.parametrize("factory", ["IVF4096,Flat", "IVF8,PQ8x12"])
def test_too_few_vectors_to_train_with(factory, view):
    with pytest.raises(NotEnoughData, match=f"FAISS cannot train {factory} on 2,000 vectors"):
        view.build_index(factory=factory)


def test_a_search_reads_one_state(view, monkeypatch):
    """Filter and vectors are of the same commit, whatever comes in between."""
    read, calls = ViewRows.read, []

    def counted(self, **options):
        calls.append(self.snapshot)
        return read(self, **options)

    monkeypatch.setattr(ViewRows, "read", counted)
    for work in (
        lambda: view.search(np.ones((1, DIM), np.float32), where="label = 'odd'"),
        lambda: view.neighbors("i00001", where="label = 'odd'"),
        lambda: view.like(items=["i00001"], where="label = 'odd'"),
        lambda: view.to_arrow(where="label = 'odd'"),
    ):
        calls.clear()
        work()
        assert len(calls) == 1
