"""Every estimator of ours keeps scikit-learn's promises."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.utils.estimator_checks import parametrize_with_checks

from heads.estimators.knn import KnnHead, nearest_others, nearest_rows
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import CS, LogisticHead
from heads.estimators.normaliser import Normaliser
from heads.estimators.per_label import PerLabel
from heads.estimators.prototype import PrototypeHead
from heads.estimators.regression import KnnRegressor, RidgeRegressor
from heads.estimators.ridge import RidgeHead, indicators, ridge_loo
from heads.estimators.shrinkage import shrunk_covariance, shrunk_together
from heads.estimators.tfidf import CountsTfidf, Lsa, count_ngrams, text_features
from heads.estimators.zero_shot import ZeroShotProbe


@parametrize_with_checks(
    [
        PrototypeHead(),
        RidgeHead(),
        LogisticHead(),
        LogisticHead(class_weight="balanced"),
        KnnHead(),
        LdaHead(),
        ZeroShotProbe(),
        PerLabel(PrototypeHead()),
        RidgeRegressor(),
        KnnRegressor(),
        CountsTfidf(n_first=1),
        Lsa(),
        *(Normaliser(kind) for kind in ("centre", "l2", "standardise")),
    ]
)
def test_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


def scaled(vectors):
    return Normaliser("centre").fit_transform(vectors.astype(np.float64))


def test_softmax_regression_is_that_of_scikit_learn(blobs):
    vectors, labels = blobs(noise=3)
    Z = scaled(vectors)
    ours = LogisticHead("none", Cs=(3.0,)).fit(Z, labels)
    theirs = LogisticRegression(C=3.0, tol=1e-8, max_iter=5000).fit(Z, labels)
    np.testing.assert_allclose(ours.predict_proba(Z), theirs.predict_proba(Z), atol=5e-3)


def test_softmax_regression_of_two_classes_is_that_of_twice_the_C(blobs):
    vectors, labels = blobs(n_classes=2, noise=3)
    Z = scaled(vectors)
    ours = LogisticHead("none", Cs=(3.0,)).fit(Z, labels)
    theirs = LogisticRegression(C=6.0, tol=1e-8, max_iter=5000).fit(Z, labels)
    np.testing.assert_allclose(ours.predict_proba(Z), theirs.predict_proba(Z), atol=5e-3)


def test_float32_vectors_give_the_same_head(blobs):
    vectors, labels = blobs(noise=3)
    single = LogisticHead().fit(vectors, labels)
    double = LogisticHead().fit(vectors.astype(np.float64), labels)
    assert (single.normalisation_, single.C_) == (double.normalisation_, double.C_)
    np.testing.assert_allclose(
        single.predict_proba(vectors), double.predict_proba(vectors), atol=5e-3
    )


def test_sparse_rows_replaced_by_dense_ones_give_the_same_head(blobs):
    """The short cut for texts against the plain fit, with equal rows among them."""
    vectors, labels = blobs(noise=3)
    Z = csr_array(np.maximum(np.vstack([scaled(vectors), scaled(vectors)[:9]]), 0))
    y = np.array(labels + labels[:9])
    short = LogisticHead("none", Cs=(10.0,)).fit(Z, y)
    plain = LogisticRegression(C=10.0, tol=1e-8, max_iter=5000).fit(Z, y)
    np.testing.assert_allclose(short.predict_proba(Z), plain.predict_proba(Z), atol=5e-3)


@pytest.mark.parametrize("shape", [(40, 8), (30, 60)])
@pytest.mark.parametrize("grouped", [False, True])
def test_ridge_leave_one_out_equals_explicit_refits(shape, grouped):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=shape) + 0.5
    codes = np.arange(len(Z)) % 3
    targets = indicators(codes, 3)
    groups = np.maximum(np.arange(len(Z)) // 4, 2) if grouped else None
    found = ridge_loo(Z, targets, (0.3,), groups)
    expected = np.empty_like(targets)
    for g in range(len(Z)) if groups is None else set(groups):
        out = np.arange(len(Z)) == g if groups is None else groups == g
        expected[out] = Ridge(0.3).fit(Z[~out], targets[~out]).predict(Z[out])
    np.testing.assert_allclose(found.scores, expected, atol=1e-9)
    full = Ridge(0.3).fit(Z, targets)
    np.testing.assert_allclose(found.weights, np.vstack([full.coef_.T, full.intercept_]), atol=1e-9)
    np.testing.assert_allclose(found.loss, np.mean((expected - targets) ** 2))


@pytest.mark.parametrize("strength", [1, 30])
@pytest.mark.parametrize("weighted", [False, True])
def test_axes_found_in_float32_give_what_those_of_float64_do(strength, weighted):
    """Rows of fewer than columns, some along one strong direction, as pixels of dark and bright."""
    rng = np.random.default_rng(0)
    codes = np.arange(120) % 3
    X = rng.normal(size=(120, 400)) + rng.normal(size=(3, 400))[codes] / 3
    X += strength * rng.normal(size=(120, 1)) * rng.normal(size=400)
    Z = Normaliser("centre").fit_transform(X).astype(np.float32)
    w = rng.integers(1, 4, 120).astype(float) if weighted else None
    groups = np.arange(120) // 2
    rough, exact = (
        ridge_loo(z, indicators(codes, 3), groups=groups, weights=w)
        for z in (Z, Z.astype(np.float64))
    )
    assert rough.alpha == exact.alpha
    np.testing.assert_allclose(rough.scores, exact.scores, atol=2e-4)
    np.testing.assert_allclose(rough.weights, exact.weights, atol=2e-5)
    rough, exact = (
        LogisticHead("none", Cs=(3.0,)).fit(z, codes, sample_weight=w).predict_proba(z)
        for z in (Z, Z.astype(np.float64))
    )
    np.testing.assert_allclose(rough, exact, atol=1e-3)


@pytest.mark.parametrize("head", [RidgeHead(), LogisticHead()])
def test_one_label_a_class_teaches_vectors_of_length_1(head):
    """Left out, the only row of a class says nothing of the normalisation that suits it."""
    X, y = load_digits(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(y == c)[:1] for c in range(10)])
    groups = np.repeat(np.arange(10), 2)
    twice = np.concatenate([np.flatnonzero(y == c)[:2] for c in range(10)])
    one, grouped = head.fit(X[rows], y[rows]), head.__class__().fit(X[twice], y[twice], groups)
    assert one.normalisation_ == grouped.normalisation_ == "l2"
    cosine = KNeighborsClassifier(1, metric="cosine").fit(X[rows], y[rows])
    ours, theirs = (balanced_accuracy_score(y, h.predict(X)) for h in (one, cosine))
    assert ours > theirs - 0.05
    assert one.predict_proba(X).max(axis=1).mean() > 1.5 / 10  # it is sure of something


def test_ridge_keeps_the_alpha_that_scikit_learn_would():
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(60, 20))
    targets = Z[:, :2] + 2 * rng.normal(size=(60, 2))
    theirs = RidgeCV(alphas=(0.1, 1.0, 10.0, 100.0)).fit(Z, targets)
    assert ridge_loo(Z, targets, (0.1, 1.0, 10.0, 100.0)).alpha == theirs.alpha_


def test_prototype_predicts_the_nearest_of_scikit_learns_centroids(blobs):
    vectors, labels = blobs(noise=4)
    Z = Normaliser("l2").fit_transform(vectors.astype(np.float64))
    expected = NearestCentroid().fit(Z, labels).predict(Z)
    np.testing.assert_array_equal(PrototypeHead().fit(vectors, labels).predict(vectors), expected)


def test_prototype_leaves_each_row_out_of_its_own_mean(blobs):
    vectors, labels = blobs(n=30, noise=4)
    Z = Normaliser("l2").fit_transform(vectors.astype(np.float64))
    codes = np.arange(30) % 3
    expected = np.array(
        [
            [
                -np.sum((Z[i] - Z[(codes == c) & (np.arange(30) != i)].mean(axis=0)) ** 2) / 2
                for c in range(3)
            ]
            for i in range(30)
        ]
    )
    head = PrototypeHead().fit(vectors.astype(np.float64), labels)
    np.testing.assert_allclose(head._leave_one_out(Z, codes), expected)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.3)])
def test_knn_votes_as_scikit_learns_does(blobs, k, temperature):
    vectors, labels = blobs(noise=4)
    vectors = vectors.astype(np.float64)
    head = KnnHead(ks=(k,), temperatures=(temperature,)).fit(vectors, labels)
    Z = head.normaliser_.transform(vectors)
    theirs = KNeighborsClassifier(
        k, weights=lambda d: np.exp((1 - d**2 / 2) / temperature), algorithm="brute"
    ).fit(Z, labels)
    queries, _ = blobs(noise=4, seed=3)
    np.testing.assert_allclose(
        head.predict_proba(queries.astype(np.float64)),
        theirs.predict_proba(head.normaliser_.transform(queries.astype(np.float64))),
        atol=1e-9,
    )


def test_knn_chooses_k_and_then_the_temperature_by_leaving_rows_out(blobs):
    vectors, labels = blobs(noise=6)
    labels = np.array(labels)
    head = KnnHead(ks=(1, 5, 50)).fit(vectors, labels)
    Z = head.normaliser_.transform(vectors).astype(np.float64)
    truth = labels[:, None] == np.unique(labels)
    cosine = Z @ Z.T
    np.fill_diagonal(cosine, -np.inf)

    def votes(k, temperature):
        nearest = np.argsort(-cosine, axis=1)[:, :k]
        weight = np.exp(np.take_along_axis(cosine, nearest, axis=1) / temperature)
        of_class = (weight[:, :, None] * truth[nearest]).sum(axis=1)
        return of_class / of_class.sum(axis=1, keepdims=True)

    recall = {
        k: balanced_accuracy_score(labels, head.classes_[votes(k, 0.07).argmax(axis=1)])
        for k in head.ks
    }
    brier = {t: np.mean((votes(head.k_, t) - truth) ** 2) for t in head.temperatures}
    assert len({round(value, 6) for value in recall.values()}) > 1  # there is something to choose
    assert head.k_ == max(recall, key=recall.get)
    assert head.temperature_ == min(brier, key=brier.get) != 0.07


@pytest.mark.parametrize("head", [KnnHead, KnnRegressor])
@pytest.mark.parametrize("bad", [{"temperatures": (0,)}, {"temperatures": ()}, {"ks": (0, 1)}])
def test_knn_refuses_nothing_to_choose_from(head, bad):
    with pytest.raises(ValueError, match="expected one number above 0 or more"):
        head(**bad).fit(np.eye(4), [0, 1, 0, 1])


def test_knn_gives_a_rows_own_group_no_vote_when_it_chooses_k():
    """Pairs of twins with random labels: only their twins make k = 1 look good."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(100, 5)), 2, axis=0)
    labels = np.repeat(rng.permutation(np.repeat([0, 0, 0, 1], 25)), 2)
    pairs = np.repeat(np.arange(100), 2)
    assert KnnHead(ks=(1, 50)).fit(vectors, labels).k_ == 1
    Z = KnnHead(ks=(1,)).fit(vectors, labels).vectors_
    nearest, cosines = nearest_rows(Z, Z, 3, pairs, pairs)
    assert not (pairs[nearest] == pairs[:, None]).any()
    assert np.isfinite(cosines).all()


