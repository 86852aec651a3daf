"""Architectures of the networks on images: autoencoder, segmentation, and what classifiers are made
of (each in its file in `common/networks/classifiers/`). None has batch normalisation: averaging its
buffers over hospitals is an error, and DP-SGD forbids it.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.networks.classifier import Classifier

Grid = tuple[int, int, int]
WIDTHS = (16, 32, 64)
CONTRAST = 0.1
"""A difference that counts: 20 Hounsfield units of the window, a tenth of a standard deviation of
the brain."""


class Residual(nn.Module):  # type: ignore[misc]
    """Two convolutions with group normalisation and a shortcut (He et al. 2016; Wu & He 2018)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, width, 3, stride, 1, bias=False)
        self.first_norm = _norm(width)
        self.second = nn.Conv3d(width, width, 3, 1, 1, bias=False)
        self.second_norm = _norm(width)
        self.shortcut = nn.Conv3d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second_norm(self.second(_active(self.first_norm(self.first(x)))))
        return _active(y + self.shortcut(x))


class Trunk(nn.Module):  # type: ignore[misc]
    """(n, channels + 1, z, y, x) -> (n, 64, z/4, y/4, x/4): a stem and two residual stages; the
    last keeps its resolution, for Grad-CAM.

    Beside the image and the lesion it sees the image relative to the lesion's mean, inside the
    lesion: what is subtle there (a core a little darker than its rim) is small beside air, bone and
    vessels, and some hundred patients do not teach a network to look closer.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2 * channels + 1, widths[0], 3, 2, 1, bias=False)
        self.stem_norm = _norm(widths[0])
        self.middle = Residual(widths[0], widths[1], 2)
        self.deep = Residual(widths[1], widths[2], 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x[:, :-1], relative(x[:, :-1], x[:, -1:]), x[:, -1:]], dim=1)
        return self.deep(self.middle(_active(self.stem_norm(self.stem(y)))))


def relative(image: Tensor, lesion: Tensor) -> Tensor:
    """What the image has more than its mean in the lesion, inside the lesion (everywhere where
    there is none), in logarithmic steps from `CONTRAST` upwards. A sequence that is all zero stays
    so."""
    weight = torch.where(lesion.amax((2, 3, 4), keepdim=True) > 0, lesion, torch.ones_like(lesion))
    mean = (image * weight).sum((2, 3, 4), keepdim=True) / weight.sum((2, 3, 4), keepdim=True)
    return torch.asinh((image - mean) / CONTRAST) * weight


class ClassifierNetwork(nn.ModuleDict):  # type: ignore[misc]
    """A classifier's layers, by their names, and its two functions on them."""

    def __init__(self, classifier: Classifier, channels: int, classes: int) -> None:
        super().__init__(classifier.layers(channels, classes))
        self._classifier = classifier

    def extra_repr(self) -> str:
        return self._classifier.name

    def features(self, x: Tensor) -> Tensor:
        """(n, width, z', y', x')."""
        return self._classifier.features(self, x)

    def classify(self, features: Tensor, present: Tensor) -> Tensor:
        return self._classifier.classify(self, features, present)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(n, classes) logits."""
        return self.classify(self.features(x), present)


class AutoEncoder(nn.Module):  # type: ignore[misc]
    """The compact classifier's trunk, a code of `latent` numbers, and the way back to the crop."""

    def __init__(self, channels: int, latent: int, grid: Grid) -> None:
        super().__init__()
        self.trunk = Trunk(channels)
        self.squeeze = nn.Conv3d(WIDTHS[2], WIDTHS[1], 3, 2, 1)
        self._small, self._grid = cast(Grid, tuple(-(-g // 8) for g in grid)), grid
        size = WIDTHS[1] * math.prod(self._small)
        self.code = nn.Linear(size, latent)
        self.widen = nn.Linear(latent, size)
        self.back = nn.Conv3d(WIDTHS[1], WIDTHS[1], 3, 1, 1, bias=False)
        self.back_norm = _norm(WIDTHS[1])
        self.further = nn.Conv3d(WIDTHS[1], WIDTHS[0], 3, 1, 1, bias=False)
        self.further_norm = _norm(WIDTHS[0])
        self.out = nn.Conv3d(WIDTHS[0], channels + 1, 3, 1, 1)

    def encode(self, x: Tensor) -> Tensor:
        """(n, latent)."""
        return self.code(_active(self.squeeze(self.trunk(x))).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """The crops as remembered by their codes, (n, channels + 1, z, y, x)."""
        y = _active(self.widen(self.encode(x))).unflatten(1, (WIDTHS[1], *self._small))
        y = _active(
            self.back_norm(
                self.back(functional.interpolate(y, size=[-(-g // 4) for g in self._grid]))
            )
        )
        y = _active(
            self.further_norm(
                self.further(functional.interpolate(y, size=[-(-g // 2) for g in self._grid]))
            )
        )
        return functional.interpolate(self.out(y), size=self._grid)


def unet(channels: int, regions: int, widths: tuple[int, ...]) -> nn.Module:
    """MONAI's UNet with instance normalisation; each side of its grid must be a multiple of
    2^(len(widths) - 1)."""
    from monai.networks.nets import UNet

    return UNet(
        3, channels, regions, widths, (2,) * (len(widths) - 1), norm=("INSTANCE", {"affine": True})
    )


class Scores(nn.Module):  # type: ignore[misc]
    """A trained classifier as it leaves a federation, in one piece: `correction` (classes,) takes
    off what the class weights of training added (Elkan 2001). A patient's scores are the means over
    the patient's crops."""

    def __init__(self, classifier: Classifier, channels: int, classes: int) -> None:
        super().__init__()
        self.network = ClassifierNetwork(classifier, channels, classes)
        self.register_buffer("correction", torch.zeros(classes))

    def forward(self, crops: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(n, classes) log-probabilities up to a number, and (n, classes - 1) log-odds against the
        first class."""
        logits = self.network(crops, present) - self.correction
        return logits, logits[:, 1:] - logits[:, :1]


class Coded(nn.Module):  # type: ignore[misc]
    """An autoencoder that gives both its code and what it remembers of the crop."""

    def __init__(self, network: AutoEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(crops), self.network(crops)


def grouped(network: nn.Module) -> nn.Module:
    """The same network with group in place of batch normalisation; names of parameters stay."""
    for name, child in network.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(network, name, _norm(child.num_features))
        else:
            grouped(child)
    return network


def draw(network: nn.Module, seed: int, *, last: bool = False) -> None:
    """Initial weights from the seed alone: He et al. 2015 (eq. 10) for kernels and matrices, 0 for
    biases, and for the last layer of a classifier unless `last`."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    for name, p in network.named_parameters():
        if name.startswith("head.") and not last:
            nn.init.zeros_(p)
        elif p.ndim > 1:
            nn.init.kaiming_normal_(p, nonlinearity="relu", generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


def _active(x: Tensor) -> Tensor:
    """Leaky, so that no channel dies of the first large steps that a site takes."""
    return functional.leaky_relu(x, 0.1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, width), width)


def parameters(network: nn.Module) -> dict[str, Any]:
    """Name -> float32 array."""
    return {k: v.detach().cpu().contiguous().numpy() for k, v in network.state_dict().items()}
