"""What noise costs the learner made for it: AUC of `private_logistic` by epsilon, and of the exact
regression, on synthetic cohorts.

    python -m bench.private_auc [--patients 600 3000] [--epsilons inf 10 3 1] [--sites 3] [--draws 20] [--delta 1e-5]

Trained once on everybody (no cross-fitting), each exchange one release; judged on 4000 other
patients. Means over draws of the noise, with their standard deviation: what one federation would
see.
"""

from __future__ import annotations

import argparse
import dataclasses
import math

import numpy as np
from sklearn.metrics import roc_auc_score

from client.station.gaussian_noise import noised
from common.data.cohort import Cohort, Fold
from common.federated.learner import Head, fit, local_plan, total
from common.federated.protected_sums import protected
from common.learners.logistic import LEARNER as EXACT
from common.learners.private_logistic import LEARNER
from common.privacy.mechanism import Privacy, epsilon, gaussian
from common.types import State
from tests.synthetic import sites


def noise_for(limit: float, releases: int, delta: float) -> float:
    """The least noise by which so many releases cost no more than `limit`."""
    low, high = 1e-3, 1e6
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (
            (middle, high) if epsilon(releases * gaussian(middle), delta) > limit else (low, middle)
        )
    return high


def trained(cohorts: list[Cohort], noise: float) -> State:
    privacy = Privacy(noise)
    plan = dataclasses.replace(
        local_plan(Fold(), 0, 5),
        learner=LEARNER.name,
        phase="newton",
        participants=tuple(c.site for c in cohorts),
        privacy=privacy,
    )
    state: State = {LEARNER.name: LEARNER.start(cohorts[0].schema, 0)}
    bound = LEARNER.phases["newton"].sensitivity(cohorts[0].schema)
    assert isinstance(bound, float)
    done = False
    while not done:
        sums = [
            noised(protected(LEARNER, {plan.fold: state}, c, plan, bound, print), bound, privacy)
            for c in cohorts
        ]
        step = LEARNER.apply({plan.fold: state}, total(sums), plan)
        state, done = {LEARNER.name: step.arrays}, step.done
    return state


def auc(head: Head, state: State, cohort: Cohort) -> float:
    known = cohort.labels >= 0
    return float(roc_auc_score(cohort.labels[known], head.predict(state, cohort)[known, 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[600, 3000])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[math.inf, 10.0, 3.0, 1.0])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--delta", type=float, default=1e-5)
    given = parser.parse_args()
    others = sites(4000, 1, seed=77)[0]
    for patients in given.patients:
        cohorts = sites(patients, given.sites, seed=5)
        pooled = auc(EXACT, EXACT.alone(cohorts, Fold(), 0, 5), others)
        print(f"{patients} patients at {given.sites} sites: logistic {pooled:.3f}", flush=True)
        for limit in given.epsilons:
            if math.isinf(limit):
                plain = fit(LEARNER, {}, cohorts, local_plan(Fold(), 0, 5))
                print(
                    f"  private_logistic without noise {auc(LEARNER, plain, others):.3f}",
                    flush=True,
                )
                continue
            noise = noise_for(limit, LEARNER.rounds, given.delta)
            found = [auc(LEARNER, trained(cohorts, noise), others) for _ in range(given.draws)]
            print(
                f"  epsilon {limit:g} (noise {noise:.2f}): {np.mean(found):.3f}, standard "
                f"deviation {np.std(found):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
