"""Datasets, cases as the training loop takes them: their crops, mapped from the site's cache, or
held on the GPU when they fit there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.data.picture import Picture
from common.networks.augmentation import Augment
from common.networks.devices import fits
from common.networks.training import Batch, Rows
from common.types import Array


class Store:
    """The crops of many cases, (n, channels + 1, z, y, x) float16 each, counted through from 0."""

    def __init__(self, cases: Sequence[Array], counts: Rows) -> None:
        self._cases, self.counts = cases, counts
        self.start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.case = np.repeat(np.arange(len(counts)), counts)
        self.which = np.arange(len(self.case)) - self.start[self.case]
        self._held: tuple[torch.device, Tensor | None] | None = None

    def of(self, cases: Rows) -> Rows:
        """The numbers of all crops of these cases, case by case."""
        return np.concatenate([np.arange(self.start[c], self.start[c + 1]) for c in cases])

    def gather(self, crops: Rows, device: torch.device) -> Tensor:
        """These crops on `device`, float32, with channels last."""
        held = self._resident(device)
        if held is not None:
            chosen = held[torch.from_numpy(crops).to(device, non_blocking=True)]
        else:
            chosen = torch.from_numpy(
                np.stack([self._cases[int(self.case[i])][self.which[i]] for i in crops])
            )
            if device.type == "cuda":
                # from pinned memory the copy runs beside the kernels that were queued before
                chosen = chosen.pin_memory().to(device, non_blocking=True)
        return chosen.to(torch.float32, memory_format=torch.channels_last_3d)

    def _resident(self, device: torch.device) -> Tensor | None:
        """Everything on the GPU, where it fits."""
        if device.type == "cpu":
            return None
        if self._held is None or self._held[0] != device:
            size = len(self.case) * self._cases[0][0].nbytes
            everything = None
            if fits(size, device):
                everything = torch.cat(
                    [
                        torch.from_numpy(np.array(self._cases[i])).to(device)
                        for i in range(len(self.counts))
                    ]
                )
            self._held = device, everything
        return self._held[1]


class Cases:
    """Rows are cases; a batch is (crops, presence, mean, labels), where `mean` (cases, crops)
    averages over each case's crops."""

    inputs = 2

    def __init__(
        self,
        crops: Sequence[Array],
        counts: Rows,
        pictures: Sequence[Picture],
        labels: Rows,
        augment: Augment | None,
    ) -> None:
        self._store, self._present = Store(crops, counts), presence(pictures)
        self.patient = np.arange(len(counts))
        self._labels, self._augment = torch.from_numpy(np.array(labels, np.int64)), augment
        self.noise = (
            augment.draws(self._present.shape[1], int(counts.max()))
            if augment and len(counts)
            else 0
        )

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, rows: Rows, device: torch.device, noise: Tensor | None) -> Batch:
        at = self._store.of(rows)
        counts = torch.from_numpy(self._store.counts[rows])
        case = torch.repeat_interleave(torch.arange(len(rows)), counts)
        mean = (case == torch.arange(len(rows))[:, None]) / counts[:, None]
        x, present = self._store.gather(at, device), self._present[rows][case].to(device)
        if noise is not None and self._augment:
            x, present = self._augment(
                x,
                present,
                noise.to(device),
                case.to(device),
                torch.from_numpy(self._store.which[at]).to(device),
            )
        return x, present, mean.to(device), self._labels[rows].to(device)


class Singles:
    """Rows are crops; a batch is (crops, presence)."""

    inputs = 1

    def __init__(
        self,
        crops: Sequence[Array],
        counts: Rows,
        pictures: Sequence[Picture],
        augment: Augment | None,
    ) -> None:
        self._store, self._present, self._augment = (
            Store(crops, counts),
            presence(pictures),
            augment,
        )
        self.patient = self._store.case
        self.noise = augment.draws(self._present.shape[1], 1) if augment and len(counts) else 0

    def __len__(self) -> int:
        return len(self._store.case)

    def batch(self, rows: Rows, device: torch.device, noise: Tensor | None) -> Batch:
        x, present = (
            self._store.gather(rows, device),
            self._present[self._store.case[rows]].to(device),
        )
        if noise is not None and self._augment:
            nth = torch.arange(len(rows), device=device)
            x, present = self._augment(x, present, noise.to(device), nth, torch.zeros_like(nth))
        return x, present


def presence(pictures: Sequence[Picture]) -> Tensor:
    """(cases, channels): 1 where a sequence is there."""
    return torch.tensor([p.present for p in pictures], dtype=torch.float32)