@pytest.mark.parametrize("kind", ["centre", "l2", "standardise"])
def test_normalised_vectors_have_a_mean_squared_length_of_1(blobs, kind):
    vectors = np.hstack([blobs()[0] + 5, np.full((120, 1), 7, dtype=np.float32)])
    Z = Normaliser(kind).fit_transform(vectors)
    assert Z.dtype == np.float32
    np.testing.assert_allclose(np.mean(np.sum(Z**2, axis=1)), 1, rtol=1e-5)
    np.testing.assert_array_equal(Z[:, -1], 0)


def test_counted_once_is_fitted_in_the_fold():
    """N-grams of all texts, weighed on training rows, against a vectoriser fitted on them."""
    texts = [
        "Steel plate, cracked",
        "steel crack crack",
        "a new text",
        "Other words",
        "crack of new",
    ]
    train, test = [0, 1, 2], [3, 4]
    plain = text_features().fit([texts[i] for i in train])
    counts, n_words = count_ngrams(texts)
    fast = CountsTfidf(n_words).fit(counts[train])
    for rows in (train, test):
        a = plain.transform([texts[i] for i in rows])
        b = fast.transform(counts[rows])
        np.testing.assert_allclose((a @ a.T).toarray(), (b @ b.T).toarray(), atol=1e-6)
    a, b = plain.transform(texts), fast.transform(counts)
    np.testing.assert_allclose(
        np.sort(a.toarray()[4]), np.sort(b.toarray()[4])[-a.shape[1] :], atol=1e-6
    )


