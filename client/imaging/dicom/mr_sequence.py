"""MR sequence of a series (t1n, t1c, t2w, t2f), recognised by what the scanner was set to.

Times in ms. The rules are the textbook ranges for spin echo, inversion recovery and spoiled
gradient echo at 1.5 and 3 T: T1 weighting is a short echo with a short repetition or an inversion
near 0.5-1.3 s, T2 a long echo with a long repetition, FLAIR the same with an inversion of 1.5-3.2
s. The series description, which is whatever somebody typed, only decides between answers that the
settings leave open; where they leave it open and the description does not say, the channel is '': a
series is not guessed into a channel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from client.imaging.geometry.volumes import Header
from common.data.modality import MR, modality

DERIVED = frozenset(
    (
        *(
            "ADC",
            "EADC",
            "EXP",
            "FA",
            "DTI",
            "TRACEW",
            "DIFFUSION",
            "PERFUSION",
            "CBF",
            "CBV",
            "MTT",
            "TTP",
            "ASL",
            "FMRI",
            "SWI",
            "T2STAR",
        ),
        *(
            "P",
            "PHASE",
            "R",
            "REAL",
            "I",
            "IMAGINARY",
            "W",
            "WATER",
            "F",
            "FAT",
            "FF",
            "IP",
            "OP",
            "IN_PHASE",
            "OUT_PHASE",
            "OPP_PHASE",
        ),
        *(
            "MAP",
            "MIP",
            "MINIP",
            "PROJECTION",
            "SUB",
            "SUBTRACTION",
            "MOSAIC",
            "SPECTROSCOPY",
            "SCREEN",
        ),
    )
)
"""Words of ImageType that mark a map, a part or a projection rather than a weighted image."""

AFTER = re.compile(
    r"\+ ?c\b|\+ ?gd|\bgado?\b|\bgd\b|\bkm\b|(?<![a-z])post(?!er)|\bce\b|contrast|enhanced|\bc\+|\bmdc\b|t1_?ce?\b",
    re.IGNORECASE,
)
BEFORE = re.compile(
    r"\bpre\b|\bnative?\b|unenhanced|non.?contrast|w/?o\b|without|\bohne\b|\bsans\b|\bsenza\b|\bnc\b",
    re.IGNORECASE,
)
FLAIR = re.compile(r"flair|dark.?fluid|\btirm\b", re.IGNORECASE)
NO_AGENT = frozenset(
    ("none", "no", "n", "0", "nil", "unenhanced", "without", "w/o", "no contrast", "-")
)


def channel(header: Header) -> tuple[str, str]:
    """(channel, the sentence that says why or why not)."""
    if (whole := modality(header.modality)).channel:
        return whole.channel, ""
    if header.modality != MR.name:
        return "", ""
    words = {w for part in header.image_type[2:] for w in re.split(r"[ _]", part)} | set(
        header.image_type[2:]
    )
    if derived := sorted(words & DERIVED):
        return "", f"MR channel: none, for ImageType says {', '.join(derived)}"
    settings = _settings(header)
    weights = _weights(header)
    if len(weights) > 1:
        weights = _by_description(header, weights)
    if len(weights) != 1:
        return "", f"MR channel: the settings do not tell ({settings})"
    weight = weights[0]
    if weight != "t1":
        return weight, f"MR channel: {weight} by {settings}"
    named, why = _contrast(header)
    return named, f"MR channel: {named or 'T1, but ' + why} by {settings}" + (
        f"; {why}" if named else ""
    )


def _settings(h: Header) -> str:
    times = (("TR", h.repetition_time), ("TE", h.echo_time), ("TI", h.inversion_time))
    return (
        " ".join(
            [
                *("/".join(h.scanning_sequence).split()),
                *(f"{name} {value:g}" for name, value in times if value is not None),
            ]
        )
        or "none"
    )


def _weights(h: Header) -> list[str]:
    """The weightings that the settings allow: of 't1', 't2w', 't2f'."""
    kinds, echo, repetition, inversion = (
        set(h.scanning_sequence),
        h.echo_time,
        h.repetition_time,
        h.inversion_time or 0.0,
    )
    if echo is None or "EP" in kinds:
        return []
    inverted = "IR" in kinds or inversion > 0
    if inverted and inversion > 0:
        if inversion < 400:
            return []  # STIR: fat suppressed
        if 1500 <= inversion <= 3200 and echo >= 60:
            return ["t2f"]
        return ["t1"] if inversion <= 1500 and echo < 40 else []
    if "GR" in kinds and "SE" not in kinds:
        short = (
            repetition is not None
            and (repetition < 60 or (inverted or repetition > 1000))
            and echo < 8
        )
        return ["t1"] if short else []
    if repetition is None:
        return []
    if repetition <= 1300 and echo <= 30:
        return ["t1"]
    if repetition >= 1800 and echo >= 60:
        if inverted:
            return ["t2f"]  # an inversion whose time is not told, with a T2's echo
        return ["t2w", "t2f"] if repetition >= 4500 else ["t2w"]
    return []


def _by_description(h: Header, weights: Sequence[str]) -> list[str]:
    if "t2f" in weights and FLAIR.search(h.description):
        return ["t2f"]
    return (
        ["t2w"]
        if "SE" in h.scanning_sequence or re.search(r"\bt2", h.description, re.IGNORECASE)
        else []
    )


def _contrast(h: Header) -> tuple[str, str]:
    after, before = AFTER.search(h.description), BEFORE.search(h.description)
    agent = h.contrast.strip().lower()
    if agent and agent not in NO_AGENT:
        return (
            ("", "a contrast agent is named and the description says it was taken before")
            if before and not after
            else ("t1c", "agent named")
        )
    if agent in NO_AGENT and agent:
        return (
            ("", "no contrast agent is named and the description says there was one")
            if after and not before
            else ("t1n", "agent denied")
        )
    if after and not before:
        return "t1c", "no agent is named; the description says there was one"
    return "t1n", "no agent is named"
