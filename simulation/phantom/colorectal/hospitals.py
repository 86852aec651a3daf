"""Hospitals of the colorectal phantom: their tissue source site codes, their sizes and the habits
that make them differ.

Codes and sizes are those of TCGA-COAD and TCGA-READ, nearly. The rates are set by hand, in sight of
that cohort's counts and shares of recorded values by institution, so that the contrasts are alike;
none is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.errors import UsageError


@dataclass(frozen=True)
class Hospital:
    """One institution, or the pool of small ones, which share their habits."""

    name: str
    colon: tuple[tuple[str, int], ...]
    """(tissue source site code, patients) of its colon cancers, in a cohort of 633; they go to
    `coad/`."""
    rectum: tuple[tuple[str, int], ...] = ()
    """The same of its rectal cancers, which go to `read/`."""
    shift: float = 0.0
    """Added to the logit of metastasis: referral, not biology."""
    cea: float = 0.6
    """Share of patients whose CEA was measured before surgery."""
    assay: float = 1.0
    """Measured CEA = assay x concentration."""
    known: float = 0.97
    """Share whose M is recorded; the others are MX or null."""
    invasion: tuple[float, float, float, float] = (0.9, 0.88, 0.4, 0.6)
    """Share with lymphatic, vascular, perineural invasion and tumour deposits recorded."""

    SIZE: ClassVar[int] = 633

    @property
    def size(self) -> int:
        return sum(n for _, n in (*self.colon, *self.rectum))

    @property
    def rectal(self) -> float:
        """Share of rectal cancers."""
        return sum(n for _, n in self.rectum) / self.size


_SINGLES = ("RU", "WS", "T9", "SS", "4N", "4T", "3L", "QL")

HOSPITALS = (
    Hospital("Indivumed", (("AA", 174),), (("AG", 80),), -0.15, 0.62, 0.9, 0.99, (0.97, 0.97, 0.1,
    0.0)),
    Hospital("Christiana", (("A6", 53),), (("AF", 18),), 0.7, 0.86, 1.2, 0.82, (0.93, 0.9, 0.7,
    0.95)),
    Hospital("MSKCC", (("CM", 37),), (("DC", 13),), -0.1, 1.0, 1.0, 0.99, (0.95, 0.92, 0.9, 0.98)),
    Hospital("Greater Poland", (("D5", 31),), (("EI", 17),), -0.7, 0.94, 0.85, 0.93, (0.8, 0.75,
    0.6, 0.96)),
    Hospital("Michigan", (("DM", 25),), (("DY", 7),), -0.3, 0.0, 1.0, 0.97, (0.85, 0.8, 0.15, 0.0)),
    Hospital("Roswell", (("G4", 27),), (("G5", 4),), 0.4, 0.55, 0.8, 0.72, (0.9, 0.85, 0.5, 0.97)),
    Hospital("Asterand", (("F4", 16),), (("F5", 12),), -0.2, 0.08, 1.5, 0.93, (0.6, 0.55, 0.3,
    0.9)),
    Hospital("Pittsburgh", (("AZ", 21),), (("CI", 6),), 2.6, 0.68, 1.4, 0.93, (0.8, 0.78, 0.3,
    0.3)),
    # nobody with metastases is ever referred there: the one-class site
    Hospital("ILSBio", (("CA", 10),), (), -14.0, 0.5, 1.0, 1.0),
    Hospital(
        "other",
        (("CK", 14), ("AD", 13), ("AY", 10), ("NH", 9), ("5M", 5), ("QG", 5), ("AM", 2), ("AU", 2),
        *((c, 1) for c in _SINGLES)),
        (("AH", 7), ("CL", 3), ("EF", 2), ("DT", 1), ("BM", 1)),
        0.1, 0.5, 1.1, 0.6, (0.75, 0.7, 0.45, 0.75),
    ),
)  # fmt: skip

CODES = tuple(
    (code, n, at, folder)
    for at, h in enumerate(HOSPITALS)
    for folder in ("colon", "rectum")
    for code, n in getattr(h, folder)
)
"""(code, patients, index of its hospital, 'colon' | 'rectum')."""


def allocate(patients: int) -> NDArray[np.int64]:
    """(codes,): how many of `patients` each tissue source site code has; largest remainders, so
    that the sizes are no accident."""
    if not 100 <= patients <= 100_000:
        raise UsageError(
            "C01", f"a phantom of {patients} patients cannot be made; 100 to 100,000 are allowed"
        )
    quota = np.array([n for _, n, _, _ in CODES]) * (patients / sum(n for _, n, _, _ in CODES))
    counts: NDArray[np.int64] = np.floor(quota).astype(np.int64)
    counts[np.argsort(counts - quota, kind="stable")[: patients - int(counts.sum())]] += 1
    return counts
