"""Abdominal anatomy of one patient (`liver.body.Body`) as Hounsfield units and outlines.

The latent u moves the attenuation of the core of each lesion against its rim (`core_hu`), and
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from simulation.phantom.liver.body import PIXELS, Body, Lesion, impressions
from simulation.phantom.shared.scanners import Ct
from simulation.phantom.shared.shapes import (
    Field,
    Grid,
    Point,
    Solid,
    around,
    grain,
    paint,
    radius,
    smooth_noise,
    tube,
)

CORE: Final = -55.0
"""HU of a lesion's core per standard deviation of u, against its rim, near u = 0."""
CORE_MOST: Final = 100.0
"""HU towards which it levels off: from a cyst to a calcification."""
CORE_SHARE: Final = 0.83
"""Radius of the core, as a share of the lesion's."""
EACH: Final = 0.12
"""Standard deviation of a single lesion's own part of u."""
STEEP: Final = 16.0
"""How sharply a core ends, per normalised radius."""


@dataclass(frozen=True)
class Rendered:
    hu: Field
    """(z, y, x), slices from the feet up."""
    segments: dict[str, Solid]
    """Label -> voxels; they overlap."""
    circle: Solid
    """(y, x): inside the circle of reconstruction."""


def render(body: Body, u: float, scanner: Ct, rng: np.random.Generator) -> Rendered:
    """The abdomen as `scanner` sees it."""
    slices = round(body.height / scanner.slice_mm)
    first = -(PIXELS - 1) / 2 * body.pixel
    grid = Grid.of(
        (slices, PIXELS, PIXELS),
        (scanner.slice_mm, body.pixel, body.pixel),
        (scanner.slice_mm / 2, first, first),
    )
    image, within = _trunk(grid, body, scanner, rng)
    liver = _liver(grid, body, rng) & within
    _lungs(image, grid, body, liver, within, rng)
    hepatic, portal = _vessels(grid, body, rng)
    hepatic &= liver
    portal &= liver & ~hepatic
    phase = scanner.phase
    image[liver] = body.liver_hu * phase + 4 * smooth_noise(rng, grid.shape, (7, 20, 20))[liver]
    image[hepatic], image[portal] = 158 * phase, 172 * phase
    segments = {
        "Liver": liver,
        "Liver Remnant": liver & (grid.x[None, None] > body.border),
        "Hepatic": hepatic,
        "Portal": portal,
    }
    for n, lesion in enumerate(body.lesions, 1):
        solid = _lesion(image, grid, lesion, liver, body, u + EACH * float(rng.normal()), phase)
        segments[f"Tumor_{n}"] = solid
        for vessel in (hepatic, portal):
            vessel &= ~solid
    return Rendered(
        _scanned(image, grid, body, scanner, rng),
        segments,
        np.hypot(grid.y[:, None], grid.x[None]) < PIXELS / 2 * body.pixel,
    )


def core_hu(u: float) -> float:
    """What a lesion's core has more than its rim, HU."""
    return float(CORE_MOST * np.tanh(CORE / CORE_MOST * u))


