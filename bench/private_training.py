"""What DP-SGD costs: AUC of `mlp` by epsilon on synthetic cohorts, and seconds a step of the
compact 3D network against plain training.

    python -m bench.private_training [--patients 600 3000] [--epsilons inf 10 3 1] [--sites 3] [--draws 2] [--delta 1e-5]

The noise is the least by which preprocessing and network together cost no more than epsilon;
trained once on everybody, judged on 4000 other patients; mean over draws of the noise, with their
range. Hyperparameters are set here, by hand, for these cohorts.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from typing import Any

import numpy as np
import torch

from bench.private_auc import auc
from client.station.guard import contributed, noisy
from common.data.cohort import Cohort, Fold
from common.federated.accounting import calibrate
from common.federated.learner import Federated, configured, fit, local_plan, total
from common.learners.mlp import Perceptron
from common.learners.preprocessing import Preprocessing
from common.networks import architectures
from common.networks.classifiers.compact3d import CLASSIFIER
from common.networks.crops import patient_logits
from common.networks.dp_sgd import Private, Sampled
from common.networks.dp_sgd import learn as privately
from common.networks.training import Schedule, learn
from common.privacy.mechanism import Privacy
from common.types import State
from tests.synthetic import sites

PREPARE = Preprocessing()


def network(patients: int) -> Perceptron:
    """Few rounds of short training: each release of parameters averages the sites' noise, and each
    step costs."""
    return configured(
        Perceptron(),
        {
            "rounds": 5,
            "epochs": 1,
            "rate": 0.1,
            "batch": max(patients // 10, 1),
            "learning_rate": 0.1,
        },
    )


def trained(learner: Federated, state: State, cohorts: list[Cohort], noise: float) -> State:
    """A fit with the noise that stations add, by what stations do."""
    privacy = Privacy(noise)
    plan = dataclasses.replace(
        local_plan(Fold(), 0, 5), participants=tuple(c.site for c in cohorts), privacy=privacy
    )
    state, done = {**state, learner.name: learner.start(cohorts[0].schema, 0)}, False
    while not done:
        asked = dataclasses.replace(
            plan, learner=learner.name, phase=learner.phase(state[learner.name])
        )
        states = {plan.fold: state}
        sums = [
            noisy(contributed(learner, states, c, asked, print), learner, asked, c) for c in cohorts
        ]
        step = learner.apply(states, total(sums), asked)
        state, done = {**state, learner.name: step.arrays}, step.done
    return state


class Volumes:
    """Made patients of several crops each."""

    noise, inputs = 0, 2

    def __init__(self, patients: int, crops: int) -> None:
        self._x = torch.randn(patients, crops, 2, 16, 24, 24)
        self._y, self.patient = torch.arange(patients) % 2, np.arange(patients)

    def __len__(self) -> int:
        return len(self._y)

    def batch(self, rows: Any, device: torch.device, noise: Any) -> tuple[Any, ...]:
        x = self._x[rows]
        mean = torch.eye(len(rows)).repeat_interleave(x.shape[1], dim=1) / x.shape[1]
        flat = x.flatten(0, 1).to(memory_format=torch.channels_last_3d)
        return flat, torch.ones(len(flat), 1), mean, self._y[rows]


def seconds(patients: int, crops: int, steps: int) -> tuple[float, float]:
    """CPU time of a step with all of these patients: plain, private."""

    def loss(made: Any, batch: Any) -> Any:
        x, present, mean, labels = batch
        return torch.nn.functional.cross_entropy(
            patient_logits(made(x, present), mean), labels, reduction="sum"
        )

    made = architectures.ClassifierNetwork(CLASSIFIER, 1, 2).to(
        memory_format=torch.channels_last_3d
    )
    architectures.draw(made, 1, last=True)
    start, those, cpu = (
        architectures.parameters(made),
        Volumes(patients, crops),
        torch.device("cpu"),
    )
    how, private = (
        Schedule(steps, patients, 0.01, optimiser="adamw"),
        Private(1.0, 1.0, Sampled(1.0, steps)),
    )
    times = []
    for run in (
        lambda: learn(made, start, those, loss, how, seed=0, device=cpu),
        lambda: privately(made, start, those, loss, how, private, device=cpu),
    ):
        run()
        begun = time.process_time()
        run()
        times.append((time.process_time() - begun) / steps)
    return times[0], times[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[600, 3000])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[math.inf, 10.0, 3.0, 1.0])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--delta", type=float, default=1e-5)
    given = parser.parse_args()
    others = sites(4000, 1, seed=77)[0]
    for patients in given.patients:
        cohorts, learner = sites(patients, given.sites, seed=5), network(patients // given.sites)
        schema = cohorts[0].schema
        print(f"{patients} patients at {given.sites} sites", flush=True)
        for limit in given.epsilons:
            if math.isinf(limit):
                usual = Perceptron()
                plain = fit(PREPARE, {}, cohorts, local_plan(Fold(), 0, 5))
                print(
                    "  mlp without noise "
                    f"{auc(usual, fit(usual, plain, cohorts, local_plan(Fold(), 0, 5)), others):.3f}",
                    flush=True,
                )
                # preprocessing as it is, too: what clipping and few steps cost
                print(
                    "  clipped, with next to no noise "
                    f"{auc(learner, trained(learner, plain, cohorts, 1e-6), others):.3f}",
                    flush=True,
                )
                continue
            noise = calibrate([PREPARE, learner], schema, limit, given.delta)
            found = [
                auc(
                    learner,
                    trained(learner, trained(PREPARE, {}, cohorts, noise), cohorts, noise),
                    others,
                )
                for _ in range(given.draws)
            ]
            told = f"{np.mean(found):.3f} [{min(found):.3f}, {max(found):.3f}]"
            print(f"  epsilon {limit:g} (noise {noise:.2f}): {told}", flush=True)
    for patients, crops in ((8, 1), (8, 4)):
        plain_, private = seconds(patients, crops, 3)
        print(
            f"compact3d, {patients} patients of {crops} crops: a step {plain_:.3f} s, private "
            f"{private:.3f} s, ratio {private / plain_:.2f}"
        )


if __name__ == "__main__":
    main()
