"""Calibration from sums: logit P(y = 1) = a + b * logit(p), fitted by Newton on two-parameter sums
that add over sites.

Slope b: 1 is ideal, below 1 the predictions are too extreme. Intercept with the slope held at 1
(calibration in the large): 0 is ideal, below 0 the risk is overestimated (Cox 1958; Van Calster et
al. 2019, BMC Medicine 17:230). `beta` is (..., 2): intercept, slope; leading axes are independent
fits (bootstrap replicates), so that they are solved together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats

EPSILON = 1e-12
"""Probabilities nearer to 0 or 1 than this are taken as this: logits stay within +-27.6."""


class CalibrationSums(NamedTuple):
    """Of the log-likelihood at `beta`: gradient (..., 2) and the negative of the Hessian (..., 2,
    2)."""

    gradient: Floats
    hessian: Floats

    def plus(self, other: CalibrationSums) -> CalibrationSums:
        return CalibrationSums(self.gradient + other.gradient, self.hessian + other.hessian)


def logit(p: Floats) -> Floats:
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return np.asarray(np.log(p) - np.log1p(-p))


def calibration_sums(
    x: Floats, y: NDArray[np.bool_], beta: Floats, weights: Floats | None = None
) -> CalibrationSums:
    """One site's summand. x (n,): logit of the predicted probability; y (n,): truth; weights (...,
    n): times each case counts."""
    powers = np.stack([np.ones_like(x), x, x * x], 1)
    mu = beta[..., :1] + beta[..., 1:] * x
    np.clip(mu, -500, 500, out=mu)
    np.exp(np.negative(mu, out=mu), out=mu)
    np.reciprocal(np.add(mu, 1, out=mu), out=mu)
    residual, curvature = y - mu, mu * (1 - mu)
    if weights is None:
        g, h = residual @ powers[:, :2], curvature @ powers
    elif mu.ndim == 1:
        g, h = (
            weights @ (residual[:, None] * powers[:, :2]),
            weights @ (curvature[:, None] * powers),
        )
    else:
        g, h = (
            np.multiply(residual, weights, out=residual) @ powers[:, :2],
            np.multiply(curvature, weights, out=curvature) @ powers,
        )
    return CalibrationSums(g, h[..., [[0, 1], [1, 2]]])


def solve_calibration(
    sums: Callable[[Floats], CalibrationSums],
    start: Sequence[float] | Floats | None = None,
    *,
    slope: bool = True,
    rounds: int = 40,
) -> Floats:
    """(..., 2) maximum-likelihood intercept and slope; `slope=False` holds the slope at its start,
    1. `sums` asks all sites once.

    A step that overshoots (the gradient along it turns back by more than half) is halved: the
    likelihood is concave, so this needs no likelihood. NaN where there is no maximum: perfect
    separation, or predictions that are all equal.
    """
    # from slope 0 every patient has a say in the first step, however extreme the predictions
    base = np.array(start if start is not None else (0.0, 0.0) if slope else (0.0, 1.0), np.float64)
    step, rise, done = np.zeros_like(base), np.array(np.inf), np.array(False)
    for _ in range(rounds):
        gradient, hessian = sums(base + step)
        # below 1e-10 the turn is rounding, not overshoot
        over = (gradient * step).sum(-1) < -0.5 * rise - 1e-10
        newton = _newton(gradient, hessian, slope)
        base = np.where(over[..., None], base, base + step)
        step = np.where(over[..., None], step / 2, newton)
        rise = np.where(over, rise / 2, (gradient * newton).sum(-1))
        # Newton converges quadratically: after a step of 1e-6 the error is of the order 1e-12
        done = ~over & (np.abs(step) <= 1e-6 * (1 + np.abs(base))).all(-1)
        if (done | np.isnan(step).any(-1)).all():
            break
    return np.where(done[..., None], base + step, np.nan)


def _newton(gradient: Floats, hessian: Floats, slope: bool) -> Floats:
    a, b, c = hessian[..., 0, 0], hessian[..., 0, 1], hessian[..., 1, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        if not slope:
            # where all predictions are saturated the curvature is lost in rounding: at most 10
            # logits a step
            size = np.maximum(a, np.abs(gradient[..., 0]) / 10)
            return np.stack([gradient[..., 0] / size, np.zeros_like(a)], -1)
        # a determinant lost in rounding means that intercept and slope cannot be told apart
        determinant = np.where(a * c - b * b > 1e-10 * a * c, a * c - b * b, np.nan)
        top = np.stack(
            [
                c * gradient[..., 0] - b * gradient[..., 1],
                a * gradient[..., 1] - b * gradient[..., 0],
            ],
            -1,
        )
        return np.asarray(top / determinant[..., None])
