"""Brain anatomy of one patient, skull-stripped, in four MR sequences: drawn as a few numbers
(`Head`), rendered on a grid of 2.5 mm.

The three latents show in every lesion: how much of a ring it is (a large dead core, a bright rim
and wide oedema, against a solid lesion in little oedema), its signal on T1, and its signal on T2.
Number, size and place of the lesions are drawn apart from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from common.data.schema import Floats
from simulation.phantom.shared.scanners import Mr
from simulation.phantom.shared.shapes import (
    Box,
    Field,
    Grid,
    Point,
    Solid,
    around,
    radius,
    smooth_noise,
    tube,
)

SHAPE: Final = (62, 96, 96)
SPACING: Final = 2.5
"""mm: the field of view of the collection's 155 x 240 x 240 voxels of 1 mm, in files 16 times
smaller."""
SEQUENCES: Final = ("t1n", "t1c", "t2w", "t2f")
NECROSIS, OEDEMA, ENHANCING = 1, 2, 3
EACH: Final = 0.12
"""Standard deviation of a single lesion's own part of a latent."""
LEAST_CORE: Final = 0.22
"""Below this share of the radius a lesion has no dead core."""

# outside, cerebrospinal fluid in the sulci, in the ventricles, cortex, white matter, deep grey
# matter
SIGNAL: Final = {
    "t1n": (0, 210, 160, 420, 520, 455),
    "t1c": (0, 330, 165, 435, 525, 465),
    "t2w": (0, 1250, 1600, 600, 430, 520),
    "t2f": (0, 110, 70, 390, 305, 350),
}
SULCUS, VENTRICLE, CORTEX, WHITE, DEEP = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Metastasis:
    """One lesion of a brain."""

    centre: Point
    semi: Point


@dataclass(frozen=True)
class Head:
    """Lengths in mm from the middle of the grid."""

    semi: Point
    ventricles: float
    """Their size, 1 on average."""
    lesions: tuple[Metastasis, ...]


@dataclass(frozen=True)
class Rendered:
    sequences: dict[str, Field]
    """Name -> (z, y, x), 0 outside the brain."""
    labels: Field
    """(z, y, x): 1 necrosis, 2 oedema, 3 enhancing."""


def draw_head(rng: np.random.Generator) -> Head:
    semi = (float(rng.normal(61, 2)), float(rng.normal(86, 3)), float(rng.normal(68, 2.5)))
    wanted = 1 + int(rng.choice(6, p=(0.4, 0.22, 0.14, 0.1, 0.08, 0.06)))
    size = float(np.clip(np.exp(rng.normal(np.log(24), 0.18)), 19, 32))
    out: list[Metastasis] = []
    for n in range(wanted):
        diameter = size if n == 0 else max(8.0, size * float(rng.uniform(0.3, 0.9)))
        for _ in range(200):
            way = rng.normal(size=3)
            way /= np.linalg.norm(way)
            # near the border of grey and white matter, above the base, away from the ventricles
            place = way * np.array(semi) * rng.uniform(0.5, 0.9) + np.array([10.0, 0, 0])
            axes = (
                0.5
                * diameter
                * np.array([rng.uniform(0.85, 1), rng.uniform(0.85, 1), 1])[rng.permutation(3)]
            )
            inside = np.linalg.norm((place - (10, 0, 0)) / (np.array(semi) - axes.max() - 1)) < 1
            clear = np.linalg.norm((place - (14, 0, 0)) / (np.array([14, 40, 22]) + axes.max())) > 1
            apart = all(
                np.linalg.norm(place - o.centre) > axes.max() + max(o.semi) + 8 for o in out
            )
            if (
                inside
                and clear
                and apart
                and place[0] > -16 + axes.max()
                and abs(place[2]) > axes.max() + 3
            ):
                z, y, x = place.tolist()
                a, b, c = axes.tolist()
                out.append(Metastasis((z, y, x), (a, b, c)))
                break
    return Head(semi, float(np.clip(rng.normal(1, 0.12), 0.7, 1.35)), tuple(out))


def render(head: Head, u: Floats, scanner: Mr, rng: np.random.Generator) -> Rendered:
    """The brain as `scanner` sees it; `u` (latents,)."""
    first = tuple(-(n - 1) / 2 * SPACING for n in SHAPE)
    whole = Grid.of(SHAPE, (SPACING, SPACING, SPACING), (first[0], first[1], first[2]))
    # outside of this box there is air, which costs as much to compute as brain
    box = whole.box(
        (-78, -head.semi[1] - 3, -head.semi[2] - 3),
        (head.semi[0] + 13, head.semi[1] + 3, head.semi[2] + 3),
    )
    grid = Grid(whole.z[box[0]], whole.y[box[1]], whole.x[box[2]])
    tissue = _tissue(grid, head, rng)
    brain = tissue > 0
    images = {name: np.array(SIGNAL[name], np.float32)[tissue] for name in SEQUENCES}
    labels = np.zeros(grid.shape, np.float32)
    for lesion in head.lesions:
        _lesion(
            images,
            labels,
            grid,
            lesion,
            u + EACH * rng.normal(size=len(u)),
            brain & (tissue != VENTRICLE),
            rng,
        )
    return Rendered(
        {
            name: _whole(_scanned(name, image, brain, scanner, rng), box)
            for name, image in images.items()
        },
        _whole(labels, box),
    )


def _whole(part: Field, box: Box) -> Field:
    out = np.zeros(SHAPE, np.float32)
    out[box] = part
    return out


