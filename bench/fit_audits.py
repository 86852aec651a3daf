"""What one run shows of the epsilon of whole fits, as they are and with a tenth of their noise.

    python -m bench.fit_audits [--canaries 1000] [--epsilon 2] [--delta 1e-5] [--seeds 3]

Each line is one fit through the station's doors, audited by canaries with coins of their own
(`simulation.attack.fit_audit`): the account's epsilon, and the least that the guesses show at 95 %.
A tenth is a fault that is made on purpose: the account goes on as if nothing were wrong.
"""

from __future__ import annotations

import argparse
import time
from typing import Any
from unittest import mock

from scipy.special import ndtri

from client.station import gaussian_noise
from common.federated.learner import Federated, load
from common.networks import dp_sgd
from common.privacy.random import repeatable, rounded_normal, uniform
from simulation.attack import fit_audit, low_order_bits
from simulation.attack.fit_audit import Audited

MLP: dict[str, object] = {"hidden": [8], "rounds": 8, "epochs": 1, "rate": 0.5}
CHAINS: dict[str, list[Federated]] = {
    "preprocessing": [load("preprocessing")],
    "preprocessing, private_logistic, scores": [
        load("preprocessing"),
        load("private_logistic"),
        load("scores", {"heads": ["private_logistic"]}),
    ],
    "private_logistic": [load("private_logistic")],
    "private_logistic, norm 6": [load("private_logistic", {"norm": 6.0})],
    "preprocessing, boosting (4 trees of depth 2), scores": [
        load("preprocessing"),
        load("boosting", {"trees": 4, "depth": 2}),
        load("scores", {"heads": ["boosting"], "learners": {"boosting": {"trees": 4, "depth": 2}}}),
    ],
    "mlp (DP-SGD, 16 steps, rate 0.5)": [load("preprocessing"), load("mlp", MLP)],
}


def little(size: int, spread: float) -> Any:
    return rounded_normal(size, spread / 10)


def floating(size: int, spread: float) -> Any:
    return ndtri(uniform(size)) * spread


def line(name: str, seed: int, found: Audited, seconds: float) -> str:
    shown = found.found
    return (
        f"{name}, seed {seed}: shown {shown.lower:.2f}, accounted {found.epsilon:.2f}; "
        f"{shown.right} of {shown.guesses} guesses right, {shown.canaries} canaries, "
        f"{found.releases} releases, {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canaries", type=int, default=fit_audit.CANARIES)
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for name, chain in CHAINS.items():
        for noise, drawn in (("as it is", rounded_normal), ("a tenth", little)):
            for seed in range(given.seeds):
                began = time.monotonic()
                with (
                    mock.patch.object(gaussian_noise, "rounded_normal", drawn),
                    mock.patch.object(dp_sgd, "rounded_normal", drawn),
                    repeatable(seed, name),
                ):
                    found = fit_audit.audited(
                        chain, given.epsilon, given.delta, count=given.canaries, seed=seed
                    )
                seconds = time.monotonic() - began
                print(line(f"{name}; noise {noise}", seed, found, seconds), flush=True)
    for noise, drawn in (("whole numbers", rounded_normal), ("in floating point", floating)):
        for seed in range(given.seeds):
            with (
                mock.patch.object(gaussian_noise, "rounded_normal", drawn),
                repeatable(seed, "low-order bits"),
            ):
                found = low_order_bits.audited(given.epsilon, given.delta)
            print(line(f"low-order bits; noise {noise}", seed, found, 0.0), flush=True)


if __name__ == "__main__":
    main()
