"""Differential privacy: the Gaussian mechanism's cost, subsampling, composition to (epsilon,
delta).

The unit is the patient; neighbouring cohorts differ by one patient added or removed, with all rows,
images and crops. What leaves is a sum over patients with Gaussian noise of `noise` times its
sensitivity (an L2 norm), or steps of DP-SGD, sums over a random share of the patients. A `Cost`
says what was released, not an epsilon; costs add, exactly and in any order, and `epsilon` is worked
out of what they come to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from common.data.schema import Floats
from common.privacy.limits import BOUND, NOISE, RATE, SHARES, STEPS

COUNTS = 20.0
"""Noise of counts that are told beside what has noise of its own: about 28 patients, at an epsilon
of a fifth."""
ACCOUNTANT = "pld"
"""How epsilon is worked out, as lines on disk and reports name it: by the loss's law, which no
Renyi divergence undercuts."""
_UNIT = 2**100
"""Of 1 / noise^2, a whole number of which is exact whatever the order of adding."""


@dataclass(frozen=True)
class Privacy:
    """What a plan says of it."""

    noise: float
    """Standard deviation of the noise in units of the sum's sensitivity."""
    shared: int = field(default=0, repr=False)
    """Each site adds one of so many shares of it, under masks: as many honest peers of each site are
    in the sum. 0: each adds all of it."""

    @property
    def spread(self) -> float:
        """The same for each of the two that a release is: sums and their count."""
        return self.noise * math.sqrt(2)

    @property
    def share(self) -> float:
        """Of it what one site adds."""
        return self.spread / math.sqrt(self.shared or 1)

    def total(self, sites: int) -> float:
        """Of the same, what is in a sum over so many sites."""
        return self.share * math.sqrt(max(sites, 1))

    def __post_init__(self) -> None:
        NOISE.demand(self.noise)
        if self.shared != 0 or type(self.shared) is not int:
            SHARES.demand(self.shared)


@dataclass(frozen=True)
class Sampled:
    """What a learner declares that adds its noise itself, in each of `steps` sums over a random
    share `rate` of the patients (DP-SGD)."""

    rate: float
    """Each patient is in a step by chance, for itself (Poisson sampling)."""
    steps: int

    def __post_init__(self) -> None:
        RATE.demand(self.rate)
        STEPS.demand(self.steps)


Bound = float | Sampled | None
"""By how much (L2) one patient can change a learner's sums, or how it has drawn its own noise;
None: it cannot account."""


Counts = tuple[tuple[tuple[float, ...], int], ...]
"""Kinds of release, in order, each with how often."""


@dataclass(frozen=True)
class Cost:
    """What releases cost a patient who is in all of them: what they were, put together."""

    gaussian: int = 0
    """1 / noise^2 of all whole Gaussian sums, in 2^-100, rounded up."""
    sampled: Counts = ()
    """(noise, rate) of DP-SGD, and how many steps."""
    curves: Counts = ()
    """Renyi divergences at `renyi.ORDERS` of what no more is known of: with one of them these alone
    decide."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.gaussian + other.gaussian,
            _sum(self.sampled, other.sampled),
            _sum(self.curves, other.curves),
        )

    def __sub__(self, other: Cost) -> Cost:
        """Of releases that are among these."""
        return Cost(
            self.gaussian - other.gaussian,
            _sum(self.sampled, _times(-1, other.sampled)),
            _sum(self.curves, _times(-1, other.curves)),
        )

    def __rmul__(self, times: int) -> Cost:
        return Cost(times * self.gaussian, _times(times, self.sampled), _times(times, self.curves))

    def __le__(self, other: Cost) -> bool:
        """Are these releases among the other's?"""
        return other == least_upper(self, other)

    @property
    def rdp(self) -> Floats:
        """Renyi divergences at `renyi.ORDERS`."""
        from common.privacy import renyi  # scipy, which a courier's image has not

        total = renyi.ORDERS * (self.gaussian / _UNIT / 2)
        for (noise, rate), steps in self.sampled:
            total = total + steps * renyi.subsampled(noise, rate)
        for curve, times in self.curves:
            total = total + times * np.asarray(curve)
        return np.asarray(total)


