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
    """Values are Hounsfield units: they have a floor (air), tissue lies in a known range, and an
    intercept that jumps is a fault."""
    at_once: bool = False
    """A volume is taken in one go: times of its slices that differ part no two volumes that lie
    over each other."""
    channel: str = ""
    """What each of its series is; empty: a series' settings tell
    (`client.imaging.dicom.mr_sequence`), or nothing does."""


CT = Modality(
    "CT",
    ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"),
    hounsfield=True,
    at_once=True,
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
)
MODALITIES = {m.name: m for m in (CT, MR)}
"""Those that a study's channels may be of."""


def modality(name: str) -> Modality:
    """By its DICOM name; of one that no study can ask for (SEG, other) nothing is known."""
    return MODALITIES.get(name, Modality(name))