@pytest.mark.parametrize("strength", [0, 10, 100])
def test_a_strong_direction_within_classes_does_not_spoil_a_solution_in_float32(strength):
    """Refinement of a float32 solution diverges there; then it is made in float64."""
    rng = np.random.default_rng(0)
    R = rng.normal(size=(300, 900)) + strength * np.outer(
        rng.normal(size=300), rng.normal(size=900)
    )
    R, M = (R - R.mean(axis=0)).astype(np.float32), rng.normal(size=(900, 4))
    shrunk = shrunk_together(R)
    exact = shrunk.solve(R.astype(np.float64), M)
    assert np.abs(shrunk.solve(R, M) - exact).max() < 1e-5 * np.abs(exact).max()


def test_shrinkage_of_the_covariance_is_scikit_learns():
    rng = np.random.default_rng(0)
    for n, dim in ((40, 8), (10, 30), (200, 5)):
        R = rng.normal(size=(n, dim)) * np.arange(1, dim + 1)
        covariance, shrinkage = shrunk_covariance(R)
        theirs, their_shrinkage = ledoit_wolf(R, assume_centered=True)
        assert shrinkage == pytest.approx(their_shrinkage)
        np.testing.assert_allclose(covariance, theirs)


@pytest.mark.parametrize("dim", [12, 300])
def test_lda_is_scikit_learns_with_the_same_covariance(blobs, dim):
    """Also with fewer rows than columns, where the covariance is never made."""
    vectors, labels = blobs(noise=3, dim=dim)
    vectors = vectors.astype(np.float64)
    head = LdaHead(by_class=(0.0,)).fit(vectors, labels)
    Z = head.normaliser_.transform(vectors)
    codes = np.unique(labels, return_inverse=True)[1]
    means = np.stack([Z[codes == c].mean(axis=0) for c in range(3)])
    theirs = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=Fixed(shrunk_covariance(Z - means[codes])[0])
    ).fit(Z, labels)
    queries = head.normaliser_.transform(blobs(noise=3, dim=dim, seed=3)[0].astype(np.float64))
    ours = queries @ head.weights_[:-1] + head.weights_[-1]
    np.testing.assert_allclose(
        np.diff(ours, axis=1), np.diff(theirs.decision_function(queries), axis=1), rtol=1e-3
    )


