"""The table [privacy] of a site file: what is wrong is named, and nothing wrong falls back to less
privacy."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.site import site_file
from client.site.privacy_policy import Policy
from common.data.cohort import Fold
from common.errors import RefusedError, UsageError
from common.federated.learner import Plan
from common.privacy.mechanism import Privacy
from common.runtime import settings

TODAY = datetime.date(2026, 6, 1)
PLAN = Plan(
    "r",
    "A",
    "s",
    "t",
    "0" * 64,
    0,
    "logistic",
    "newton",
    Fold(),
    (Fold(),),
    "1" * 64,
    ("A", "B"),
    1e12,
    {},
    0,
    5,
)
DP = Policy(3.0, 1e-5)


def parse(table: dict[str, Any]) -> Policy:
    raw = {"name": "A", "data": ".", "studies": ["s"], "privacy": table}
    return settings.checked(site_file.Site, raw, "site.toml", "C01", folder=Path()).privacy


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"epsilon": 0}, "privacy.epsilon = 0 must be"),
        ({"epsilon": -1.0, "delta": 1e-5}, "privacy.epsilon = -1.0 must be"),
        ({"epsilon": math.nan, "delta": 1e-5}, "privacy.epsilon = nan must be"),
        ({"epsilon": "3"}, "privacy.epsilon = '3' must be"),
        ({"epsilon": True}, "privacy.epsilon = True must be"),
        ({"epsilon": 1e6, "delta": 1e-5}, "protects nobody"),
        ({"epsilon": 3.0}, "privacy.delta = 0.0 must be above 0 with an epsilon"),
        ({"epsilon": 3.0, "delta": 1.0}, "privacy.delta = 1.0 must be"),
        ({"epsilon": 3.0, "delta": math.nan}, "privacy.delta = nan must be"),
        ({"require": "dp"}, "needs privacy.epsilon"),
        ({"require": "secure"}, "privacy.require = 'secure' must be one of"),
        ({"participants": "A"}, "privacy.participants = 'A' must be a list"),
        ({"expires": "2027-01-01"}, "privacy.expires = '2027-01-01' must be a date"),
        ({"expires": datetime.datetime(2027, 1, 1)}, "must be a date"),
        ({"peers": {"B": "12"}}, "privacy.peers.B = '12' must be a public key"),
        ({"require": "secagg"}, "needs [privacy.peers]"),
        ({"fewest_sites": 2}, "at least 3"),
        ({"learners": ["logistics"]}, "privacy.learners number 1 = 'logistics' is no learner"),
        ({"hyper": {"image.round": [1, 2]}}, 'privacy.hyper."image.round" is no hyperparameter'),
        ({"hyper": {"image.grid": [1, 2]}}, 'privacy.hyper."image.grid" is no hyperparameter'),
        (
            {"hyper": {"image.rounds": [3, 2]}},
            'privacy.hyper."image.rounds" = [3.0, 2.0] must be the least and the most',
        ),
        ({"hyper": []}, "privacy.hyper = [] must be a table"),
        ({"noise_seed": 1.5}, "privacy.noise_seed = 1.5 must be a whole number"),
        ({"noise_seed": 1, "epsilon": 3.0, "delta": 1e-5}, "hides nobody"),
        ({"noise_seed": 1, "epsilon": math.inf}, "leave it out, or epsilon"),
        ({"noise_seed": 1, "require": "none"}, "leave it out, or require"),
        ({"epsilom": 3.0}, "did you mean 'epsilon'?"),
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(table)
    assert told in "; ".join(caught.value.faults)


def test_all_faults_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse(
            {"epsilon": -1, "delta": 2, "require": "x", "participants": 1, "expires": 1, "other": 1}
        )
    assert len(caught.value.faults) == 6


def test_a_right_table() -> None:
    table = {
        "epsilon": 3,
        "delta": 1e-5,
        "require": "dp",
        "participants": ["A"],
        "expires": datetime.date(2027, 1, 1),
    }
    assert parse(table) == Policy(3.0, 1e-5, "dp", ("A",), datetime.date(2027, 1, 1))
    assert parse({}) == Policy()
    limits = {"learners": ["logistic"], "hyper": {"logistic.rounds": [1, 9]}}
    assert parse(limits) == Policy(learners=("logistic",), hyper={"logistic.rounds": (1.0, 9.0)})
    keys = {"B": "1" * 64, "C": "2" * 64}
    assert parse({"require": "secagg", "peers": keys, "fewest_sites": 4}) == Policy(
        require="secagg", peers=keys, fewest_sites=4
    )
    assert parse({"noise_seed": 3}) == Policy(noise_seed=3)
    assert not Policy().noised
    assert DP.noised


def test_a_site_file_with_a_wrong_table_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    for table, told in (
        ("[privacy]\nepsilon = 3\n", "privacy.delta = 0.0 must be above 0 with an epsilon"),
        ("privacy = 3\n", "must be a table"),
    ):
        path.write_text(f'name = "A"\ndata = "."\nstudies = ["s"]\n{table}')
        with pytest.raises(UsageError, match=told) as caught:
            site_file.load(path)
        assert str(path) in str(caught.value)
    path.write_text(
        'name = "A"\ndata = "."\nstudies = ["s"]\n[privacy]\nepsilon = 3\ndelta = 1e-5\n'
    )
    assert site_file.load(path).privacy == DP


@pytest.mark.parametrize(
    ("policy", "plan", "told"),
    [
        (DP, PLAN, "need noise"),
        (Policy(expires=datetime.date(2026, 5, 31)), PLAN, "answers no plan after 2026-05-31"),
        (Policy(participants=("A",)), PLAN, "sums this site up with B"),
        (Policy(require="secagg"), replace(PLAN, privacy=Privacy(1.0)), "secure aggregation alone"),
        (Policy(), replace(PLAN, secure=True, fold=Fold(("A",))), "leaves out a whole site"),
        (Policy(learners=("boosting",)), PLAN, "'logistic' is not among privacy.learners"),
        (
            Policy(hyper={"logistic.rounds": (1, 9)}),
            replace(PLAN, hyper={"rounds": 10}),
            "logistic.rounds=10 lies outside",
        ),
        (
            Policy(hyper={"logistic.rounds": (1, 9)}),
            replace(PLAN, hyper={"rounds": "9"}),
            "logistic.rounds='9' lies outside",
        ),
        (Policy(hyper={"logistic.rounds": (1, 9)}), PLAN, "logistic.rounds=30 lies outside"),
    ],
)
def test_what_is_not_allowed_is_refused(policy: Policy, plan: Plan, told: str) -> None:
    with pytest.raises(RefusedError, match=told) as caught:
        policy.admit(plan, TODAY)
    assert caught.value.code == "P07"


def test_what_is_allowed_passes() -> None:
    Policy().admit(PLAN, TODAY)
    DP.admit(replace(PLAN, privacy=Privacy(1.0)), TODAY)
    Policy(participants=("A", "B", "C"), expires=TODAY).admit(PLAN, TODAY)
