"""The one torch loop: plain or proximal local training of a network on a site's rows.

FedProx adds mu / 2 * ||w - w_global||^2 to the loss (Li et al. 2020, arXiv 1812.06127, eq. 2; Flower's docstring leaves the square
out, the paper does not). Order of rows is drawn from the given seed alone, so a repeated plan gives the same parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.types import Array, Arrays

if TYPE_CHECKING:
    from torch import nn


def train(
    network: nn.Module,
    start: Arrays,
    x: Array,
    y: Array,
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    proximal: float,
    seed: int,
) -> tuple[Arrays, float]:
    """Local epochs of SGD with momentum 0.9 from `start`; returns the parameters (float32) and the mean loss of the last epoch."""
    import torch

    torch.set_num_threads(1)
    held = network.state_dict()
    if set(held) != set(start):
        raise ValueError(f"the network has parameters {sorted(held)}, given are {sorted(start)}")
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(torch.from_numpy(np.array(start[name])))
    reference = [p.detach().clone() for p in network.parameters()]
    parameters = list(network.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    order = np.random.default_rng(seed)
    inputs, targets = torch.from_numpy(np.asarray(x, np.float32)), torch.from_numpy(np.asarray(y, np.int64))
    network.train()
    loss_sum = 0.0
    for _ in range(epochs):
        loss_sum = 0.0
        shuffled = torch.from_numpy(order.permutation(len(y)))
        for rows in shuffled.split(batch):
            loss = torch.nn.functional.cross_entropy(network(inputs[rows]), targets[rows])
            gradients = torch.autograd.grad(loss, parameters)
            loss_sum += float(loss.detach()) * len(rows)
            # SGD written out: importing torch.optim pulls in torch's compiler, seconds for nothing
            with torch.no_grad():
                for p, g, v, r in zip(parameters, gradients, velocity, reference, strict=True):
                    v.mul_(0.9).add_(g + weight_decay * p + proximal * (p - r))
                    p.sub_(learning_rate * v)
    return {k: v.numpy().copy() for k, v in held.items()}, loss_sum / len(y)