def _tissue(
    grid: Grid, head: Head, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    z, y, x = grid.at(grid.all)
    folds = smooth_noise(rng, grid.shape, (11, 14, 11))
    cerebrum = radius(grid, grid.all, (10, 0, 0), head.semi)
    # flat below the frontal lobes, deeper at the temporal ones
    floor = z > -22 - 20 * np.clip(np.abs(x) / 40, 0, 1) * (np.abs(y + 5) < 42)
    deep = (1 - cerebrum) * 70
    out = np.zeros(grid.shape, np.int8)
    whole = (cerebrum < 1) & floor
    out[whole] = WHITE
    # where the folds' field changes sign a sulcus cuts in, with cortex on both its sides
    bank = np.abs(folds)
    out[
        whole
        & (
            (deep < 5.5)
            | (bank < 0.42) & (deep < 17)
            | (z < -16 - 20 * np.clip(np.abs(x) / 40, 0, 1))
        )
    ] = CORTEX
    out[whole & (bank < 0.12 + 0.1 * (deep < 6)) & (deep < 13)] = SULCUS
    out[whole & (np.abs(x) < 2.2) & ((deep < 26) | (y < -45))] = SULCUS
    small = radius(grid, grid.all, (-36, 46, 0), (27, 33, 48))
    out[(small < 1) & (out == 0)] = CORTEX
    out[(small < 0.72) & (folds > -0.5) & (z < -18)] = WHITE
    stem = np.zeros(grid.shape, np.bool_)
    tube(stem, grid, [(-8, 8, 0), (-38, 16, 0), (-72, 26, 0)], (17, 15, 8))
    out[stem] = WHITE
    for side in (-1, 1):
        out[radius(grid, grid.all, (6, 12, side * 13), (11, 15, 10)) < 1] = DEEP
        out[radius(grid, grid.all, (10, -14, side * 23), (13, 20, 8)) < 1] = DEEP
        v = head.ventricles
        for centre, semi in (
            ((22, -8, side * 10), (7 * v, 28 * v, 5.5 * v)),
            ((16, 34, side * 20), (8 * v, 16 * v, 6 * v)),
            ((-10, 22, side * 32), (4 * v, 14 * v, 4 * v)),
        ):
            out[radius(grid, grid.all, centre, semi) < 1] = VENTRICLE
    out[radius(grid, grid.all, (6, 4, 0), (10, 13, 2.8)) < 1] = VENTRICLE
    out[radius(grid, grid.all, (-34, 30, 0), (8, 5, 7)) < 1] = VENTRICLE
    return out


def _lesion(
    images: dict[str, Field],
    labels: Field,
    grid: Grid,
    lesion: Metastasis,
    u: Floats,
    room: Solid,
    rng: np.random.Generator,
) -> None:
    """Paint one metastasis and its oedema into the four sequences and the labels."""
    ring, t1, t2 = (2.4 * float(np.tanh(v / 2.4)) for v in u)
    core = float(np.clip(0.46 + 0.26 * ring, 0, 0.9))
    reach = float(np.clip(7 + 3.4 * ring, 0, 16))
    size = max(lesion.semi)
    box = around(grid, lesion.centre, (size + 1.5 * reach + 4,) * 3)
    r = radius(grid, box, lesion.centre, lesion.semi)
    waves = [
        np.sin(
            sum(
                float(w) * (p - c) for w, p, c in zip(way, grid.at(box), lesion.centre, strict=True)
            )
            + rng.uniform(0, 6)
        )
        for way in rng.normal(size=(3, 3)) * 2 / size
    ]
    wobble = sum(waves) / 3
    r = np.where(room[box], r * (1 + 0.07 * wobble), np.inf)
    beyond = (r - 1) * float(np.mean(lesion.semi))
    swollen = (r >= 1) & (beyond < reach * (1 + 0.45 * wobble)) & (labels[box] == 0)
    solid, dead = r < 1, (r < core) & (core >= LEAST_CORE)
    for name, oedema, rim, necrosis in (
        ("t1n", 385, 410 + 170 * t1, 330 + 150 * t1),
        ("t1c", 390, 850 + 130 * ring, 290 + 60 * t1),
        ("t2w", 900 + 60 * ring, 850 + 360 * t2, 1050 + 320 * t2),
        ("t2f", 590 + 50 * ring, 430 + 160 * t2, 410 + 150 * t2),
    ):
        part = images[name][box]
        part[swollen] = oedema
        part[solid] = rim
        part[dead] = necrosis
    labels[box][swollen] = OEDEMA
    labels[box][solid] = ENHANCING
    labels[box][dead] = NECROSIS


def _scanned(name: str, image: Field, brain: Solid, scanner: Mr, rng: np.random.Generator) -> Field:
    """Blurred, stretched, shaded by the coil and noisy (Rician); whole numbers, at least 1 inside
    the brain."""
    from scipy.ndimage import gaussian_filter

    white = SIGNAL[name][WHITE]
    pixel = scanner.blur_mm / SPACING
    signal = white * (gaussian_filter(image, pixel) / white) ** scanner.contrast
    signal *= 1 + scanner.bias * smooth_noise(rng, image.shape, (3, 3, 3)).clip(-2, 2) / 2
    level = scanner.noise * (520 if name.startswith("t1") else 430)
    noise = level * rng.standard_normal((2, *image.shape), np.float32)
    out = scanner.gain * np.hypot(signal + noise[0], noise[1])
    return np.asarray(np.where(brain, np.clip(np.rint(out), 1, 32000), 0), np.float32)
