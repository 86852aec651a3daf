"""What noise costs 600 patients when the sites share it under masks, beside each adding all of its
own: AUC of `private_logistic` on the real colorectal table (task `preop`) and on a synthetic one.

    FEDMETS_DATA=/data python -m bench.shared_noise [--epsilons 3 10] [--sites 5] [--draws 20] [--delta 1e-5] [--colluders 0]

Patients are dealt to the sites by a hash of their id. Each fifth of them is judged by a model of
the others, a training of three releases of `epsilon` in all. Means over draws of the noise, with
their standard deviation.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from client.cohort import reader
from client.station.gaussian_noise import noised
from common.data.cohort import UNKNOWN, Cohort, Fold, part_of
from common.federated.accounting import calibrate
from common.federated.learner import fit, local_plan, total
from common.federated.protected_sums import protected
from common.learners.logistic import LEARNER as EXACT
from common.learners.private_logistic import LEARNER
from common.privacy.mechanism import Privacy
from common.study import load as studies
from common.types import State
from tests import synthetic

DATA = Path(os.environ.get("FEDMETS_DATA", Path(__file__).parents[1].parent / "shared/data"))
PARTS = 5
DEALT = 91
"""Seed by which patients are dealt to sites."""


def trained(cohorts: list[Cohort], fold: Fold, privacy: Privacy | None) -> State:
    """By the sums that sites send: each with its own noise, or with its share of one."""
    if privacy is None:
        return fit(LEARNER, {}, cohorts, local_plan(fold, 0, PARTS))
    plan = dataclasses.replace(
        local_plan(fold, 0, PARTS),
        participants=tuple(c.site for c in cohorts),
        privacy=privacy,
        phase="newton",
        secure=privacy.shared > 0,
    )
    bound = LEARNER.phases["newton"].sensitivity(cohorts[0].schema)
    assert isinstance(bound, float)
    state: State = {LEARNER.name: LEARNER.start(cohorts[0].schema, 0)}
    done = False
    while not done:
        states = {fold: state}
        sums = [
            noised(protected(LEARNER, states, c, plan, bound, print), bound, privacy)
            for c in cohorts
        ]
        step = LEARNER.apply(states, total(sums), plan)
        state, done = {LEARNER.name: step.arrays}, step.done
    return state


def auc(cohorts: list[Cohort], privacy: Privacy | None) -> float:
    """Of all patients, each by a model that has not seen its part."""
    labels, scores = [], []
    for part in range(PARTS):
        fold = Fold(parts=(part,))
        state = trained(cohorts, fold, privacy)
        for c in cohorts:
            unseen = c.where((c.parts(0, PARTS) == part) & (c.labels != UNKNOWN))
            labels.append(unseen.labels)
            scores.append(LEARNER.predict(state, unseen)[:, 1])
    return float(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))


def exact(cohorts: list[Cohort]) -> float:
    """Of the regression that was built to be exact, all rows in one place."""
    labels, scores = [], []
    for part in range(PARTS):
        state = EXACT.alone(cohorts, Fold(parts=(part,)), 0, PARTS)
        for c in cohorts:
            unseen = c.where((c.parts(0, PARTS) == part) & (c.labels != UNKNOWN))
            labels.append(unseen.labels)
            scores.append(EXACT.predict(state, unseen)[:, 1])
    return float(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[3.0, 10.0])
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--colluders", type=int, default=0)
    given = parser.parse_args()
    folder = DATA / "tcga-coadread"
    tables = {"synthetic": synthetic.sites(600, 1, seed=5)[0]}
    if folder.is_dir():
        study = studies.load("colorectal_metastasis")
        tables["colorectal"] = reader.read_table(study, "preop", folder).cohort
    else:
        print(f"colorectal: not run, {folder} is not there (set FEDMETS_DATA)")
    print(f"{given.sites} sites, {given.draws} draws of the noise, delta {given.delta:g}")
    print(
        "table       patients  exact  no noise  epsilon  each its own   shared         in the total"
    )
    for name, whole in tables.items():
        known = int((whole.labels != UNKNOWN).sum())
        at = np.array([part_of(DEALT, str(i), given.sites) for i in whole.ids])
        cohorts = [
            dataclasses.replace(whole.where(at == n), site=f"S{n + 1}") for n in range(given.sites)
        ]
        begin = f"{name:<11} {known:>8}  {exact([whole]):.3f}     {auc([whole], None):.3f}"
        for epsilon in given.epsilons:
            told, totals = [], []
            for shares in (0, given.sites - 1 - given.colluders):
                noise = calibrate([LEARNER], whole.schema, epsilon, given.delta, shares)
                privacy = Privacy(noise, shares)
                drawn = [auc(cohorts, privacy) for _ in range(given.draws)]
                told.append(f"{np.mean(drawn):.3f} ({np.std(drawn):.3f})")
                totals.append(f"{privacy.total(given.sites):.1f}")
            print(
                f"{begin}  {epsilon:>7g}  {told[0]}  {told[1]}  {' and '.join(totals)} bounds",
                flush=True,
            )


if __name__ == "__main__":
    main()
