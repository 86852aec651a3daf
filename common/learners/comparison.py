"""Comparison of models on the same patients, where nobody has all the patients: the second
exchange, after `evaluation`.

Each site scores its patients again, by the federated models that have not seen them, by the final
ones that have, and by what it can train alone. What leaves are concordant pairs within the site
with their DeLong covariance (`common.metrics.delong`), in subgroups too
(`common.metrics.subgroups`), confusion counts at the thresholds that everybody's training rows have
set, losses, score histograms, and placements in everybody's scores, which the first exchange has
added. The coordinator has each site's sums apart, and under secure aggregation those over all sites
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN, Cohort, Fold
from common.data.schema import Schema
from common.federated.array_rules import ArrayRules
from common.federated.coverage import Cover, Covers
from common.federated.learner import (
    Contribution,
    Head,
    Hyper,
    Phase,
    Plan,
    Step,
    TableHead,
    Traits,
    load,
)
from common.federated.local_baseline import local_folds, trainable
from common.federated.states import States
from common.learners.evaluation import (
    Predicted,
    Scorer,
    chosen,
    configured,
    groups,
    leave_one_site_out,
    marked,
    out_of_fold,
    predicted,
    reached,
    scorable,
    threshold_and_loss,
    within_site,
)
from common.metrics import subgroups
from common.metrics.definitions import calls
from common.metrics.delong import concordance, pooled_moments
from common.metrics.score_histogram import Tally, brier_terms, log_loss_terms, youden
from common.types import Array, Arrays, State

WITHIN, LEFT_OUT, FINAL = "within", "left_out", "final"
CLINICAL = "clinical"
"""The table's head that the study names, else for each training set the one with the lower
out-of-fold log loss."""
Model = tuple[str, str, str]
"""Evaluation, arm (`federated` or `local`), head."""


@dataclass(frozen=True)
class Comparison:
    """Arrays once done. For each `<evaluation>/<arm>/<head>/`, by site (participants, or 1 where
    sums are masked): `counts` (sites, classes), `concordant` and `pairs` (sites, held), `spread`
    (sites, held, held), `confusion` (sites, classes, classes), `losses` (sites, classes, 2, 2:
    Brier and log loss, their sum and that of their squares); over all sites `histogram` (classes,
    bins, 2) and `pooled` (the moments of `common.metrics.delong.pooled_moments`). For each
    `difference/<evaluation>/<head> <arm>|<head> <arm>/`: `counts`, `concordant` (2, held), `pairs`,
    `spread` (2 held, 2 held), `sites`. For `subgroups/<head>/` what `common.metrics.subgroups.sums`
    has.
    """

    name: str = "comparison"
    modality: ClassVar[frozenset[str]] = frozenset()
    traits: ClassVar[Traits] = Traits()
    heads: tuple[str, ...] = ()
    """The heads that are compared; the driver names them."""
    clinical: str = ""
    """The table's head that stands for the clinical model; empty: the better one on training
    rows."""
    learners: Mapping[str, Hyper] = field(default_factory=dict, hash=False)
    """The heads' hyperparameters, and preprocessing's, where they are not the defaults."""

    @property
    def needs(self) -> tuple[str, ...]:
        heads = configured(self.heads, self.learners)
        return tuple(
            dict.fromkeys(
                [
                    "preprocessing",
                    *(n for h in heads for n in h.needs),
                    *(h.name for h in heads),
                    "evaluation",
                ]
            )
        )

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        return {}

    def phase(self, arrays: Arrays) -> str:
        return "compare"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        heads = configured(self.heads, self.learners)
        scored = self._federated(heads, states, cohort, plan) | self._local(heads, cohort, plan)
        sites = 1 if plan.secure else max(len(plan.participants), 1)
        # nobody's cohort declares the shapes
        slot = (
            plan.participants.index(cohort.site)
            if sites > 1 and cohort.site in plan.participants
            else 0
        )
        sums: Arrays = {}
        for model, scores in scored.items():
            mine = _apart(scores, cohort.labels, sites, slot)
            mine["histogram"] = _histogram(scores, cohort.labels)
            if model[1] == "federated" and model[0] != FINAL and model[2] != CLINICAL:
                everybody = states[Fold()]["evaluation"][f"{model[2]}/{model[0]}/histogram"]
                known = scores.seen & (cohort.labels != UNKNOWN)
                mine["pooled"] = pooled_moments(
                    scores.probs[known], cohort.labels[known], everybody
                )
            sums |= {f"{'/'.join(model)}/{k}": v for k, v in mine.items()}
        for evaluation, a, b in paired(self.heads, heads):
            one, other = scored[evaluation, a[1], a[0]], scored[evaluation, b[1], b[0]]
            named = f"difference/{evaluation}/{' '.join(a)}|{' '.join(b)}"
            sums |= {f"{named}/{k}": v for k, v in _together(one, other, cohort.labels).items()}
        if (lead := self._lead(scored)) is not None:
            apart = self._subgroups(
                scored[WITHIN, "federated", lead], states[Fold()]["preprocessing"], cohort
            )
            sums |= {f"subgroups/{lead}/{k}": v for k, v in apart.items()}
        return Contribution(sums, int((cohort.labels != UNKNOWN).sum()))

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        return Step(dict(total.sums), True)

    @property
    def phases(self) -> Mapping[str, Phase]:
        # a patient enters as many pairs as a site has cases of the other class
        sends = (
            "for each model: concordant pairs with DeLong's covariance, confusion, losses, score "
            "histograms, placements; for the "
            "leading one concordant pairs in subgroups of 10 patients or more of each class"
        )
        return {"compare": Phase(sends, 1, None)}

    def _subgroups(self, scores: Predicted, preprocessing: Arrays, cohort: Cohort) -> Arrays:
        known, at = (
            scores.seen & (cohort.labels != UNKNOWN),
            subgroups.cuts(cohort.schema, preprocessing),
        )
        return subgroups.sums(
            cohort.schema,
            at,
            cohort.values[known],
            scores.probs[known],
            cohort.labels[known],
            _shuffled(cohort, known),
        )

    def covers(self, states: States, cohort: Cohort, plan: Plan) -> Covers:
        """By model and difference those whom it, or both, would score; of subgroups see
        `common.metrics.subgroups.covered`."""
        heads, known = configured(self.heads, self.learners), cohort.labels != UNKNOWN
        alone = self._alone(heads, cohort, plan)
        seen, most = (
            {
                model: known & scores.seen
                for model, scores in (
                    self._federated(heads, states, cohort, plan, how) | alone
                ).items()
            }
            for how in (marked, reached)
        )
        out = {"/".join(m): Cover.of(seen[m], most[m]) for m in seen}
        for evaluation, a, b in paired(self.heads, heads):
            one, other = (evaluation, a[1], a[0]), (evaluation, b[1], b[0])
            out[f"difference/{evaluation}/{' '.join(a)}|{' '.join(b)}"] = Cover.of(
                seen[one] & seen[other], most[one] & most[other]
            )
        if (lead := self._lead(seen)) is not None:
            told = seen[WITHIN, "federated", lead]
            rows = subgroups.covered(
                cohort.schema,
                subgroups.cuts(cohort.schema, states[Fold()]["preprocessing"]),
                cohort.values[told],
                cohort.labels[told],
                _shuffled(cohort, told),
            )
            # what is told of groups follows from who is in them, whatever the folds are
            out[f"subgroups/{lead}"] = Cover(rows, rows)
        return out

    def _lead(self, models: Collection[Model]) -> str | None:
        """Whose performance in subgroups is looked at."""
        return next((m for m in subgroups.LEADS if (WITHIN, "federated", m) in models), None)

    def _federated(
        self,
        heads: Sequence[Head],
        states: States,
        cohort: Cohort,
        plan: Plan,
        score: Scorer = predicted,
    ) -> dict[Model, Predicted]:
        parts, left_out = cohort.parts(plan.seed, plan.parts), groups(plan.reads)
        at = next((i for i, f in enumerate(left_out) if cohort.site in f.sites), None)
        told = states[Fold()]["evaluation"]
        out: dict[Model, Predicted] = {}
        for head in heads:
            scored = within_site(head, states, cohort, plan.reads, parts, score)
            out[WITHIN, "federated", head.name] = Predicted.by_part(
                scored, _set(told, head.name, WITHIN), parts
            )
            set_on = (0.5, np.inf) if at is None else _set(told, head.name, LEFT_OUT)[at]
            scored = leave_one_site_out(head, states, cohort, plan.reads, score)
            out[LEFT_OUT, "federated", head.name] = Predicted.alike(scored, *set_on)
            out[FINAL, "federated", head.name] = _final(
                head, states.get(Fold(), {}), cohort, told, score
            )
        for evaluation in (WITHIN, LEFT_OUT, FINAL):
            out |= self._chosen(heads, evaluation, "federated", out)
        return out

    def _local(self, heads: Sequence[Head], cohort: Cohort, plan: Plan) -> dict[Model, Predicted]:
        """What the site trains alone, judged on its own patients: the table's heads. Nobody is
        scored where it cannot."""
        tables = [h for h in heads if isinstance(h, TableHead)]
        prepare = load("preprocessing", self.learners.get("preprocessing", {}))
        parts, folds = cohort.parts(plan.seed, plan.parts), local_folds(plan.parts)
        out: dict[Model, Predicted] = {}
        for head in tables:
            states: dict[Fold, State] = {}
            if "table" in cohort.modalities and trainable(head, cohort, plan.seed, plan.parts):
                for fold in folds:
                    states[fold] = head.alone([cohort], fold, plan.seed, plan.parts, prepare)
            set_on = [(0.5, np.inf)] * plan.parts
            for p in range(plan.parts) if states else ():
                probs, seen = out_of_fold(head, states, cohort, Fold(parts=(p,)), folds, parts)
                set_on[p] = threshold_and_loss(probs, seen, cohort.labels)
            out[WITHIN, "local", head.name] = Predicted.by_part(
                within_site(head, states, cohort, folds, parts), set_on, parts
            )
        return out | self._chosen(heads, WITHIN, "local", out)

    def _alone(self, heads: Sequence[Head], cohort: Cohort, plan: Plan) -> dict[Model, Predicted]:
        """Whom `_local` scores; nothing is trained."""
        out: dict[Model, Predicted] = {}
        classes = len(cohort.schema.label.classes)
        for head in [h for h in heads if isinstance(h, TableHead)]:
            able = "table" in cohort.modalities and trainable(head, cohort, plan.seed, plan.parts)
            seen = scorable(head, cohort) & able
            scores = np.full((len(cohort), classes), 1 / classes), seen
            loss = 0.0 if able else np.inf
            out[WITHIN, "local", head.name] = Predicted.alike(scores, 0.5, loss)
        return out | self._chosen(heads, WITHIN, "local", out)

    def _chosen(
        self, heads: Sequence[Head], evaluation: str, arm: str, scored: Mapping[Model, Predicted]
    ) -> dict[Model, Predicted]:
        """The clinical model, patient by patient; none where the run has no head on the table."""
        names = [h.name for h in heads if isinstance(h, TableHead)]
        if not names:
            return {}
        clinical, _ = chosen(names, [scored[evaluation, arm, n] for n in names], self.clinical)
        return {(evaluation, arm, CLINICAL): clinical}


def _shuffled(cohort: Cohort, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """An order of the marked patients by a hash of their ids: the same in every run, so that no two
    runs' sums differ by a patient."""
    ids = (i for i, mine in zip(cohort.ids, known, strict=True) if mine)
    return np.argsort(
        [int.from_bytes(hashlib.sha256(i.encode()).digest()[:7], "big") for i in ids], kind="stable"
    ).astype(np.int64)


