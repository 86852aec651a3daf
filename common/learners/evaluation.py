"""Out-of-fold evaluation, every patient scored once by a model that has not seen them: the sums
from which the coordinator takes metrics and thresholds.

Within sites, part p is scored by the model that left part p out. For leave-one-site-out, a site is
scored by the model that left it out. The threshold for part p, and the choice between heads, come
from the out-of-fold predictions on p's *training* rows: part q is scored by the model that left p
and q out. Concordant pairs are counted within each site, so the headline AUC is a sum too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.schema import Floats, Schema
from common.federated.array_rules import ArrayRule, ArrayRules, counts, sums
from common.federated.coverage import Cover, Covers
from common.federated.learner import (
    Contribution,
    Head,
    Hyper,
    Phase,
    Plan,
    Stacked,
    Step,
    Traits,
    lacks,
    load,
    names,
)
from common.federated.states import States
from common.metrics.score_histogram import (
    BINS,
    Tally,
    log_loss_terms,
    pair_counts,
    score_histogram,
    youden,
)
from common.types import Arrays, Probs, State


@dataclass(frozen=True)
class Evaluation:
    """Arrays once done, for each head: `<head>/<within|left_out>/<tally array>` and `/pairs`
    (classes, 3): concordant, all, tied; `<head>/thresholds/within` (parts, bins, 2) and `/left_out`
    (groups, bins, 2): out-of-fold score histograms on training rows; `<head>/log_loss/...` (parts
    or groups, 2): the sum on those rows, and their number."""

    name: str = "evaluation"
    modality: ClassVar[frozenset[str]] = frozenset()
    traits: ClassVar[Traits] = Traits()
    heads: tuple[str, ...] = ()
    """The heads that are scored; the driver names them."""
    learners: Mapping[str, Hyper] = field(default_factory=dict, hash=False)
    """The heads' hyperparameters, where they are not the defaults."""

    @property
    def needs(self) -> tuple[str, ...]:
        heads = self._heads()
        return tuple(
            dict.fromkeys(
                [
                    "preprocessing",
                    *(need for h in heads for need in h.needs),
                    *(h.name for h in heads),
                ]
            )
        )

    def _heads(self) -> list[Head]:
        return configured(self.heads, self.learners)

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        heads = {name.partition("/")[0] for name in own}
        if not heads <= set(names()):
            raise ValueError(f"{sorted(heads)} are not all heads")
        classes, rules = len(schema.label.classes), dict[str, ArrayRule]()
        for head in heads:
            for kind, many in (("within", "parts"), ("left_out", "groups")):
                at = f"{head}/{kind}"
                rules |= {
                    f"{at}/histogram": counts(classes, BINS, 2),
                    f"{at}/confusion": counts(classes, classes),
                    f"{at}/brier": sums(),
                    f"{at}/log_loss": sums(),
                    f"{at}/n": counts(),
                    f"{at}/pairs": sums(classes, 3),
                    f"{head}/thresholds/{kind}": counts(many, BINS, 2),
                    f"{head}/log_loss/{kind}": sums(many, 2),
                }
        return rules

    def phase(self, arrays: Arrays) -> str:
        return "score"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        labels = cohort.labels
        parts = cohort.parts(plan.seed, plan.parts)
        sums: Arrays = {}
        for head in self._heads():
            name = head.name
            within, seen = within_site(head, states, cohort, plan.reads, parts)
            sums |= _tally(f"{name}/within", within, np.where(seen, labels, UNKNOWN))
            left_out, seen = leave_one_site_out(head, states, cohort, plan.reads)
            sums |= _tally(f"{name}/left_out", left_out, np.where(seen, labels, UNKNOWN))
            for kind, outer in _outer(plan):
                histogram, loss = np.zeros((len(outer), BINS, 2)), np.zeros((len(outer), 2))
                for i, fold in enumerate(outer):
                    probs, seen = out_of_fold(head, states, cohort, fold, plan.reads, parts)
                    mine = Tally.of(probs, np.where(seen, labels, UNKNOWN))
                    histogram[i] = mine.histogram[1]
                    loss[i] = float(mine.log_loss), float(mine.n)
                sums |= {f"{name}/thresholds/{kind}": histogram, f"{name}/log_loss/{kind}": loss}
        return Contribution(sums, int((labels != UNKNOWN).sum()))

    def covers(self, states: States, cohort: Cohort, plan: Plan) -> Covers:
        """By head and kind those that are scored; of `thresholds` and `log_loss` a row for each
        training set."""
        parts, reads = cohort.parts(plan.seed, plan.parts), plan.reads
        out: dict[str, Cover] = {}
        for head in self._heads():
            name, those = head.name, (head, states, cohort)
            out[f"{name}/within"] = cover(cohort, partial(within_site, *those, reads, parts))
            out[f"{name}/left_out"] = cover(cohort, partial(leave_one_site_out, *those, reads))
            for kind, outer in _outer(plan):
                training = [partial(out_of_fold, *those, fold, reads, parts) for fold in outer]
                rows = Cover.stack([cover(cohort, score) for score in training])
                out |= {f"{name}/thresholds/{kind}": rows, f"{name}/log_loss/{kind}": rows}
        return out

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        return Step(dict(total.sums), True)

    @property
    def phases(self) -> Mapping[str, Phase]:
        # a patient enters as many pairs as a site has cases of the other class
        sends = (
            "score histograms, concordant pairs within the site, calibration sums and log "
            "losses, for each head"
        )
        return {"score": Phase(sends, 1, None)}


