"""DP-SGD, the torch loop for a site that promises privacy (Abadi et al. 2016, arXiv 1607.00133,
algorithm 1), whose unit is the patient.

A step takes each patient by chance and for itself (Poisson sampling at a public rate), adds up
their gradients, each cut to an L2 norm of `clip` and rounded to whole numbers of a public grid,
adds rounded Gaussian noise (`common.privacy.random.rounded_normal`), and divides by the public
`batch`, for how many patients a site has is nobody's business. All rows of a patient are one
record: taken together, cut together. What follows on the noisy sum (momentum, AdamW, weight decay,
the proximal term) sees no patient.

A patient's gradient must not depend on who else is in a step, to the last bit: parameters that a
coordinator has made for it would blow that up, and one more patient could change everybody's share.
Patients of few rows share the network's pass (`common.networks.patient_gradients`) where a trial
finds that it keeps them apart (`common.networks.row_independence`); others go through it alone.
What raises for a patient is that patient's alone, who adds nothing to the step: a state that made
the whole training fail at some patients would ask about them. The gradient of one patient's loss is
the sum of what Opacus's GradSampleModule gives for each crop
(tests/common/networks/test_dp_sgd.py). Chance, noise and augmentation come from the operating
system (`common.privacy.random`), never from a plan.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from common.errors import RefusedError
from common.networks.patient_gradients import LARGEST, PatientGradients, rows_together
from common.networks.training import Batch, Examples, Loss, Rows, Schedule, load, optimiser
from common.privacy.limits import CLIP, RATE, STEPS
from common.privacy.mechanism import Sampled
from common.privacy.patient_sums import Grid, grid
from common.privacy.random import rounded_normal, uniform
from common.runtime import time_limit
from common.types import Arrays

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from common.networks.row_independence import BatchShape


class Records(Examples, Protocol):
    """Examples of which it is known whose they are."""

    patient: Rows
    """(rows,): the number of the patient, from 0; each has a row."""

    inputs: int
    """How many of a batch's tensors, the first ones, are what a loss gives its network."""


@dataclass(frozen=True)
class Private:
    """How much is hidden. Standard deviation of the noise in each number of a step's sum: `noise`
    times `clip`."""

    noise: float
    clip: float
    sampled: Sampled


def sampled(epochs: int, rate: float) -> Sampled:
    """The public steps of one training: in each epoch a patient is taken once on average."""
    return Sampled(rate, math.ceil(epochs / rate - 1e-9))


@dataclass(frozen=True)
class PrivateTraining:
    """How a network is trained where its plan asks for noise: hyperparameters beside
    `common.networks.training.LocalTraining`."""

    rate: float = 0.1
    """With noise: the chance of a patient to be in a step; `batch` is then what a step's sum is
    divided by."""
    clip: float = 1.0
    """With noise: the L2 norm to which a patient's gradient is cut."""

    def rules(self, epochs: int) -> dict[str, bool]:
        """What must hold of them, for `demand`; `epochs`: of one round."""
        # a rate that is out of range is told of by itself
        steps = epochs / max(self.rate, RATE.least)
        return {
            RATE.rule: RATE.holds(self.rate),
            CLIP.rule: CLIP.holds(self.clip),
            f"epochs / rate <= {STEPS.most:g}": not steps > STEPS.most,
        }


