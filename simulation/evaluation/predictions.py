"""Predictions of local, federated and pooled models, side by side on the same patients, behind
every figure of the report.

*Federated* are the models of the run. *Local* is what a hospital gets by itself: the same head
trained on its own rows, judged on its own patients (within site), or, for patients of another
hospital, the mean over the models of the hospitals that could train one. *Pooled* has all rows in
one place, which only a simulation can do. Pooled and local boosting is ordinary XGBoost; pooled and
local networks take as many passes over their images as the federated ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.schema import Floats
from common.errors import DataError
from common.federated.learner import Federated, Head, TableHead
from common.federated.local_baseline import local_folds, trainable
from common.federated.states import States
from common.learners.evaluation import (
    Predicted,
    chosen,
    groups,
    leave_one_site_out,
    out_of_fold,
    scorable,
    threshold_and_loss,
    within_site,
)
from common.learners.preprocessing import LEARNER as PREPARE
from common.metrics.score_histogram import checked
from common.types import Probs
from server.config.jobs import Job
from simulation.evaluation import baselines

ARMS = ("local", "federated", "pooled")


@dataclass(frozen=True)
class Scores:
    """One model on the patients of all sites, in site order; `seen` marks those that have a
    prediction."""

    probs: Probs
    thresholds: Floats
    """(n,): of two classes the second is called when p >= this, which other patients' out-of-fold
    predictions have set."""
    seen: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.probs)
        object.__setattr__(self, "probs", checked(self.probs, np.full(n, UNKNOWN)))
        if not n == len(self.thresholds) == len(self.seen):
            counts = (
                f"{n} predictions, {len(self.thresholds)} thresholds, {len(self.seen)} marks "
                "of who was scored"
            )
            raise DataError(
                "D05",
                f"predictions that do not belong together: {counts}; pass one of each a patient",
            )
        missing = np.isnan(self.thresholds[self.seen]).sum()
        if missing and self.probs.shape[1] == 2:
            fault = f"{missing} of {n} patients have no threshold (NaN)"
            raise DataError(
                "D05",
                f"{fault}; they would all be called negative, so give each the one of its training "
                "folds",
            )


@dataclass(frozen=True)
class Comparison:
    """All predictions. `scores[model, arm, evaluation]` is a list: one entry, or one a foreign
    model for local leave-one-site-out."""

    labels: NDArray[np.int64]
    sites: NDArray[np.str_]
    parts: NDArray[np.int64]
    ids: tuple[str, ...]
    scores: Mapping[tuple[str, str, str], list[Scores]]
    trainable: Mapping[str, tuple[str, ...]]
    """Head -> sites whose local model could be trained."""
    chosen: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    """(arm, evaluation) -> head -> how many predictions of `clinical` are that head's."""

    def __post_init__(self) -> None:
        for scores in (s for variants in self.scores.values() for s in variants):
            checked(scores.probs, self.labels)

    @property
    def classes(self) -> int:
        return next(int(s.probs.shape[1]) for variants in self.scores.values() for s in variants)


@dataclass(frozen=True)
class FederatedFit:
    """What the federation has trained, and how its patients were parted."""

    jobs: Sequence[Job]
    states: States
    seed: int
    parts: int
    prepare: Federated = PREPARE