def paired(
    names: Sequence[str], heads: Sequence[Head]
) -> list[tuple[str, tuple[str, str], tuple[str, str]]]:
    """(evaluation, (head, arm), (head, arm)) of the differences that are taken: against local,
    logistic against the others of the table, the fusion against its parts."""
    tables = [h.name for h in heads if isinstance(h, TableHead)]
    out = [
        (WITHIN, (n, "federated"), (n, "local")) for n in (*([CLINICAL] if tables else []), *tables)
    ]
    for evaluation in (WITHIN, LEFT_OUT):
        pairs = [("logistic", n) for n in tables if "logistic" in tables and n != "logistic"]
        pairs += [
            ("fusion", n)
            for n in (CLINICAL, "image")
            if "fusion" in names and (n in names or (n == CLINICAL and tables))
        ]
        out += [(evaluation, (a, "federated"), (b, "federated")) for a, b in pairs]
    return out


def _set(told: Arrays, head: str, evaluation: str) -> list[tuple[float, float]]:
    """Of each part or group the threshold and the log loss, from everybody's training rows out of
    fold."""
    best = [youden(h) for h in told[f"{head}/thresholds/{evaluation}"]]
    losses = [
        total / n if n else np.inf for total, n in told[f"{head}/log_loss/{evaluation}"].tolist()
    ]
    return [(b.threshold if b else 0.5, loss) for b, loss in zip(best, losses, strict=True)]


