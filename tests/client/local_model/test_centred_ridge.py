"""Moving a model with a ridge at its old coefficients: the maximum that a general optimiser
finds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from client.local_model.centred_ridge import recalibrated


@pytest.mark.parametrize("others", [1, 2])
def test_recalibration_is_the_maximum(others: int) -> None:
    r = np.random.default_rng(others)
    z = r.normal(0, 2, (200, others))
    eta = np.concatenate([np.zeros((200, 1)), 0.5 + 0.6 * z], axis=1)
    y = (eta + r.gumbel(size=eta.shape)).argmax(axis=1)

    def loss(theta: np.ndarray) -> float:  # type: ignore[type-arg]
        full = np.concatenate([np.zeros((200, 1)), theta[:-1] + theta[-1] * z], axis=1)
        likelihood = full[np.arange(200), y] - np.log(np.exp(full).sum(axis=1))
        return float(0.5 * (theta[-1] - 1) ** 2 + 0.05 * (theta[:-1] ** 2).sum() - likelihood.sum())

    a, b = recalibrated(z, y)
    found = minimize(loss, [0.0] * others + [1.0], tol=1e-12).x
    assert [*a, b] == pytest.approx(found, abs=1e-5)
    assert loss(np.array([*a, b])) <= loss(found) + 1e-9
    assert 0.4 < b < 0.8


def test_classes_that_separate_and_a_single_class_have_a_maximum_too() -> None:
    z = np.linspace(-3, 3, 20)[:, None]
    _, b = recalibrated(z, (z[:, 0] > 0).astype(np.int64))
    assert 1 < b < 20
    a, b = recalibrated(z, np.zeros(20, np.int64))
    assert np.isfinite([*a, b]).all()