def compare(
    cohorts: Sequence[Cohort],
    fit: FederatedFit,
    *,
    clinical: str | None,
    pooled_site: str = "",
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Comparison:
    """Train the local and the pooled models of the run's own jobs, and score everybody with all of
    them.

    `pooled_site` stands for several hospitals: what is trained there is no hospital's own model.
    """
    jobs, seed, parts = fit.jobs, fit.seed, fit.parts
    heads = list({j.learner.name: j.learner for j in jobs if isinstance(j.learner, Head)}.values())
    folds = list(dict.fromkeys(f for j in jobs if isinstance(j.learner, Head) for f in j.reads))
    able = {
        h.name: [c for c in cohorts if c.site != pooled_site and trainable(h, c, seed, parts)]
        for h in heads
    }
    own_folds = local_folds(parts)
    local_heads = {c.site: [h.name for h in heads if c in able[h.name]] for c in cohorts}
    tasks = {"": baselines.Task("pooled", cohorts, jobs)}
    tasks |= {
        c.site: baselines.Task(c.site, [c], baselines.local(jobs, local_heads[c.site], own_folds))
        for c in cohorts
        if local_heads[c.site]
    }
    trained = baselines.train(tasks, fit.prepare, seed, parts, tell)
    scored: dict[tuple[str, str, str], list[dict[str, Predicted]]] = {}
    for n, head in enumerate(heads):
        tell("scoring", n, len(heads))
        for arm, arm_states in (("federated", fit.states), ("pooled", trained[""])):
            by_part = _set(head, arm_states, cohorts, folds, seed, parts)
            within = {
                c.site: _within(head, arm_states, c, folds, by_part, seed, parts) for c in cohorts
            }
            scored[head.name, arm, "within_site"] = [within]
            scored[head.name, arm, "leave_one_site_out"] = [
                _left_out(head, arm_states, cohorts, folds, seed, parts)
            ]
        able_sites = able[head.name]
        own_site = {
            c.site: _within(
                head,
                trained[c.site],
                c,
                own_folds,
                _set(head, trained[c.site], [c], own_folds, seed, parts),
                seed,
                parts,
            )
            for c in able_sites
        }
        scored[head.name, "local", "within_site"] = [own_site]
        scored[head.name, "local", "leave_one_site_out"] = [
            _foreign(head, trained[a.site], a, cohorts, own_folds, seed, parts) for a in able_sites
        ]
    tables = [h.name for h in heads if isinstance(h, TableHead)]
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for arm in ARMS if tables else ():
        for evaluation in ("within_site", "leave_one_site_out"):
            variants = [scored[n, arm, evaluation] for n in tables]
            scored["clinical", arm, evaluation] = [
                _choose(tables, list(v), clinical, counts.setdefault((arm, evaluation), {}))
                for v in zip(*variants, strict=True)
            ]
    return Comparison(
        labels=np.concatenate([c.labels for c in cohorts]),
        sites=np.concatenate([np.full(len(c), c.site) for c in cohorts]),
        parts=np.concatenate([c.parts(seed, parts) for c in cohorts]),
        ids=tuple(i for c in cohorts for i in c.ids),
        scores={key: [_join(v, cohorts) for v in variants] for key, variants in scored.items()},
        trainable={h.name: tuple(c.site for c in able[h.name]) for h in heads},
        chosen=counts,
    )


def _pooled_out_of_fold(
    head: Head,
    states: States,
    cohorts: Sequence[Cohort],
    outer: Fold,
    folds: Sequence[Fold],
    seed: int,
    parts: int,
) -> tuple[float, float]:
    """(threshold, log loss) from the out-of-fold predictions on the training rows of `outer`, over
    all sites."""
    pieces = [
        (*out_of_fold(head, states, c, outer, folds, c.parts(seed, parts)), c.labels)
        for c in cohorts
    ]
    probs, seen, labels = (np.concatenate([p[i] for p in pieces]) for i in range(3))
    return threshold_and_loss(probs, seen, labels)


def _set(
    head: Head,
    states: States,
    cohorts: Sequence[Cohort],
    folds: Sequence[Fold],
    seed: int,
    parts: int,
) -> list[tuple[float, float]]:
    """Threshold and log loss for each part."""
    return [
        _pooled_out_of_fold(head, states, cohorts, Fold(parts=(p,)), folds, seed, parts)
        for p in range(parts)
    ]


def _within(
    head: Head,
    states: States,
    cohort: Cohort,
    folds: Sequence[Fold],
    by_part: Sequence[tuple[float, float]],
    seed: int,
    parts: int,
) -> Predicted:
    part_of = cohort.parts(seed, parts)
    return Predicted.by_part(within_site(head, states, cohort, folds, part_of), by_part, part_of)


def _left_out(
    head: Head,
    states: States,
    cohorts: Sequence[Cohort],
    folds: Sequence[Fold],
    seed: int,
    parts: int,
) -> dict[str, Predicted]:
    """Each site by the model that left it out; none where nothing was left out."""
    by_site = {}
    for group in groups(folds):
        threshold, loss = _pooled_out_of_fold(head, states, cohorts, group, folds, seed, parts)
        for c in cohorts:
            if c.site in group.sites:
                by_site[c.site] = Predicted.alike(
                    leave_one_site_out(head, states, c, [group]), threshold, loss
                )
    return by_site


def _foreign(
    head: Head,
    states: States,
    trainer: Cohort,
    cohorts: Sequence[Cohort],
    own_folds: Sequence[Fold],
    seed: int,
    parts: int,
) -> dict[str, Predicted]:
    """A site's own full model on everybody else's patients, at the threshold that its own
    out-of-fold predictions set."""
    threshold, loss = _pooled_out_of_fold(head, states, [trainer], Fold(), own_folds, seed, parts)
    final_state = states[Fold()]
    return {
        c.site: Predicted.alike((head.predict(final_state, c), scorable(head, c)), threshold, loss)
        for c in cohorts
        if c.site != trainer.site
    }


def _choose(
    names: Sequence[str],
    variants: Sequence[Mapping[str, Predicted]],
    declared: str | None,
    count: dict[str, int],
) -> dict[str, Predicted]:
    """The clinical model at each site; `count` gains how many predictions are which head's."""
    by_site = {}
    for site in variants[0]:
        by_site[site], best = chosen(names, [v[site] for v in variants], declared)
        for k, n in enumerate(np.bincount(best[by_site[site].seen], minlength=len(names))):
            count[names[k]] = count.get(names[k], 0) + int(n)
    return by_site


def _join(sites: Mapping[str, Predicted], cohorts: Sequence[Cohort]) -> Scores:
    classes = len(cohorts[0].schema.label.classes)
    pieces = []
    for c in cohorts:
        nobody = np.full((len(c), classes), 1 / classes), np.zeros(len(c), np.bool_)
        pieces.append(sites.get(c.site) or Predicted.alike(nobody, 0.5, np.inf))
    probs, thresholds, seen = (
        np.concatenate([getattr(p, k) for p in pieces]) for k in ("probs", "thresholds", "seen")
    )
    return Scores(probs, thresholds, seen)
