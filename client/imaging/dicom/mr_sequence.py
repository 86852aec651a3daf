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
            "SW",
            "TOF",
            "B0",
            "FIELD",
            "FIELDMAP",
            "FM",
            "QSM",
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
            "SUBTRACT",
            "SUBTRACTED",
            "MOSAIC",
            "SPECTROSCOPY",
            "SCREEN",
        ),
    )
)
"""Words of ImageType that mark a map, a part or a projection rather than a weighted image."""

AFTER = re.compile(
    r"\+ ?c\b|\+ ?gd|\bgado?\b|(?<![a-z])gd(?![a-z])|(?<![a-z])km(?![a-z])|(?<![a-z])post(?!er)"
    r"|(?<![a-z])ce(?![a-z])|contrast|kontrast|enhanced|\bc\+|\bmdc\b|t1_?ce?\b"
    r"|gadolin|gadov|dotarem|magnevist|(?<![a-z])iv(?![a-z])|inj(?![a-z])|injec|inyec|iniez|\+ ?km",
    re.IGNORECASE,
)
BEFORE = re.compile(
    r"(?<![a-z])(?:(?:pre|nativ[eo]?|without|ohne|sans|senza|sin|sem|avant|vor|nc|plain)(?![a-z])"
    r"|unenhanced|non.?contrast|w/?o(?![a-z])|basal)",
    re.IGNORECASE,
)
"""Goes before `AFTER`, for it is said of an agent: "vor KM", "without contrast"."""
OTHER = re.compile(
    r"(?<![^\W\d_])(?:"
    r"scout|survey|lo[ck]ali[sz]|localis|rep[eé]rage|übersicht|uebersicht|loc(?![^\W\d_])|pilot"
    r"|(?:3|three)[-_ ]?(?:plane|pl)(?![^\W\d_])|topo|smart ?brain"
    r"|field.?map|feldkarte|b0.?map|b1.?map|shim|calib|kalib|asset|(?:sense|coil)[-_ ]?ref|ref.?scan"
    r"|tof(?![^\W\d_])|t_?o_?f(?![^\W\d_])|angio|mr[av](?![^\W\d_])|inhance|venogr|phleb|gef[aä](?:ß|ss|e)"
    r"|pc[-_ ]?(?:3d|2d|a(?![^\W\d_])|mr)|tricks|twist"
    r"|swi|swan|sw[ip]?p?(?![^\W\d_])|venbold|suscep|suszep|hemo|haemo|häm"
    r"|t2[-_ ]?(?:\*|star|fl2d|ffe|gre)|gre[-_ ]?t2|qsm"
    r"|dwi|dti|diff|difus|tensor|trace|e?adc|fa(?![^\W\d_])|resolve|b[-_= ]?(?:[5-9]\d\d|[1-3]\d00)(?!\d)"
    r"|perf|pwi|dsc|dce|p?c?asl(?![^\W\d_])|bold|fmri|resting|r?cb[fv]|mtt|ttp"
    r"|sub(?![^\W\d_])|subtr|soustr|sottr|sustr|mip|minip|vrt"
    r"|spectro|spektro|svs|csi(?![^\W\d_])|mrs|phase(?!n)|pha(?![^\W\d_])"
    r"|ciss|fiesta|drive(?![^\W\d_])|stir|dir(?![^\W\d_])|screen)",
    re.IGNORECASE,
)
"""What a series is called that is none of the weighted images, whatever its settings look like."""
OTHER_PULSES = re.compile(r"\*?(?:fm\d|ep|swi|tof|fl\dd.*_t\d|pc)", re.IGNORECASE)
"""Siemens' SequenceName: field map, echo planar, susceptibility, time of flight, phase contrast."""
SUSCEPTIBILITY = frozenset(("SW", "SWI", "SWAN", "TOF"))
"""Words of SequenceVariant and ScanOptions."""
SHORTEST_MS = 3.5
"""TR of a gradient echo without inversion: below it scouts and steady states are taken."""
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
    if other := _other(header):
        return "", f"MR channel: none, for {other}"
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


def _other(h: Header) -> str:
    """What says that a series is no weighted image of the brain, with the value that decided; ''
    where nothing does."""
    pulses, options = {*h.sequence_variant}, {*h.sequence_variant, *h.scan_options}
    gradient = "GR" in h.scanning_sequence and "SE" not in h.scanning_sequence
    fast = gradient and "IR" not in h.scanning_sequence and not h.inversion_time
    if h.angiography:
        return "AngioFlag says Y"
    if h.diffusion is not None:
        return f"its b-value is {h.diffusion:g}"
    if found := sorted(options & SUSCEPTIBILITY):
        return f"SequenceVariant or ScanOptions says {', '.join(found)}"
    if OTHER_PULSES.match(h.sequence_name):
        return f"SequenceName says {h.sequence_name[:16]}"
    if word := OTHER.search(h.description):
        return f"SeriesDescription says {word.group()}"
    if fast and "SS" in pulses and not pulses & {"SP", "MP"}:
        return "SequenceVariant says SS: a steady state"
    if fast and h.repetition_time is not None and h.repetition_time < SHORTEST_MS:
        return f"its TR is {h.repetition_time:g} ms: a scout or a steady state"
    return ""


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
    if not echo or "EP" in kinds:
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
    words, agent = contrast_words(h), h.contrast.strip().lower()
    if agent and agent not in NO_AGENT:
        if words == "before":
            return "", "a contrast agent is named and the description says it was taken before"
        return "t1c", "agent named"
    if agent:
        if words == "after":
            return "", "no contrast agent is named and the description says there was one"
        return "t1n", "agent denied"
    if words == "after":
        return "t1c", "no agent is named; the description says there was one"
    return "t1n", "no agent is named"


def contrast_words(h: Header) -> str:
    """'before' or 'after' contrast, as the description says; '' where it says neither."""
    if BEFORE.search(h.description):
        return "before"
    return "after" if AFTER.search(h.description) else ""
