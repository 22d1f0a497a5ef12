"""Scores against closed forms, published values and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import Ridge

from featurestore.errors import NotEnoughData, ShapeMismatch
from heads.estimators.ridge import ridge_loo as fit_ridge
from heads.transfer.scores import SCORES, gbc, h_score, knn_loo, logme, prototype_loo, ridge_loo


def toy(n, dim, n_classes=3):
    """A generator without randomness."""
    i, j = np.arange(n)[:, None], np.arange(dim)
    F = np.sin((i + 1) * (j + 1.0)) + 0.5 * (i % n_classes == j % n_classes)
    return F, np.arange(n) % n_classes


@pytest.mark.parametrize(
    ("n", "dim", "expected"),
    [(12, 3, -0.807936351), (30, 4, -0.797970176), (12, 16, -0.854646295)],
)
def test_logme_is_exact_also_with_fewer_rows_than_columns(n, dim, expected):
    assert logme(*toy(n, dim)) == pytest.approx(expected, abs=2e-9)


def test_logme_per_class_is_the_best_dense_gaussian():
    """An optimum over α and β of the density itself, without any decomposition."""
    F, y = toy(12, 16)
    expected = (-0.825164153, -0.869632389, -0.869142342)
    exact = {"xatol": 1e-9, "fatol": 1e-12}
    for c in range(3):
        t = (y == c).astype(float)

        def density(x, t=t):
            cov = np.eye(12) * math.exp(x[0]) + F @ F.T * math.exp(x[1])
            return -multivariate_normal.logpdf(t, np.zeros(12), cov) / 12

        best = min(
            minimize(density, (a, b), method="Nelder-Mead", options=exact).fun
            for a in (-4, -1)
            for b in (-8, -2)
        )
        assert -best == pytest.approx(expected[c], abs=1e-7)
        assert logme(F, t) == pytest.approx(expected[c], abs=2e-9)  # a float target: regression


def test_logme_of_one_column_has_a_closed_form():
    F = np.array([[1.0], [1], [-1], [-1]]) / 2
    assert logme(F, np.array([1.0, 1, 0, 0])) == pytest.approx(-1.0069589249541315, abs=1e-12)


@pytest.mark.parametrize("shape", [(30, 4), (12, 16), (60, 5)])
def test_logme_does_not_change_with_scale_rotation_empty_or_doubled_columns(shape):
    F, y = toy(*shape)
    value = logme(F, y)
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(shape[1], shape[1])))[0]
    for other in (3.7 * F, F @ Q, np.hstack([F, np.zeros((shape[0], 5))]), np.hstack([F, F])):
        assert logme(other, y) == pytest.approx(value, abs=1e-9)
    assert logme(F + 1, y) != pytest.approx(value, abs=1e-3)
    assert logme(F + 1, y, centre=True) == pytest.approx(logme(F, y, centre=True), abs=1e-8)


def test_logme_sees_a_faint_column_that_tells_all():
    """Through the triangle of QR; a Gram matrix would have rounded it away."""
    rng = np.random.default_rng(0)
    y = np.arange(500) % 2
    F = rng.normal(size=(500, 4))
    F[:, 3] = 1e-5 * y
    assert np.linalg.svd(F - F.mean(axis=0))[1][-1] < 1e-3
    assert logme(F, y, centre=True) > 1


def test_h_score_is_the_sum_of_squared_canonical_correlations():
    F, y = toy(12, 3)
    Q = np.linalg.qr(F - F.mean(axis=0))[0]
    one_hot = (y[:, None] == np.arange(3)).astype(float)
    P = np.linalg.svd(one_hot - one_hot.mean(axis=0))[0][:, :2]
    expected = (np.linalg.svd(Q.T @ P)[1] ** 2).sum()
    assert h_score(F, y, shrink=False) == pytest.approx(0.943962224875512)
    assert h_score(F, y, shrink=False) == pytest.approx(expected)
    assert h_score(one_hot, y, shrink=False) == pytest.approx(2)  # n_classes - 1
    assert h_score(*toy(6, 10), shrink=False) == pytest.approx(2)  # saturated


def test_h_score_with_shrinkage():
    F, y = toy(6, 10)
    assert h_score(F, y) == pytest.approx(0.6829302132)
    assert ledoit_wolf(F)[1] == pytest.approx(0.78069676)
    assert h_score(*toy(12, 3)) == 0  # shrinkage is 1: nothing is left


def test_with_fewer_rows_than_columns_h_score_is_that_of_the_whole_matrices():
    F, y = toy(12, 40)
    F = F + 2.0 * y[:, None]  # one strong direction: else all of the covariance is shrunk away
    Z = F - F.mean(axis=0)
    means = np.stack([Z[y == c].mean(axis=0) for c in np.unique(y)])
    weights = np.array([(y == c).mean() for c in np.unique(y)])
    covariance, shrinkage = ledoit_wolf(Z, assume_centered=True)
    of_classes = np.linalg.solve(covariance, (means.T * weights) @ means)
    assert h_score(F, y) == pytest.approx((1 - shrinkage) * np.trace(of_classes))
    assert h_score(F, y) > 0.01


def test_gbc():
    x = np.array([[-1.0], [1], [3], [5]])
    assert gbc(x, np.array([0, 0, 1, 1])) == pytest.approx(-2 * math.exp(-2))
    assert gbc(*toy(12, 3)) == pytest.approx(-0.7045018805784506)
    F, _ = toy(6, 2)
    assert gbc(np.vstack([F, F, F]), np.repeat([0, 1, 2], 6)) == pytest.approx(-6)
    F, y = toy(300, 100)
    assert gbc(F, y, n_directions=None) != gbc(F, y)


def test_leave_one_out_scores():
    F, y = toy(12, 3)
    assert knn_loo(F, y, k=1) == 1
    assert prototype_loo(F, y) == pytest.approx(1 / 3)
    assert ridge_loo(F, y, alphas=(0.1,)) == pytest.approx(2 / 3)


def test_a_prototype_is_taken_without_the_group_of_the_row():
    F, y = toy(40, 4)
    groups = np.random.default_rng(0).integers(0, 12, 40)
    groups[:4] = 100 + np.arange(4)  # some stand alone
    right = np.zeros(40)
    for i in range(40):
        known = groups != groups[i]
        means = {c: F[known & (y == c)].mean(axis=0) for c in np.unique(y[known])}
        right[i] = min(means, key=lambda c: np.linalg.norm(F[i] - means[c])) == y[i]
    recalls = [right[y == c].mean() for c in np.unique(y)]
    assert prototype_loo(F, y, groups=groups) == pytest.approx(np.mean(recalls))
    assert prototype_loo(F, y, groups=np.arange(40)) == prototype_loo(F, y)
    assert prototype_loo(F, y, groups=y) == 0  # nothing of the class is left


def test_leave_one_out_of_numbers_is_a_loop_of_refits():
    F, _ = toy(30, 4)
    t = F @ [1.0, -2, 0.5, 3] + np.cos(np.arange(30))
    guess = [
        Ridge(0.3).fit(np.delete(F, i, 0), np.delete(t, i)).predict(F[i : i + 1])[0]
        for i in range(30)
    ]
    expected = 1 - np.mean((t - guess) ** 2) / t.var()
    assert ridge_loo(F, t, alphas=(0.3,)) == pytest.approx(expected)
    assert knn_loo(F, t, k=3) < 1


def test_leaving_out_groups_sees_through_twins():
    """Each row has a twin with its label, and the labels mean nothing."""
    rng = np.random.default_rng(0)
    F = np.repeat(rng.normal(size=(60, 100)), 2, axis=0)
    y = np.repeat(rng.permutation(60) % 2, 2)
    twins = np.repeat(np.arange(60), 2)
    assert knn_loo(F, y, k=1) == 1
    assert knn_loo(F, y, k=1, groups=twins) < 0.7
    assert ridge_loo(F, y) > 0.85
    assert ridge_loo(F, y, groups=twins) < 0.7


@pytest.mark.parametrize("name", SCORES)
def test_a_better_encoder_scores_higher_and_string_labels_are_fine(name):
    rng = np.random.default_rng(1)
    y = np.array(["a", "b", "c"])[np.arange(120) % 3]
    means = rng.normal(size=(3, 8))[np.arange(120) % 3]
    noise = rng.normal(size=(120, 8))
    good, bad = SCORES[name].compute(2 * means + noise, y), SCORES[name].compute(noise, y)
    assert good > bad


def test_bad_input_is_said_clearly():
    F, y = toy(12, 3)
    with pytest.raises(NotEnoughData, match="two classes"):
        logme(F, np.zeros(12, dtype=int))
    with pytest.raises(ShapeMismatch, match=r"\(12, 3\) and \(11,\)"):
        logme(F, y[:-1])
    with pytest.raises(ShapeMismatch, match="defined for classes"):
        gbc(F, y.astype(float))
    with pytest.raises(ShapeMismatch, match="not finite"):
        h_score(np.where(F > 1, np.nan, F), y)
    constant = np.ones((12, 3))
    assert ridge_loo(constant, y) <= 1 / 3 + 1e-9
    assert h_score(constant, y) == 0
    assert math.isfinite(logme(constant, y, centre=True))


def test_press_of_ridge_is_the_published_one():
    F, y = toy(12, 3)
    targets = np.where(y[:, None] == np.arange(3), 1.0, -1.0)
    found = fit_ridge(F, targets, (0.1,))
    assert np.mean((targets - found.scores) ** 2) == pytest.approx(1.0372521055677484, abs=1e-12)


def test_logme_of_shifted_vectors_is_another_and_that_of_centred_ones_is_not():
    F, y = toy(30, 4)
    assert logme(F + 1, y) == pytest.approx(-0.663079105, abs=2e-9)
    assert logme(F + 1, y, centre=True) == pytest.approx(logme(F, y, centre=True), abs=1e-12)


def test_knn_of_numbers_weighs_its_neighbours():
    """Two rows in one direction, one apart: by hand."""
    F = np.array([[1.0, 0], [1, 0], [0, 1]])
    t = np.array([1.0, 3, 8])
    weights = np.exp((np.array([1.0, 0]) - 1) / 0.07)  # cosines of the two neighbours
    guess = [
        (weights * [3, 8]).sum() / weights.sum(),
        (weights * [1, 8]).sum() / weights.sum(),
        2.0,  # both others are as far
    ]
    expected = 1 - np.mean((t - guess) ** 2) / t.var()
    assert knn_loo(F, t, k=2) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_what_holds_no_information_changes_no_score(name):
    """Order of rows, names of classes; and, but for GBC's Gaussians, a rotation."""
    F, y = toy(60, 5)
    value = SCORES[name].compute(F, y)
    order = np.random.default_rng(0).permutation(60)
    assert SCORES[name].compute(F[order], y[order]) == pytest.approx(value, abs=1e-9)
    assert SCORES[name].compute(F, 2 - y) == pytest.approx(value, abs=1e-9)
    assert SCORES[name].compute(F, np.array(["x", "y", "z"])[y]) == pytest.approx(value, abs=1e-9)
    if name != "gbc":
        Q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
        assert SCORES[name].compute(F @ Q, y) == pytest.approx(value, abs=1e-7)
    if name not in ("gbc", "knn_loo"):  # an absolute floor of variance; directions from the origin
        assert SCORES[name].compute(3 * F, y) == pytest.approx(value, abs=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SCORES)
def test_vectors_that_do_not_vary_score_finitely(name):
    y = np.arange(12) % 3
    assert np.isfinite(SCORES[name].compute(np.ones((12, 4)), y))
    assert np.isfinite(SCORES[name].compute(np.zeros((12, 4)), y))
