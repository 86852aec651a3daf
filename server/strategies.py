"""Name -> Flower strategy, for learners that send parameters; the others are sums and are added.

The strategy objects are made anew for each step and their moments (FedAdam, FedYogi) live in the learner's arrays: no aggregator
has a hidden state, so a resumed run goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, FedTrimmedAvg, FedYogi, Krum, MultiKrum

from common.errors import FederationError, UsageError
from common.learner import Contribution, Federated
from common.types import Arrays
from server.rounds import Combine, add

STRATEGIES: dict[str, Callable[[int], FedAvg]] = {
    "fedavg": lambda sites: FedAvg(),
    "fedprox": lambda sites: FedProx(proximal_mu=0.01),  # the term itself is a hyperparameter of the learner
    "fedadam": lambda sites: FedAdam(eta=0.03),
    "fedyogi": lambda sites: FedYogi(eta=0.03),
    "fedmedian": lambda sites: FedMedian(),
    "fedtrimmedavg": lambda sites: FedTrimmedAvg(beta=0.2),
    "krum": lambda sites: Krum(num_malicious_nodes=max(0, (sites - 3) // 2)),
    "multikrum": lambda sites: MultiKrum(num_malicious_nodes=max(0, (sites - 3) // 2), num_nodes_to_select=max(1, sites // 2)),
}
MEMORY = ("m_t", "v_t")


@runtime_checkable
class Averaged(Federated, Protocol):
    """A learner whose contributions are parameters times cases."""

    def parameters(self, arrays: Arrays) -> Arrays: ...


def combiner(name: str) -> Combine:
    """How contributions become what a learner applies; UsageError for an unknown strategy."""
    if name not in STRATEGIES:
        raise UsageError("C01", f"strategy '{name}' is unknown; there are {', '.join(STRATEGIES)}")
    logging.getLogger("flwr").setLevel(logging.WARNING)

    def combine(learner: Federated, arrays: Arrays, contributions: Sequence[Contribution]) -> tuple[Contribution, Arrays]:
        if not isinstance(learner, Averaged):
            return add(learner, arrays, contributions)
        return _aggregate(STRATEGIES[name](len(contributions)), learner, arrays, contributions)

    return combine


def _aggregate(strategy: Any, learner: Averaged, arrays: Arrays, contributions: Sequence[Contribution]) -> tuple[Contribution, Arrays]:
    current = learner.parameters(arrays)
    if hasattr(strategy, "current_arrays"):
        strategy.current_arrays = dict(current)
    for memory in MEMORY:
        kept = {k.removeprefix(f"memory/{memory}/"): v for k, v in arrays.items() if k.startswith(f"memory/{memory}/")}
        if kept:
            setattr(strategy, memory, kept)
    replies = []
    for i, c in enumerate(contributions):
        mean = ArrayRecord({k: Array((v / max(c.cases, 1)).astype(current[k].dtype)) for k, v in c.sums.items()})
        content = RecordDict({"arrays": mean, "metrics": MetricRecord({"num-examples": c.cases})})
        replies.append(Message(content, dst_node_id=i, message_type="train"))
    combined, _ = strategy.aggregate_train(int(arrays["round"]) + 1, replies)
    if combined is None:
        raise FederationError(
            "R01", f"strategy {type(strategy).__name__} gave no result for {len(replies)} updates; it may need more sites"
        )
    cases = sum(c.cases for c in contributions)
    sums: Arrays = {k: a.numpy().astype(np.float64) * cases for k, a in combined.items()}
    tally = {k: np.asarray(sum(c.tally[k] for c in contributions)) for k in contributions[0].tally}
    memory_arrays = {
        f"memory/{m}/{k}": np.asarray(v)
        for m in MEMORY
        if isinstance(moments := getattr(strategy, m, None), dict)
        for k, v in moments.items()
    }
    return Contribution(sums, cases, tally), {**arrays, **memory_arrays}
