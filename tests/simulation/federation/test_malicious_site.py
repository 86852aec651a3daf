"""A virtual site that attacks: what it alters, what it sends, and that a report says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.app import app
from common.data.cohort import Fold
from common.errors import UsageError
from common.federated.learner import Contribution, hyper_of, local_plan
from common.types import Arrays
from server.app import Outcome, coordinate
from server.config.run_config import Run
from server.ledger.ledger import NAME, read
from simulation.__main__ import main, parser
from simulation.federation import malicious_site
from simulation.federation.in_process_grid import InProcessGrid
from simulation.federation.options import checked
from simulation.federation.setting import Setting, cohorts, prepare

WORDS = (
    "--partition",
    "even",
    "--virtual-sites",
    "5",
    "--phantom-patients",
    "500",
    "--folds",
    "3",
    "--learners",
    "mlp",
)
SMALL = ("--evaluations", "", "--quorum", "0.7")
LARGE = ("--set", "mlp.hidden=[128,128]")


def setting(folder: Path, *words: str) -> Setting:
    folder.mkdir(parents=True, exist_ok=True)
    return prepare(checked(parser().parse_args([*WORDS, *SMALL, *words]), folder))


def run(it: Setting, **how: Any) -> tuple[Outcome, list[dict[str, Any]]]:
    """The outcome, and the ledger's work of the perceptron."""
    client = app
    if it.args.attack in malicious_site.IN_ANSWERS:
        client = malicious_site.AttackedApp(
            app, it.sites[1 + list(it.parted.sites).index(it.attacker)], it.args.attack
        )
    outcome = coordinate(InProcessGrid(client, it.sites), replace(it.run, **how))
    lines = read(it.folder / NAME)
    return outcome, [
        w for e in lines if e["kind"] == "exchange" for w in e["work"] if w["learner"] == "mlp"
    ]


def parameters(arrays: Arrays) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate(
        [arrays[k].ravel().astype(float) for k in sorted(arrays) if k.startswith("w/")]
    )


class Honest:
    """What honest sites send, computed without a federation."""

    def __init__(self, it: Setting, outcome: Outcome) -> None:
        self.sites = cohorts(it)
        (self.head,) = it.run.heads(it.study)
        self.plan = replace(
            local_plan(Fold(), it.run.seed, it.run.parts),
            learner="mlp",
            phase="train",
            hyper=hyper_of(self.head),
        )
        self.base = {"preprocessing": outcome.states[Fold()]["preprocessing"]}
        self.start = self.head.start(self.sites[0].schema, it.run.seed)

    def sends(self, arrays: Arrays) -> dict[str, Contribution]:
        return {
            c.site: self.head.contribute({Fold(): {**self.base, "mlp": arrays}}, c, self.plan)
            for c in self.sites
        }

    def after(self, arrays: Arrays, sent: dict[str, Contribution]) -> Arrays:
        cases = sum(c.cases for c in sent.values())
        means = {
            k: (sum(c.sums[k] for c in sent.values()) / cases).astype(np.float32)
            for k in arrays
            if k.startswith("w/")
        }
        return {**arrays, **means, "round": arrays["round"] + 1}


def test_scale_multiplies_the_change_of_one_site(tmp_path: Path) -> None:
    it = setting(tmp_path, "--attack", "scale", "--set", "mlp.rounds=1")
    outcome, _ = run(it)
    honest = Honest(it, outcome)
    sent = honest.sends(honest.start)
    liar = sent[it.attacker]
    more = {k: v + 19 * (v - honest.start[k] * float(liar.cases)) for k, v in liar.sums.items()}
    want = honest.after(honest.start, {**sent, it.attacker: Contribution(more, liar.cases)})
    np.testing.assert_allclose(
        parameters(outcome.states[Fold()]["mlp"]), parameters(want), atol=1e-5
    )
    assert np.abs(parameters(want) - parameters(honest.after(honest.start, sent))).max() > 0.1


