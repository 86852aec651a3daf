"""Membership inference by loss on the models of the run: a patient who was trained on is scored a
little too well.

The score is minus the log loss of the patient's own class under the released model (Yeom et al.
2018, arXiv 1709.01604, sec. 3.2). Cross-fitting is what makes the trial fair: members of a model
are the patients whom it was trained on, non-members those of the part that it left out, of the same
hospitals and drawn by a hash. Each model is judged against its own two groups: `auc` is the share
of pairs, a member and a non-member of the same model, in which the member scores higher, over all
models' pairs; for a model that ignores its training set it is 0.5 to the last digit. `tpr` is the
share of members above one threshold for all models, the lowest by which at most 1 % of the
non-members lie above: pooled, for a part of a hundred patients has one patient in its 1 %.

`calibrated` takes from each score how hard the patient is: the score by a model without the patient
(Watson et al. 2022, arXiv 2111.08440, eq. 4). The model that left out p is compared with the one
that left out p and q: those of q were trained on by the first and not by the second, those of p by
neither, and but for that the two groups stand alike to both models. Only a run without noise has
such models. Intervals: patients resampled within their part, models and their noise fixed; the
threshold is set anew in each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.schema import Floats
from common.federated.learner import Head
from common.federated.states import States
from common.learners.evaluation import scorable
from common.metrics.resampling import bootstrap_weights, percentiles
from common.metrics.score_histogram import log_loss_terms

MAX_FPR = 0.01
LEAST_NONMEMBERS = 100
"""Non-members below which a hundredth of them is nobody, and nothing is estimated."""
_CELLS = 5_000_000
"""Replicates are taken in blocks of about this many weights."""

Row = dict[str, Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Target:
    """A head as it was released: its states by fold, and the epsilon that its fits kept to (None:
    no noise)."""

    head: Head
    epsilon: float | None
    states: States


@dataclass(frozen=True)
class Trial:
    """One attack: `scores` (models, patients), NaN for whom the model cannot be judged on; `member`
    of the same shape."""

    scores: Floats
    member: Mask

    @property
    def members(self) -> int:
        """Patients who are one of some model."""
        return int((~np.isnan(self.scores) & self.member).any(0).sum())

    @property
    def nonmembers(self) -> int:
        return int((~np.isnan(self.scores) & ~self.member).any(0).sum())


def membership(
    targets: Sequence[Target],
    cohorts: Sequence[Cohort],
    *,
    seed: int,
    parts: int,
    minimum: int,
    repeats: int,
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[Row]:
    """`audit[]` of `report.json`. `minimum`: a site with fewer patients in a training set was not
    in it, and is not judged."""
    part = np.concatenate([c.parts(seed, parts) for c in cohorts])
    weights = bootstrap_weights(part, np.zeros(len(part)), repeats, seed)
    rows = []
    for n, target in enumerate(targets):
        tell(target.head.name, n, len(targets))
        for attack, trial in trials(target, cohorts, seed, parts, minimum).items():
            rows.append(
                {
                    "learner": target.head.name,
                    "epsilon": target.epsilon,
                    "attack": attack,
                    **judged(trial, weights),
                }
            )
    return rows


def trials(
    target: Target, cohorts: Sequence[Cohort], seed: int, parts: int, minimum: int
) -> dict[str, Trial]:
    """Attack -> trial. `loss`: a row for each part that a model left out; `calibrated`: for each
    ordered pair of parts."""
    part = np.concatenate([c.parts(seed, parts) for c in cohorts])
    scores = np.full((parts, len(part)), np.nan)
    for p in range(parts):
        took_part = np.concatenate(
            [_took_part(target.head, c, Fold(parts=(p,)), seed, parts, minimum) for c in cohorts]
        )
        scores[p, took_part] = confidence(target, Fold(parts=(p,)), cohorts)[took_part]
    out = {"loss": Trial(scores, part[None] != np.arange(parts)[:, None])}
    pairs = list(itertools.permutations(range(parts), 2))
    without = {
        pair: confidence(target, Fold(parts=pair), cohorts)
        for pair in itertools.combinations(range(parts), 2)
    }
    if not all(np.isnan(w).all() for w in without.values()):
        calibrated = [
            np.where((part == p) | (part == q), scores[p] - without[min(p, q), max(p, q)], np.nan)
            for p, q in pairs
        ]
        out["calibrated"] = Trial(np.array(calibrated), np.array([part == q for _, q in pairs]))
    return out


def confidence(target: Target, fold: Fold, cohorts: Sequence[Cohort]) -> Floats:
    """(patients,): minus the log loss of each patient's own class by the fold's model; NaN without
    a label, an input or a model."""
    state = target.states.get(fold, {})
    out = [np.full(len(c), np.nan) for c in cohorts]
    for cohort, scores in zip(cohorts, out, strict=True):
        scorable_cases = scorable(target.head, cohort) & (cohort.labels != UNKNOWN)
        if state.get(target.head.name) and scorable_cases.any():
            rows = cohort.where(scorable_cases)
            probs = target.head.predict(state, rows)
            scores[scorable_cases] = -log_loss_terms(probs, np.eye(probs.shape[1])[rows.labels])
    return np.concatenate(out)


def judged(trial: Trial, weights: NDArray[np.float32]) -> Row:
    """AUC and TPR with 95 % intervals; `weights` (replicates, patients)."""
    counts = {"fpr": MAX_FPR, "members": trial.members, "nonmembers": trial.nonmembers}
    if min(trial.members, trial.nonmembers) < LEAST_NONMEMBERS:
        return {
            **dict.fromkeys(("auc", "low", "high", "tpr", "tpr_low", "tpr_high")),
            **counts,
            "estimable": False,
        }
    whole = np.concatenate([np.ones((1, weights.shape[1])), weights])
    blocks = np.array_split(whole, 1 + whole.size * len(trial.scores) // _CELLS)
    aucs, rates = (np.concatenate([measure(trial, b) for b in blocks]) for measure in (_auc, _rate))
    auc, tpr = (percentiles(drawn) for drawn in (aucs, rates))
    figures = {
        "auc": auc.value,
        "low": auc.low,
        "high": auc.high,
        "tpr": tpr.value,
        "tpr_low": tpr.low,
        "tpr_high": tpr.high,
    }
    return {**figures, **counts, "estimable": True}


def _took_part(head: Head, cohort: Cohort, fold: Fold, seed: int, parts: int, minimum: int) -> Mask:
    """(patients,): all of a site, or nobody."""
    rows = cohort.train(fold, seed, parts)
    return np.full(len(cohort), int(scorable(head, rows).sum()) >= minimum)


def _auc(trial: Trial, weights: Floats) -> Floats:
    """(replicates,): share of the pairs in which the member scores higher; ties count half."""
    concordant, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for scores, member in zip(trial.scores, trial.member, strict=True):
        if (kept := ~np.isnan(scores)).any():
            inside, outside = _by_score(scores[kept], member[kept], weights[:, kept])
            concordant += (inside * (outside[:, ::-1].cumsum(1)[:, ::-1] - outside / 2)).sum(1)
            pairs += inside.sum(1) * outside.sum(1)
    return np.asarray(concordant / pairs)


def _rate(trial: Trial, weights: Floats) -> Floats:
    """(replicates,): members above the lowest threshold that at most `FPR` of the non-members are
    above."""
    kept = ~np.isnan(trial.scores).ravel()
    inside, outside = _by_score(
        trial.scores.ravel()[kept],
        trial.member.ravel()[kept],
        np.tile(weights, len(trial.scores))[:, kept],
    )
    true_positives, false_positives = (
        np.concatenate([np.zeros((len(w), 1)), w.cumsum(1)], axis=1) for w in (inside, outside)
    )
    last = (false_positives <= MAX_FPR * false_positives[:, -1:] + 1e-9).sum(1) - 1
    return np.asarray(true_positives[np.arange(len(true_positives)), last] / true_positives[:, -1])


def _by_score(scores: Floats, member: Mask, weights: Floats) -> tuple[Floats, Floats]:
    """Two of (replicates, different scores), from the highest down: weight of the members, and of
    the others, of that score."""
    order = np.argsort(-scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=np.inf) != 0)
    ordered = weights[:, order].astype(np.float64)
    return np.add.reduceat(ordered * member[order], first, axis=1), np.add.reduceat(
        ordered * ~member[order], first, axis=1
    )
