"""Per-patient gradients of a batch: its activations go through the network once for everybody, in
a fixed number of rows; the gradients of each layer's parameters are taken patient by patient.

The plan is Opacus's (Yousefpour et al. 2021, arXiv 2109.12298, sec. 3: a layer's input and the
gradient of its output are kept), with two differences. A patient's rows are one record, so nothing
is ever made for a single row; and patients share the pass of activations and nothing else: loss
and gradients of parameters come from calls that see a patient's own rows. Whether the shared pass
keeps rows apart to the last bit is for `common.networks.row_independence` to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

VALUES = {"cpu": 2**19, "cuda": 2**24}
"""The most values of an input that go through a network together, by kind of device."""
MOST = {"cpu": 64, "cuda": 128}
"""The most rows that do: more are hardly faster, and rows that nobody needs cost."""
LARGEST = {"cpu": 2**20, "cuda": 2**26}
"""Parameters of a network for which it pays: with more, what is made for each patient is the work."""
ALIGNED = 64
"""Bytes: where memory that torch has given out begins."""

Inputs = tuple[Any, ...]
"""The tensors that a network is given, each (rows, ...)."""


def rows_together(values: int, patients: int, device: torch.device) -> int:
    """How many rows a call has: a power of two, from what is public alone.

    values: of a row. patients: in a step, on average.
    """
    fitting = min(2 * patients, VALUES[device.type] // max(values, 1), MOST[device.type])
    return 1 << max(fitting, 1).bit_length() - 1


@dataclass(frozen=True)
class _Call:
    """One use of a layer in a pass."""

    layer: nn.Module
    given: Inputs
    edge: Any
    """Where the gradient of its output arrives, whatever is done in place afterwards."""
    moments: Inputs
    """Of a group normalisation: mean and reciprocal deviation, (rows, groups) each."""


class PatientGradients:
    """Of a network whose first axis are rows, everywhere, and whose parameters are used by the
    layers that hold them."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._parameters = list(network.parameters())
        self._of: dict[nn.Module, list[Tensor]] = {}
        for layer in network.modules():
            if own := list(layer.parameters(recurse=False)):
                self._of[layer] = own

    def __call__(
        self,
        inputs: Inputs,
        counts: Sequence[int],
        loss: Callable[[Sequence[Tensor]], Tensor],
    ) -> list[list[Tensor]]:
        """The gradients of each patient, in the order of the parameters.

        inputs: of the first sum(counts) rows each patient has its count, the others are nobody's.
        loss: outputs of each patient -> the sum of the patients' losses.
        """
        import torch

        with torch.enable_grad():
            out, calls = self._recorded(inputs)
            spans = [*counts, len(out) - sum(counts)]
            # its gradient is put together again by copying, never by adding
            total = loss(out.split(spans)[: len(counts)])
        arrived = torch.autograd.grad(total, [call.edge for call in calls], allow_unused=True)
        sums: list[dict[Tensor, Tensor]] = [{} for _ in counts]
        for call, gradient in zip(calls, arrived, strict=True):
            if gradient is not None:
                self._add(sums, call, gradient, spans)
        return [
            [own[p] if p in own else torch.zeros_like(p) for p in self._parameters] for own in sums
        ]

    def _recorded(self, inputs: Inputs) -> tuple[Tensor, list[_Call]]:
        """The network's output, and its layers' uses on the way."""
        calls: list[_Call] = []
        hooks = [
            layer.register_forward_hook(lambda *use: calls.append(_call(*use)))
            for layer in self._of
        ]
        try:
            return self._network(*inputs), calls
        finally:
            for hook in hooks:
                hook.remove()

    def _add(
        self, sums: list[dict[Tensor, Tensor]], call: _Call, gradient: Tensor, spans: list[int]
    ) -> None:
        """Each patient's gradients of the parameters of one layer."""
        of = self._of[call.layer]
        given = [_split(t, spans) for t in call.given]
        moments = [_split(t, spans) for t in call.moments]
        for i, (own, arrived) in enumerate(zip(sums, _split(gradient, spans), strict=False)):
            parts = _layer_gradients(
                call.layer, of, [t[i] for t in given], [t[i] for t in moments], arrived
            )
            for p, part in zip(of, parts, strict=True):
                if part is not None:
                    own[p] = own[p] + part if p in own else part


def _call(layer: nn.Module, given: Inputs, out: Tensor) -> _Call:
    import torch

    edge = torch.autograd.graph.get_gradient_edge(out)
    moments: Inputs = ()
    if isinstance(layer, torch.nn.GroupNorm):
        node: Any = edge.node
        moments = node._saved_result1, node._saved_result2
    return _Call(layer, tuple(t.detach() for t in given), edge, moments)


def _split(t: Tensor, spans: list[int]) -> list[Tensor]:
    """Each patient's rows, copied unless they begin where new memory might: kernels may take
    another path elsewhere. A layer may see several rows for each (slabs of a crop), one after
    another."""
    each = len(t) // sum(spans)
    pieces = t.split([each * span for span in spans])
    return [own.clone() if own.data_ptr() % ALIGNED else own for own in pieces]


def _layer_gradients(
    layer: nn.Module,
    of: list[Tensor],
    given: list[Tensor],
    moments: list[Tensor],
    gradient: Tensor,
) -> Sequence[Tensor | None]:
    """Of a layer's own parameters `of`, from its input and the gradient of its output."""
    import torch
    from torch import nn

    with torch.no_grad():
        if isinstance(layer, nn.GroupNorm):
            (x,) = given
            # the input's gradient, too: without it the kernel for channels last ends the process
            # (torch 2.13)
            norm = torch.ops.aten.native_group_norm_backward(
                gradient, x, *moments, layer.weight, *x.shape[:2], x[0, 0].numel(),
                layer.num_groups, [True, True, True],
            )  # fmt: skip
            return norm[1:][: len(of)]  # type: ignore[no-any-return]
        if isinstance(layer, nn.Linear) and gradient.ndim == 2:
            return [gradient.T @ given[0], gradient.sum(0)][: len(of)]
        conv = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if conv and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            # without going forward once more
            both = torch.ops.aten.convolution_backward(
                gradient, given[0], layer.weight, None if layer.bias is None else [len(of[1])],
                layer.stride, layer.padding, layer.dilation, False, [0], layer.groups,
                [False, True, layer.bias is not None],
            )  # fmt: skip
            return both[1:][: len(of)]  # type: ignore[no-any-return]
    with torch.enable_grad():
        parts: Sequence[Tensor | None] = torch.autograd.grad(
            layer(*given), of, gradient, allow_unused=True
        )
    return parts