@pytest.mark.parametrize("dim", [12, 300])
def test_lda_shrunk_class_by_class_is_scikit_learns(blobs, dim):
    """Columns of unlike scale, classes of unlike size and spread; the scale of ours is undone."""
    vectors, labels = blobs(noise=3, dim=dim)
    rng = np.random.default_rng(0)
    labels = np.array(labels)
    kept = (labels != "class 1") | (rng.random(len(labels)) < 0.4)
    spread = np.where(labels == "class 2", 3, 1)[:, None] * rng.lognormal(size=dim)
    X = (vectors * spread)[kept].astype(np.float64)
    head = LdaHead(by_class=(1.0,)).fit(X, labels[kept])
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, labels[kept])
    ours = head.normaliser_.transform(X) @ head.weights_[:-1] + head.weights_[-1]
    np.testing.assert_allclose(
        np.diff(ours, axis=1), np.diff(theirs.decision_function(X), axis=1), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize(("scales", "expected"), [(0.0, (0.0, 0.5)), (3.0, (0.5, 1.0))])
def test_lda_chooses_how_it_shrinks(scales, expected):
    """Columns of one scale want one sphere; of a thousandfold they want their own diagonal."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    X = rng.normal(size=(4, 60))[y] * 0.5 + rng.normal(size=(200, 60))
    head = LdaHead().fit(X * rng.lognormal(0, scales, 60), y)
    assert head.by_class_ in expected


def test_lda_refuses_shares_outside_0_to_1():
    with pytest.raises(ValueError, match=r"expected one number in \[0, 1\]"):
        LdaHead(by_class=(2,)).fit(np.eye(4), [0, 1, 0, 1])


class Fixed(BaseEstimator):
    """A covariance that is known."""

    def __init__(self, covariance):
        self.covariance = covariance

    def fit(self, X):
        self.covariance_ = self.covariance
        return self


def test_the_nearest_are_found_among_ties():
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 3, (60, 3)).astype(np.float32)
    rows, scores = nearest_rows(vectors[:20], vectors, 7)
    expected = -np.sort(-(vectors[:20] @ vectors.T), axis=1)[:, :7]
    np.testing.assert_array_equal(scores, expected)
    assert all(len(set(row)) == 7 for row in rows.tolist())


def test_neighbours_among_themselves_are_those_of_any_rows():
    vectors = np.random.default_rng(0).normal(size=(90, 7))
    block, rows = np.arange(90) // 3, np.random.default_rng(1).permutation(90)[:60]
    found, cosines = nearest_others(vectors, rows, 9, block)
    expected, theirs = nearest_rows(vectors[rows], vectors, 9, block[rows], block)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(cosines, theirs)
    assert not (block[found] == block[rows, None]).any()


def test_principal_directions_of_sparse_rows_are_those_of_an_svd():
    counts, n_words = count_ngrams([f"{a} {b} end" for a in "uvw" for b in ("cat", "dog", "ox")])
    X = CountsTfidf(n_words).fit_transform(counts).astype(np.float64)
    lsa = Lsa(n_components=3).fit(X)
    _, _, Vt = np.linalg.svd(X.toarray(), full_matrices=False)
    theirs = X.toarray() @ Vt[:3].T
    ours = lsa.transform(X)[:, ::-1]
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)


def test_balanced_logistic_is_scikit_learns(blobs):
    vectors, _ = blobs(noise=4)
    labels = np.where(np.arange(120) % 10 == 0, "rare", np.where(np.arange(120) % 2, "a", "b"))
    Z = scaled(vectors + 2 * (labels == "rare")[:, None])
    ours = LogisticHead("none", Cs=(3.0,), class_weight="balanced").fit(Z, labels)
    theirs = LogisticRegression(C=3.0, class_weight="balanced", tol=1e-8, max_iter=5000)
    np.testing.assert_allclose(
        ours.predict_proba(Z), theirs.fit(Z, labels).predict_proba(Z), atol=5e-3
    )
    with pytest.raises(ValueError, match="balanced"):
        LogisticHead(class_weight="heavy").fit(Z, labels)


def test_a_gpu_that_does_not_answer_leaves_the_fit_to_the_cpu(monkeypatch, caplog):
    from heads.estimators import logistic, softmax_gpu

    if torch.cuda.is_available() or not torch.backends.cuda.is_built():
        pytest.skip("torch with CUDA, and no GPU, is what fails here")
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=90)
    X = (rng.normal(size=(3, 5))[y] + rng.normal(size=(90, 5))).astype(np.float32)
    expected = LogisticHead().fit(X, y)
    monkeypatch.setattr(logistic, "GPU_PRODUCTS", 1)
    monkeypatch.setattr(softmax_gpu, "find_gpu", lambda: "cuda")
    found = LogisticHead().fit(X, y)
    np.testing.assert_array_equal(found.weights_, expected.weights_)
    assert "fitting on the CPU" in caplog.text
    with pytest.raises(RuntimeError, match=r"NVIDIA|CUDA"):
        LogisticHead(device="cuda").fit(X, y)


def test_one_fit_at_a_time_leaves_the_precision_of_products_as_it_was():
    from concurrent.futures import ThreadPoolExecutor

    from heads.estimators.softmax_gpu import alone

    def fit(_):
        with alone():
            time.sleep(0.001)  # for another thread to come between, were there no lock
            return torch.get_float32_matmul_precision()

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with ThreadPoolExecutor(5) as pool:
            assert set(pool.map(fit, range(60))) == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_for_gpus_is_the_loss_of_cpus(weighted):
    from heads.estimators.softmax import _loss
    from heads.estimators.softmax_gpu import loss_on_gpu

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 20)).astype(np.float32), rng.integers(5, size=300)
    weights = rng.random(300) + 0.5 if weighted else None
    offset = rng.normal(size=(300, 5)) if weighted else None
    W = rng.normal(size=21 * 5) * 0.1
    expected = _loss(X, y, 5, 2.0, weights, offset)(W)
    found = loss_on_gpu(X, y, 5, 2.0, weights, offset, "cpu")(W)
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_c_is_searched_to_its_end_and_probabilities_are_sharpened(is_sparse):
    """Faint unit rows: at a loose tolerance each warm start passed as it was, and C stayed small.

    The oracle is scikit-learn at every C of the grid, judged on rows that neither saw.
    """
    rng = np.random.default_rng(0)
    y = np.arange(1800) % 6
    X = rng.normal(0, 1, (1800, 300))
    X[np.arange(1800), y] += 4
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    some, others = slice(0, 900), slice(900, None)
    head = LogisticHead("none", random_state=0)
    head.fit(csr_array(X[some]) if is_sparse else X[some], y[some])
    found = log_loss(y[others], head.predict_proba(X[others]))
    losses = [
        log_loss(y[others], LogisticRegression(C=C, max_iter=2000).fit(X[some], y[some])
                 .predict_proba(X[others]))
        for C in CS
    ]  # fmt: skip
    assert found <= min(losses) + 0.02
    assert head.score(X[others], y[others]) > 0.93
