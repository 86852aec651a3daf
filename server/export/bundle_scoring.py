"""Scoring script of a MONAI bundle (`scripts/score.py`): prepared crops by a trained classifier. It
needs nothing of fedmets.

A patient is a NumPy file (crops, channels + 1, z, y, x), float32, the last channel the share of
lesion; a missing channel is all zero.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class OneInput(nn.Module):  # type: ignore[misc]
    """A classifier that sees by itself which channels are there: crops (n, channels + 1, z, y, x)
    -> (n, classes) logits, a crop's."""

    def __init__(self, scores: Any) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, image: Tensor) -> Tensor:
        present = (image[:, :-1] != 0).flatten(2).any(dim=2).to(image.dtype)
        logits: Tensor = self.scores(image, present)[0]
        return logits


def score(network: Any, crops: Any) -> Any:
    """(classes,) probabilities of the patient whose crops they are: softmax of the mean of the
    crops' logits."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        logits = (
            network(torch.from_numpy(np.asarray(crops, np.float32)).to(device)).double().mean(dim=0)
        )
    return torch.softmax(logits, dim=0).cpu().numpy()


def write(network: Any, patients: Sequence[str], classes: Sequence[str], path: str) -> None:
    """A line a patient; ValueError where there is none."""
    if not patients:
        raise ValueError("no .npy file of crops in dataset_dir; give its path: --dataset_dir DIR")
    network.eval()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["patient", *classes])
        for patient in patients:
            probs = score(network, np.load(patient, allow_pickle=False))
            out.writerow([Path(patient).stem, *(f"{p:.9g}" for p in probs)])