def test_stale_sends_its_first_parameters_again(tmp_path: Path) -> None:
    it = setting(tmp_path, "--attack", "stale", "--attacker", "2", "--set", "mlp.rounds=3")
    assert it.attacker == "virtual 2"
    outcome, _ = run(it)
    honest = Honest(it, outcome)
    first, arrays = honest.sends(honest.start)[it.attacker], honest.start
    for _ in range(3):
        arrays = honest.after(arrays, {**honest.sends(arrays), it.attacker: first})
    np.testing.assert_allclose(
        parameters(outcome.states[Fold()]["mlp"]), parameters(arrays), atol=1e-4
    )


def test_nan_is_refused_as_it_comes(tmp_path: Path) -> None:
    it = setting(tmp_path, "--attack", "nan", "--set", "mlp.rounds=2")
    outcome, work = run(it)
    assert [w["refused"] for w in work] == [{it.attacker: "P02"}] * 2
    assert np.isfinite(parameters(outcome.states[Fold()]["mlp"])).all()


@pytest.mark.parametrize(("attack", "code"), [("scale", "X03"), ("nan", "P02"), ("stale", None)])
def test_rounded_changes_are_attacked_and_refused_alike(
    attack: str, code: str | None, tmp_path: Path
) -> None:
    it = setting(
        tmp_path,
        "--attack",
        attack,
        "--transfer",
        "int8",
        "--outliers",
        "4",
        "--set",
        "mlp.rounds=2",
        *LARGE,
    )
    outcome, work = run(it)
    assert [w["refused"].get(it.attacker) for w in work] == [code] * 2
    assert np.isfinite(parameters(outcome.states[Fold()]["mlp"])).all()


def test_label_flip_is_in_the_sites_own_table(tmp_path: Path) -> None:
    honest = {c.site: c for c in cohorts(setting(tmp_path / "a"))}
    it = setting(tmp_path / "b", "--attack", "label_flip")
    assert it.attacker == max(it.parted.sites, key=lambda s: len(it.parted.sites[s]))
    for cohort in cohorts(it):
        was = honest[cohort.site]
        assert cohort.ids == was.ids
        np.testing.assert_array_equal(cohort.values, was.values)
        known = was.labels >= 0
        want = (
            np.where(known, 1 - was.labels, was.labels)
            if cohort.site == it.attacker
            else was.labels
        )
        np.testing.assert_array_equal(cohort.labels, want)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--attack", "scale", "--learners", "logistic"), "this run sends none"),
        (("--attack", "stale", "--engine", "ray"), "leave out --prepare and --engine ray"),
        (("--attacker", "2"), "--attacker 2 does what"),
        (("--attack", "nan", "--attacker", "0"), "--attacker 0 must be at least 1"),
        (("--attack", "nan", "--attacker", "6"), "there are 5 sites"),
        (("--norm-bound", "-1"), "norm_bound = -1.0"),
        (("--outliers", "0.5"), "outliers = 0.5"),
    ],
)
def test_what_makes_no_sense_is_said(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        setting(tmp_path, *words)
    assert caught.value.code == "C01"


def test_the_report_says_that_the_run_was_attacked_who_was_refused_and_what_a_strategy_leaves_open(
    tmp_path: Path,
) -> None:
    words = (
        "--set",
        "mlp.epochs=1",
        "--set",
        "mlp.rounds=2",
        "--evaluations",
        "within_site",
        "--bootstraps",
        "100",
    )
    defence = ("--attack", "scale", "--outliers", "5", "--quorum", "0.7", "--strategy", "fedmedian")
    assert main([*WORDS, *words, *defence, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/report.json")
    report = json.loads(path.read_text())
    told = "\n".join(report["alarms"])
    (row,) = [r for r in report["participation"] if r["not"]]
    assert row["not"] == {"X03": 2 * 7}
    for said in (
        f"site '{row['site']}' was made to attack (scale)",
        "figures are those of an attacked run",
        "sends sums (preprocessing)",
    ):
        assert said in told
    assert (
        {"norm_bound", "outliers"} <= set(report["configuration"]) == set(Run.__dataclass_fields__)
    )
