"""Privacy accounting, what a fit will cost before it is begun, and the noise that an epsilon
affords."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from common.data.schema import Schema
from common.errors import UsageError
from common.federated.learner import Federated
from common.privacy.mechanism import Cost, Privacy, epsilon, release

MOST = 1e5
"""Noise beyond which nothing is left of a sum."""


def accountable(learner: Federated) -> bool:
    """Does it bound, or noise by itself, what it sends in each of its phases?"""
    return all(phase.bound is not None for phase in learner.phases.values())


def charge(learner: Federated, phase: str, schema: Schema, noise: float, shared: int = 0) -> Cost:
    """Of one answer; `shared`: of how many shares the noise is, 0 where no sites share it. UsageError
    C01 where the phase has no bound: it costs more than any noise
    hides; or where bound or noise is outside of its limits."""
    bound = learner.phases[phase].sensitivity(schema)
    if bound is None:
        raise UsageError(
            "C01",
            f"learner '{learner.name}' has no bound on what one patient adds, so that no noise "
            "hides a patient",
        )
    try:
        return release(Privacy(noise, shared), bound)
    except ValueError as error:
        raise UsageError("C01", f"learner '{learner.name}': {error}") from error


def cost(learners: Iterable[Federated], schema: Schema, noise: float, shared: int = 0) -> Cost:
    """At the most, of fitting all of them once on patients who are in every sum.
    UsageError C01 for one that cannot."""
    total = Cost()
    for learner in learners:
        for name, phase in learner.phases.items():
            total = total + phase.exchanges * charge(learner, name, schema, noise, shared)
    return total


def calibrate(
    learners: Iterable[Federated], schema: Schema, most: float, delta: float, shared: int = 0
) -> float:
    """The least noise (three digits, rounded up) at which fitting all of them once costs an epsilon
    of at most `most`."""
    fits = list(learners)
    return least_noise(lambda noise: cost(fits, schema, noise, shared), most, delta)


def least_noise(charged: Callable[[float], Cost], most: float, delta: float) -> float:
    """The same for anything: `charged` says what a noise costs. UsageError
    C01: no noise below `MOST` is enough."""
    low, high = 1e-2, MOST
    if not epsilon(charged(high), delta) <= most:
        raise UsageError(
            "C01",
            f"epsilon {most:g} at delta {delta:g} affords no noise below {MOST:g}; ask for more, "
            "or for fewer exchanges",
        )
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if epsilon(charged(middle), delta) <= most else (middle, high)
    return _up(high)


def _up(noise: float) -> float:
    step = 10.0 ** (math.floor(math.log10(noise)) - 2)
    return float(f"{math.ceil(noise / step) * step:.9g}")
