"""Local, federated and pooled, side by side on the same patients: the predictions behind every figure of the report.

*Federated* are the models of the run. *Local* is what a hospital gets by itself: the same head trained on its own rows, judged on its
own patients (within site), or, for patients of another hospital, the mean over the models of the hospitals that could train one.
*Pooled* has all rows in one place, which only a simulation can do. Pooled and local boosting is ordinary XGBoost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from common.cohort import UNKNOWN, Cohort, Fold
from common.exchange import States
from common.learner import Federated, Head
from common.learners.evaluation import groups, leave_one_site_out, mean_log_loss, out_of_fold, within_site
from common.learners.preprocessing import LEARNER as PREPARE
from common.schema import Floats
from common.tally import score_histogram, youden
from common.types import Probs, State

ARMS = ("local", "federated", "pooled")
TRAINABLE = 5
"""A local model needs at least this many cases of two classes in each of its training sets."""


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
    trainable: tuple[str, ...]
    """Sites whose local model could be trained."""
    chosen: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    """(arm, evaluation) -> head -> how many predictions of `clinical` are that head's."""


def local_folds(parts: int) -> list[Fold]:
    """What a site trains by itself: everything, without each part, without each pair of parts."""
    pairs = [Fold(parts=(p, q)) for p in range(parts) for q in range(parts) if p < q]
    return [Fold(), *(Fold(parts=(p,)) for p in range(parts)), *pairs]


def trainable(cohort: Cohort, seed: int, parts: int) -> bool:
    """Whether every training set of the site's own cross-fitting holds enough of two classes."""
    for fold in local_folds(parts):
        labels = cohort.train(fold, seed, parts).labels
        if (np.bincount(labels, minlength=2) >= TRAINABLE).sum() < 2:
            return False
    return True


def compare(
    cohorts: Sequence[Cohort],
    heads: Sequence[Head],
    states: States,
    folds: Sequence[Fold],
    *,
    seed: int,
    parts: int,
    clinical: str | None,
    prepare: Federated = PREPARE,
    pooled_site: str = "",
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> Comparison:
    """Train the local and the pooled models on the run's own folds, and score everybody with all of them.

    `pooled_site` stands for several hospitals: what is trained there is no hospital's own model.
    """
    able = [c for c in cohorts if c.site != pooled_site and trainable(c, seed, parts)]
    federated = _flat(states)
    own = local_folds(parts)
    tasks: list[tuple[str, Head, Sequence[Cohort], Fold]] = [("", h, cohorts, f) for h in heads for f in folds]
    tasks += [(c.site, h, [c], f) for c in able for h in heads for f in own]
    fits: dict[str, dict[str, State]] = {}
    for (site, head, _, fold), state in zip(tasks, _train(tasks, prepare, seed, parts, tell), strict=True):
        fits.setdefault(f"{site}\t{head.name}", {})[fold.key] = state
    pooled = {h.name: _flat(fits[f"\t{h.name}"]) for h in heads}
    local = {(c.site, h.name): _flat(fits[f"{c.site}\t{h.name}"]) for c in able for h in heads}
    scored: dict[tuple[str, str, str], list[dict[str, _Site]]] = {}
    for head in heads:
        for arm, state in (("federated", federated), ("pooled", pooled[head.name])):
            by_part = _set(head, state, cohorts, folds, seed, parts)
            within = {c.site: _within(head, state, c, folds, by_part, seed, parts) for c in cohorts}
            scored[head.name, arm, "within_site"] = [within]
            scored[head.name, arm, "leave_one_site_out"] = [_left_out(head, state, cohorts, folds, seed, parts)]
        mine = {
            c.site: _within(
                head, local[c.site, head.name], c, own, _set(head, local[c.site, head.name], [c], own, seed, parts), seed, parts
            )
            for c in able
        }
        scored[head.name, "local", "within_site"] = [mine]
        scored[head.name, "local", "leave_one_site_out"] = [
            _foreign(head, local[a.site, head.name], a, cohorts, own, seed, parts) for a in able
        ]
    names = [h.name for h in heads]
    chosen: dict[tuple[str, str], dict[str, int]] = {}
    for arm in ARMS:
        for evaluation in ("within_site", "leave_one_site_out"):
            variants = [scored[n, arm, evaluation] for n in names]
            scored["clinical", arm, evaluation] = [
                _choose(names, list(v), clinical, chosen.setdefault((arm, evaluation), {})) for v in zip(*variants, strict=True)
            ]
    return Comparison(
        labels=np.concatenate([c.labels for c in cohorts]),
        sites=np.concatenate([np.full(len(c), c.site) for c in cohorts]),
        parts=np.concatenate([c.parts(seed, parts) for c in cohorts]),
        ids=tuple(i for c in cohorts for i in c.ids),
        scores={key: [_join(v, cohorts) for v in variants] for key, variants in scored.items()},
        trainable=tuple(c.site for c in able),
        chosen=chosen,
    )


@dataclass(frozen=True)
class _Site:
    """One site's predictions, with the out-of-fold log loss on training rows that a choice between heads needs, by patient."""

    probs: Probs
    thresholds: Floats
    seen: NDArray[np.bool_]
    loss: Floats


def _flat(states: Mapping[str, State]) -> State:
    """Fold key -> State, as one State whose names carry the fold (what an evaluation reads)."""
    return {f"{key}\t{name}": arrays for key, state in states.items() for name, arrays in state.items()}


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
    whole = {n.partition("\t")[2]: a for n, a in state.items() if n.partition("\t")[0] == Fold().key}
    out = {}
    for c in cohorts:
        if c.site != home.site:
            out[c.site] = _Site(head.predict(whole, c), np.full(len(c), threshold), np.ones(len(c), np.bool_), np.full(len(c), loss))
    return out


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


# ---- training ------------------------------------------------------------------------------------------------------------

_Task = tuple[str, Head, Sequence[Cohort], Fold]


def _train(tasks: Sequence[_Task], prepare: Federated, seed: int, parts: int, tell: Callable[[str, int, int], None]) -> Iterable[State]:
    """Each task's State, in order. `prepare`: the run's own preprocessing."""
    out = []
    for i, (site, head, cohorts, fold) in enumerate(tasks):
        tell(site or "pooled", i, len(tasks))
        out.append(head.alone(cohorts, fold, seed, parts, prepare))
    tell("", len(tasks), len(tasks))
    return out


def heads_of(learners: Iterable[object]) -> list[Head]:
    """Learners that a study names are heads: they predict."""
    return [cast(Head, h) for h in learners]
