"""Strategies of Flower by name, for learners that send parameters; the others are sums and are
added.

Some withstand a wrong site: the coordinate-wise median and trimmed mean (Yin et al. 2018, arXiv
1803.01498), Krum and multi-Krum (Blanchard et al. 2017, arXiv 1703.02757), Bulyan (El Mhamdi et al.
2018, arXiv 1802.07927). They are told of as many wrong sites as their papers allow for the number
of updates, and refuse a number for which that is none.

The strategy objects are made anew for each step and their moments (FedAdam, FedYogi) live in the
learner's arrays: no aggregator has a hidden state, so a resumed run goes on where it stopped.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdam,
    FedAvg,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)
from numpy.typing import NDArray

from common.errors import FederationError, UsageError
from common.federated.learner import MEMORY, Averaged, Contribution, Federated
from common.types import Arrays
from server.config.jobs import Job
from server.rounds.driver import Combine, add
from server.rounds.registration import Roster

STRATEGIES: dict[str, Callable[[int], FedAvg]] = {
    "fedavg": lambda sites: FedAvg(),
    "fedprox": lambda sites: FedProx(
        proximal_mu=0.0
    ),  # the term itself is a hyperparameter of the learner
    "fedadam": lambda sites: FedAdam(eta=0.03),
    "fedyogi": lambda sites: FedYogi(eta=0.03),
    "fedmedian": lambda sites: FedMedian(),
    "fedtrimmedavg": lambda sites: FedTrimmedAvg(beta=0.2),
    "krum": lambda sites: Krum(num_malicious_nodes=max(0, (sites - 3) // 2)),
    "multikrum": lambda sites: MultiKrum(
        num_malicious_nodes=max(0, (sites - 3) // 2), num_nodes_to_select=max(1, sites // 2)
    ),
    "bulyan": lambda sites: Bulyan(num_malicious_nodes=max(0, (sites - 3) // 4)),
}
LEAST: Mapping[str, int] = {
    "fedmedian": 3,
    "fedtrimmedavg": 5,
    "krum": 5,
    "multikrum": 5,
    "bulyan": 7,
}
"""Updates among which a strategy withstands one wrong one: with fewer it is a mean, or one site's
model, under another name."""
MEANS = ("fedavg", "fedprox")
"""Flower's aggregation for these is the mean weighted by cases (a test compares them): the sum that
the learner itself divides."""
MOMENTS = ("m_t", "v_t")
FLAT = "parameters"


def combiner(name: str) -> Combine:
    """How contributions become what a learner applies; UsageError for an unknown strategy."""
    if name not in STRATEGIES:
        raise UsageError("C01", f"strategy '{name}' is unknown; there are {', '.join(STRATEGIES)}")
    logging.getLogger("flwr").setLevel(logging.WARNING)

    def combine(
        learner: Federated, arrays: Arrays, contributions: Sequence[Contribution]
    ) -> tuple[Contribution, Arrays]:
        # a learner that sends parameters may send plain sums in another phase (class counts,
        # moments)
        if (
            name in MEANS
            or not isinstance(learner, Averaged)
            or set(contributions[0].sums) != set(learner.parameters(arrays))
        ):
            return add(learner, arrays, contributions)
        if len(contributions) < LEAST.get(name, 1):
            raise FederationError(
                "R01", f"{len(contributions)} updates of {learner.name} came, and {_too_few(name)}"
            )
        return _aggregate(STRATEGIES[name](len(contributions)), learner, arrays, contributions)

    return combine


def demand(name: str, jobs: Sequence[Job], roster: Roster, masked: bool = False) -> None:
    """UsageError C01 where a robust strategy has too few sites for some training set, or masked
    sums, before the first round."""
    if masked and name in LEAST:
        others = ", ".join(s for s in STRATEGIES if s not in LEAST)
        raise UsageError(
            "C01",
            f"strategy {name} compares the sites' updates, which secure sums hide; use one of "
            f"{others}",
        )
    too_small = [
        (n, j)
        for j in jobs
        if isinstance(j.learner, Averaged) and 0 < (n := len(roster.able(j))) < LEAST.get(name, 1)
    ]
    if too_small:
        n, job = min(too_small, key=lambda pair: pair[0])
        without = ", or leave leave_one_site_out out of the evaluations" if job.fold.sites else ""
        raise UsageError(
            "C01",
            f"{n} sites train {job.learner.name} on fold '{job.fold.key}', and "
            f"{_too_few(name)}{without}",
        )


def _too_few(name: str) -> str:
    others = ", ".join(f"{k} {v}" for k, v in LEAST.items() if k != name)
    return (
        f"strategy {name} needs {LEAST[name]} to withstand one wrong site (others: {others}); "
        "ask for more sites"
    )


def _aggregate(
    strategy: Any, learner: Averaged, arrays: Arrays, contributions: Sequence[Contribution]
) -> tuple[Contribution, Arrays]:
    # by name: the moments outlive this run of the program, and unpacked arrays come in another
    # order than new ones
    current = dict(sorted(learner.parameters(arrays).items()))
    if hasattr(strategy, "current_arrays"):
        strategy.current_arrays = {FLAT: _flat(current, current)}
    for memory in MOMENTS:
        if f"{MEMORY}{memory}" in arrays:
            setattr(strategy, memory, {FLAT: arrays[f"{MEMORY}{memory}"]})
    replies = []
    # what one site sends may be too large for float32, or for a square: it is then the farthest
    # from all others, and nothing to warn of
    with np.errstate(over="ignore", invalid="ignore"):
        for i, c in enumerate(contributions):
            mean = Array((_flat(c.sums, current) / max(c.cases, 1)).astype(np.float32))
            content = RecordDict(
                {
                    "arrays": ArrayRecord({FLAT: mean}),
                    "metrics": MetricRecord({"num-examples": c.cases}),
                }
            )
            replies.append(Message(content, dst_node_id=i, message_type="train"))
        with _few_objects():
            combined, _ = strategy.aggregate_train(int(arrays["round"]) + 1, replies)
    if combined is None:
        raise FederationError(
            "R01",
            f"strategy {type(strategy).__name__} gave no result for {len(replies)} updates; it "
            "may need more sites",
        )
    cases = sum(c.cases for c in contributions)
    flat, ends = (
        combined[FLAT].numpy().astype(np.float64) * cases,
        np.cumsum([v.size for v in current.values()]),
    )
    sums: Arrays = {
        k: part.reshape(v.shape)
        for (k, v), part in zip(current.items(), np.split(flat, ends[:-1]), strict=True)
    }
    tally = {k: np.asarray(sum(c.tally[k] for c in contributions)) for k in contributions[0].tally}
    memory_arrays = {
        f"{MEMORY}{m}": np.asarray(moments[FLAT])
        for m in MOMENTS
        if isinstance(moments := getattr(strategy, m, None), dict) and moments
    }
    return Contribution(sums, cases, tally), {**arrays, **memory_arrays}


@contextmanager
def _few_objects() -> Iterator[None]:
    """Flower's Bulyan collects garbage once an update, a second a round where torch is loaded; so
    there is little to look through."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _flat(values: Arrays, order: Arrays) -> NDArray[Any]:
    """All parameters as one vector, which every strategy here treats as it would treat them apart,
    only faster."""
    return np.concatenate([values[name].ravel() for name in order])
