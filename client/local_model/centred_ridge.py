"""Centred ridge: maximum likelihood with a ridge centred at the old coefficients, so that a model
moves without losing what it knew.

Logistic regression: argmax over beta of sum_i log p(y_i | x_i; beta) - ridge / 2 * sum over slopes
(beta_j - beta0_j)^2, and a ridge of 0.1 on how far intercepts move: updating with shrinkage towards
the old model (Steyerberg et al. 2004, Stat Med 23:2567). Recalibration of any log-odds z_k against
class 0 to a_k + b z_k (Platt; Cox 1958): a ridge of 1 on b - 1, so that there is a maximum where
the classes separate, and 0.1 on a. A class that none of the patients has stays possible: the ridge
on intercepts weighs about half a patient. Both by damped Newton on a concave function: exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from common.federated.multinomial import against_reference, log_softmax, newton_step

INTERCEPT_RIDGE = 0.1


class Likelihood(NamedTuple):
    """A log-likelihood, its gradient, and the negative of its Hessian."""

    value: float
    gradient: Floats
    hessian: Floats


def maximise(
    likelihood: Callable[[Floats], Likelihood],
    centre: Floats,
    penalty: Floats,
    tolerance: float = 1e-9,
    rounds: int = 200,
) -> Floats:
    """The maximum of likelihood - 1/2 sum penalty (beta - centre)^2, from the centre; a step that
    does not rise is halved."""
    beta, current = centre, likelihood(centre)
    objective = current.value
    for _ in range(rounds):
        step = newton_step(current.gradient, current.hessian, penalty, beta - centre)
        if np.abs(step).max() < tolerance:
            return np.asarray(beta + step)
        for _ in range(50):
            trial = likelihood(beta + step)
            trial_objective = trial.value - 0.5 * float(
                (penalty * (beta + step - centre) ** 2).sum()
            )
            if trial_objective >= objective - 1e-12 * abs(objective):
                break
            step = step / 2
        beta, current, objective = beta + step, trial, trial_objective
    return np.asarray(beta)


def recalibrated(
    logits: Floats, labels: NDArray[np.int64], ridge: float = 1.0
) -> tuple[Floats, float]:
    """logits (n, classes - 1) against class 0, labels (n,): a (classes - 1,) and b."""
    others = logits.shape[1]
    truth = np.eye(others + 1)[labels]

    def likelihood(theta: Floats) -> Likelihood:
        log_mu = log_softmax(against_reference(theta[:-1] + theta[-1] * logits))
        mu = np.exp(log_mu[:, 1:])
        # derivative of eta_k by (a, b): the k-th unit vector, and z_k
        derivative = np.concatenate(
            [np.broadcast_to(np.eye(others), (len(logits), others, others)), logits[:, :, None]],
            axis=2,
        )
        weight = mu[:, :, None] * (np.eye(others) - mu[:, None, :])
        hessian = np.einsum("nkp,nkl,nlq->pq", derivative, weight, derivative, optimize=True)
        return Likelihood(
            float((truth * log_mu).sum()),
            np.einsum("nk,nkp->p", truth[:, 1:] - mu, derivative),
            hessian,
        )

    optimum = maximise(
        likelihood, np.array([0.0] * others + [1.0]), np.array([INTERCEPT_RIDGE] * others + [ridge])
    )
    return optimum[:-1], float(optimum[-1])