def _final(head: Head, state: State, cohort: Cohort, told: Arrays, score: Scorer) -> Predicted:
    """The model that leaves the federation, on patients of whom it has seen most: how it does there
    is no estimate of how it will do."""
    everyone = np.ones(len(cohort), np.bool_)
    models = [(everyone, lambda rows: head.predict(state, rows))] if state.get(head.name) else []
    best = youden(told[f"{head.name}/{WITHIN}/histogram"][1])
    scored, loss = (
        float(told[f"{head.name}/{WITHIN}/n"]),
        float(told[f"{head.name}/{WITHIN}/log_loss"]),
    )
    return Predicted.alike(
        score(head, cohort, models),
        best.threshold if best else 0.5,
        loss / scored if scored else np.inf,
    )


def _apart(scores: Predicted, labels: NDArray[np.int64], sites: int, slot: int) -> Arrays:
    """A site's own sums, in its slot."""
    known = scores.seen & (labels != UNKNOWN)
    probs, truth = scores.probs[known], labels[known]
    classes = probs.shape[1]
    ordered, called = concordance(probs[:, None, :], truth), calls(probs, scores.thresholds[known])
    terms = np.stack(
        [brier_terms(probs, np.eye(classes)[truth]), log_loss_terms(probs, np.eye(classes)[truth])],
        1,
    )
    losses = np.stack(
        [
            np.stack([terms[truth == c].sum(0), (terms[truth == c] ** 2).sum(0)], 1)
            for c in range(classes)
        ]
    )
    mine: Arrays = {
        "counts": np.bincount(truth, minlength=classes).astype(np.float64),
        "concordant": ordered.concordant[0],
        "pairs": ordered.pairs,
        "spread": ordered.spread,
        "confusion": np.bincount(classes * truth + called, minlength=classes**2)
        .reshape(classes, classes)
        .astype(np.float64),
        "losses": losses,
    }
    return {k: _in(v, sites, slot) for k, v in mine.items()}


def _in(value: Array, sites: int, slot: int) -> Array:
    out = np.zeros((sites, *value.shape))
    out[slot] = value
    return out


def _histogram(scores: Predicted, labels: NDArray[np.int64]) -> Array:
    return Tally.of(scores.probs, np.where(scores.seen, labels, UNKNOWN)).histogram.astype(
        np.float64
    )


def _together(a: Predicted, b: Predicted, labels: NDArray[np.int64]) -> Arrays:
    """Two models on the patients that both score."""
    known = a.seen & b.seen & (labels != UNKNOWN)
    ordered = concordance(np.stack([a.probs[known], b.probs[known]], 1), labels[known])
    return {
        "counts": np.bincount(labels[known], minlength=a.probs.shape[1]).astype(np.float64),
        "concordant": ordered.concordant,
        "pairs": ordered.pairs,
        "spread": ordered.spread,
        "sites": np.array(float(ordered.pairs.any())),
    }


LEARNER = Comparison()