def _trunk(grid: Grid, body: Body, scanner: Ct, rng: np.random.Generator) -> tuple[Field, Solid]:
    """Everything but liver and lungs; and the inside of the cavity, (1, y, x)."""
    b, a = body.cavity
    y, x = grid.y[:, None], grid.x[None, :]
    image = np.full(grid.shape, -1000, np.float32)

    def ellipse(more: float, wide: float = 1.0) -> Solid:
        return np.asarray((y / (b + more)) ** 2 + (x / (a + wide * more)) ** 2 < 1)

    inside, phase = ellipse(0), scanner.phase
    image[:, ellipse(16 + 0.8 * body.fat)] = -100
    image[:, ellipse(15)] = 58
    image[:, ellipse(8)] = -90  # the fat between the muscles of the wall
    image[:, ellipse(6)] = 50
    image[:, inside] = -98
    loops = smooth_noise(rng, grid.shape, (10, 16, 16))
    low = grid.z[:, None, None] < 0.55 * body.height
    image[(loops > 0.25) & inside & low] = 38
    image[(loops > 1.6) & inside & low & (grid.y[None, :, None] < -0.2 * b)] = -850
    h = body.height
    for side in (-1, 1):
        paint(image, grid, (0.12 * h, 0.5 * b, side * 0.5 * a), (48, 27, 26), 165 * phase)
        paint(image, grid, (0.12 * h, 0.5 * b, side * 0.43 * a), (20, 12, 13), -60)
        paint(image, grid, (0.2 * h, 0.66 * b, side * 0.24 * a), (0.5 * h, 20, 17), 56)
    paint(image, grid, (0.58 * h, 0.38 * b, 0.68 * a), (44, 36, 26), 122 * phase)
    stomach = ((0.6 * h, -0.3 * b, 0.55 * a), (42.0, 40.0, 36.0))
    box = around(grid, *stomach)
    full = radius(grid, box, *stomach)
    image[box][full < 1] = 60
    image[box][full < 0.88] = 12
    image[box][(full < 0.88) & (grid.y[None, box[1], None] < -0.3 * b - 14)] = -960
    paint(image, grid, (h, 0.1 * b, 0.2 * a), (0.24 * h, 48, 52), 62)
    paint(image, grid, (h, 0.1 * b, 0.22 * a), (0.19 * h, 34, 38), 150 * phase)
    _bones(image, grid, body, rng)
    for centre, r, hu in (((0.42 * b, 0.1 * a), 11.5, 160.0), ((0.33 * b, -0.15 * a), 12.5, 140.0)):
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < r**2
        image[:, disc] = hu * phase
    table = np.abs(y - (b + 18 + 0.8 * body.fat) - 0.0012 * x**2) < 3.5
    image[:, table & (np.abs(x) < 0.9 * a) & ~ellipse(16 + 0.8 * body.fat)] = -520
    return image, inside[None]


def _bones(image: Field, grid: Grid, body: Body, rng: np.random.Generator) -> None:
    b, a = body.cavity
    y, x = grid.y[:, None], grid.x[None, :]
    spine = ((y - 0.74 * b) / 19) ** 2 + (x / 23) ** 2
    disc = np.mod(grid.z + rng.uniform(0, 32), 32) < 6
    image[:, spine < 1] = 380
    image[:, spine < 0.72] = 190
    image[disc[:, None, None] & (spine < 1)] = 95
    arch = ((y - 0.98 * b) / 16) ** 2 + (x / 26) ** 2 < 1
    image[:, arch] = 330
    image[:, (y - 0.97 * b) ** 2 + x**2 < 9**2] = 25
    # ribs run down and forward in the wall: in each slice a disc where one crosses it
    ellipse = np.hypot(y / (b + 11), x / (a + 11))
    rows, columns = np.nonzero(np.abs(ellipse - 1) < 0.11)
    wall = image[:, rows, columns]
    for side in (-1, 1):
        for rib in range(-6, 10):
            angle = (rib * 27 - grid.z[:, None] * 0.75 + (4 if side > 0 else 0)) / 46
            reach = np.abs(angle - 0.2) < 1.35
            py, px = -(b + 11) * np.sin(angle - 0.45), side * (a + 11) * np.cos(angle - 0.45)
            near = (grid.y[rows] - py) ** 2 + (grid.x[columns] - px) ** 2
            wall[(near < 6.2**2) & reach] = 420
            wall[(near < 3.4**2) & reach] = 210
    image[:, rows, columns] = wall


def _liver(grid: Grid, body: Body, rng: np.random.Generator) -> Solid:
    lumps = smooth_noise(rng, grid.shape, (4, 5, 5))
    out = (
        np.minimum(radius(grid, grid.all, *body.right), radius(grid, grid.all, *body.left))
        + 0.035 * lumps
        < 1
    )
    for centre, semi in impressions(body.height, body.cavity):
        out &= radius(grid, grid.all, centre, semi) > 1
    return np.asarray(out)


def _lungs(
    image: Field, grid: Grid, body: Body, liver: Solid, within: Solid, rng: np.random.Generator
) -> None:
    """Air above the diaphragm: it starts low at the walls and leaves the liver, the spleen, the
    stomach and the heart alone."""
    from scipy.ndimage import binary_dilation

    h, (b, a) = body.height, body.cavity
    out = radius(grid, grid.all, (0, 0, 0), (1e6, b, a))
    air = (grid.z[:, None, None] > h * (0.66 + 0.3 * (1 - out**2))) & within
    organs = (image > -50) | binary_dilation(liver, iterations=1)
    image[air & ~organs] = -840
    streaks = smooth_noise(rng, grid.shape, (min(grid.shape[0], 20), 40, 40)) > 2.0
    image[air & ~organs & streaks] = -560


