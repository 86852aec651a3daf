"""Noisy AUCs, what a coordinator knows of a run with noise: by noisy score histograms of the
patients that a model has not seen."""

from __future__ import annotations

import numpy as np

from common.federated.accounting import calibrate
from common.federated.learner import Federated, Head
from common.federated.states import States
from common.metrics.noisy_auc import NoisyAuc, noisy_auc
from common.study.study import Study
from server.config.run_config import Run


def held_out_auc(states: States, head: str, seed: int) -> NoisyAuc | None:
    """The pooled AUC for two classes, over all parts that were scored; None for more classes, or
    where nobody was."""
    scores = [s["scores"] for s in states.values() if head in s.get("scores", {})]
    if not scores or len(scores[0][head]) > 1:
        return None
    histogram = np.sum([m[head][0] for m in scores], axis=0)
    return noisy_auc(histogram, float(np.sqrt(sum(float(m["spread"]) ** 2 for m in scores))), seed)


def fits(head: Federated, run: Run, study: Study) -> list[Federated]:
    """The head and what it needs, each once, as the run configures them."""
    learners: dict[str, Federated] = {}
    for need in head.needs:
        learners |= {f.name: f for f in fits(run.learner(need, study), run, study)}
    return [*learners.values(), head]


def noise_for(run: Run, study: Study, epsilon: float, delta: float, shared: bool = False) -> float:
    """The least `noise` at which training all heads of the run once costs a patient `epsilon` at
    most. `shared`: under masks, one noise for all sites."""
    schema = study.schema_at(run.task_of(study))
    trained: dict[str, Federated] = {}
    for head in run.heads(study):
        assert isinstance(head, Head)
        trained |= {f.name: f for f in fits(head, run, study)}
    # into how many shares makes no difference that the figure shows
    return calibrate(trained.values(), schema, epsilon, delta, int(shared))
