"""Training loop of torch, the one for tables, images, autoencoder and segmentation, on the CPU and
on a GPU.

`Examples` hands out batches, a loss gives their sum over cases, and the loop takes steps of SGD
with momentum or AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2). FedProx adds mu /
2 * ||w - w_global||^2 to the loss (Li et al. 2020, arXiv 1812.06127, eq. 2; Flower's docstring
leaves the square out, the paper does not). Order of rows and augmentation are drawn from the given
seed alone, on the CPU and for whole batches: a repeated plan gives the same parameters, and a batch
that is cut into pieces, because a GPU's memory is full, sees the same examples. With noise training
goes by `common.networks.dp_sgd`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import RefusedError
from common.types import Array, Arrays

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Rows = NDArray[np.int64]
Batch = tuple[Any, ...]
Loss = Callable[[Any, Batch], Any]
"""(network, batch) -> the sum of the losses of the batch's rows, a scalar tensor."""
Optimiser = Literal["sgd", "adamw"]
WORTH_COMPILING = 3000
"""Steps from which compiling a network (about a minute) pays on a GPU."""


class Examples(Protocol):
    """What is learnt from. A row is a case (or a crop): what a loss is summed over."""

    noise: int
    """How many uniform draws in [0, 1) the augmentation of a row takes."""

    def __len__(self) -> int: ...

    def batch(self, rows: Rows, device: torch.device, noise: Tensor | None) -> Batch:
        """These rows' tensors on `device`; `noise` (rows, self.noise) on the CPU augments them,
        None leaves them as they are."""
        ...


@dataclass(frozen=True)
class Trained:
    """`arrays`: float32 parameters; `loss`: mean over the last epoch; `halved`: how often a full
    GPU halved the pieces of a batch."""

    arrays: Arrays
    loss: float
    steps: int
    halved: int
    piece: int
    """The most rows that went through the network at once."""


@dataclass(frozen=True)
class LocalTraining:
    """How a network is trained by federated averaging: hyperparameters that all networks share."""

    rounds: int
    """Rounds of federated averaging."""
    epochs: int
    """Passes over a site's training cases in a round."""
    batch: int
    """Patients in a step."""
    learning_rate: float
    """The optimiser's step size at a site."""
    weight_decay: float
    """Decay of the weights."""
    proximal: float = 0.0
    """FedProx's mu."""

    @property
    def rules(self) -> dict[str, bool]:
        """What must hold of them, for `demand`."""
        whole = {
            f"{name} >= 1": value >= 1
            for name, value in (
                ("rounds", self.rounds),
                ("epochs", self.epochs),
                ("batch", self.batch),
            )
        }
        decay = {"weight_decay >= 0": self.weight_decay >= 0, "proximal >= 0": self.proximal >= 0}
        return {**whole, **decay, "learning_rate > 0": self.learning_rate > 0}

    def schedule(self, optimiser: Optimiser = "sgd") -> Schedule:
        """One round at a site."""
        return Schedule(
            self.epochs, self.batch, self.learning_rate, self.weight_decay, self.proximal, optimiser
        )


@dataclass(frozen=True)
class Schedule:
    """How a site trains locally."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.0
    proximal: float = 0.0
    """FedProx's mu."""
    optimiser: Optimiser = "sgd"
    compile: bool | None = None
    """None: on a GPU, where there are steps enough."""


class Table:
    """Rows of a matrix, a patient each, with their classes."""

    noise, inputs = 0, 1

    def __init__(self, x: Array, y: Array) -> None:
        import torch

        self.patient = np.arange(len(y))
        self._x, self._y = (
            torch.from_numpy(np.asarray(x, np.float32)),
            torch.from_numpy(np.asarray(y, np.int64)),
        )

    def __len__(self) -> int:
        return len(self._y)

    def batch(self, rows: Rows, device: torch.device, noise: Tensor | None) -> Batch:
        return self._x[rows].to(device), self._y[rows].to(device)


def cross_entropy(network: nn.Module, batch: Batch) -> Tensor:
    import torch

    x, y = batch
    return torch.nn.functional.cross_entropy(network(x), y, reduction="sum")


def load(network: nn.Module, start: Arrays) -> None:
    """Set every parameter. RefusedError P02 for other names, shapes or types than the network's,
    and for what is not finite: parameters come from elsewhere."""
    import torch

    held = network.state_dict()
    if set(held) != set(start):
        raise RefusedError(
            "P02", f"the network has parameters {sorted(held)}, given are {sorted(start)}"
        )
    for name, tensor in held.items():
        given = start[name]
        if tensor.shape != given.shape or given.dtype != np.float32:
            raise RefusedError(
                "P02",
                f"parameter {name} is float32 {tuple(tensor.shape)}, given is {given.dtype} "
                f"{given.shape}",
            )
        if not np.isfinite(given).all():
            raise RefusedError("P02", f"parameter {name} is not finite")
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(torch.from_numpy(np.array(start[name])))


