"""Local, federated and pooled, side by side on the same patients: the predictions behind every figure of the report.

*Federated* are the models of the run. *Local* is what a hospital gets by itself: the same head trained on its own rows, judged on its
own patients (within site), or, for patients of another hospital, the mean over the models of the hospitals that could train one.
*Pooled* has all rows in one place, which only a simulation can do. Pooled and local boosting is ordinary XGBoost; pooled and local
networks take as many passes over their images as the federated ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.schema import Floats
from common.federated.learner import Federated, Head, TableHead
from common.federated.local_baseline import local_folds, trainable
from common.learners.evaluation import groups, leave_one_site_out, mean_log_loss, of_fold, out_of_fold, scorable, within_site
from common.learners.preprocessing import LEARNER as PREPARE
from common.metrics.score_histogram import score_histogram, youden
from common.types import Probs, State, flatten
from common.wire.state_transfer import States
from server.config.jobs import Job
from simulation.evaluation import baselines

ARMS = ("local", "federated", "pooled")


@dataclass(frozen=True)
class Scores:
    """One model on the patients of all sites, in site order; `seen` marks those that have a prediction."""

    probs: Probs
    thresholds: Floats
    seen: NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """All predictions. `scores[model, arm, evaluation]` is a list: one entry, or one a foreign model for local leave-one-site-out."""

    labels: NDArray[np.int64]
    sites: NDArray[np.str_]
    parts: NDArray[np.int64]
    ids: tuple[str, ...]
    scores: Mapping[tuple[str, str, str], list[Scores]]
    trainable: Mapping[str, tuple[str, ...]]
    """Head -> sites whose local model could be trained."""
    chosen: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    """(arm, evaluation) -> head -> how many predictions of `clinical` are that head's."""


