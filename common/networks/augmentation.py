"""Augmentation of crops on the training device: mirrored, turned, scaled, brightened, and now and
then without one of their sequences.

Everything is drawn from uniform numbers that come from outside, a fixed count a case, so a case is
varied alike whatever batch it is in and whatever device works on it. Turning and scaling resample,
and are done to some of the crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EACH = 8
"""Draws a crop: three mirrors, three angles, the scale, and whether it is resampled."""


@dataclass(frozen=True)
class Augment:
    """How much crops are varied. `edges_mm` (z, y, x) of a crop: turning is done in mm."""

    edges_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mirror: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Chance along z, y, x."""
    turn: float = 0.26
    """Largest angle about each axis, radians."""
    scale: float = 0.1
    resampled: float = 0.3
    gain: float = 0.1
    shift: float = 0.1
    """In the unit of the values."""
    dropout: float = 0.25
    """Chance that a case loses one of several sequences, with its presence bit."""

    def draws(self, channels: int, crops: int) -> int:
        """Uniform numbers a case of at most so many crops takes."""
        return 2 + 2 * channels + EACH * crops

    def __call__(
        self, x: Tensor, present: Tensor, noise: Tensor, case: Tensor, which: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`x` (crops, channels + masks, z, y, x), `present` (crops, channels), `noise` (cases,
        draws) in [0, 1), all on one device; `case` and `which` (crops,): whose crop it is, and its
        number there. Masks only move. `x` is written over."""
        import torch

        channels = present.shape[1]
        own = noise[case]
        each = own[:, 2 + 2 * channels :].unflatten(1, (-1, EACH))[
            torch.arange(len(x), device=x.device), which
        ]
        if channels > 1:
            present = present * (1 - self._dropped(present, own))
        levels = 2 * own[:, 2 : 2 + 2 * channels] - 1
        gain, shift = 1 + self.gain * levels[:, :channels], self.shift * levels[:, channels:]
        image = x[:, :channels]
        image.mul_((gain * present)[:, :, None, None, None]).add_(
            (shift * present)[:, :, None, None, None]
        )
        mirrored = each[:, :3] < torch.tensor(self.mirror, device=x.device)
        turned = each[:, 7] < self.resampled
        self._turn(x, torch.nonzero(turned)[:, 0], each, mirrored)
        for axes in product((False, True), repeat=3):
            at = torch.nonzero(
                (mirrored == torch.tensor(axes, device=x.device)).all(dim=1) & ~turned
            )[:, 0]
            if any(axes) and len(at):
                x[at] = x[at].flip([2 + i for i, axis in enumerate(axes) if axis])
        return x, present

    def _dropped(self, present: Tensor, own: Tensor) -> Tensor:
        """(crops, channels): 1 at the one sequence that is taken away; a case with a single one
        keeps it."""
        import torch

        count = present.sum(dim=1)
        nth = (own[:, 1] * count).floor() + 1
        chosen = (present.cumsum(dim=1) == nth[:, None]) & (present > 0)
        return (chosen & ((own[:, 0] < self.dropout) & (count > 1))[:, None]).to(torch.float32)

    def _turn(self, x: Tensor, at: Tensor, each: Tensor, mirrored: Tensor) -> None:
        """Turn, scale and mirror the crops `at` in one interpolation."""
        import torch
        from torch.nn.functional import affine_grid, grid_sample

        if not len(at):
            return
        angles = (2 * each[at, 3:6] - 1) * self.turn
        scale = 1 + (2 * each[at, 6] - 1) * self.scale
        z, y, x_ = self.edges_mm
        edges = torch.tensor([x_, y, z], device=x.device)  # grid_sample counts x, y, z
        sign = 1 - 2 * mirrored[at].flip(1).to(torch.float32)
        matrix = (
            sign[:, :, None]
            * _rotation(angles)
            * edges[None, None, :]
            / edges[None, :, None]
            * scale[:, None, None]
        )
        theta = torch.cat([matrix, torch.zeros(len(at), 3, 1, device=x.device)], dim=2)
        some = x[at]
        grid = affine_grid(theta, list(some.shape), align_corners=False)
        x[at] = grid_sample(some, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _rotation(angles: Tensor) -> Tensor:
    """(n, 3) angles about x, y, z -> (n, 3, 3)."""
    import torch

    s, c = torch.sin(angles), torch.cos(angles)
    one, zero = torch.ones_like(s[:, 0]), torch.zeros_like(s[:, 0])
    about_x = torch.stack([one, zero, zero, zero, c[:, 0], -s[:, 0], zero, s[:, 0], c[:, 0]], dim=1)
    about_y = torch.stack([c[:, 1], zero, s[:, 1], zero, one, zero, -s[:, 1], zero, c[:, 1]], dim=1)
    about_z = torch.stack([c[:, 2], -s[:, 2], zero, s[:, 2], c[:, 2], zero, zero, zero, one], dim=1)
    x, y, z = (m.unflatten(1, (3, 3)) for m in (about_x, about_y, about_z))
    return z @ y @ x
