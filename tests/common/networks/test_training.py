"""The loop: steps by their formulas, the same bits for the same seed, pieces when memory is full,
NaN refused."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import RefusedError, UsageError
from common.networks.training import Schedule, Table, Trained, cross_entropy, learn, optimiser
from common.types import Arrays, digest

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


class Noisy:
    """Rows of a table, moved by their own noise."""

    def __init__(self, n: int = 40, noise: int = 3) -> None:
        r = np.random.default_rng(0)
        x = r.normal(size=(n, 3))
        self.noise = noise
        self._x, self._y = (
            torch.tensor(x, dtype=torch.float32),
            torch.tensor(x[:, 0] > 0, dtype=torch.int64),
        )

    def __len__(self) -> int:
        return len(self._y)

    def batch(self, rows: Any, device: torch.device, noise: Any) -> tuple[Any, ...]:
        x = self._x[rows] + (0 if noise is None else 0.1 * noise)
        return x.to(device), self._y[rows].to(device)


def network() -> tuple[nn.Module, Arrays]:
    made = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    r = np.random.default_rng(1)
    return made, {
        k: r.normal(0, 0.5, v.shape).astype(np.float32) for k, v in made.state_dict().items()
    }


HOW = Schedule(epochs=3, batch=8, learning_rate=0.05, weight_decay=0.01, proximal=0.1)


def trained(
    how: Schedule = HOW, seed: int = 0, device: torch.device = CPU, made: nn.Module | None = None
) -> Trained:
    plain, start = network()
    return learn(made or plain, start, Noisy(), cross_entropy, how, seed=seed, device=device)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_steps_follow_their_formulas(optimiser: Any) -> None:
    """Against the updates written in numpy, on a network whose gradient is known: a linear one
    under squared loss."""
    made = nn.Linear(3, 1)
    start = {
        "weight": np.array([[0.3, -0.2, 0.5]], np.float32),
        "bias": np.array([0.1], np.float32),
    }
    r = np.random.default_rng(2)
    x, y = r.normal(size=(6, 3)), r.normal(size=6)
    examples = Table(x, np.arange(6))
    targets = torch.tensor(y, dtype=torch.float32)

    def loss(net: Any, batch: Any) -> Any:
        return (net(batch[0])[:, 0] - targets[batch[1]]).square().sum()

    how = Schedule(
        epochs=3, batch=6, learning_rate=0.1, weight_decay=0.05, proximal=0.2, optimiser=optimiser
    )
    got = learn(made, start, examples, loss, how, seed=1, device=CPU).arrays

    w = np.concatenate([start["weight"][0], start["bias"]]).astype(np.float64)
    first, ones = w.copy(), np.concatenate([x, np.ones((6, 1))], axis=1)
    v, m, s = np.zeros(4), np.zeros(4), np.zeros(4)
    decays = np.array([1, 1, 1, 1 if optimiser == "sgd" else 0])
    for t in range(1, 4):
        g = 2 * ones.T @ (ones @ w - y) / 6 + 0.2 * (w - first)
        if optimiser == "sgd":
            v = 0.9 * v + g + 0.05 * w
            w = w - 0.1 * v
        else:
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
            w = w - 0.1 * 0.05 * decays * w
            w = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(np.concatenate([got["weight"][0], got["bias"]]), w, rtol=2e-5)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_steps_are_those_of_torch_optim_to_the_last_bit(kind: Any, decay: float) -> None:
    ours, theirs = (nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    step = optimiser(ours, Schedule(1, 8, learning_rate=0.02, weight_decay=decay, optimiser=kind))
    reference: torch.optim.Optimizer
    if kind == "sgd":
        reference = torch.optim.SGD(theirs.parameters(), lr=0.02, momentum=0.9, weight_decay=decay)
    else:
        matrices = [p for p in theirs.parameters() if p.ndim > 1]
        others = [p for p in theirs.parameters() if p.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        reference = torch.optim.AdamW(groups, lr=0.02, foreach=True)
    draws = torch.Generator().manual_seed(1)
    for _ in range(50):
        gradients = [torch.randn(p.shape, generator=draws) for p in ours.parameters()]
        for p, gradient in zip(theirs.parameters(), gradients, strict=True):
            p.grad = gradient * 0.125
        step(gradients, 0.125)
        reference.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_seed_alone_decides(optimiser: Any) -> None:
    how = dataclasses.replace(HOW, optimiser=optimiser)
    first = trained(how)
    torch.manual_seed(1234)
    assert digest(trained(how).arrays) == digest(first.arrays)
    assert digest(trained(how, seed=1).arrays) != digest(first.arrays)
    assert first.loss < 0.7
    assert first.steps == 15


def test_two_threads_train_as_one() -> None:
    alone, found = [digest(trained(seed=s).arrays) for s in range(4)], [""] * 4

    def work(s: int) -> None:
        found[s] = digest(trained(seed=s).arrays)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == alone


def test_the_proximal_term_holds_on_to_the_start() -> None:
    _, start = network()

    def moved(proximal: float) -> float:
        arrays = trained(dataclasses.replace(HOW, proximal=proximal, weight_decay=0.0)).arrays
        return sum(float(((arrays[k] - v) ** 2).sum()) for k, v in start.items())

    assert moved(5.0) < 0.5 * moved(0.0)


class Full(nn.Module):  # type: ignore[misc]
    """A network on a device whose memory holds so many rows."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.seen = network()[0], most, list[int]()

    def forward(self, x: Any) -> Any:
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.seen.append(len(x))
        return self.inner(x)


