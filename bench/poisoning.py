"""What one poisoning site costs the others, and what each defence saves: AUC of the honest sites'
patients, on synthetic cohorts.

    python -m bench.poisoning [--seeds 10] [--patients 1400] [--sites 8] [--learner logistic_fedavg]

Each seed is a cohort of its own, dealt to the sites by a hash; the site with the most patients
attacks. Stations, courier and driver are the real ones, in process. Trained is on one half of the
patients, judged on the honest sites' other half by the AUC of pairs of patients of one site. Every
figure is a mean over the seeds with its standard error; beside it the difference from the
undisturbed mean, paired by seed, and how often the attacker, or an honest site, was refused in a
run, and with which code.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from sklearn.metrics import roc_auc_score

from client.app import app
from common.data.cohort import Fold
from common.federated.learner import Head
from server.config import enrolled_sites
from server.config.jobs import Job
from server.rounds import strategies, update_screening
from server.rounds.driver import Exchange, Federation, Progress, drive
from server.rounds.registration import Invitation, register
from simulation.__main__ import parser
from simulation.federation import malicious_site, synthetic_cohorts
from simulation.federation.in_process_grid import InProcessGrid
from simulation.federation.options import checked
from simulation.federation.setting import Setting, cohorts, prepare

FOLD = Fold(parts=(0,))
STUDY = "colorectal_metastasis"
ATTACKS: Mapping[str, tuple[str, str]] = {
    "no attack": ("", ""),
    **{
        kind: (malicious_site.IN_DATA if kind == malicious_site.IN_DATA else "", kind)
        for kind in malicious_site.ATTACKS
    },
    "flip and scale": (malicious_site.IN_DATA, "scale"),
}
"""Name -> what is in the attacker's table, and what it answers. A scaled change alone points where
the honest ones do."""


def defences(bound: float, factor: float) -> dict[str, dict[str, Any]]:
    """Name -> what differs in the run."""
    return {
        "none (fedavg)": {},
        f"norm_bound={bound:g}": {"norm_bound": bound},
        f"outliers={factor:g}": {"outliers": factor},
        **{name: {"strategy": name} for name in strategies.LEAST},
    }


def settings(folder: Path, seed: int, given: argparse.Namespace) -> dict[str, Setting]:
    """The sites as they are, and with the labels of one flipped."""
    synthetic_cohorts.write(
        STUDY,
        folder / "data",
        seed=seed,
        mode="default",
        patients=given.patients,
        tell=lambda done, of: None,
    )
    out = {}
    for kind in ("", malicious_site.IN_DATA):
        words = [
            "--data",
            str(folder / "data"),
            "--seed",
            str(seed),
            "--learners",
            given.learner,
            "--folds",
            "2",
            "--evaluations",
            "",
        ]
        words += ["--set", f"{given.learner}.rounds={given.rounds}"]
        words += [
            "--partition",
            "even",
            "--virtual-sites",
            str(given.sites),
            "--quorum",
            "0.5",
            "--study",
            STUDY,
        ]
        home = folder / (kind or "honest")
        home.mkdir()
        out[kind] = prepare(
            checked(parser().parse_args([*words, *(("--attack", kind) if kind else ())]), home)
        )
    return out


def trained(
    setting: Setting, attacker: str, attack: str, how: Mapping[str, Any], name: str
) -> tuple[Progress, Counter[str]]:
    """The states, and how often who was refused with which code."""
    client = (
        malicious_site.AttackedApp(app, path_of(setting, attacker), attack)
        if attack in malicious_site.IN_ANSWERS
        else app
    )
    run = dataclasses.replace(setting.run, task=setting.task, **how)
    grid, schema = InProcessGrid(client, setting.sites), setting.study.schema_at(setting.task)
    jobs = [
        Job(x, FOLD, (FOLD,)) for x in (run.preprocessing(setting.study), *run.heads(setting.study))
    ]
    roster = register(
        grid, Invitation(run, name, enrolled_sites.load(run.keys), setting.task, schema)
    )
    update_screening.demand(run, jobs, roster)
    strategies.demand(run.strategy, jobs, roster)
    progress, refused = Progress(), Counter[str]()

    def watch(exchange: Exchange, _: Progress) -> None:
        for work in exchange.work:
            codes: Any = work["refused"]
            refused.update(
                f"{'attacker' if attack and site == attacker else 'honest'} {code}"
                for site, code in codes.items()
            )

    drive(
        Federation(grid, run, name, roster, jobs, schema, strategies.combiner(run.strategy)),
        progress,
        watch,
    )
    return progress, refused


def path_of(setting: Setting, site: str) -> Path:
    return setting.sites[1 + list(setting.parted.sites).index(site)]


def auc(setting: Setting, progress: Progress, attacker: str) -> float:
    """Share of concordant pairs among the honest sites' pairs, by a model that has not seen them;
    0.5 for one that is no number."""
    (head,) = setting.run.heads(setting.study)
    concordant = pairs = 0.0
    for cohort in cohorts(setting):
        rows = cohort.where((cohort.parts(setting.run.seed, 2) == 0) & (cohort.labels >= 0))
        n = int((rows.labels == 1).sum()) * int((rows.labels == 0).sum())
        if cohort.site != attacker and n:
            scores = cast(Head, head).predict(progress.states[FOLD], rows)[:, 1]
            concordant += (
                n * float(roc_auc_score(rows.labels, scores))
                if np.isfinite(scores).all()
                else n / 2
            )
            pairs += n
    return concordant / pairs


def shown(values: Sequence[float], sign: str = "") -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):{sign}.3f} ({error:.3f})"


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told.add_argument("--seeds", type=int, default=10)
    told.add_argument("--patients", type=int, default=1400)
    told.add_argument("--sites", type=int, default=8)
    told.add_argument("--rounds", type=int, default=15)
    told.add_argument("--learner", default="logistic_fedavg")
    told.add_argument("--bound", type=float, default=0.4)
    told.add_argument("--factor", type=float, default=3.0)
    given = told.parse_args()
    started, ways = time.monotonic(), defences(given.bound, given.factor)
    found: dict[tuple[str, str], list[float]] = {}
    out: dict[tuple[str, str], Counter[str]] = {}
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as name:
            by_kind = settings(Path(name), seed, given)
            parted = by_kind[""].parted.sites
            attacker = max(parted, key=lambda s: len(parted[s]))
            for (attack, (table, answers)), (way, how) in itertools.product(
                ATTACKS.items(), ways.items()
            ):
                if attack == "nan" and how:
                    continue  # refused as it comes (P02), whatever follows
                setting = by_kind[table]
                progress, refused = trained(
                    setting, attacker, answers, how, f"{seed} {attack} {way}"
                )
                found.setdefault((attack, way), []).append(auc(setting, progress, attacker))
                out.setdefault((attack, way), Counter()).update(refused)
        print(f"seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    print(
        f"{given.learner}, {given.sites} sites, {given.patients} patients, {given.seeds} seeds: "
        "mean AUC (standard error)"
    )
    for attack, way in found:
        values, plain = found[attack, way], found[next(iter(ATTACKS)), next(iter(ways))]
        lost = [v - p for v, p in zip(values, plain, strict=True)]
        who = ", ".join(f"{k} {n / given.seeds:.1f}" for k, n in sorted(out[attack, way].items()))
        told_of = (
            f"{shown(values)}; against undisturbed {shown(lost, '+')}; refusals a run: "
            f"{who or 'none'}"
        )
        print(f"  {attack:14} {way:14} {told_of}")


if __name__ == "__main__":
    main()