def _vessels(grid: Grid, body: Body, rng: np.random.Generator) -> tuple[Solid, Solid]:
    h, (b, a) = body.height, body.cavity

    def at(z: float, y: float, x: float) -> Point:
        shake = rng.normal(0, 3.5, 3)
        return z * h + shake[0], y * b + shake[1], x * a + shake[2]

    hepatic, portal = np.zeros(grid.shape, np.bool_), np.zeros(grid.shape, np.bool_)
    root = (0.8 * h, 0.3 * b, -0.15 * a)
    for end, fork in (
        ((0.5, 0.15, -0.78), (0.36, 0.3, -0.62)),
        ((0.46, -0.42, -0.34), (0.34, -0.25, -0.5)),
        ((0.6, -0.5, 0.12), (0.52, -0.5, -0.08)),
    ):
        tip, other = at(*end), at(*fork)
        middle = tuple(
            0.55 * r + 0.45 * t + s for r, t, s in zip(root, tip, rng.normal(0, 4, 3), strict=True)
        )
        tube(hepatic, grid, [root, (middle[0], middle[1], middle[2]), tip], (5.5, 4.5, 2.4))
        tube(hepatic, grid, [(middle[0], middle[1], middle[2]), other], (3.8, 2.2))
    hilum, right, left = at(0.42, 0.02, -0.28), at(0.44, 0.05, -0.5), at(0.57, -0.38, -0.02)
    tube(portal, grid, [(0.25 * h, 0.1 * b, -0.05 * a), hilum, right], (6.5, 6.5, 5))
    tube(portal, grid, [hilum, left, at(0.62, -0.5, 0.2)], (5.5, 4.2, 2.4))
    for tip in (
        (0.6, -0.35, -0.72),
        (0.62, 0.35, -0.7),
        (0.3, -0.3, -0.66),
        (0.28, 0.32, -0.74),
        (0.46, 0.5, -0.55),
    ):
        tube(portal, grid, [right, at(*tip)], (4.2, 2.2))
    return hepatic, portal


def _lesion(
    image: Field, grid: Grid, lesion: Lesion, liver: Solid, body: Body, u: float, phase: float
) -> Solid:
    own = np.random.default_rng(lesion.seed)
    box = around(grid, lesion.centre, lesion.semi, 1.25)
    r = radius(grid, box, lesion.centre, lesion.semi)
    z, y, x = (p - c for p, c in zip(grid.at(box), lesion.centre, strict=True))
    # lobulated: the radius swings by a few per cent over the sphere
    waves = own.normal(size=(3, 3)) * 2.2 / max(lesion.semi)
    r = r * (
        1 + 0.035 * sum(np.sin(w[0] * z + w[1] * y + w[2] * x + own.uniform(0, 6)) for w in waves)
    )
    r = np.where(liver[box], r, np.inf)
    rim = body.liver_hu * phase - body.lesion_hu
    core = 1 / (1 + np.exp(STEEP * (np.minimum(r, 2) - CORE_SHARE)))
    solid = r < 1
    image[box][solid] = (rim + core_hu(u) * core)[solid]
    out = np.zeros(grid.shape, np.bool_)
    out[box] = solid
    return out


def _scanned(image: Field, grid: Grid, body: Body, scanner: Ct, rng: np.random.Generator) -> Field:
    """Blurred by the kernel and the slice, shifted, and noisy: more so in the middle of a large
    body."""
    from scipy.ndimage import gaussian_filter

    pixel = scanner.blur_mm / body.pixel
    hounsfield = gaussian_filter(image, (0.35, pixel, pixel))
    hounsfield[hounsfield > -800] += scanner.offset
    out = np.hypot(
        grid.y[:, None] / (body.cavity[0] + body.fat), grid.x[None] / (body.cavity[1] + body.fat)
    )
    level = scanner.noise * (1.1 - 0.35 * np.clip(out, 0, 1)) * (0.85 + body.fat / 120)
    noisy = hounsfield + grain(rng, grid.shape, (0, 0.9 * pixel, 0.9 * pixel)) * level[None]
    return np.asarray(np.clip(np.rint(noisy), -1024, 3000), np.float32)
