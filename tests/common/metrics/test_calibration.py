from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from common.metrics.calibration import CalibrationSums, calibration_sums, logit, solve_calibration


def sample(seed, n=400, a=-0.7, b=0.6, spread=2.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(-1, spread, n)
    return x, rng.random(n) < 1 / (1 + np.exp(-(a + b * x)))


def fit(x, y, **options):
    return solve_calibration(lambda beta: calibration_sums(x, y, beta), **options)


def test_equals_an_unpenalised_logistic_regression():
    x, y = sample(0)
    model = LogisticRegression(C=1e10, tol=1e-12, solver="newton-cholesky").fit(x[:, None], y)
    np.testing.assert_allclose(fit(x, y), [model.intercept_[0], model.coef_[0, 0]], rtol=1e-6)


def test_intercept_alone_solves_the_score_equation():
    x, y = sample(1)
    a, b = fit(x, y, slope=False)
    assert b == 1
    # calibration in the large: predicted and observed events agree
    assert (1 / (1 + np.exp(-(a + x)))).sum() == pytest.approx(y.sum(), abs=1e-8)


@given(st.lists(st.integers(0, 3), min_size=60, max_size=60), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_sums_add_over_any_partition(parts, seed):
    x, y = sample(seed, 60)
    beta, at = np.array([0.3, 0.8]), np.array(parts)
    whole = calibration_sums(x, y, beta)
    split = reduce(
        CalibrationSums.plus, [calibration_sums(x[at == k], y[at == k], beta) for k in range(4)]
    )
    np.testing.assert_allclose(split.gradient, whole.gradient, atol=1e-10)
    np.testing.assert_allclose(split.hessian, whole.hessian, atol=1e-10)


def test_weights_are_repeated_patients():
    x, y = sample(2)
    w = np.random.default_rng(2).integers(0, 4, (5, len(x))).astype(float)
    together = solve_calibration(lambda beta: calibration_sums(x, y, beta, w))
    for row, counts in zip(together, w.astype(int), strict=True):
        np.testing.assert_allclose(row, fit(np.repeat(x, counts), np.repeat(y, counts)), rtol=1e-9)


def test_separation_and_constant_predictions_have_no_slope():
    x = np.linspace(-1, 1, 40)
    assert np.isnan(fit(x, x > 0)).all()
    assert np.isnan(fit(np.full(40, 0.3), x > 0)).all()
    assert np.isfinite(fit(np.full(40, 0.3), x > 0, slope=False)).all()


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_far_too_bold_and_far_too_timid_predictions_converge(scale):
    x, y = sample(3)
    a, b = fit(x, y)
    np.testing.assert_allclose(fit(x * scale, y), [a, b / scale], rtol=1e-6)
    np.testing.assert_allclose(fit(x * scale, y, start=(3.0, 0.01)), [a, b / scale], rtol=1e-6)


@pytest.mark.parametrize("shift", [-20.0, 20.0])
def test_a_risk_that_is_wrong_by_orders_of_magnitude_is_still_solved(shift):
    x, y = sample(4)
    assert fit(x + shift, y, slope=False)[0] == pytest.approx(
        fit(x, y, slope=False)[0] - shift, rel=1e-8
    )


def test_logit_is_finite_at_the_ends():
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
    assert logit(np.array([0.25]))[0] == pytest.approx(np.log(1 / 3))
