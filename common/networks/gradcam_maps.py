"""Grad-CAM maps, where in the crops a reported logit comes from (Selvaraju et al. 2017, eq. 1 and
2), and what may be said of it in sums.

What is differentiated is the number that is reported: the patient's log-odds of a class against
class 0, after the mean over the crops (guard X01). No hook is set: the classifiers are split at the
layer that is looked at. Maps are pictures of patients and stay at their site; the share of their
energy that lies inside the lesion, and the lesion's share of the crop, which is what chance would
give (X03), may be summed. `sanity` is guard X02 (Adebayo et al. 2018): a map that is the same for
random weights explains nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.schema import Floats
from common.types import Array, Arrays

if TYPE_CHECKING:
    from torch import Tensor


def heatmaps(network: Any, x: Tensor, present: Tensor, mean: Tensor, target: int) -> Tensor:
    """(crops, *grid), at least 0: evidence for class `target` against class 0 in each crop of one
    patient.

    `x` (crops, channels + 1, *grid), `present` (crops, channels), `mean` (1, crops) as the image
    learner's batches have them.
    """
    import torch

    from common.networks.crops import patient_logits

    with torch.no_grad():
        features = network.features(x)
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        patient = patient_logits(network.classify(features, present), mean)[0]
        (gradient,) = torch.autograd.grad(patient[target] - patient[0], features)
    space = tuple(range(2, features.ndim))
    maps = torch.relu((gradient.mean(space, keepdim=True) * features.detach()).sum(dim=1))
    return torch.nn.functional.interpolate(
        maps[:, None], size=x.shape[2:], mode="trilinear", align_corners=False
    )[:, 0]


def energy(heatmap: Array, mask: Array) -> tuple[float, float]:
    """The share of the map's energy inside the mask, and the mask's share of the volume: what
    chance would give.

    Arrays of one shape; the mask in [0, 1]. The share inside is NaN where the map is flat zero.
    """
    total = float(heatmap.sum(dtype=np.float64))
    inside = float((heatmap * mask).sum(dtype=np.float64)) / total if total > 0 else float("nan")
    return inside, float(mask.mean(dtype=np.float64))


def sanity(network: Any, x: Tensor, present: Tensor, mean: Tensor, target: int, seed: int) -> float:
    """Rank correlation of the maps with those of the same network under random weights; NaN where a
    map is flat."""
    from common.networks import architectures

    random = copy.deepcopy(network)
    architectures.draw(random, seed, last=True)
    return rank_correlation(
        *(heatmaps(n, x, present, mean, target).cpu().numpy() for n in (network, random))
    )


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's, over all voxels."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(a.ravel()), rankdata(b.ravel())])
    return float(np.corrcoef(ranks)[0, 1]) if ranks.std(axis=1).min() > 0 else float("nan")


TERMS = ("inside", "chance", "inside_squared", "chance_squared", "product", "shown", "flat")
"""What is summed over cases: the shares, their squares and product, how many cases have a map, and
how many a flat one."""


def terms(inside: float, chance: float) -> Floats:
    """One case's summand, (TERMS,), each within [0, 1]."""
    if not np.isfinite(inside):
        return np.array([0.0] * 6 + [1.0])
    return np.array([inside, chance, inside**2, chance**2, inside * chance, 1.0, 0.0])


@dataclass(frozen=True)
class Focus:
    """How much more of the maps' energy lies inside the lesions than chance would put there."""

    inside: float
    chance: float
    ratio: float
    """Of the two means; 1 is chance."""
    low: float
    high: float
    """95 % interval of the ratio (delta method on its logarithm, over cases)."""
    cases: int
    flat: int


def focus(sums: Arrays) -> Focus | None:
    """The shares and their ratio, from sums alone; None for fewer than 10 cases, or where nothing
    lies inside."""
    a, b, aa, bb, ab, n, flat = (float(v) for v in sums["energy"])
    if n < 10 or min(a, b) <= 0:
        return None
    mean_a, mean_b = a / n, b / n
    var_a, var_b, cov = (
        (s / n - m) * n / (n - 1)
        for s, m in ((aa, mean_a**2), (bb, mean_b**2), (ab, mean_a * mean_b))
    )
    spread = 1.96 * np.sqrt(
        max(var_a / mean_a**2 + var_b / mean_b**2 - 2 * cov / (mean_a * mean_b), 0.0) / n
    )
    ratio = mean_a / mean_b
    return Focus(
        mean_a,
        mean_b,
        ratio,
        float(ratio * np.exp(-spread)),
        float(ratio * np.exp(spread)),
        round(n),
        round(flat),
    )
