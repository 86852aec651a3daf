"""Body of one patient as a few numbers: the cavity, the liver's lobes, its lesions. Nothing here
knows the latent.

The table's body mass sets the fat; no other feature of the table that bears on the outcome enters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from simulation.phantom.shared.shapes import Point

PIXELS: Final = 128
"""Along an edge of a slice."""


@dataclass(frozen=True)
class Lesion:
    """One lesion of a liver."""

    centre: Point
    semi: Point
    seed: int


@dataclass(frozen=True)
class Body:
    """Lengths in mm; the origin is the middle of the body in the lowest slice."""

    height: float
    pixel: float
    cavity: tuple[float, float]
    """Semi-axes of the abdominal cavity, (y, x)."""
    fat: float
    right: tuple[Point, Point]
    """Centre and semi-axes of the liver's right lobe."""
    left: tuple[Point, Point]
    liver_hu: float
    lesion_hu: float
    """Of a rim, below the liver."""
    lesions: tuple[Lesion, ...]

    @property
    def largest_cm(self) -> float:
        """The largest diameter of a lesion."""
        return round(max(2 * max(lesion.semi) for lesion in self.lesions) / 10, 1)

    @property
    def bilobar(self) -> bool:
        sides = {lesion.centre[2] > self.border for lesion in self.lesions}
        return len(sides) == 2

    @property
    def border(self) -> float:
        """x of the plane between the lobes."""
        return -0.18 * self.cavity[1]


def draw_body(body_mass: float, rng: np.random.Generator) -> Body:
    height = float(rng.uniform(142, 160))
    cavity = (float(rng.normal(92, 4)), float(rng.normal(132, 5)))
    fat = float(np.clip(1.5 * (body_mass - 18), 6, 34))
    b, a = cavity
    right = (
        (0.5 * height, -0.05 * b, -0.45 * a),
        (0.45 * height, float(rng.uniform(0.74, 0.84)) * b, float(rng.uniform(0.48, 0.55)) * a),
    )
    left = (
        (0.62 * height, -0.4 * b, 0.02 * a),
        (
            float(rng.uniform(0.18, 0.26)) * height,
            float(rng.uniform(0.32, 0.4)) * b,
            float(rng.uniform(0.4, 0.55)) * a,
        ),
    )
    return Body(
        height, round(2 * (a + 20 + fat) / PIXELS, 4), cavity, fat, right, left,
        float(rng.normal(108, 8)), float(rng.uniform(34, 44)),
        _lesions((right, left), impressions(height, cavity), rng),
    )  # fmt: skip


def impressions(height: float, cavity: tuple[float, float]) -> tuple[tuple[Point, Point], ...]:
    """Where the kidney, the stomach and the great vessels press into the liver: centres and
    semi-axes."""
    b, a = cavity
    return (
        ((0.12 * height, 0.55 * b, -0.45 * a), (56.0, 33.0, 32.0)),
        ((0.3 * height, 0.1 * b, 0.1 * a), (50.0, 42.0, 42.0)),
        ((0.6 * height, 0.55 * b, 0.0), (height, 32.0, 30.0)),
    )


def _lesions(
    lobes: tuple[tuple[Point, Point], tuple[Point, Point]],
    hollows: tuple[tuple[Point, Point], ...],
    rng: np.random.Generator,
) -> tuple[Lesion, ...]:
    """One to six lesions, the largest first and in the right lobe, apart from each other, the
    liver's surface and its `hollows`."""
    wanted = 1 + int(rng.choice(6, p=(0.42, 0.24, 0.14, 0.1, 0.06, 0.04)))
    size = float(np.clip(np.exp(rng.normal(np.log(35), 0.36)), 22, 70))
    out: list[Lesion] = []
    for n in range(wanted):
        diameter = size if n == 0 else max(12.0, size * float(rng.uniform(0.3, 0.95)))
        for _ in range(200):
            diameter = max(10.0, 0.995 * diameter)  # where there is no room for it, a smaller one
            lobe = lobes[0] if n == 0 or rng.random() < 0.7 else lobes[1]
            semi = (
                0.5
                * diameter
                * np.array([rng.uniform(0.82, 1), rng.uniform(0.82, 1), 1])[rng.permutation(3)]
            )
            room = np.array(lobe[1]) - 1.12 * semi - 3
            if room.min() <= 0:
                continue
            way = rng.normal(size=3)
            place = np.array(lobe[0]) + way / np.linalg.norm(way) * rng.random() ** (1 / 3) * room
            if any(np.linalg.norm(place - o.centre) < semi.max() + max(o.semi) + 5 for o in out):
                continue
            if all(
                np.linalg.norm((place - centre) / (np.array(axes) + 1.05 * semi)) > 1
                for centre, axes in hollows
            ):
                z, y, x = place.tolist()
                a, b, c = semi.tolist()
                out.append(Lesion((z, y, x), (a, b, c), int(rng.integers(2**31))))
                break
    return tuple(out)
