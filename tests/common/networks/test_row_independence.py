"""Row independence: networks that keep rows apart are found to, and one that does not, however
slightly, is found out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.networks import row_independence
from common.networks.row_independence import BatchShape, row_independent

CPU = torch.device("cpu")
SHAPE = BatchShape(16, ((3,),))


class Mixing(nn.Module):  # type: ignore[misc]
    """A linear layer whose input `mix` has changed."""

    def __init__(self, mix: Any) -> None:
        super().__init__()
        self.layer, self._mix = nn.Linear(3, 2), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self._mix(x))


class Backward(torch.autograd.Function):  # type: ignore[misc]
    """Rows are apart forwards, and a row's gradient takes something from the next."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient + 1e-7 * gradient.roll(1, 0)


class Loose(nn.Module):  # type: ignore[misc]
    """A layer whose weight is used without it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.layer.weight.T


@pytest.fixture(autouse=True)
def forgotten() -> None:
    row_independence.KNOWN.clear()


def test_layers_that_keep_rows_apart_are_trusted() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.PReLU(), nn.Linear(8, 2))
    assert row_independent(network, SHAPE, CPU)
    volumes = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.PReLU(),
        nn.ConvTranspose3d(4, 2, 3), nn.Flatten(), nn.Linear(432, 2),
    )  # fmt: skip
    assert row_independent(volumes, BatchShape(8, ((2, 4, 4, 4),)), CPU)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(Mixing(lambda x: x + 1e-6 * x.mean(0)), id="neighbours' mean"),
        pytest.param(Mixing(lambda x: x + 0 * x.sum(0)), id="0 times what is not finite"),
        pytest.param(
            Mixing(lambda x: x * (1 + 1e-6 * torch.arange(len(x))[:, None])), id="its place"
        ),
        pytest.param(Mixing(lambda x: x + 1e-6 * (x != 0).sum()), id="how many there are"),
        pytest.param(Mixing(lambda x: x + 1e-6 * torch.rand_like(x)), id="chance"),
        pytest.param(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), id="norm"),
        pytest.param(nn.Sequential(nn.Linear(3, 4), nn.Softmax(0), nn.Linear(4, 2)), id="softmax"),
        pytest.param(
            nn.Sequential(nn.Linear(3, 4), Mixing(lambda x: Backward.apply(x)[:, :3])),
            id="backwards",
        ),
        pytest.param(Loose(), id="a weight that its layer does not use"),
        pytest.param(nn.Sequential(nn.Linear(3, 4), nn.Flatten(0)), id="other rows"),
    ],
)
def test_a_network_that_mixes_rows_is_found_out(
    network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedmets"):
        assert not row_independent(network, SHAPE, CPU)
    assert "one patient at a time" in caplog.text


def test_what_was_found_is_remembered_by_network_and_shape(monkeypatch: Any) -> None:
    tried = []

    def trial(network: nn.Module, shape: BatchShape, device: torch.device) -> bool:
        tried.append((type(network), shape))
        return True

    monkeypatch.setattr(row_independence, "_tried", trial)
    for network in (nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 4)):
        for shape in (SHAPE, BatchShape(8, ((3,),))):
            assert row_independent(network, shape, CPU)
    assert len(tried) == 4


def test_the_network_that_is_tried_stays_as_it_is() -> None:
    network = nn.Linear(3, 2)
    before = [p.clone() for p in network.parameters()]
    assert row_independent(network, SHAPE, CPU)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert not network._forward_hooks