def compare(
    cohorts: Sequence[Cohort],
    jobs: Sequence[Job],
    states: States,
    *,
    seed: int,
    parts: int,
    clinical: str | None,
    prepare: Federated = PREPARE,
    pooled_site: str = "",
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Comparison:
    """Train the local and the pooled models of the run's own jobs, and score everybody with all of them.

    `pooled_site` stands for several hospitals: what is trained there is no hospital's own model.
    """
    heads = list({j.learner.name: j.learner for j in jobs if isinstance(j.learner, Head)}.values())
    folds = list(dict.fromkeys(f for j in jobs if isinstance(j.learner, Head) for f in j.reads))
    able = {h.name: [c for c in cohorts if c.site != pooled_site and trainable(h, c, seed, parts)] for h in heads}
    own = local_folds(parts)
    wanted = {c.site: [h.name for h in heads if c in able[h.name]] for c in cohorts}
    tasks = {"": baselines.Task("pooled", cohorts, jobs)}
    tasks |= {c.site: baselines.Task(c.site, [c], baselines.local(jobs, wanted[c.site], own)) for c in cohorts if wanted[c.site]}
    trained = baselines.train(tasks, prepare, seed, parts, tell)
    federated, together = flatten(states), flatten(trained[""])
    local = {site: flatten(trained[site]) for site in trained if site}
    scored: dict[tuple[str, str, str], list[dict[str, _Site]]] = {}
    for n, head in enumerate(heads):
        tell("scoring", n, len(heads))
        for arm, state in (("federated", federated), ("pooled", together)):
            by_part = _set(head, state, cohorts, folds, seed, parts)
            within = {c.site: _within(head, state, c, folds, by_part, seed, parts) for c in cohorts}
            scored[head.name, arm, "within_site"] = [within]
            scored[head.name, arm, "leave_one_site_out"] = [_left_out(head, state, cohorts, folds, seed, parts)]
        here = able[head.name]
        mine = {c.site: _within(head, local[c.site], c, own, _set(head, local[c.site], [c], own, seed, parts), seed, parts) for c in here}
        scored[head.name, "local", "within_site"] = [mine]
        scored[head.name, "local", "leave_one_site_out"] = [_foreign(head, local[a.site], a, cohorts, own, seed, parts) for a in here]
    tables = [h.name for h in heads if isinstance(h, TableHead)]
    chosen: dict[tuple[str, str], dict[str, int]] = {}
    for arm in ARMS if tables else ():
        for evaluation in ("within_site", "leave_one_site_out"):
            variants = [scored[n, arm, evaluation] for n in tables]
            scored["clinical", arm, evaluation] = [
                _choose(tables, list(v), clinical, chosen.setdefault((arm, evaluation), {})) for v in zip(*variants, strict=True)
            ]
    return Comparison(
        labels=np.concatenate([c.labels for c in cohorts]),
        sites=np.concatenate([np.full(len(c), c.site) for c in cohorts]),
        parts=np.concatenate([c.parts(seed, parts) for c in cohorts]),
        ids=tuple(i for c in cohorts for i in c.ids),
        scores={key: [_join(v, cohorts) for v in variants] for key, variants in scored.items()},
        trainable={h.name: tuple(c.site for c in able[h.name]) for h in heads},
        chosen=chosen,
    )


@dataclass(frozen=True)
class _Site:
    """One site's predictions, with the out-of-fold log loss on training rows that a choice between heads needs, by patient."""

    probs: Probs
    thresholds: Floats
    seen: NDArray[np.bool_]
    loss: Floats


def _threshold(probs: Probs, labels: NDArray[np.int64], seen: NDArray[np.bool_]) -> float:
    """Youden's threshold on out-of-fold predictions of training rows, from the same histogram a coordinator would add up."""
    keep = seen & (labels != UNKNOWN)
    best = youden(score_histogram(probs[keep, 1], labels[keep] == 1))
    return 0.5 if best is None else best.threshold


def _pooled_out_of_fold(
    head: Head, state: State, cohorts: Sequence[Cohort], outer: Fold, folds: Sequence[Fold], seed: int, parts: int
) -> tuple[float, float]:
    """(threshold, log loss) from the out-of-fold predictions on the training rows of `outer`, over all sites."""
    pieces = [(*out_of_fold(head, state, c, outer, folds, c.parts(seed, parts)), c.labels) for c in cohorts]
    probs, seen, labels = (np.concatenate([p[i] for p in pieces]) for i in range(3))
    return _threshold(probs, labels, seen), mean_log_loss(probs, labels, seen)


def _set(head: Head, state: State, cohorts: Sequence[Cohort], folds: Sequence[Fold], seed: int, parts: int) -> list[tuple[float, float]]:
    """Threshold and log loss for each part."""
    return [_pooled_out_of_fold(head, state, cohorts, Fold(parts=(p,)), folds, seed, parts) for p in range(parts)]


def _within(
    head: Head, state: State, cohort: Cohort, folds: Sequence[Fold], by_part: Sequence[tuple[float, float]], seed: int, parts: int
) -> _Site:
    mine = cohort.parts(seed, parts)
    probs, seen = within_site(head, state, cohort, folds, mine)
    return _Site(probs, np.array([t for t, _ in by_part])[mine], seen, np.array([loss for _, loss in by_part])[mine])


def _left_out(head: Head, state: State, cohorts: Sequence[Cohort], folds: Sequence[Fold], seed: int, parts: int) -> dict[str, _Site]:
    """Each site by the model that left it out; none where nothing was left out."""
    out = {}
    for group in groups(folds):
        threshold, loss = _pooled_out_of_fold(head, state, cohorts, group, folds, seed, parts)
        for c in cohorts:
            if c.site in group.sites:
                probs, seen = leave_one_site_out(head, state, c, [group])
                out[c.site] = _Site(probs, np.full(len(c), threshold), seen, np.full(len(c), loss))
    return out


def _foreign(
    head: Head, state: State, home: Cohort, cohorts: Sequence[Cohort], own: Sequence[Fold], seed: int, parts: int
) -> dict[str, _Site]:
    """A site's own full model on everybody else's patients, at the threshold that its own out-of-fold predictions set."""
    threshold, loss = _pooled_out_of_fold(head, state, [home], Fold(), own, seed, parts)
    whole = of_fold(state, Fold())
    return {
        c.site: _Site(head.predict(whole, c), np.full(len(c), threshold), scorable(head, c), np.full(len(c), loss))
        for c in cohorts
        if c.site != home.site
    }


def _choose(names: Sequence[str], variants: Sequence[dict[str, _Site]], declared: str | None, count: dict[str, int]) -> dict[str, _Site]:
    """The study's declared head, else, patient by patient, the one with the lower log loss on that patient's training rows."""
    out = {}
    for site in variants[0]:
        loss = np.stack([v[site].loss for v in variants])
        best = np.full(loss.shape[1], names.index(declared)) if declared in names else loss.argmin(axis=0)
        rows = np.arange(len(best))
        out[site] = _Site(
            np.stack([v[site].probs for v in variants])[best, rows],
            np.stack([v[site].thresholds for v in variants])[best, rows],
            variants[0][site].seen,
            loss[best, rows],
        )
        for k, n in enumerate(np.bincount(best[variants[0][site].seen], minlength=len(names))):
            count[names[k]] = count.get(names[k], 0) + int(n)
    return out


def _join(sites: Mapping[str, _Site], cohorts: Sequence[Cohort]) -> Scores:
    classes = len(cohorts[0].schema.label.classes)

    def piece(c: Cohort) -> _Site:
        return sites.get(c.site) or _Site(
            np.full((len(c), classes), 1 / classes), np.full(len(c), 0.5), np.zeros(len(c), np.bool_), np.empty(0)
        )

    pieces = [piece(c) for c in cohorts]
    return Scores(
        np.concatenate([p.probs for p in pieces]), np.concatenate([p.thresholds for p in pieces]), np.concatenate([p.seen for p in pieces])
    )