def configured(heads: Sequence[str], learners: Mapping[str, Hyper]) -> list[Head]:
    """The heads by name, with the hyperparameters that `learners` gives for them."""
    return [cast(Head, load(name, learners.get(name, {}))) for name in heads]


def groups(folds: Sequence[Fold]) -> list[Fold]:
    """The folds that leave whole sites out and nothing else."""
    return [f for f in folds if f.sites and not f.parts]


def _outer(plan: Plan) -> tuple[tuple[str, list[Fold]], ...]:
    """Of each kind the training sets whose thresholds are set."""
    return (
        ("within", [Fold(parts=(p,)) for p in range(plan.parts)]),
        ("left_out", groups(plan.reads)),
    )


Scored = tuple[Probs, NDArray[np.bool_]]
"""(cases, classes) probabilities, and which cases have one; the others' rows are uniform."""
Models = Sequence[tuple[NDArray[np.bool_], Callable[[Cohort], Probs]]]
"""Which cases a model has not seen, and its predictions."""
Scorer = Callable[[Head, Cohort, Models], Scored]


def predicted(head: Head, cohort: Cohort, models: Models) -> Scored:
    """Each case by the model that has not seen it."""
    probs, seen = _nobody(cohort)
    able = scorable(head, cohort)
    for mask, predict in models:
        mask = mask & able
        if mask.any():
            probs[mask] = predict(cohort.where(mask))
            seen |= mask
    return probs, seen


def marked(head: Head, cohort: Cohort, models: Models) -> Scored:
    """Who would be scored; nobody is."""
    probs, seen = _nobody(cohort)
    for mask, _ in models:
        seen |= mask & scorable(head, cohort)
    return probs, seen


def reached(head: Head, cohort: Cohort, models: Models) -> Scored:
    """Who could be, if no model had seen anybody; nobody is."""
    probs, seen = _nobody(cohort)
    return probs, scorable(head, cohort) if models else seen


def _nobody(cohort: Cohort) -> Scored:
    classes = len(cohort.schema.label.classes)
    return np.full((len(cohort), classes), 1 / classes), np.zeros(len(cohort), np.bool_)


def cover(cohort: Cohort, score: Callable[[Scorer], Scored]) -> Cover:
    """Of a sum over the labelled cases that `score` gives a prediction, by the scorer it is
    given."""
    known = cohort.labels != UNKNOWN
    return Cover.of(known & score(marked)[1], known & score(reached)[1])


def scorable(head: Head, cohort: Cohort) -> NDArray[np.bool_]:
    """(cases,): which cases the head can say something about."""
    table = np.full(len(cohort), "table" in cohort.modalities)
    if isinstance(head, Stacked):
        return table | cohort.imaged
    return cohort.imaged if "image" in head.modality else table


def within_site(
    head: Head,
    states: States,
    cohort: Cohort,
    folds: Sequence[Fold],
    parts: NDArray[np.int64],
    score: Scorer = predicted,
) -> Scored:
    """Part p by the model that left part p out."""
    mine = [(parts == f.parts[0], f) for f in folds if not f.sites and len(f.parts) == 1]
    return score(head, cohort, _fitted(head, states, mine))


def leave_one_site_out(
    head: Head,
    states: States,
    cohort: Cohort,
    folds: Sequence[Fold],
    score: Scorer = predicted,
) -> Scored:
    """The whole site by the model that left it out."""
    everyone = np.ones(len(cohort), np.bool_)
    mine = [(everyone, f) for f in groups(folds) if cohort.site in f.sites]
    return score(head, cohort, _fitted(head, states, mine))


