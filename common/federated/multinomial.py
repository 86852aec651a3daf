"""Multinomial logistic model against a reference class: softmax, derivatives of its log-likelihood,
and Newton's method on their sums.

Newton-Raphson with step halving (Hastie, Tibshirani, Friedman, The Elements of Statistical
Learning, 2nd ed., eq. 4.21-4.27): where the penalised log-likelihood fell, half of the last step is
taken again from where it started. An exchange asks every site once, so a step is a state (`Ascent`)
between two exchanges, and not a loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats

LEAST = -50.0
"""A patient's log-likelihood is not counted below this: it serves the control of steps only."""


def against_reference(log_odds: Floats) -> Floats:
    """(cases, classes - 1) log-odds against class 0 -> (cases, classes), class 0's being 0."""
    return np.concatenate([np.zeros((len(log_odds), 1)), log_odds], axis=1)


def softmax(logits: Floats) -> Floats:
    """(cases, classes) -> probabilities; rows sum to 1."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def log_softmax(logits: Floats) -> Floats:
    """(cases, classes) -> log-probabilities, exact also where one is near 0."""
    top = logits.argmax(axis=1, keepdims=True)
    below = logits - np.take_along_axis(logits, top, axis=1)
    others = np.exp(below)
    np.put_along_axis(others, top, 0.0, axis=1)
    return np.asarray(below - np.log1p(others.sum(axis=1, keepdims=True)))


@dataclass(frozen=True)
class Derivatives:
    """Of the log-likelihood, summed over cases, by the coefficients (classes - 1, columns)."""

    gradient: Floats
    """(classes - 1, columns)"""
    hessian: Floats
    """The negative of it: ((classes - 1) * columns, (classes - 1) * columns)."""
    likelihood: Floats
    """A number: the log-likelihood itself."""


def derivatives(x: Floats, labels: NDArray[np.int64], coefficients: Floats) -> Derivatives:
    """x (cases, columns), labels (cases,)."""
    log_mu = log_softmax(against_reference(x @ coefficients.T))
    # 1 - mu to its last digit even where mu is 1 to all of its own: a small ridge is lost beside a
    # rounding error
    mu, rest = np.exp(log_mu[:, 1:]), -np.expm1(log_mu[:, 1:])
    y = np.eye(log_mu.shape[1])[labels]
    k, p = mu.shape[1], x.shape[1]
    hessian = np.empty((k, p, k, p))
    for a in range(k):
        for b in range(a + 1):
            w = mu[:, a] * (rest[:, a] if a == b else -mu[:, b])
            hessian[a, :, b, :] = hessian[b, :, a, :] = (x * w[:, None]).T @ x
    gradient = np.where(y[:, 1:] > 0, rest, -mu).T @ x
    return Derivatives(gradient, hessian.reshape(k * p, k * p), likelihood_of(log_mu, y))


def summands(x: Floats, labels: NDArray[np.int64], coefficients: Floats) -> Derivatives:
    """What each case adds to `derivatives`: the same with a first axis of cases, (cases, classes -
    1, columns) and so on. A case's own does not depend on the others, to the last bit: no product
    of matrices, whose order of addition follows their size."""
    log_odds = (x[:, None, :] * coefficients).sum(axis=2)
    log_mu = log_softmax(against_reference(log_odds))
    mu, rest = np.exp(log_mu[:, 1:]), -np.expm1(log_mu[:, 1:])
    y = np.eye(log_mu.shape[1])[labels]
    n, k, p = len(x), mu.shape[1], x.shape[1]
    gradient = np.where(y[:, 1:] > 0, rest, -mu)[:, :, None] * x[:, None, :]
    shares = np.where(np.eye(k) > 0, (mu * rest)[:, :, None], -mu[:, :, None] * mu[:, None, :])
    hessian = shares[:, :, None, :, None] * (x[:, :, None] * x[:, None, :])[:, None, :, None, :]
    likelihood = np.where(y > 0, np.maximum(log_mu, LEAST), 0.0).sum(axis=1)
    return Derivatives(gradient, hessian.reshape(n, k * p, k * p), likelihood)


def likelihood_of(log_mu: Floats, truth: Floats) -> Floats:
    """The log-likelihood of (cases, classes) log-probabilities; truth: 1 at each case's class, else
    0."""
    return np.array((truth * np.maximum(log_mu, LEAST)).sum())


def newton_step(gradient: Floats, hessian: Floats, penalty: Floats, away: Floats) -> Floats:
    """Of log-likelihood - 1/2 sum penalty * away^2, in the shape of `gradient`; away: the
    coefficients less what they are drawn to."""
    step = np.linalg.solve(hessian + np.diag(penalty.ravel()), (gradient - penalty * away).ravel())
    return np.asarray(step.reshape(gradient.shape))


@dataclass(frozen=True)
class Ascent:
    """Where a fit stands between two exchanges."""

    coefficients: Floats
    base: Floats
    """Where the last step began."""
    step: Floats
    """What it added."""
    objective: float
    """The penalised log-likelihood at `base`."""

    def next(self, sums: Derivatives, penalty: Floats, *, same: bool) -> tuple[Ascent, bool]:
        """The next place to ask for, and whether a Newton step leads there; else it is half of the
        last step.

        same: the sums are over the cases of the exchange before; those of others say nothing about
        the step between them.
        """
        beta = self.coefficients
        objective = float(sums.likelihood) - 0.5 * float((penalty * beta**2).sum())
        if same and objective < self.objective - 1e-9 * abs(objective):
            half = self.step / 2
            return Ascent(self.base + half, self.base, half, self.objective), False
        step = newton_step(sums.gradient, sums.hessian, penalty, beta)
        return Ascent(beta + step, beta, step, objective), True
