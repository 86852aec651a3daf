"""Imaging modalities that a study may ask for: what follows from a series being CT or MR, said once
for each.

Names are DICOM's (0008,0060) and SOP classes its storage UIDs (PS3.4, annex B.5).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Modality:
    """What is to be known of a modality."""

    name: str
    sop_classes: tuple[str, ...] = ()
    """Those whose pixels are read."""
    hounsfield: bool = False
    """Values are Hounsfield units: they have a floor (air), tissue lies in a known range, an
    intercept that jumps is a fault, and a study says by a window what it looks at. Else a volume is
    scored by itself, inside the brain."""
    at_once: bool = False
    """A volume is taken in one go: times of its slices that differ part no two volumes that lie
    over each other."""
    sequences: bool = False
    """A case has several series of it, each another sequence, of which some may be missing."""
    unit: float = 2.0**-12
    """Value of one step of int16 in a prepared volume: MR reaches +-8 standard deviations, CT +-2 of
    the window's half width."""
    outside: float = 0.0
    """Prepared value of what lies outside a volume: the mean of the brain, as in a missing sequence;
    of a CT the lower end of its window."""
    span: tuple[float, float] = (-5.0, 5.0)
    """Prepared values lie within it."""
    values: str = "magnitude"
    """MONAI's word for them (metadata of a bundle, `format`)."""
    channel: str = ""
    """What each of its series is; empty: a series' settings tell
    (`client.imaging.dicom.mr_sequence`), or nothing does."""


CT = Modality(
    "CT",
    ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"),
    hounsfield=True,
    at_once=True,
    unit=2.0**-14,
    outside=-1.0,
    span=(-1.0, 1.0),
    values="hounsfield",
    channel="ct",
)
MR = Modality(
    "MR",
    (
        "1.2.840.10008.5.1.4.1.1.4",
        "1.2.840.10008.5.1.4.1.1.4.1",
        "1.2.840.10008.5.1.4.1.1.4.3",
        "1.2.840.10008.5.1.4.1.1.4.4",
    ),
    sequences=True,
)
MODALITIES = {m.name: m for m in (CT, MR)}
"""Those that a study's channels may be of."""


def modality(name: str) -> Modality:
    """By its DICOM name; of one that no study can ask for (SEG, other) nothing is known."""
    return MODALITIES.get(name, Modality(name))
