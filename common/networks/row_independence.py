"""Row independence of a network on a device, tried out: whether a patient's gradients are the same
bits in every company, also under parameters that were made to blow up what rounding leaves.

No kernel promises it. A matrix product may treat the last rows otherwise than the first, a layer
may mix rows, and one neighbour that is no number may reach the others. So a network is tried before
patients share its pass (`common.networks.patient_gradients`), in the process and with the rows,
shapes, layout, device and version of torch that it will be used with, on made values alone: what is
found tells nothing of patients. It is remembered as long as the process lives, for an update of
driver or library may change it.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.networks.patient_gradients import Inputs, PatientGradients
from common.runtime.cache import Cache

if TYPE_CHECKING:
    from torch import nn

SIZES = (1e-30, 1e-3, 1.0, 1e4, 1e19, 3e38)
"""Of hostile parameters: from those whose products vanish to those whose sums overflow."""
NEIGHBOURS = (1.0, 0.0, 1e-42, 1e4, 3e38, math.inf, -math.inf, math.nan)
"""What neighbours' values are multiples of."""
CLOSE = 1e-2
"""How far, as a share of the largest, gradients may lie from autograd's: a mistake is larger,
what TensorFloat-32 rounds is less."""


@dataclass(frozen=True)
class BatchShape:
    """What a network is given, but for the values."""

    count: int
    """Of rows."""
    rows: tuple[tuple[int, ...], ...]
    """The shape of a row of each input."""

    def zeros(self, device: torch.device) -> list[Tensor]:
        """Zeros for each input, of volumes with channels last."""
        return [_last(torch.zeros(self.count, *s, device=device)) for s in self.rows]


def row_independent(network: nn.Module, shape: BatchShape, device: torch.device) -> bool:
    """Whether patients may share its pass; False where that is not certain, and the site's log says
    so."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    layout = tuple((k, tuple(p.shape), p.stride()) for k, p in network.named_parameters())
    key = type(network), str(network), layout, shape, name, torch.__version__
    known = KNOWN.get(key)
    if known is None:
        try:
            known = _tried(network, shape, device)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            logging.getLogger("fedmets").warning("trying a network out: %s", error)
            known = False
        if not known:
            logging.getLogger("fedmets").warning(
                "%s does not keep %d rows apart on %s with torch %s: DP-SGD takes one patient at a "
                "time",
                type(network).__name__,
                shape.count,
                name,
                torch.__version__,
            )
        KNOWN[key] = known
    return known


KNOWN: Cache[Any, bool] = Cache(64)


@dataclass(frozen=True)
class _Patient:
    inputs: Inputs
    """(rows, ...) each."""
    arriving: Tensor
    """(rows, ...): the gradient of the network's output."""


def _tried(network: nn.Module, shape: BatchShape, device: torch.device) -> bool:
    own, plain = copy.deepcopy(network).train(), copy.deepcopy(network).train()
    together, draws = PatientGradients(own), torch.Generator().manual_seed(1)
    with torch.no_grad():
        out = plain(*shape.zeros(device))
    if len(out) != shape.count:
        return False

    def patient(count: int, size: float = 1.0) -> _Patient:
        made = [torch.randn(count, *s, generator=draws) for s in shape.rows]
        arriving = torch.randn(count, *out.shape[1:], generator=draws)
        return _Patient(
            tuple(_last((size * x).to(device)) for x in made), (size * arriving).to(device)
        )

    one = patient(1)
    for number, parameters in enumerate(_hostile(network, draws)):
        _set(own, parameters)
        # in every place beside its like, then in every other beside neighbours of all kinds, with
        # places left free
        like = _gradients(together, shape, [one] * shape.count)
        sizes = [
            NEIGHBOURS[(i + number) % len(NEIGHBOURS)] for i in range(shape.count - number % 4)
        ]
        turn = number % 2
        mixed = [one if i % 2 == turn else patient(1, size) for i, size in enumerate(sizes)]
        beside = _gradients(together, shape, mixed)[turn::2]
        if not all(_same(like[0], other) for other in (*like, *beside)):
            return False
    _set(own, parameters := next(_ordinary(network, draws)))
    _set(plain, parameters)
    several = [patient(1), patient(shape.count - 1)]
    shared = _gradients(together, shape, several)
    return all(_close(_autograd(plain, p), found) for p, found in zip(several, shared, strict=True))


def _hostile(network: nn.Module, draws: torch.Generator) -> Iterator[list[Tensor]]:
    """Parameters of every size: random, all positive, of alternating signs, and with one that is no
    number (which none that comes has, but a step may make)."""
    shapes = [p.shape for p in network.parameters()]
    for size in SIZES:
        yield [size * (2 * torch.rand(s, generator=draws) - 1) for s in shapes]
    yield from _ordinary(network, draws)
    for size in (1.0, 1e19):
        yield [torch.full(s, size) for s in shapes]
        yield [size * (1 - 2 * (torch.arange(s.numel()) % 2.0)).view(s) for s in shapes]
    for value in (math.nan, math.inf):
        broken = [torch.randn(s, generator=draws) for s in shapes]
        broken[0].view(-1)[0] = value
        yield broken


def _ordinary(network: nn.Module, draws: torch.Generator) -> Iterator[list[Tensor]]:
    """As they are drawn at the start (He et al. 2015), scales and biases about 1 and 0."""
    yield [
        torch.randn(p.shape, generator=draws) * math.sqrt(2 / p[0].numel())
        if p.ndim > 1
        else float(k.endswith("weight")) + 0.1 * torch.randn(p.shape, generator=draws)
        for k, p in network.named_parameters()
    ]


def _set(network: nn.Module, parameters: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, given in zip(network.parameters(), parameters, strict=True):
            p.copy_(given)


def _gradients(
    together: PatientGradients, shape: BatchShape, patients: Sequence[_Patient]
) -> list[list[Tensor]]:
    counts = [len(p.arriving) for p in patients]
    inputs = shape.zeros(patients[0].arriving.device)
    for whole, pieces in zip(inputs, zip(*(p.inputs for p in patients), strict=True), strict=True):
        whole[: sum(counts)] = torch.cat(pieces)

    def loss(outputs: Sequence[Tensor]) -> Tensor:
        parts = [(o * p.arriving).sum() for o, p in zip(outputs, patients, strict=True)]
        return torch.stack(parts).sum()

    return together(tuple(inputs), counts, loss)


def _autograd(network: nn.Module, patient: _Patient) -> Sequence[Tensor]:
    with torch.enable_grad():
        out = (network(*patient.inputs) * patient.arriving).sum()
        found: Sequence[Tensor] = torch.autograd.grad(
            out, list(network.parameters()), allow_unused=True, materialize_grads=True
        )
    return found


def _same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """One that is not finite counts as none, whatever else it holds."""
    finite = [all(bool(t.isfinite().all()) for t in g) for g in (a, b)]
    if finite != [True, True]:
        return finite == [False, False]
    return all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def _close(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    largest = max(float(t.abs().max()) for t in a)
    return all(
        float((s - t).abs().max()) <= CLOSE * max(float(s.abs().max()), CLOSE * largest)
        for s, t in zip(a, b, strict=True)
    )


def _last(x: Tensor) -> Tensor:
    """Volumes with channels last, as `common.networks.datasets` hands them out."""
    return x.to(memory_format=torch.channels_last_3d) if x.ndim == 5 else x
