"""Audit of whole fits by one run each: canaries by their own coins, every release through the
station's doors, one lower bound on epsilon beside what the site's account says was spent.

Unit and adjacency are the account's: one patient, added or removed. The adversary is white-box: a
coordinator who knows all canaries and all states and sees every release of the fit
(`simulation.attack.linear_decoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort, pooled
from common.data.schema import Floats
from common.federated.accounting import calibrate
from common.federated.learner import Federated, Head
from common.privacy.mechanism import Privacy
from common.privacy.random import repeatable
from simulation.attack import one_run
from simulation.attack.canary_cohort import SITE, Canaries, arranged
from simulation.attack.linear_decoder import Decoder
from simulation.attack.observed_fit import account, releases

CANARIES = 1000
UNIT = "one patient, added or removed"


@dataclass(frozen=True)
class Audited:
    """One fit that was audited."""

    epsilon: float
    """What the site's account has come to."""
    releases: int
    included: NDArray[np.bool_]
    scores: Floats
    """(canaries,): log odds of being in."""
    found: one_run.Found


def audited(
    chain: Sequence[Federated], most: float, delta: float, *, count: int = CANARIES, seed: int = 0
) -> Audited:
    """`chain` fitted once, at the least noise by which that costs `most`. Coins and noise are the
    operating system's, or those of `common.privacy.random.repeatable`."""
    canaries = arranged(chain, count, seed)
    privacy = Privacy(calibrate(canaries.chain, canaries.patients.schema, most, delta))
    included = one_run.coins(count)
    decoder, seen = Decoder(canaries.patients, canaries.bystanders), 0
    with account(most, delta) as (site, budget):
        fitted = releases(
            canaries.chain, canaries.given, _present(canaries, included), privacy, (site, budget)
        )
        for release in fitted:
            decoder.see(release)
            seen += 1
        spent = budget.spent
    scores = decoder.log_odds()
    return Audited(spent, seen, included, scores, one_run.audit(included, scores, delta))


def _present(canaries: Canaries, included: NDArray[np.bool_]) -> Cohort:
    return pooled([canaries.patients.where(included), canaries.bystanders], SITE)


def rows(
    chains: Sequence[Sequence[Federated]],
    epsilons: Sequence[float],
    delta: float,
    *,
    seed: int,
    noise_seed: int | None,
    tell: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    """`one_run[]` of `report.json`: each chain fitted once at each epsilon. `noise_seed`: as for a
    run's own noise."""
    out = []
    fits = [(chain, most) for chain in chains for most in epsilons]
    for n, (chain, most) in enumerate(fits):
        heads = [learner.name for learner in chain if isinstance(learner, Head)]
        name = (heads or [chain[-1].name])[-1]
        tell(f"{name} at epsilon {most:g}", n, len(fits))
        with repeatable(noise_seed, f"one run {name} {most:g}"):
            fit = audited(chain, most, delta, seed=seed)
        shown = {
            "lower": fit.found.lower,
            "confidence": one_run.CONFIDENCE,
            "canaries": fit.found.canaries,
            "guesses": fit.found.guesses,
            "right": fit.found.right,
            "releases": fit.releases,
            "unit": UNIT,
        }
        out.append({"learner": name, "epsilon": fit.epsilon, "delta": delta, **shown})
    return out
