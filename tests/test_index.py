"""Searches find what is nearest: all of it when exact, a measured share of it otherwise."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.cli import run
from featurestore.errors import (
    BadName,
    BadQuery,
    MissingColumn,
    NotEnoughData,
    ShapeMismatch,
    UnknownItem,
)
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.search import exact as faiss_module
from featurestore.search.approximate import ApproximateIndex
from featurestore.search.exact import ExactIndex, Metric, combine
from featurestore.search.factory import choose_factory
from featurestore.sources.listing import SourceOptions
from featurestore.store.view_rows import ViewRows
from featurestore.terms.vectors import unit_rows
from featurestore.upkeep import erase
from featurestore.upkeep.verify import verify

DIM = 16


class Clustered:
    """A text "12" has a vector near the centre of cluster 12 % 50."""

    version = "1"

    def encode_texts(self, texts):
        centres = np.random.default_rng(0).normal(size=(50, DIM))
        numbers = [int(text) if text.isdecimal() else len(text) for text in texts]  # probes
        noise = [np.random.default_rng(n).normal(0, 0.3, DIM) for n in numbers]
        return (centres[np.array(numbers) % 50] + noise).astype(np.float32)


SPEC = f"python:{Clustered.__module__}:Clustered"


def write_table(path, numbers):
    rows = [f"i{n:05d},{n},{'even' if n % 2 == 0 else 'odd'}" for n in numbers]
    path.write_text("\n".join(["id,text,label", *rows]))
    return path


def embed(store, path, **options):
    options = SourceOptions(text="text", id="id", label=("label",))
    store.embed([path], dataset="d", encoders=[Clustered()], source_options=options)
    return store.dataset("d").views()[0]


@pytest.fixture
def view(empty_store, tmp_path, monkeypatch):
    """Two thousand rows, for which an index is to be worth it."""
    monkeypatch.setattr("featurestore.search.factory.EXACT_FLOATS", 0)
    return embed(empty_store, write_table(tmp_path / "t.csv", range(2000)))


def truth(vectors, queries, metric, k, among=None):
    """Rows of the nearest by NumPy alone."""
    vectors, queries = vectors.astype(float), queries.astype(float)
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    scores = queries @ vectors.T
    if metric == "l2":
        scores = -np.linalg.norm(queries[:, None] - vectors, axis=2)
    if among is not None:
        scores = np.where(among, scores, -np.inf)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


# Exact


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 12), st.sampled_from(list(Metric)), st.integers(0, 10**6),
    st.booleans(),
)  # fmt: skip
def test_exact_search_is_a_sort(n, k, metric, seed, filtered):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 5)).astype(np.float32)
    queries = rng.normal(size=(3, 5)).astype(np.float32)
    among = rng.random(n) < 0.5 if filtered else None
    n_among = n if among is None else int(among.sum())
    found = ExactIndex.build(np.arange(n).astype(str).astype(object), vectors, metric).search(
        queries, k=k, among=among
    )
    rows, scores = truth(vectors, queries, metric, min(k, n_among), among)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)


def test_a_range_holds_all_that_is_near_enough():
    rng = np.random.default_rng(1)
    vectors, queries = (rng.normal(size=(n, 8)).astype(np.float32) for n in (200, 4))
    ids = np.arange(200).astype(str).astype(object)
    for metric, limit in ((Metric.COSINE, 0.4), (Metric.INNER_PRODUCT, 3.0), (Metric.L2, -3.0)):
        rows, scores = truth(vectors, queries, metric, 200)
        for found, row, score in zip(
            ExactIndex.build(ids, vectors, metric).within(queries, limit), rows, scores, strict=True
        ):
            assert found.rows[0].tolist() == row[score >= limit].tolist()


def test_other_dims_and_metrics_are_refused():
    index = ExactIndex.build(np.array(["a"], object), np.ones((1, 3), np.float32))
    with pytest.raises(ShapeMismatch, match=r"index has dim 3, queries have shape \(1, 4\)"):
        index.search(np.ones((1, 4), np.float32))
    with pytest.raises(BadName, match="did you mean 'cosine'"):
        ExactIndex.build(index.ids, index.vectors, "cosin")
    with pytest.raises(UnknownItem, match="there is no vector of 'b' here"):
        index.neighbors("b")


def test_likes_and_dislikes_make_one_query():
    likes = np.array([[2, 0, 0], [0, 3, 0]], np.float32)
    query = combine(likes, np.array([[0, 0, 5]], np.float32))
    np.testing.assert_allclose(query, [[0.5, 0.5, -0.5]])
    np.testing.assert_allclose(combine(likes[:1]), [[1, 0, 0]])


def test_a_range_includes_its_limit_and_nothing_impossible():
    vectors = np.eye(3, dtype=np.float32)
    ids = np.arange(3).astype(str).astype(object)
    for metric, score in ((Metric.COSINE, 1.0), (Metric.INNER_PRODUCT, 1.0), (Metric.L2, 0.0)):
        (found,) = ExactIndex.build(ids, vectors, metric).within(vectors[:1], score)
        assert found.ids.tolist() == [["0"]]
    (found,) = ExactIndex.build(ids, vectors, Metric.L2).within(vectors[:1], 0.5)
    assert found.ids.shape == (1, 0)


def test_a_query_that_is_no_number_is_refused():
    index = ExactIndex.build(np.array(["a"], object), np.ones((1, 3), np.float32))
    with pytest.raises(BadQuery, match="NaN or infinity"):
        index.search(np.full((1, 3), np.nan, np.float32))


# Approximate


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
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"format": 99}))
    assert isinstance(view.index(), ExactIndex)
    assert "has format 99, this release reads 1" in caplog.text
    (found,) = verify(view.dataset.folder, canary=False)
    assert "has format 99" in found.what
    path.write_text(json.dumps(facts))
    import faiss

    other = faiss.IndexFlatIP(DIM + 1)
    faiss.write_index(other, str(path.with_name("index.faiss")))
    (found,) = verify(view.dataset.folder, canary=False)
    assert "index.faiss is not what was written" in found.what
    path.with_name("sums.json").unlink()  # as of an earlier release
    (found,) = verify(view.dataset.folder, canary=False)
    assert f"of dim {DIM + 1}, expected" in found.what
    assert isinstance(view.index(), ExactIndex)
    assert f"of dim {DIM + 1}, expected" in caplog.text


def test_the_choice_follows_rows_and_memory():
    assert choose_factory(200_000, 512) == "IVF512,SQ8"
    assert choose_factory(1_000_000, 512) == "IVF1024,SQ8"
    assert choose_factory(200_000, 512, memory_bytes=30_000_000) == "IVF512,PQ128"
    with pytest.raises(BadName, match=r"expected at least 1\.8"):
        choose_factory(200_000, 512, memory_bytes=1_000_000)


@pytest.mark.parametrize("factory", ["nonsense", "IVF10"])
def test_a_factory_string_that_faiss_does_not_know(factory, view):
    with pytest.raises(BadName, match=f"FAISS cannot make '{factory}'"):
        view.build_index(factory=factory)


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


@pytest.mark.parametrize("metric", list(Metric))
def test_one_example_is_a_plain_search(metric, view):
    one = view.like(items=["i00007"], metric=metric, k=8)
    other = view.neighbors("i00007", metric=metric, k=8)
    assert one.ids.tolist() == other.ids.tolist()
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-5)
    with pytest.raises(BadQuery, match="expected an item, image, text or vector"):
        view.like(metric=metric)


class FaissWithGpu:
    """FAISS as where it has one GPU; ``index`` stands for what is on it."""

    def __init__(self, index):
        self.real, self.index = faiss_module.load_faiss(), index

    def __getattr__(self, name):
        return getattr(self.real, name)

    def get_num_gpus(self):
        return 1

    def StandardGpuResources(self):
        return object()

    def GpuIndexFlat(self, resources, dim, metric):
        return self.index(dim, metric)


@pytest.mark.parametrize("fails_at", [None, "add", "search"])
def test_much_work_goes_to_a_gpu_and_to_the_cpu_where_it_has_no_room(monkeypatch, caplog, fails_at):
    asked = []

    class OnGpu:
        def __init__(self, dim, metric):
            self.flat = real.IndexFlat(dim, metric)

        def add(self, vectors):
            self.note("add")
            self.flat.add(vectors)

        def search(self, queries, k):
            self.note("search")
            return self.flat.search(queries, k)

        def note(self, what):
            asked.append(what)
            if what == fails_at:
                raise RuntimeError("Error in alloc\nout of memory")

    real = faiss_module.load_faiss()
    with_gpu = FaissWithGpu(OnGpu)
    monkeypatch.setattr(faiss_module, "load_faiss", lambda: with_gpu)
    monkeypatch.setattr(faiss_module, "GPU_FLOATS", 1000)
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    index = ExactIndex.build(np.arange(50).astype(str), vectors, "l2")
    assert index.search(vectors[:2], k=3).rows[:, 0].tolist() == [0, 1]
    assert asked == []  # too little
    found = index.search(vectors, k=3)
    scores = -np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.testing.assert_array_equal(found.rows, np.argsort(-scores, axis=1, kind="stable")[:, :3])
    assert asked == (["add"] if fails_at == "add" else ["add", "search"])
    assert ("searching on the CPU" in caplog.text) == (fails_at is not None)


# What a view adds: ranges, copies, vectors of one's own, and what is known of what was found


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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.5, 0.9, 1.0]))
def test_of_copies_the_best_one_stays(seed, k, limit):
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(8, 4))
    noise = rng.normal(0, 0.02, (40, 4)) * (np.arange(40) % 5 > 1)[:, None]
    vectors = np.repeat(kinds, 5, axis=0) + noise
    vectors = vectors.astype(np.float32)
    index = ExactIndex.build(np.arange(40).astype(str).astype(object), vectors)
    query = rng.normal(size=(1, 4)).astype(np.float32)
    found = index.search(query, k=k, dedupe=limit)
    rows, scores = truth(vectors, query, "cosine", 40)
    unit = unit_rows(vectors)
    kept = []
    for row in rows[0]:
        if all(unit[row] @ unit[other] < limit - 1e-6 for other in kept):
            kept.append(row)
    expected = scores[0][np.isin(rows[0], kept)][:k]  # which of two equal ones is all the same
    np.testing.assert_allclose(found.scores[0], expected, atol=1e-5)
    alike = unit[found.rows[0]] @ unit[found.rows[0]].T
    assert (np.triu(alike, 1) < limit).all()


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
