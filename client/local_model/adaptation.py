"""Domain adaptation: a federation's final model fine-tuned to a site's own patients, head by head.
Nothing leaves the site.

- networks (`image`, `mlp`, `logistic_fedavg`): some epochs more from the federation's parameters,
  by the learner's own training at a site;
- `logistic`: a refit with a ridge centred at the federation's coefficients
  (`client.local_model.centred_ridge`);
- `boosting`: its log-odds z become a + b z (Platt), written into base and leaves;
- `fusion`: keeps its coefficients, and takes the clinical and the image head as they are now;
- any other head stays as it is.
Preprocessing, autoencoder and segmentation stay the federation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from client.local_model.centred_ridge import INTERCEPT_RIDGE, Likelihood, maximise, recalibrated
from common.data.cohort import Cohort, Fold
from common.data.schema import Floats
from common.federated.learner import (
    Federated,
    Head,
    Plan,
    Stacked,
    configured,
    hyper_of,
    local_plan,
)
from common.federated.local_baseline import TRAINABLE
from common.types import Arrays, State

EPOCHS, LEARNING_RATE_SHARE, RIDGE = 3, 0.1, 10.0
NETWORK_HEADS = ("image", "mlp", "logistic_fedavg")


@dataclass(frozen=True)
class FineTuning:
    """`learning_rate` None: a tenth of the learner's own. `ridge`: on the slopes of a logistic
    regression, per standard deviation."""

    epochs: int = EPOCHS
    learning_rate: float | None = None
    ridge: float = RIDGE

    def words(self, head: Federated) -> str:
        """What becomes of a head."""
        if head.name in NETWORK_HEADS:
            return f"{self.epochs} epochs at a learning rate of {self._rate(head):g}"
        return {
            "logistic": f"refit with a ridge of {self.ridge:g} centred at the federation's "
            "coefficients",
            "boosting": "log-odds recalibrated (intercept and slope)",
        }.get(head.name, "its parts as they are now" if isinstance(head, Stacked) else "as it was")

    def tuned(self, head: Any) -> Any:
        """A network's learner with these hyperparameters. UsageError C01 for some out of range."""
        return configured(head, {"epochs": self.epochs, "learning_rate": self._rate(head)})

    def _rate(self, head: Any) -> float:
        return (
            self.learning_rate
            if self.learning_rate is not None
            else LEARNING_RATE_SHARE * head.training.learning_rate
        )


def adapted(
    heads: Sequence[Head],
    state: State,
    cohort: Cohort,
    fold: Fold,
    seed: int,
    parts: int,
    settings: FineTuning,
) -> State:
    """The state with every head moved to the labelled patients that `fold` trains on; a head for
    which they are too few stays."""
    plan, moved = local_plan(fold, seed, parts), dict(state)
    rows = cohort.train(fold, seed, parts)
    for head in heads:
        if head.name not in state or not enough(head, rows):
            continue
        if head.name in NETWORK_HEADS:
            moved[head.name] = _trained(head, state, cohort, plan, settings)[head.name]
        elif head.name == "logistic":
            moved[head.name] = _centred(head, state, cohort, plan, settings)[head.name]
        elif head.name == "boosting":
            moved[head.name] = _recalibrated(head, state, rows)[head.name]
    return moved


def enough(head: Federated, rows: Cohort) -> bool:
    """Whether labelled patients are enough for a head to learn from: some of each of two
    classes."""
    return bool((np.bincount(rows.labels[usable(head, rows)], minlength=2) >= TRAINABLE).sum() >= 2)


def usable(head: Federated, cohort: Cohort) -> Any:
    """(cases,): those that a head can learn from."""
    if "image" in head.modality:
        return cohort.imaged
    return np.full(len(cohort), "table" in cohort.modalities)


def _trained(head: Any, state: State, cohort: Cohort, plan: Plan, settings: FineTuning) -> State:
    tuned, arrays = settings.tuned(head), state[head.name]
    start = {**state, head.name: {**arrays, "round": np.array(0)}}
    request = replace(plan, learner=head.name, phase="train", hyper=hyper_of(tuned))
    trained = _stepped(tuned, start, cohort, request)
    moved = {**state, head.name: {**trained, "round": arrays["round"]}}
    if "spread" in head.phases:  # the log-odds' mean and spread are this network's own
        request = replace(request, phase="spread")
        moved = {**moved, head.name: _stepped(tuned, moved, cohort, request)}
    return moved


def _stepped(tuned: Federated, state: State, cohort: Cohort, request: Plan) -> Arrays:
    """The learner's arrays after one exchange with this site alone."""
    states = {request.fold: state}
    return tuned.apply(states, tuned.contribute(states, cohort, request), request).arrays


def _centred(head: Any, state: State, cohort: Cohort, plan: Plan, settings: FineTuning) -> State:
    arrays = state[head.name]
    centre, shape = arrays["coefficients"].ravel(), arrays["coefficients"].shape
    penalty = np.full(shape, settings.ridge)
    penalty[:, 0] = INTERCEPT_RIDGE
    request = replace(plan, learner=head.name, phase="newton", hyper=hyper_of(head))

    def likelihood(beta: Floats) -> Likelihood:
        # `rounds` above 0: the coefficients are these, and not those of a first step
        trial = {
            **state,
            head.name: {
                **arrays,
                "coefficients": beta.reshape(shape),
                "rounds": np.maximum(arrays["rounds"], 1),
            },
        }
        sums = head.contribute({request.fold: trial}, cohort, request).sums
        return Likelihood(float(sums["likelihood"]), sums["gradient"].ravel(), sums["hessian"])

    return {
        **state,
        head.name: {
            **arrays,
            "coefficients": maximise(likelihood, centre, penalty.ravel()).reshape(shape),
        },
    }


def _recalibrated(head: Head, state: State, rows: Cohort) -> State:
    arrays = state[head.name]
    probs = np.maximum(head.predict(state, rows), 1e-12)
    a, b = recalibrated(np.log(probs[:, 1:]) - np.log(probs[:, :1]), rows.labels)
    shift = a if len(arrays["base"]) == 1 else np.concatenate([[0.0], a])
    trees = {
        "base": (b * arrays["base"] + shift).astype(np.float32),
        "value": (b * arrays["value"]).astype(np.float32),
    }
    return {**state, head.name: {**arrays, **trees}}
