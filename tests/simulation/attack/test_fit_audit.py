"""Audits of whole fits through the station's doors: what is accounted is not exceeded, and what was
done wrong on purpose is found.

Canaries, coins and noise are seeded. The whole audits, of 1,000 canaries and more, are slow tests
and `bench/fit_audits.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from client.station import gaussian_noise
from common.federated import protected_sums
from common.federated.learner import Federated, load
from common.learners import private_logistic
from common.networks import dp_sgd
from common.privacy import patient_sums
from common.privacy.mechanism import Privacy
from common.privacy.random import repeatable, rounded_normal, uniform
from simulation.attack import fit_audit, low_order_bits
from simulation.attack.canary_cohort import arranged
from simulation.attack.fit_audit import Audited
from simulation.attack.linear_decoder import Patients, shares
from simulation.attack.observed_fit import account, releases

DELTA, MOST = 1e-5, 2.0
SCORED = {"heads": ["private_logistic"]}
MLP = {"hidden": [8], "rounds": 6, "epochs": 1, "clip": 0.1}
CHAINS: dict[str, list[Federated]] = {
    "preprocessing": [load("preprocessing")],
    "private_logistic": [load("private_logistic", {"norm": 6.0})],
    "scores": [load("preprocessing"), load("private_logistic"), load("scores", SCORED)],
    "boosting": [load("preprocessing"), load("boosting", {"trees": 4, "depth": 2})],
    "mlp": [load("preprocessing"), load("mlp", {**MLP, "rate": 1.0})],
    "mlp by chance": [load("preprocessing"), load("mlp", {**MLP, "rate": 0.5})],
}
FEWER = {"preprocessing": 500, "private_logistic": 500, "boosting": 500, "mlp": 200}
"""Canaries by which a tenth of the noise is found in a moment."""
whole = pytest.mark.parametrize(
    ("name", "count"),
    [
        *FEWER.items(),
        *(pytest.param(name, 1000, marks=pytest.mark.slow) for name in CHAINS),
    ],
)


def audited(chain: Sequence[Federated], count: int, seed: int = 1) -> Audited:
    with repeatable(seed, chain[-1].name):
        return fit_audit.audited(chain, MOST, DELTA, count=count)


@pytest.fixture
def tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the noise, of which the account knows nothing."""

    def little(size: int, spread: float) -> Any:
        return rounded_normal(size, spread / 10)

    for module in (gaussian_noise, dp_sgd):
        monkeypatch.setattr(module, "rounded_normal", little)


@whole
def test_a_whole_fit_shows_no_more_than_is_accounted(name: str, count: int) -> None:
    found = audited(CHAINS[name], count)
    assert 0.9 * MOST < found.epsilon <= MOST
    assert found.found.canaries == count
    assert found.found.lower <= found.epsilon


@whole
@pytest.mark.usefixtures("tenth")
def test_a_tenth_of_the_noise_shows_more(name: str, count: int) -> None:
    found = audited(CHAINS[name], count)
    assert found.found.lower > found.epsilon


@pytest.fixture
def rows_uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that forgets to cut its patients' rows."""
    cut = private_logistic._rows
    monkeypatch.setattr(private_logistic, "_rows", lambda rows, norm: 30 * cut(rows, norm))


@pytest.fixture
def sums_uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A station that forgets to cut what a patient adds."""
    real = patient_sums.patient_sums

    def as_it_is(blocks: Any, shapes: Any, bound: float, on: Any) -> Any:
        return real(blocks, shapes, 1e9, on)

    monkeypatch.setattr(protected_sums, "patient_sums", as_it_is)


@pytest.mark.usefixtures("rows_uncut")
def test_a_learner_that_does_not_cut_its_rows_is_cut_by_the_station() -> None:
    found = audited(CHAINS["private_logistic"], FEWER["private_logistic"])
    assert found.found.lower <= found.epsilon


@pytest.mark.usefixtures("rows_uncut", "sums_uncut")
def test_rows_that_nobody_cuts_are_found() -> None:
    found = audited(CHAINS["private_logistic"], FEWER["private_logistic"])
    assert found.found.lower > found.epsilon


def test_gradients_that_are_not_cut_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = dp_sgd.add_clipped

    def as_it_is(total: Any, gradient: Any, clip: float, on: Any) -> None:
        cut(total, gradient, 1e6, on)

    monkeypatch.setattr(dp_sgd, "add_clipped", as_it_is)
    found = audited(CHAINS["mlp"], FEWER["mlp"])
    assert found.found.lower > found.epsilon


def _bits(runs: int) -> tuple[float, float, float]:
    """Epsilon accounted, the least bound of the runs, and the share of right guesses in all."""
    found = []
    for seed in range(runs):
        with repeatable(seed, "bits"):
            found.append(low_order_bits.audited(MOST, DELTA))
    right = np.mean([f.found.right / f.found.guesses for f in found])
    return found[0].epsilon, min(f.found.lower for f in found), float(right)


def test_low_order_bits_are_at_chance() -> None:
    """Within four standard errors of a fair coin."""
    runs = 50
    guesses = runs * low_order_bits.CANARIES * low_order_bits.SHARE
    assert abs(_bits(runs)[2] - 0.5) < 4 * 0.5 / np.sqrt(guesses)


def test_low_order_bits_of_noise_in_floating_point_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def floating(size: int, spread: float) -> Any:
        return ndtri(uniform(size)) * spread

    monkeypatch.setattr(gaussian_noise, "rounded_normal", floating)
    accounted, least, right = _bits(5)
    assert least > accounted
    assert right > 0.95


def test_the_last_bit_of_a_number() -> None:
    values = np.array([1.0, 3.0, 0.75, -6.0, 2.0**-40 + 1, 0.0])
    assert low_order_bits.last_bit(values).tolist() == [0, 0, -2, 1, -40, np.inf]


@pytest.mark.parametrize("name", ["scores", "boosting"])
def test_what_the_adversary_takes_for_a_patients_share_is_what_the_station_adds(name: str) -> None:
    """Without noise to speak of, what leaves is the sum of the shares."""
    chosen = arranged(CHAINS[name], 20, 0)
    together = Patients(chosen.patients)
    with repeatable(0, "shares"), account(np.inf, DELTA) as at:
        for release in releases(chosen.chain, {}, chosen.patients, Privacy(1e-6), at):
            sums = release.answer.sums
            seen = np.concatenate([sums[k].ravel() for k in sorted(sums)])
            own = shares(release.learner, release.states, release.plan, together)
            assert np.abs(seen - np.asarray(own.sum(axis=0)).ravel()).max() < 1e-3