def test_a_full_gpu_halves_the_pieces_keeps_the_steps_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, start = network()
    inner = {f"inner.{k}": v for k, v in start.items()}
    how = dataclasses.replace(HOW, batch=16, optimiser="adamw")
    roomy, tight = Full(16), Full(5)
    want = learn(roomy, inner, Noisy(), cross_entropy, how, seed=3, device=CPU)
    with caplog.at_level(logging.WARNING, "fedmets"):
        got = learn(tight, inner, Noisy(), cross_entropy, how, seed=3, device=CPU)
    assert (want.halved, want.piece, got.halved, got.piece) == (0, 16, 2, 4)
    assert "memory is full" in caplog.text
    assert "pieces of 4 rows" in caplog.text
    assert max(tight.seen) == 4
    assert got.steps == want.steps
    for k, v in want.arrays.items():
        np.testing.assert_allclose(got.arrays[k], v, atol=2e-5)
    assert got.loss == pytest.approx(want.loss, rel=1e-5)


def test_one_row_that_does_not_fit_is_an_error() -> None:
    _, start = network()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        learn(
            Full(0),
            {f"inner.{k}": v for k, v in start.items()},
            Noisy(),
            cross_entropy,
            HOW,
            seed=3,
            device=CPU,
        )


def test_a_loss_that_is_no_number_is_refused() -> None:
    with pytest.raises(RefusedError, match="learning rate") as caught:
        trained(dataclasses.replace(HOW, learning_rate=1e30))
    assert caught.value.code == "P02"


def test_parameters_of_another_network_are_refused() -> None:
    made, start = network()
    with pytest.raises(RefusedError, match="parameters"):
        learn(
            made,
            {**start, "more": np.zeros(1, np.float32)},
            Noisy(),
            cross_entropy,
            HOW,
            seed=0,
            device=CPU,
        )
    with pytest.raises(RefusedError, match=r"0\.weight"):
        learn(
            made,
            {**start, "0.weight": np.zeros((4, 9), np.float32)},
            Noisy(),
            cross_entropy,
            HOW,
            seed=0,
            device=CPU,
        )


def test_a_table_is_trained_on_as_by_hand() -> None:
    made, start = network()
    r = np.random.default_rng(5)
    x, y = r.normal(size=(20, 3)), r.integers(0, 2, 20)
    got = learn(made, start, Table(x, y), cross_entropy, Schedule(2, 20, 0.1), seed=0, device=CPU)
    assert 0 < got.loss < 2
    assert {k: v.dtype for k, v in got.arrays.items()} == dict.fromkeys(start, np.float32)


def test_the_device_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from common.networks.devices import choose

    monkeypatch.setenv("FEDMETS_DEVICE", "cpu")
    assert choose() == CPU
    for wrong in ("tpu", "cuda:99", "mps"):
        monkeypatch.setenv("FEDMETS_DEVICE", wrong)
        with pytest.raises(UsageError, match=f"FEDMETS_DEVICE={wrong}"):
            choose()
    monkeypatch.delenv("FEDMETS_DEVICE")
    assert choose().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch's compiler uses what torch deprecates
def test_a_compiled_network_learns_the_same() -> None:
    got = trained(dataclasses.replace(HOW, compile=True))
    for k, v in trained().arrays.items():
        np.testing.assert_allclose(got.arrays[k], v, atol=1e-4)


@gpu
def test_on_a_gpu_it_learns_about_the_same_and_repeats_itself() -> None:
    cuda = torch.device("cuda")
    first, second = trained(device=cuda), trained(device=cuda)
    assert digest(first.arrays) == digest(second.arrays)
    for k, v in trained().arrays.items():
        np.testing.assert_allclose(first.arrays[k], v, atol=0.05)  # bfloat16
