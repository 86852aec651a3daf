"""Sums of a simulation: what sites would tell of each model, of pooled and foreign ones too, from
everybody's predictions.

`server.report.content.model_metrics` makes the report's rows of them, as it does between hospitals.
Having the patients, a simulation knows more: every figure by site, scores that no bin has rounded,
and resamples of patients in place of counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import UNKNOWN
from common.data.schema import Floats
from common.metrics.calibration import logit
from common.metrics.definitions import Draws, ScoreTable, calls, from_draws
from common.metrics.delong import Estimate, against
from common.metrics.estimability import judged
from common.metrics.resampling import bootstrap_weights, percentiles
from common.metrics.score_histogram import Tally, brier_terms, log_loss_terms, pair_counts
from common.metrics.site_aucs import SiteSums
from server.report.content.model_metrics import EVALUATIONS, Model, Paired
from simulation.evaluation.predictions import ARMS, Comparison, Scores
from simulation.evaluation.score_tables import Blocks, Levels

Row = dict[str, Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sums:
    """The predictions of all patients, and what is added of them."""

    comparison: Comparison
    repeats: int
    seed: int

    @cached_property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.comparison.sites.tolist()))

    @cached_property
    def known(self) -> Mask:
        """(patients,): those with a label."""
        return np.asarray(self.comparison.labels != UNKNOWN)

    @cached_property
    def counts(self) -> Floats:
        """(sites, classes): labelled patients, whether a model has scored them or not."""
        c = self.comparison
        return np.stack(
            [
                np.bincount(c.labels[self.known & (c.sites == s)], minlength=c.classes)
                for s in self.sites
            ]
        ).astype(np.float64)

    @cached_property
    def _nobody(self) -> Scores:
        n = len(self.known)
        return Scores(
            np.full((n, self.comparison.classes), 1 / self.comparison.classes),
            np.full(n, 0.5),
            np.zeros(n, np.bool_),
        )

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """(1 + repeats, labelled patients): each once, then the resamples, the same for
        everything."""
        c = self.comparison
        resamples = bootstrap_weights(
            c.labels[self.known], c.sites[self.known], self.repeats, self.seed
        )
        return np.concatenate([np.ones((1, resamples.shape[1]), np.float32), resamples])

    def scores(self, model: str, arm: str, evaluation: str) -> list[Scores]:
        return self.comparison.scores.get((model, arm, evaluation), [])

    def ran(self, model: str, evaluation: str) -> bool:
        """Has a federated model of that name scored anybody? Without, there are no rows, and the
        report says why."""
        return any(s.seen.any() for s in self.scores(model, "federated", evaluation))

    def of(self, scores: Sequence[Scores], rows: Mask | None = None) -> SiteSums:
        """Of models that stand for one, on the labelled patients that `rows` marks."""
        c, classes = self.comparison, scores[0].probs.shape[1]
        classes_against, scored = (
            against(classes),
            self.known if rows is None else self.known & rows,
        )
        counts = np.zeros((len(self.sites), len(scores), classes))
        pairs = np.zeros((len(self.weights), len(self.sites), len(scores), len(classes_against), 2))
        for i, site in enumerate(self.sites):
            for m, s in enumerate(scores):
                members = scored & s.seen & (c.sites == site)
                counts[i, m] = np.bincount(c.labels[members], minlength=classes)
                for j, k in enumerate(classes_against):
                    if 0 < counts[i, m, k] < counts[i, m].sum():
                        table = self._table(s.probs[members, k], c.labels[members] == k, members)
                        pairs[:, i, m, j] = np.concatenate(
                            [pair_counts(counts)[:, :2] for counts in table.blocks]
                        )
        return SiteSums(counts, pairs, None)

    def models(self, names: Sequence[str]) -> list[Model]:
        """Those that there are, in the order of evaluations, names and arms."""
        return [
            self._model(evaluation, arm, name, variants)
            for evaluation in EVALUATIONS
            for name in names
            if self.ran(name, evaluation)
            for arm in ARMS
            if (variants := self.scores(name, arm, evaluation))
            or (name, arm, evaluation) in self.comparison.scores
        ]

    def _model(self, evaluation: str, arm: str, name: str, variants: list[Scores]) -> Model:
        tally = [self._tally(s) for s in variants] if len(variants) == 1 else [(None, None)]
        # a head that no site could train alone has no local models: nobody is scored
        sums = self.of(variants or [self._nobody])
        return Model(
            evaluation,
            arm,
            name,
            sums,
            self.sites,
            lambda at: self._figures(variants, at),
            *tally[0],
        )

    def _tally(self, scores: Scores) -> tuple[Floats, Floats]:
        """Calls and score histogram over all sites."""
        mask = self.known & scores.seen
        probs, labels = scores.probs[mask], self.comparison.labels[mask]
        return self._calls(probs, labels, scores.thresholds[mask]).sum(0), Tally.of(
            probs, labels
        ).histogram.astype(np.float64)

    @staticmethod
    def _calls(probs: Floats, labels: NDArray[np.int64], thresholds: Floats) -> Floats:
        """(n, classes, classes): a one where each patient's true and called class meet."""
        k = probs.shape[1]
        return np.asarray(np.eye(k * k)[k * labels + calls(probs, thresholds)].reshape(-1, k, k))

    def _figures(self, variants: Sequence[Scores], chosen: slice) -> dict[str, Estimate]:
        """Of several models the mean of their figures, in each resample."""
        patients = self.known & np.isin(self.comparison.sites, self.sites[chosen])
        draws = [
            from_draws(self._draws(s, patients & s.seen))
            for s in variants
            if (patients & s.seen).any()
        ]
        draws = draws or [from_draws(Draws(np.zeros((1, *[self.comparison.classes] * 2)), {}))]
        return {name: percentiles(np.mean([f[name] for f in draws], 0)) for name in draws[0]}

    def _draws(self, scores: Scores, mask: Mask) -> Draws:
        probs, labels = scores.probs[mask], self.comparison.labels[mask]
        classes = probs.shape[1]
        truth = np.eye(classes)[labels]
        called = self._calls(probs, labels, scores.thresholds[mask]).reshape(len(labels), -1)
        losses = np.stack([brier_terms(probs, truth), log_loss_terms(probs, truth)], 1)
        tables = {k: self._table(probs[:, k], labels == k, mask) for k in judged(truth.sum(0))}
        confusion, lost = [], []
        for weights in Blocks(self.weights, np.flatnonzero(mask[self.known])):
            confusion.append(weights @ called)
            lost.append(weights @ losses)
        return Draws(
            np.concatenate(confusion).reshape(-1, classes, classes), tables, np.concatenate(lost)
        )

    def _table(self, score: Floats, positive: Mask, members: Mask) -> ScoreTable:
        """Of the labelled patients that `members` marks; (members,) probabilities, and who is of
        the class."""
        order = np.argsort(score, kind="stable")
        starts = np.flatnonzero(np.diff(score[order], prepend=-1.0) != 0)
        drawn = Blocks(self.weights, np.flatnonzero(members[self.known])[order])
        return ScoreTable(logit(score[order][starts]), Levels(drawn, starts, positive[order]))

    def paired(self, names: Sequence[str]) -> list[Paired]:
        """Differences on the same patients; against local, at the sites whose local model is
        trainable."""
        comparisons = [
            (m, x, m, y)
            for m in names
            for x, y in (("federated", "local"), ("federated", "pooled"), ("pooled", "local"))
        ]
        tables = [m for m in names if m not in ("logistic", "clinical", "image", "fusion")]
        comparisons += [
            ("logistic", "federated", m, "federated") for m in tables if "logistic" in names
        ]
        comparisons += [
            ("fusion", arm, m, arm)
            for arm in ARMS
            for m in ("clinical", "image")
            if {"fusion", m} <= set(names)
        ]
        pairs = []
        for evaluation in EVALUATIONS:
            for model_a, arm_a, model_b, arm_b in comparisons:
                variants = (
                    self.scores(model_a, arm_a, evaluation),
                    self.scores(model_b, arm_b, evaluation),
                )
                if (
                    all(variants)
                    and self.ran(model_a, evaluation)
                    and self.ran(model_b, evaluation)
                ):
                    sums = self.of(list(_on_the_same(*variants)))
                    judged_at = int(sums.of_sites.any(1).sum())
                    pairs.append(
                        Paired(
                            evaluation, f"{model_a} {arm_a}", f"{model_b} {arm_b}", sums, judged_at
                        )
                    )
        return pairs

    def unknown_labels(self, model: str) -> list[Row]:
        """Guard D04's sensitivity analysis: the headline with unknown labels left out, all
        negative, all positive (of two classes)."""
        rows = []
        for arm in ("federated", "pooled"):
            for scores in self.scores(model, arm, "within_site"):
                figures: Row = {
                    "unknown": int((~self.known & scores.seen).sum()),
                    "excluded": self.of([scores]).row()["auc"],
                }
                for k, name in enumerate(("negative", "positive")):
                    labels = np.where(self.known, self.comparison.labels, k)
                    counted = Sums(replace(self.comparison, labels=labels), self.repeats, self.seed)
                    figures[name] = (
                        counted.of([scores]).row()["auc"] if self.comparison.classes == 2 else None
                    )
                rows.append({"model": model, "arm": arm, **figures})
        return rows


def _on_the_same(a: Sequence[Scores], b: Sequence[Scores]) -> Iterator[Scores]:
    """Each of one side with each of the other, on the patients that both score: those of the first
    side, then those of the second."""
    pairs = [(x, y, x.seen & y.seen) for x in a for y in b]
    yield from (replace(x, seen=seen) for x, _, seen in pairs)
    yield from (replace(y, seen=seen) for _, y, seen in pairs)
