"""Contrast phase, reconstruction kernel and purpose of a CT series, by its header and by the words
that technicians write in several languages.

Kernels by vendor: Siemens a letter and a number that grows with sharpness (B30f, Br40, I70f), GE
words (STANDARD, LUNG), Canon and Toshiba FC and a number (FC13 body, FC52 lung), Philips letters (B
smooth, YA sharp), United Imaging words (B_SOFT_B). Phases by ContrastBolusAgentPhase (0018,9344) or
the description. What nothing tells is ''.
"""

from __future__ import annotations

import re

from client.imaging.dicom.mr_sequence import NO_AGENT
from client.imaging.geometry.volumes import Header


def _words(pattern: str) -> re.Pattern[str]:
    """Blanks, '_', '-', digits and signs part words."""
    return re.compile(rf"(?<![^\W\d_])(?:{pattern})", re.IGNORECASE)


END = r"(?![^\W\d_])"
PORTAL = _words(
    r"port(?:al|o)?[-_. ]?ven|portal|pvp?" + END + r"|pven|ven(?:ous|ös|oes|o[sz][aoe]?|eus|e)?" + END
    + r"|venös|veineu|(?:70|75|80) ?s(?:ec|ek)?" + END
)  # fmt: skip
ARTERIAL = _words(
    r"art" + END + r"|arter|artér|[ct]ta" + END
    + r"|angio|hap" + END + r"|early|früh|frueh|precoce|précoce|(?:25|30|35|40) ?s(?:ec|ek)?" + END
)  # fmt: skip
LATE_ARTERIAL = _words(r"(?:late|spät|spaet)[-_ ]*art")
DELAYED = _words(
    r"delay|del" + END + r"|late" + END + r"|spät|spaet|tardi|laat|equilib|gleichgew|excret|urogra"
    r"|ausscheid|nephro|(?:3|5|10|15) ?min"
)  # fmt: skip
NATIVE = _words(
    r"nativ|pre(?:kontrast|contrast)?" + END + r"|non.?con|non.?enh|unenh|without|w/?o" + END
    + r"|ohne|sans|senza|sin (?:c|iv)|sem c|basal|blanco|blank|plain|ne?ct" + END + r"|nc" + END
    + r"|vnc" + END
)  # fmt: skip
ENHANCED = _words(
    r"post" + END + r"|with (?:iv|con)|w/? ?con|w iv|mit km|km" + END
    + r"|enhanc|ce(?:ct)?" + END + r"|contrast|kontrast|avec inj|inject|iv" + END
)  # fmt: skip
PLUS = re.compile(r"\+ ?c" + END + r"|c ?\+", re.IGNORECASE)
LOW_DOSE = _words(
    r"ct[-_ ]?ac" + END + r"|ac[-_ ]?ct|atten|low.?dose|ld[-_ ]?ct|ld" + END
    + r"|niedrigdosis|faible dose|bassa dose|baja dosis|schwächung|pet" + END
)  # fmt: skip
OTHER_PURPOSE = _words(
    r"iodine|jod|overlay|virtual|vnc" + END + r"|z[-_ ]?eff|perf|fusion|monitor|pre.?mon|smart.?prep"
    r"|bolus|sure.?start|locator|track|mip" + END + r"|minip|vrt|dose|biop|interven|calc|ca.?sc"
)  # fmt: skip
SHARP = _words(r"lung|pulm|poumon|polmon|bone|knochen|oss?[oe]" + END + r"|sharp|hrct|hr" + END)
SOFT = _words(r"soft|weich|wt" + END + r"|st(?:and|d)|parties molles|tejido|tessuti|medias")
SCOUT = _words(r"scout|topo|locali[sz]|surview|scano|survey|pilot")

PHASES = (("portal venous", PORTAL), ("delayed", DELAYED), ("arterial", ARTERIAL))
TAGGED = {
    "PORTAL_VENOUS": "portal venous",
    "VENOUS": "portal venous",
    "ARTERIAL": "arterial",
    "CAPILLARY": "arterial",
    "DELAYED": "delayed",
    "STEADY_STATE": "delayed",
    "PRE_CONTRAST": "native",
    "POST_CONTRAST": "enhanced",
    "IMMEDIATE": "enhanced",
    "DYNAMIC": "enhanced",
}
"""ContrastBolusAgentPhase, its defined terms (PS3.3, C.8.16.2)."""
WORDS = (
    PORTAL, ARTERIAL, LATE_ARTERIAL, DELAYED, NATIVE, ENHANCED, PLUS, LOW_DOSE, OTHER_PURPOSE, SHARP, SOFT, SCOUT,
)  # fmt: skip
"""What is looked for in a description; nothing else of it need be kept."""


def phase(header: Header) -> str:
    """'portal venous', 'enhanced' (some phase with contrast), 'delayed', 'arterial', 'native' or
    ''."""
    if (tagged := header.contrast_phase.upper().replace(" ", "_")) in TAGGED:
        return TAGGED[tagged]
    for text in (header.contrast_phase, header.description):
        if named := _phase_of(text):
            return named
    return "enhanced" if header.contrast.strip().lower() not in {"", *NO_AGENT} else ""


def _phase_of(text: str) -> str:
    # "pre" and "without" before everything: "without contrast" names contrast too
    if LATE_ARTERIAL.search(text):
        return "arterial"
    found = [name for name, words in PHASES if words.search(text)]
    if found:
        return found[0]
    if NATIVE.search(text):
        return "native"
    return "enhanced" if ENHANCED.search(text) or PLUS.search(text) else ""


def kernel(header: Header) -> str:
    """'soft', 'sharp' or ''."""
    named = next(
        (k for f in header.frames for name, k in f.traits if name == "ConvolutionKernel"), ""
    )
    sharpness = _sharpness(named.upper().split("\\")[0].strip())
    if sharpness:
        return sharpness
    if SHARP.search(header.description):
        return "sharp"
    return "soft" if SOFT.search(header.description) else ""


def _sharpness(name: str) -> str:
    if re.search(r"LUNG|BONE|EDGE|ULTRA|SHARP|DETAIL|CHEST?_?HR|HRES|INNER", name):
        return "sharp"
    if re.search(r"SOFT|STAND|STD|CHST|BODY|BRAIN|SMOOTH", name):
        return "soft"
    canon = re.match(r"FC[-_ ]?(\d+)", name)
    if canon:
        number = int(canon[1])
        return "soft" if number < 30 or 40 <= number < 50 else "sharp"
    siemens = re.match(r"[A-Z]{1,2}(\d\d)", name)
    if siemens:
        return "soft" if int(siemens[1]) < 50 else "sharp"
    philips = re.match(r"(Y?[A-E]|EC|L|I?MR|UB)$", name)
    if philips:
        return "soft" if name in ("A", "B", "C", "UB") else "sharp"
    return ""


def purpose(header: Header) -> str:
    """'' of a diagnostic CT; 'low dose' of one that was taken for attenuation, 'other' of what
    watches a bolus, guides a needle or is a map of iodine."""
    if LOW_DOSE.search(header.description):
        return "low dose"
    return "other" if OTHER_PURPOSE.search(header.description) else ""