def out_of_fold(
    head: Head,
    states: States,
    cohort: Cohort,
    outer: Fold,
    folds: Sequence[Fold],
    parts: NDArray[np.int64],
    score: Scorer = predicted,
) -> Scored:
    """The training rows of `outer`, each by a model that left out its part as well as what `outer`
    leaves out."""
    if cohort.site in outer.sites:
        return score(head, cohort, [])
    inner = [
        (f, set(f.parts) - set(outer.parts))
        for f in folds
        if f.sites == outer.sites and len(f.parts) == len(outer.parts) + 1
    ]
    chosen = [(extra.pop(), f) for f, extra in inner if len(extra) == 1]
    if not isinstance(head, Stacked):
        mine = [(parts == q, f) for q, f in chosen]
        return score(head, cohort, _fitted(head, states, mine))
    whole, stacked = states.get(outer, {}), head
    if not whole.get(head.name):
        return score(head, cohort, [])

    def inside(q: int, f: Fold) -> Callable[[Cohort], Probs]:
        return lambda rows: stacked.predict_inside(whole, states[f], rows, q)

    usable = [(q, f) for q, f in chosen if not lacks(head, states.get(f, {}), stacked.outer)]
    return score(head, cohort, [(parts == q, inside(q, f)) for q, f in usable])


def _fitted(head: Head, states: States, chosen: Sequence[tuple[NDArray[np.bool_], Fold]]) -> Models:
    """The models of these folds; a training set for which the head could not be fitted has none."""

    def by(own: State) -> Callable[[Cohort], Probs]:
        return lambda rows: head.predict(own, rows)

    own = [(mask, states.get(fold, {})) for mask, fold in chosen]
    return [(mask, by(arrays)) for mask, arrays in own if arrays.get(head.name)]


def _tally(prefix: str, probs: Probs, labels: NDArray[np.int64]) -> Arrays:
    tally = Tally.of(probs, labels)
    arrays = {f"{prefix}/{k}": np.asarray(v, np.float64) for k, v in tally.arrays().items()}
    return {**arrays, f"{prefix}/pairs": pair_counts(tally.histogram)}


@dataclass(frozen=True)
class Predicted:
    """One model on a site's patients; `seen` marks those that have a prediction."""

    probs: Probs
    thresholds: Floats
    seen: NDArray[np.bool_]
    loss: Floats
    """Of the training rows of each patient's model, out of fold: what a choice between heads looks
    at."""

    @classmethod
    def by_part(
        cls, scored: Scored, set_on: Sequence[tuple[float, float]], parts: NDArray[np.int64]
    ) -> Predicted:
        """`set_on`: threshold and log loss of each part's training rows."""
        thresholds, losses = np.array(set_on).T
        return cls(scored[0], thresholds[parts], scored[1], losses[parts])

    @classmethod
    def alike(cls, scored: Scored, threshold: float, loss: float) -> Predicted:
        """All by one model."""
        n = len(scored[0])
        return cls(scored[0], np.full(n, threshold), scored[1], np.full(n, loss))


def threshold_and_loss(
    probs: Probs, seen: NDArray[np.bool_], labels: NDArray[np.int64]
) -> tuple[float, float]:
    """Youden's threshold and the log loss of out-of-fold predictions of training rows; 0.5 and
    infinity without any of both classes."""
    keep = seen & (labels != UNKNOWN)
    best = youden(score_histogram(probs[keep, 1], labels[keep] == 1))
    return 0.5 if best is None else best.threshold, mean_log_loss(probs, labels, seen)


def chosen(
    names: Sequence[str], heads: Sequence[Predicted], declared: str | None
) -> tuple[Predicted, NDArray[np.int64]]:
    """The study's declared head, else, patient by patient, the one with the lower log loss on that
    patient's training rows; and which."""
    loss = np.stack([h.loss for h in heads])
    best = (
        np.full(loss.shape[1], names.index(declared)) if declared in names else loss.argmin(axis=0)
    )
    at = best, np.arange(len(best))
    probs, thresholds, seen = (
        np.stack([getattr(h, k) for h in heads])[at] for k in ("probs", "thresholds", "seen")
    )
    return Predicted(probs, thresholds, seen, loss[at]), best


def mean_log_loss(probs: Probs, labels: NDArray[np.int64], seen: NDArray[np.bool_]) -> float:
    """Of the labelled cases that were scored; infinite when there are none."""
    keep = seen & (labels != UNKNOWN)
    if not keep.any():
        return float("inf")
    return float(log_loss_terms(probs[keep], np.eye(probs.shape[1])[labels[keep]]).mean())


LEARNER = Evaluation()
