"""Round metrics, what an exchange's sums say of how training goes, for the ledger: means per case,
over all sites and, where sums are open, by site.

Nothing is asked for it: it is taken from tallies and from sums that learners send anyhow. Sums with
noise have no tally, and are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.data.cohort import Fold
from common.federated.learner import Contribution
from common.federated.states import States
from common.metrics import score_histogram
from common.metrics.estimability import judged

Values = dict[str, float]


def _per_case(name: str, sign: float = 1.0) -> Callable[[Contribution], float | None]:
    # a stacked head has one likelihood a variant: the first is of all its training cases
    return lambda c: (
        sign * float(np.ravel({**c.sums, **c.tally}[name])[0]) / c.cases if c.cases else None
    )


def _of_pair(name: str) -> Callable[[Contribution], float | None]:
    def ratio(c: Contribution) -> float | None:
        above, below = (
            np.asarray({**c.sums, **c.tally}[name], np.float64).reshape(-1, 2).sum(axis=0)
        )
        return float(above / below) if below else None

    return ratio


KINDS: Mapping[str, tuple[str, Callable[[Contribution], float | None]]] = {
    "loss": ("loss", _per_case("loss")),
    "log_loss": ("log_loss", _per_case("log_loss")),
    "likelihood": ("log_loss", _per_case("likelihood", -1.0)),
    "validation": ("validation_loss", _of_pair("validation")),
    "dice": ("dice", _of_pair("dice")),
}
"""Array of a contribution -> the metric that it becomes, and how."""


def values(contribution: Contribution) -> Values:
    """Metric -> its mean; empty where a learner sends nothing of the kind, or from nobody."""
    names = {*contribution.sums, *contribution.tally}
    means = {
        metric: measure(contribution) for name, (metric, measure) in KINDS.items() if name in names
    }
    return {
        metric: _short(value)
        for metric, value in means.items()
        if value is not None and np.isfinite(value)
    }


class Measured:
    """One exchange's, gathered job by job."""

    def __init__(self) -> None:
        self._by_learner: dict[str, dict[str, tuple[Values, dict[str, Values]]]] = {}

    def add(
        self, learner: str, fold: str, total: Contribution, by_site: Mapping[str, Contribution]
    ) -> None:
        if means := values(total):
            self._by_learner.setdefault(learner, {})[fold] = (
                means,
                {s: v for s, c in by_site.items() if (v := values(c))},
            )

    def rows(self) -> list[dict[str, Any]]:
        """A learner a row: of the training set of all patients where it is among the exchange's,
        else the mean over those there are."""
        return [_row(learner, folds) for learner, folds in self._by_learner.items()]


def _row(learner: str, folds: Mapping[str, tuple[Values, dict[str, Values]]]) -> dict[str, Any]:
    all_patients = Fold().key
    chosen = {all_patients: folds[all_patients]} if all_patients in folds else folds
    sites = sorted({s for _, by_site in chosen.values() for s in by_site})
    return {
        "learner": learner,
        "folds": len(chosen),
        "fold": all_patients if all_patients in folds else "",
        "all": _mean([v for v, _ in chosen.values()]),
        "sites": {s: _mean([b[s] for _, b in chosen.values() if s in b]) for s in sites},
    }


def _mean(site_means: Sequence[Values]) -> Values:
    names = dict.fromkeys(n for v in site_means for n in v)
    return {n: _short(float(np.mean([v[n] for v in site_means if n in v]))) for n in names}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def evaluated(states: States, heads: Sequence[str]) -> list[dict[str, Any]]:
    """What the coordinator knows without seeing a patient: metrics from added tallies, each AUC
    with its exact binning bound."""
    arrays = states.get(Fold(), {}).get("evaluation", {})
    rows = []
    for head in heads:
        for kind, evaluation in (("within", "within_site"), ("left_out", "leave_one_site_out")):
            names = [n for n in arrays if n.startswith(f"{head}/{kind}/")]
            if not names:
                continue
            tally_arrays = {n.removeprefix(f"{head}/{kind}/"): arrays[n] for n in names}
            pairs = tally_arrays.pop("pairs")
            total = score_histogram.Tally.from_arrays(tally_arrays)
            if not float(total.n):
                continue
            classes = judged(total.class_counts)
            rows.append(
                {
                    "model": head,
                    "evaluation": evaluation,
                    "n": int(total.n),
                    "auc": _mean_of_known(
                        [pairs[k, 0] / pairs[k, 1] if pairs[k, 1] else None for k in classes]
                    ),
                    "auc_pooled": _mean_of_known(
                        [score_histogram.auc(total.histogram[k]) for k in classes]
                    ),
                    "bound": _mean_of_known(
                        [score_histogram.auc_bound(total.histogram[k]) for k in classes]
                    ),
                    "brier": total.mean_brier,
                    "log_loss": total.mean_log_loss,
                }
            )
    return rows


def _mean_of_known(figures: Sequence[float | None]) -> float | None:
    """The mean over the classes that can be judged (one, for a label of two); None without any."""
    numbers = [v for v in figures if v is not None]
    return float(np.mean(numbers)) if numbers else None
