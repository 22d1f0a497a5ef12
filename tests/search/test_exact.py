"""Exact search finds what is nearest, on the CPU and on a GPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import BadName, BadQuery, ShapeMismatch, UnknownItem
from featurestore.search import exact as faiss_module
from featurestore.search.exact import ExactIndex, Metric, combine
from featurestore.terms.vectors import unit_rows
from tests.search.conftest import truth


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
