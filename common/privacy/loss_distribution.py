"""Privacy loss distribution of Gaussian sums, whole and Poisson-subsampled, composed from above.

The loss of one step is log P(x) / Q(x), x drawn from P; with a patient's share along one direction,
P and Q are N(0, noise^2) and (1 - rate) N(0, noise^2) + rate N(1, noise^2), either way round: a
patient who is removed, and one who is added (Zhu, Dong, Wang 2022, arXiv 2106.08567, thm 11).
Neither is the worse under composition for sure, so both are worked out, and the larger counts.

All that is left out errs upwards. A loss between two points of the grid is shared between them so
that its mass under P and under Q stays ("connect the dots", Doroshenko et al. 2022, arXiv
2207.04380: the discrete pair dominates the exact one, and so do their compositions). What lies
above the grid has infinite loss, what lies below it the least. The composition is one product of
Fourier transforms in a window; what is above the window, by Chernoff's bound no more than a
thousandth of delta, has infinite loss, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft, rfft
from scipy.special import ndtr, ndtri

from common.data.schema import Floats

MOST = 2**21
"""Points of a window; what needs more is not worked out here."""
KINDS = 32
"""Noises and rates, the most that are put together here."""
_FINEST = 2**17
"""Points, about, that the grid is never finer than."""
_OUTSIDE = 1e-3
"""Share of delta that may lie outside the window."""
_GRID = 0.024
"""Grid in standard deviations of a step's loss: sharing between points adds at most a ten-thousandth
to its variance, or so."""
_ROUNDING = 1e-15
"""Mass, of one step, that is given to rounding."""
_EXPONENT = 700.0
"""Losses whose exponential is still a number."""
_TILTS = 16
"""At which Chernoff's bound is looked for."""


class Steps(NamedTuple):
    """So many alike."""

    noise: float
    rate: float
    steps: int


@dataclass(frozen=True)
class _Loss:
    """Discrete loss of one step: `mass[i]` at (first + i) grid."""

    first: int
    mass: Floats
    infinite: float

    def log_moment(self, tilt: float, grid: float) -> float:
        """log E exp(tilt * loss) of what is finite."""
        exponents = tilt * grid * (self.first + np.arange(len(self.mass)))
        top = float(exponents.max())
        # below, numbers lose their digits, and take long
        scaled = np.exp(np.maximum(exponents - top, -500.0))
        return top + math.log(float((self.mass * scaled).sum()))


def epsilon(work: Sequence[Steps], delta: float) -> float:
    """The least epsilon at `delta` of all of it together, from above; infinite where that cannot be
    told here (losses of hundreds, a delta near what rounding leaves, more than `KINDS`)."""
    count = sum(w.steps for w in work)
    rounding = _ROUNDING * (count + 100)
    if len(work) > KINDS or not rounding <= delta / 100:
        return math.inf
    reach = -float(ndtri(_OUTSIDE * delta / (4 * count)))
    if any(_highest(w, reach) > _EXPONENT for w in work):
        return math.inf
    variance = sum(w.steps * _variance(w, reach) for w in work)
    width = max(2 * reach * math.sqrt(variance), *(_highest(w, reach) for w in work))
    grid = max(_GRID * math.sqrt(variance / count), width / _FINEST)
    grid = 2.0 ** math.floor(math.log2(grid))
    return max(
        _composed(work, delta, _Scale(grid, reach, variance, rounding), added)
        for added in (False, True)
    )


class _Scale(NamedTuple):
    grid: float
    reach: float
    """How far x is followed, in standard deviations."""
    variance: float
    """Of the whole loss, about."""
    rounding: float


def _highest(work: Steps, reach: float) -> float:
    return (2 * (1 + work.noise * reach) - 1) / (2 * work.noise**2)


def _loss_at(x: Floats, work: Steps) -> Floats:
    """log of the mixture over N(0, noise^2), at x."""
    whole = (2 * x - 1) / (2 * work.noise**2)
    rest = math.log1p(-work.rate) if work.rate < 1 else -math.inf
    return np.asarray(np.logaddexp(rest, math.log(work.rate) + whole))


def _place_of(losses: Floats, work: Steps) -> Floats:
    """x of a loss; -inf where no x has so small a one."""
    rate = work.rate
    with np.errstate(divide="ignore", over="ignore"):
        small = np.log1p(np.maximum(np.expm1(losses) / rate, -1))
        # near log(1 - rate), where the other form is a difference of what is almost 1
        left = np.maximum(-(1 - rate) * np.exp(-losses), -1)
        low = losses + np.log1p(left) - math.log(rate)
    return np.asarray(np.where(losses < -1, low, small) * work.noise**2 + 0.5)