def learn(
    network: nn.Module,
    start: Arrays,
    examples: Records | None,
    loss: Loss,
    how: Schedule,
    private: Private,
    *,
    device: torch.device | None = None,
) -> Arrays:
    """float32 parameters after all steps; None: a site without a patient, of which they tell no
    more than of another.

    Finite whatever came in, for a refusal that depends on patients would be a release, too.
    RefusedError P08 for a network that keeps running statistics: they would leave without noise.
    """
    import torch

    from common.networks.devices import choose, repeatable

    if kept := [name for name, _ in network.named_buffers()]:
        raise RefusedError(
            "P08",
            f"the network keeps {', '.join(kept)} beside its parameters; use group or instance "
            "normalisation",
        )
    device = choose() if device is None else device
    with repeatable(device):
        own = copy.deepcopy(network).to(
            device
        )  # one that was compiled for batches is not for single patients
        load(own, start)
        own.train()
        step, parameters = optimiser(own, how), list(own.parameters())
        each = (
            _Patients(own, examples, loss, device, how.batch)
            if examples is not None and len(examples)
            else None
        )
        on = grid(private.clip, private.noise)
        spread = private.noise * on.sensitivity(private.clip, sum(p.numel() for p in parameters))
        for _ in range(private.sampled.steps):
            total = [torch.zeros_like(p, dtype=torch.int64) for p in parameters]
            for gradient in each.drawn(private.sampled.rate) if each else ():
                add_clipped(total, gradient, private.clip, on)
            for t in total:
                drawn = rounded_normal(t.numel(), spread / on.step)
                # in the order of its memory
                t += torch.from_numpy(drawn).to(device).as_strided(t.shape, t.stride())
            step(
                [
                    (t * on.step).to(torch.float32, memory_format=torch.preserve_format)
                    for t in total
                ],
                1 / how.batch,
            )
        if each and each.failed:
            logging.getLogger("fedmets").warning(
                "DP-SGD: %d gradients could not be computed; their patients add nothing there",
                each.failed,
            )
        return {
            k: np.nan_to_num(np.array(v.detach().cpu().numpy(), np.float32, order="C"))
            for k, v in own.state_dict().items()
        }


def add_clipped(total: list[Tensor], gradient: list[Tensor], clip: float, on: Grid) -> None:
    """Add a patient's gradient, cut to the L2 norm `clip` and rounded to whole numbers of the
    grid's steps, to sums of such; one that is not finite is as good as none."""
    import torch

    exact = [g.double() for g in gradient]
    norm = float(torch.stack(torch._foreach_norm(exact)).norm())
    if math.isfinite(norm):
        torch._foreach_mul_(exact, clip / max(norm, clip) / on.step)
        torch._foreach_round_(exact)
        torch._foreach_add_(total, [g.long() for g in exact])


