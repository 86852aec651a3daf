"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, algorithm 1): what the learners
trained by it share.

A site sends its parameters times its number of cases; the coordinator divides the sum by all cases.
Parameters stand among a learner's arrays under `w/`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.federated.array_rules import ArrayRule, ArrayRules, whole
from common.federated.hyper_limits import GRID_VOXELS
from common.federated.learner import Contribution, Plan
from common.networks.dp_sgd import Private, PrivateTraining, Records, sampled
from common.networks.dp_sgd import learn as learn_privately
from common.networks.training import Loss, Schedule, Trained, learn
from common.types import Array, Arrays

if TYPE_CHECKING:
    from torch import nn


Made = TypeVar("Made", bound=Records)


@dataclass(frozen=True)
class Local:
    """How a learner trains at a site. Without noise by local epochs, with noise by DP-SGD of as
    many epochs."""

    make: Callable[..., nn.Module]
    shape: tuple[object, ...]
    """What `make` is given."""
    loss: Loss
    how: Schedule
    private: PrivateTraining
    table: bool = False
    """Rows of a table: they go through the CPU whatever there is."""


def examples_of(make: Callable[[NDArray[np.bool_]], Made], rows: int, plan: Plan) -> Made | None:
    """`make(mask)` of `rows` patients; None: of nobody.

    With noise those for whom it raises, each by itself, are left out, and nobody else is.
    """
    everybody = np.ones(rows, np.bool_)
    try:
        return make(everybody) if rows else None
    except Exception:
        if plan.privacy is None:
            raise
    able = np.zeros(rows, np.bool_)
    for i in range(rows):
        own = np.zeros(rows, np.bool_)
        own[i] = True
        try:
            make(own)
        except Exception as error:
            logging.getLogger("fedmets").info("a patient's examples: %s", error)
        else:
            able[i] = True
    logging.getLogger("fedmets").warning(
        "%s: no examples can be made of %d patients, who add nothing",
        plan.learner,
        rows - able.sum(),
    )
    return make(able) if able.any() else None


def train(
    task: Local, arrays: Arrays, examples: Records | None, plan: Plan, site: str, cases: int
) -> Contribution:
    """What a site sends after its training; `examples` None: it has nobody to train on.

    With noise: parameters as they are, by no number of cases, and no tally (`Sampled` in
    `common.privacy.mechanism`).
    """
    start, device = bare(arrays), _device(task)
    if plan.privacy is not None:
        private = Private(
            plan.privacy.noise, task.private.clip, sampled(task.how.epochs, task.private.rate)
        )
        made = network(task.make, *task.shape) if start else None
        weights = (
            learn_privately(made, start, examples, task.loss, task.how, private, device=device)
            if made is not None
            else {}
        )
        return Contribution({k: v.astype(np.float64) for k, v in prefixed(weights).items()}, cases)
    done = Trained(start, 0.0, 0, 0, 0)
    if examples is not None:
        made, seed = network(task.make, *task.shape), site_seed(plan, arrays, site)
        done = learn(made, start, examples, task.loss, task.how, seed=seed, device=device)
    tally = {"loss": np.array(done.loss * cases)} | (
        {} if task.table else {"halved": np.array(done.halved)}
    )
    return weighted(prefixed(done.arrays), cases, tally)


def _device(task: Local) -> Any:
    """None: the best there is."""
    if not task.table:
        return None
    import torch

    return torch.device("cpu")


def parameters(arrays: Arrays) -> Arrays:
    """The global parameters: what is averaged."""
    return {k: v for k, v in arrays.items() if k.startswith("w/")}


GRID = whole(3, low=4, high=1024)
"""Voxels (z, y, x) that a network sees; together at most `GRID_VOXELS`."""


def rules(make: Callable[..., nn.Module], grid: Array, how: tuple[object, ...]) -> ArrayRules:
    """Of the parameters of the network that `make(*how)` makes. ValueError for a grid that none
    sees."""
    if fault := GRID.fault(grid, {}):
        raise ValueError(f"grid {fault}")
    if grid.prod() > GRID_VOXELS:
        raise ValueError(f"grid {grid} has more than {GRID_VOXELS} voxels")
    return _rules(make, how)


@lru_cache(maxsize=64)
def _rules(make: Callable[..., nn.Module], how: tuple[object, ...]) -> ArrayRules:
    import torch

    with torch.device("meta"):  # shapes without memory
        tensors = make(*how).state_dict()
    return {f"w/{name}": ArrayRule(np.float32, tuple(t.shape)) for name, t in tensors.items()}


def bare(arrays: Arrays) -> Arrays:
    """The global parameters under the network's own names."""
    return {k.removeprefix("w/"): v for k, v in arrays.items() if k.startswith("w/")}


def prefixed(weights: Arrays) -> Arrays:
    return {f"w/{k}": v for k, v in weights.items()}


def weighted(weights: Arrays, cases: int, tally: Arrays) -> Contribution:
    """Parameters (`w/...`) times cases."""
    sums: Arrays = {
        k: v.astype(np.float64) * cases if cases else np.zeros(v.shape) for k, v in weights.items()
    }
    return Contribution(sums, cases, tally)


def mean(arrays: Arrays, total: Contribution) -> Arrays:
    """The new parameters; the old ones where nobody had a case."""
    if not total.cases:
        return parameters(arrays)
    return {k: (v / total.cases).astype(np.float32) for k, v in total.sums.items()}


def site_seed(plan: Plan, arrays: Arrays, site: str) -> int:
    """What order and augmentation are drawn from: other for each round and site, the same for a
    repeated plan."""
    text = f"{plan.seed}:{int(arrays['round'])}:{site}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def network(make: Callable[..., nn.Module], *how: object) -> Any:
    """`make(*how)`, one a thread: making a network takes as long as some steps, and whoever uses it
    sets every parameter anew."""
    return _network(make, how, threading.get_ident())


@lru_cache(maxsize=16)
def _network(make: Callable[..., nn.Module], how: tuple[object, ...], thread: int) -> Any:
    import torch

    with torch.inference_mode(False):  # whoever predicts first, others train in it
        made = make(*how)
        rank = max(p.ndim for p in made.parameters())
        return made.to(memory_format=torch.channels_last_3d if rank == 5 else torch.channels_last)


def drawn(make: Callable[..., nn.Module], how: tuple[object, ...], seed: int) -> Arrays:
    """A network's initial parameters (`w/...`), from the seed alone."""
    from common.networks import architectures

    made = make(*how)
    architectures.draw(made, seed)
    return prefixed(architectures.parameters(made))