def least_upper(one: Cost, two: Cost) -> Cost:
    """What neither exceeds: the more of each kind of release."""
    return Cost(
        max(one.gaussian, two.gaussian),
        _more(one.sampled, two.sampled),
        _more(one.curves, two.curves),
    )


def _sum(one: Counts, two: Counts) -> Counts:
    if not (one and two):
        return one or two
    counts = dict(one)
    for kind, count in two:
        counts[kind] = counts.get(kind, 0) + count
    return tuple(sorted((kind, count) for kind, count in counts.items() if count))


def _times(times: int, counts: Counts) -> Counts:
    return tuple((kind, times * count) for kind, count in counts if times)


def _more(one: Counts, two: Counts) -> Counts:
    if not (one and two):
        return one or two
    counts = dict(one)
    for kind, count in two:
        counts[kind] = max(counts.get(kind, 0), count)
    return tuple(sorted(counts.items()))


def gaussian(noise: float) -> Cost:
    """Of one sum over all patients. ValueError where the noise is outside of its limits."""
    NOISE.demand(noise)
    over, under = noise.as_integer_ratio()
    return Cost(-(-_UNIT * under * under // (over * over)))


def subsampled(noise: float, sampled: Sampled) -> Cost:
    """Of all steps of one training by DP-SGD; at a rate of 1 each is a sum over all."""
    if sampled.rate == 1:
        return sampled.steps * gaussian(noise)
    NOISE.demand(noise)
    return Cost(sampled=(((noise, sampled.rate), sampled.steps),))


def curve(rdp: Floats) -> Cost:
    """Of a release of which only Renyi divergences at `renyi.ORDERS` are known. ValueError where
    these are none."""
    from common.privacy import renyi

    if rdp.shape != renyi.ORDERS.shape or not (np.isfinite(rdp) & (rdp >= 0)).all():
        raise ValueError("Renyi divergences must be finite, at least 0, one for each order")
    return Cost(curves=((tuple(rdp.tolist()), 1),))


def shared(noise: float, shares: int) -> Cost:
    """Of one sum to which sites add `shares` shares of the noise, or more
    (`common.privacy.shared_noise`). ValueError where noise or shares are outside of their limits."""
    from common.privacy import shared_noise

    NOISE.demand(noise)
    SHARES.demand(shares)
    return curve(shared_noise.release(noise, shares))


def release(privacy: Privacy, bound: float | Sampled) -> Cost:
    """Of what one plan's answer tells: one sum, or steps of DP-SGD, whose noise nobody shares, and
    the count beside them. ValueError where noise or bound is outside of its limits."""
    if isinstance(bound, Sampled):
        return subsampled(privacy.noise, bound) + gaussian(COUNTS)
    if bound:
        BOUND.demand(float(bound))
    return shared(privacy.noise, privacy.shared) if privacy.shared else gaussian(privacy.noise)


@lru_cache(maxsize=4096)
def epsilon(cost: Cost, delta: float) -> float:
    """The least epsilon at `delta` that is known to hold, from above; infinite at a delta of 0.

    Renyi divergences bound it, and decide where there is a `curve`. Else the law of the loss does,
    unless it cannot be worked out (`common.privacy.loss_distribution`), or rounding has put it
    above that bound.
    """
    from common.privacy import gaussian_law, loss_distribution, renyi

    if cost == Cost():
        return 0.0
    if not 0 < delta < 1:
        return math.inf
    ceiling = renyi.epsilon(cost.rdp, delta)
    if cost.curves:
        return ceiling
    spread = math.sqrt(cost.gaussian / _UNIT)
    if not cost.sampled:
        exact = gaussian_law.epsilon(spread, delta, ceiling)
    else:
        steps = [loss_distribution.Steps(noise, rate, n) for (noise, rate), n in cost.sampled]
        whole = [loss_distribution.Steps(1 / spread, 1.0, 1)] if spread else []
        exact = loss_distribution.epsilon([*whole, *steps], delta)
    return exact if exact <= ceiling else ceiling
