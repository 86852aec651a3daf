"""Scanners of the imaging phantoms: their makers, what each does to an image, and which patient was
scanned by which.

A maker says nothing about a patient's outcome: it is drawn apart from everything else. The numbers
are set by hand so that the four differ visibly in noise, sharpness, offset and file conventions, as
real ones do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UsageError

FEWEST_PATIENTS, MOST_PATIENTS = 20, 900


@dataclass(frozen=True)
class Ct:
    """A CT scanner and the way it writes its files."""

    model: str
    kernel: str
    slice_mm: float
    """From one slice to the next."""
    thickness_mm: float
    """What the SliceThickness tag says; it need not be the distance."""
    noise: float
    """Standard deviation in HU in soft tissue."""
    blur_mm: float
    """Standard deviation of the point spread in the slice's plane."""
    offset: float
    """HU added to everything but air."""
    phase: float
    """Contrast of vessels and organs, 1 in the middle of the portal venous phase."""
    intercept: int
    signed: bool
    padding: int | None
    """Stored value outside the circle of reconstruction."""


@dataclass(frozen=True)
class Mr:
    """An MR scanner."""

    model: str
    tesla: float
    gain: float
    noise: float
    """Standard deviation as a share of white matter's signal."""
    blur_mm: float
    bias: float
    """Amplitude of the receiving coil's field, as a share."""
    contrast: float
    """Exponent of the signal relative to white matter: above 1 stretches it."""


@dataclass(frozen=True)
class Maker:
    """A maker of scanners, and what its scanners do to an image."""

    name: str
    """As a workbook calls it."""
    tag: str
    """As the Manufacturer tag (0008,0070) says it."""
    share: float
    ct: Ct
    mr: Mr


MAKERS = (
    Maker(
        "GE", "GE MEDICAL SYSTEMS", 0.35,
        Ct("LightSpeed VCT", "STANDARD", 5.0, 5.0, 11.0, 1.5, 3.0, 1.0, -1024, True, -2000),
        Mr("Signa HDxt", 1.5, 1.0, 0.035, 1.2, 0.12, 1.0),
    ),
    Maker(
        "Siemens", "SIEMENS", 0.28,
        Ct("SOMATOM Definition AS", "B31f", 5.0, 5.0, 9.0, 1.9, -2.0, 0.94, -1024, False, None),
        Mr("Skyra", 3.0, 0.45, 0.025, 1.0, 0.2, 1.06),
    ),
    Maker(
        "Philips", "Philips", 0.21,
        Ct("Brilliance 64", "C", 5.0, 5.0, 14.0, 1.2, 5.0, 1.07, -1024, False, None),
        Mr("Achieva", 1.5, 1.9, 0.04, 1.3, 0.08, 0.95),
    ),
    Maker(
        "Canon", "Canon Medical Systems", 0.16,
        Ct("Aquilion PRIME", "FC18", 2.5, 3.0, 17.0, 1.3, -6.0, 0.9, 0, True, None),
        Mr("Vantage Titan", 1.5, 0.8, 0.05, 1.5, 0.15, 1.03),
    ),
)  # fmt: skip
NAMES = tuple(maker.name for maker in MAKERS)


def assign(patients: int, rng: np.random.Generator) -> list[int]:
    """The maker of each of `patients` scans, as index into MAKERS: shares kept by largest
    remainders, order drawn.

    Raises UsageError C01 for fewer than 20 or more than 900 patients.
    """
    if not FEWEST_PATIENTS <= patients <= MOST_PATIENTS:
        raise UsageError(
            "C01",
            f"an imaging phantom of {patients} patients cannot be made; {FEWEST_PATIENTS} to "
            f"{MOST_PATIENTS} are allowed",
        )
    quota = np.array([m.share for m in MAKERS]) * patients
    counts = np.floor(quota).astype(np.int64)
    counts[np.argsort(counts - quota, kind="stable")[: patients - int(counts.sum())]] += 1
    order: list[int] = rng.permutation(np.repeat(np.arange(len(MAKERS)), counts)).tolist()
    return order
