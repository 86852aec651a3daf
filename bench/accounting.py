"""Epsilon by Renyi divergences and by the law of the loss, what noise the same epsilon takes, and
what asking costs a station.

Run: `python -m bench.accounting`
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from client.site.privacy_policy import Policy
from client.station.charge import Charge
from client.station.privacy_budget import Budget
from common.privacy import renyi
from common.privacy.mechanism import COUNTS, Cost, Sampled, epsilon, gaussian, subsampled

DELTA = 1e-5
EPSILON = 3.0


def trained(noise: float, epochs: int, rate: float) -> Cost:
    """By DP-SGD, a round an epoch, each with its count."""
    steps = Sampled(rate, math.ceil(1 / rate))
    return epochs * (subsampled(noise, steps) + gaussian(COUNTS))


SETTINGS: dict[str, Callable[[float], Cost]] = {
    "3 Gaussian sums, noise 4": lambda noise: 3 * gaussian(4.0 * noise),
    "30 Gaussian sums, noise 12": lambda noise: 30 * gaussian(12.0 * noise),
    "DP-SGD, 10 epochs at rate 0.1, noise 1": lambda noise: trained(1.0 * noise, 10, 0.1),
    "DP-SGD, 10 epochs at rate 0.1, noise 2": lambda noise: trained(2.0 * noise, 10, 0.1),
    "DP-SGD, 20 epochs at rate 0.01, noise 1": lambda noise: trained(1.0 * noise, 20, 0.01),
    "3 Gaussian sums, noise 6, and DP-SGD, 5 epochs at rate 0.2, noise 2": lambda noise: (
        3 * gaussian(6.0 * noise) + trained(2.0 * noise, 5, 0.2)
    ),
}


def by_divergences(cost: Cost, delta: float) -> float:
    return renyi.epsilon(cost.rdp, delta)


def factor(figure: Callable[[Cost, float], float], charged: Callable[[float], Cost]) -> float:
    """Of the noise, the least at which it costs `EPSILON`."""
    low, high = 0.1, 100.0
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        enough = figure(charged(middle), DELTA) <= EPSILON
        low, high = (low, middle) if enough else (middle, high)
    return high


def admissions(sampled: Sampled | None, plans: int) -> float:
    """Seconds, median, in which a plan is looked at and reserved."""
    taken = []
    with tempfile.TemporaryDirectory() as name:
        budget = Budget(Path(name), Policy(100.0, DELTA))
        for n in range(plans):
            fold = (n % 5,)
            charge = Charge("bench", n, "logistic", "all", "q", 300.0, (0, 5), fold, sampled)
            began = time.perf_counter()
            budget.affordable(charge)
            budget.reserve(charge)
            taken.append(time.perf_counter() - began)
        budget.close()
    return statistics.median(taken)


def main() -> None:
    print(f"delta {DELTA:g}: epsilon by divergences, by the law; noise at epsilon {EPSILON:g}")
    for name, charged in SETTINGS.items():
        began = time.perf_counter()
        cost = charged(1.0)
        before, after = by_divergences(cost, DELTA), epsilon(cost, DELTA)
        taken = time.perf_counter() - began
        less = 1 - factor(epsilon, charged) / factor(by_divergences, charged)
        print(
            f"{name}: {before:.3f}, {after:.3f} ({after / before - 1:+.1%}); "
            f"{less:.1%} less noise; {1000 * taken:.0f} ms at first"
        )
    print(f"a plan of Gaussian sums, of 2000: {1000 * admissions(None, 2000):.2f} ms")
    print(f"a plan of DP-SGD, of 40: {1000 * admissions(Sampled(0.1, 10), 40):.1f} ms")


if __name__ == "__main__":
    main()