def _variance(work: Steps, reach: float) -> float:
    """Of one step's loss at patients who are in the sum, about."""
    x = np.linspace(-work.noise * reach, 1 + work.noise * reach, 4001)
    density = (1 - work.rate) * np.exp(-((x / work.noise) ** 2) / 2)
    density += work.rate * np.exp(-(((x - 1) / work.noise) ** 2) / 2)
    density /= density.sum()
    loss = _loss_at(x, work)
    mean = float((density * loss).sum())
    return float((density * (loss - mean) ** 2).sum())


def _discrete(work: Steps, scale: _Scale, added: bool) -> _Loss:
    """The loss of one step on the grid, never below what it is."""
    noise, rate = work.noise, work.rate
    ends = _loss_at(np.array([-noise * scale.reach, 1 + noise * scale.reach]), work)
    first = math.floor(ends[0] / scale.grid)
    edges = scale.grid * np.arange(first, math.ceil(ends[1] / scale.grid) + 1)
    x = _place_of(edges, work)
    without = _between(x / noise)
    mixture = (1 - rate) * without + rate * _between((x - 1) / noise)
    if added:
        # the ratio is turned round, and with it the grid
        mass, other = without[::-1], mixture[::-1]
        edges, first = -edges[::-1], -(first + len(edges) - 1)
        lowest = float(ndtr(-x[-1] / noise))
    else:
        mass, other = mixture, without
        lowest = (1 - rate) * float(ndtr(x[0] / noise)) + rate * float(ndtr((x[0] - 1) / noise))
    up = (mass - other * np.exp(edges[:-1])) / -math.expm1(-scale.grid)
    up = np.clip(up, 0, mass)
    points = np.zeros(len(edges))
    points[:-1] += mass - up
    points[1:] += up
    points[0] += lowest
    return _Loss(first, points, max(1 - float(points.sum()), 0.0))


def _between(z: Floats) -> Floats:
    """Mass of the standard normal between neighbours, from whichever side is the smaller."""
    above, below = ndtr(-z[:-1]) - ndtr(-z[1:]), ndtr(z[1:]) - ndtr(z[:-1])
    return np.asarray(np.where(z[:-1] > 0, above, below))


def _composed(work: Sequence[Steps], delta: float, scale: _Scale, added: bool) -> float:
    losses = [_discrete(w, scale, added) for w in work]
    counts = [w.steps for w in work]
    outside = _OUTSIDE * delta
    low, high = _window(losses, counts, outside, scale)
    size = 2 ** max(math.ceil(math.log2(high - low + 2)), 4)
    if size > MOST or high * scale.grid > _EXPONENT:
        return math.inf
    low = high + 1 - size
    product = np.ones(size // 2 + 1, complex)
    for loss, count in zip(losses, counts, strict=True):
        place = (loss.first + np.arange(len(loss.mass))) % size
        product *= rfft(np.bincount(place, loss.mass, size)) ** count
    mass = np.roll(np.maximum(irfft(product, size), 0), -(low % size))
    # what was below the window has come in at its top
    infinite = sum(n * loss.infinite for loss, n in zip(losses, counts, strict=True))
    return _least(mass, scale.grid * (low + np.arange(size)), infinite + outside, scale, delta)


def _window(
    losses: Sequence[_Loss], counts: Sequence[int], outside: float, scale: _Scale
) -> tuple[int, int]:
    """Points between which all but `outside` of the finite loss lies, on either side."""
    # the best one for a normal loss; for a rare large one it is far smaller
    best = math.sqrt(-2 * math.log(outside) / scale.variance)
    ends = []
    for sign in (1, -1):
        reached = []
        for tilt in np.geomspace(min(best / 2, 1), 2 * best, _TILTS):
            moments = [loss.log_moment(sign * tilt, scale.grid) for loss in losses]
            total = sum(n * m for n, m in zip(counts, moments, strict=True))
            reached.append((total - math.log(outside)) / tilt)
        ends.append(math.ceil(min(reached) / scale.grid))
    return -ends[1], ends[0]


def _least(mass: Floats, losses: Floats, infinite: float, scale: _Scale, delta: float) -> float:
    """The least epsilon >= 0 at which infinite + sum mass (1 - exp(epsilon - loss))+ <= delta: a
    function that is linear in exp(epsilon) between the points."""
    allowed = delta - infinite - scale.rounding
    if not allowed > 0:
        return math.inf
    mass, losses = mass[losses > 0], losses[losses > 0]
    above = np.cumsum(mass[::-1])[::-1]
    weighted = np.cumsum((mass * np.exp(-losses))[::-1])[::-1]
    # at each point, of the masses from it on: its own counts for nothing there
    exceeds = np.flatnonzero(above - np.exp(losses) * weighted > allowed)
    index = int(exceeds[-1]) + 1 if len(exceeds) else 0
    if index == len(mass):
        return math.inf if len(mass) else 0.0
    if above[index] <= allowed:
        return 0.0 if index == 0 else float(losses[index])
    return max(math.log((float(above[index]) - allowed) / float(weighted[index])), 0.0)