def learn(
    network: nn.Module,
    start: Arrays,
    examples: Examples,
    loss: Loss,
    how: Schedule,
    *,
    seed: int,
    device: torch.device | None = None,
) -> Trained:
    """Local epochs from `start`. RefusedError P02 when the loss is no longer finite."""
    import torch

    from common.networks.devices import choose, repeatable

    device = choose() if device is None else device
    with repeatable(device):
        network.to(device)
        load(network, start)
        network.train()
        steps = how.epochs * -(-len(examples) // how.batch)
        wanted = (
            device.type == "cuda" and steps >= WORTH_COMPILING
            if how.compile is None
            else how.compile
        )
        if wanted and network._compiled_call_impl is None:
            network.compile(dynamic=True)
        work = _Work(network, loss, examples, device, piece=how.batch)
        step = optimiser(network, how)
        order, draws = np.random.default_rng(seed), torch.Generator().manual_seed(seed % 2**63)
        mean = float("nan")
        for epoch in range(how.epochs):
            total = torch.zeros((), dtype=torch.float64, device=device)
            for rows in np.split(
                order.permutation(len(examples)), np.arange(how.batch, len(examples), how.batch)
            ):
                noise = (
                    torch.rand(len(rows), examples.noise, generator=draws)
                    if examples.noise
                    else None
                )
                gradients, summed = work(rows, noise)
                total += summed
                step(gradients, 1 / len(rows))
            mean = float(total) / max(len(examples), 1)
            if not np.isfinite(mean):
                raise RefusedError(
                    "P02",
                    f"the training loss is {mean} in epoch {epoch + 1} of {how.epochs}; lower the "
                    "learning rate",
                )
        arrays = {
            k: np.array(v.detach().cpu().numpy(), np.float32, order="C")
            for k, v in network.state_dict().items()
        }
        return Trained(arrays, mean, steps, work.halved, work.piece)


class _Work:
    """Gradients of the summed loss of a batch, in as many pieces as the memory of the device
    demands."""

    def __init__(
        self, network: nn.Module, loss: Loss, examples: Examples, device: torch.device, piece: int
    ) -> None:
        self._network, self._loss, self._examples, self._device = network, loss, examples, device
        self._parameters = list(network.parameters())
        self.piece, self.halved = piece, 0

    def __call__(self, rows: Rows, noise: Tensor | None) -> tuple[list[Tensor], Tensor]:
        import torch

        while True:
            try:
                return self._pieces(rows, noise)
            except torch.cuda.OutOfMemoryError:
                if self.piece == 1:
                    raise
            # outside the handler, for what it holds keeps tensors alive
            self.piece, self.halved = max(min(self.piece, len(rows)) // 2, 1), self.halved + 1
            logging.getLogger("fedmets").warning(
                "the GPU's memory is full: batches now go through in pieces of %d rows; the steps "
                "stay the same",
                self.piece,
            )
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _pieces(self, rows: Rows, noise: Tensor | None) -> tuple[list[Tensor], Tensor]:
        import torch

        gradients: list[Tensor] = []
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for at in range(0, len(rows), self.piece):
            some = slice(at, at + self.piece)
            batch = self._examples.batch(
                rows[some], self._device, None if noise is None else noise[some]
            )
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"
            ):
                loss = self._loss(self._network, batch)
            mine = torch.autograd.grad(loss, self._parameters)
            if gradients:
                torch._foreach_add_(gradients, mine)
            else:
                gradients = list(mine)
            total += loss.detach()
        return gradients, total


# Steps are written out: the same bits as torch.optim's, which a test compares, in two thirds of the
# time of a small network's training


def optimiser(network: nn.Module, how: Schedule) -> Callable[[list[Tensor], float], None]:
    """Takes steps of `network`, by summed gradients (which it writes over) times a number."""
    return _SGD(network, how) if how.optimiser == "sgd" else _AdamW(network, how)


class _SGD:
    """Momentum 0.9; weight decay and the proximal term are part of the gradient."""

    def __init__(self, network: nn.Module, how: Schedule) -> None:
        import torch

        self._parameters = list(network.parameters())
        self._reference = [p.detach().clone() for p in self._parameters]
        self._velocity = [torch.zeros_like(p) for p in self._parameters]
        self._how = how

    def __call__(self, gradients: list[Tensor], scale: float) -> None:
        import torch

        how = self._how
        with torch.no_grad():
            torch._foreach_mul_(gradients, scale)
            if how.weight_decay:
                torch._foreach_add_(gradients, self._parameters, alpha=how.weight_decay)
            if how.proximal:
                torch._foreach_add_(
                    gradients,
                    torch._foreach_sub(self._parameters, self._reference),
                    alpha=how.proximal,
                )
            torch._foreach_mul_(self._velocity, 0.9)
            torch._foreach_add_(self._velocity, gradients)
            torch._foreach_add_(self._parameters, self._velocity, alpha=-how.learning_rate)


class _AdamW:
    """Moments 0.9 and 0.999; matrices and kernels decay, biases and norms do not; the proximal term
    is part of the gradient."""

    def __init__(self, network: nn.Module, how: Schedule) -> None:
        import torch

        self._parameters = list(network.parameters())
        self._decaying = [p for p in self._parameters if p.ndim > 1]
        self._reference = [p.detach().clone() for p in self._parameters] if how.proximal else []
        self._first = [torch.zeros_like(p) for p in self._parameters]
        self._second = [torch.zeros_like(p) for p in self._parameters]
        self._how, self._steps = how, 0

    def __call__(self, gradients: list[Tensor], scale: float) -> None:
        import torch

        how, self._steps = self._how, self._steps + 1
        with torch.no_grad():
            torch._foreach_mul_(gradients, scale)
            if how.proximal:
                torch._foreach_add_(
                    gradients,
                    torch._foreach_sub(self._parameters, self._reference),
                    alpha=how.proximal,
                )
            torch._foreach_lerp_(self._first, gradients, 0.1)
            torch._foreach_mul_(self._second, 0.999)
            torch._foreach_addcmul_(self._second, gradients, gradients, 0.001)
            if how.weight_decay:
                torch._foreach_mul_(self._decaying, 1 - how.learning_rate * how.weight_decay)
            below = torch._foreach_sqrt(self._second)
            torch._foreach_div_(below, float(np.sqrt(1 - 0.999**self._steps)))
            torch._foreach_add_(below, 1e-8)
            torch._foreach_addcdiv_(
                self._parameters, self._first, below, -how.learning_rate / (1 - 0.9**self._steps)
            )