class _Patients:
    """The gradient of each patient's loss."""

    def __init__(
        self,
        network: nn.Module,
        examples: Records,
        loss: Loss,
        device: torch.device,
        batch: int = 1,
    ) -> None:
        """batch: patients in a step, on average, of which so many go together; 1: none do."""
        self._network, self._examples, self._loss, self._device = network, examples, loss, device
        self._parameters = list(network.parameters())
        self._rows = np.split(
            np.argsort(examples.patient, kind="stable"),
            np.cumsum(np.bincount(examples.patient))[:-1],
        )
        self.count, self._on_average = len(self._rows), batch
        self._sharing: dict[tuple[tuple[int, ...], ...], list[_Shared]] = {}
        """By the shapes of a row."""
        self.failed = 0
        """Gradients that could not be computed."""

    def drawn(self, rate: float) -> Iterator[list[Tensor]]:
        """The gradients of those whom chance takes, each for itself; of whom none can be computed,
        none, nor of anybody when the work's time has passed (`common.runtime.time_limit`)."""
        companies: dict[_Shared, list[Batch]] = {}
        for patient in np.flatnonzero(uniform(self.count) < rate):
            if time_limit.passed():
                return
            try:
                batch = self._batch(int(patient))
                shared = self._shared(batch)
                alone = [self._alone(batch)] if shared is None else []
            except Exception as error:
                self._note(error)
                continue
            yield from alone
            if shared is None:
                continue
            company = companies.setdefault(shared, [])
            if not shared.fits([*company, batch]):
                yield from self._together(shared, company)
                company.clear()
            company.append(batch)
        # in another order than they were drawn: what is added up are whole numbers
        for shared, company in companies.items():
            yield from self._together(shared, company)

    def _together(self, shared: _Shared, company: list[Batch]) -> Iterator[list[Tensor]]:
        if time_limit.passed():
            return
        try:
            yield from shared(company, self._loss)
        except Exception:
            # whoever it was: each goes through the same pass among nobody, which gives the same
            # bits as in any company
            for batch in company:
                try:
                    (gradient,) = shared([batch], self._loss)
                except Exception as error:
                    self._note(error)
                else:
                    yield gradient

    def _note(self, error: Exception) -> None:
        self.failed += 1
        logging.getLogger("fedmets").info("a patient's gradient: %s", error)

    def _shared(self, batch: Batch) -> _Shared | None:
        """The pass that a patient of these rows shares, by its own shapes and number of rows alone;
        None: it goes by itself."""
        rows = tuple(tuple(x.shape[1:]) for x in batch[: self._examples.inputs])
        if rows not in self._sharing:
            self._sharing[rows] = _sharing(self._network, rows, self._device, self._on_average)
        return next((s for s in self._sharing[rows] if s.takes(batch)), None)

    def gradient(self, patient: int) -> list[Tensor]:
        """Of one, alone."""
        return self._alone(self._batch(patient))

    def _batch(self, patient: int) -> Batch:
        """A patient's rows, varied by draws of its own."""
        import torch

        rows, draws = self._rows[patient], self._examples.noise
        varied = None
        if draws:
            # 32 bits round the last of 2^53 values up to 1
            drawn = np.minimum(
                uniform(len(rows) * draws).astype(np.float32), np.float32(1 - 2.0**-24)
            )
            varied = torch.from_numpy(drawn).view(len(rows), draws)
        return self._examples.batch(rows, self._device, varied)

    def _alone(self, batch: Batch) -> list[Tensor]:
        import torch

        return list(torch.autograd.grad(self._loss(self._network, batch), self._parameters))


class _Shared:
    """Patients who share a network's pass, in a fixed number of rows."""

    def __init__(self, network: nn.Module, shape: BatchShape, device: torch.device) -> None:
        self._network, self._shape, self._device = network, shape, device
        self._gradients = PatientGradients(network)

    @cached_property
    def _apart(self) -> bool:
        """Tried out when somebody wants to share."""
        from common.networks.row_independence import row_independent

        return row_independent(self._network, self._shape, self._device)

    def takes(self, batch: Batch) -> bool:
        """By a patient's own number of rows: less than a quarter of a call's, for one of more gains
        nothing on a CPU."""
        return len(batch[0]) < self._shape.count // 4 and self._apart

    def fits(self, company: list[Batch]) -> bool:
        return sum(len(batch[0]) for batch in company) <= self._shape.count

    def __call__(self, company: list[Batch], loss: Loss) -> list[list[Tensor]]:
        import torch

        inputs = self._shape.zeros(self._device)
        counts = [len(batch[0]) for batch in company]
        for i, whole in enumerate(inputs):
            whole[: sum(counts)] = torch.cat([batch[i] for batch in company])

        def losses(outputs: Sequence[Tensor]) -> Tensor:
            parts = []
            for own, batch in zip(outputs, company, strict=True):
                # the network has been asked already
                parts.append(loss(lambda *_, own=own: own, batch))
            return torch.stack(parts).sum()

        return self._gradients(tuple(inputs), counts, losses)


def _sharing(
    network: nn.Module, rows: tuple[tuple[int, ...], ...], device: torch.device, batch: int
) -> list[_Shared]:
    """For patients of few rows of these shapes, and of twice as many; none where all go one at a
    time."""
    from common.networks.row_independence import BatchShape

    if sum(p.numel() for p in network.parameters()) > LARGEST[device.type]:
        return []
    count = rows_together(max(math.prod(r) for r in rows), batch, device)
    return [_Shared(network, BatchShape(n, rows), device) for n in (count, 2 * count) if n > 4]
