"""Outcomes by name (guard L02): what a column's name and values say of an outcome, or of the label
under another name.

Names are compared as `spelled`: 'Follow-up (months)', 'followUpMonths' and 'follow_up_months' are
one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ALWAYS_DENIED = (
    r"vital_?status", r"days_to_(death|last|recurrence|progression)",
    r"(^|_)(overall_)?survival", r"surv_?time", r"überleben|ueberleben",
    r"(^|_)(os|dfs|pfs|dss|pfi|dfi|rfs|efs|css|dmfs|mfs|ttp|tte)_?(time|stat|status|event|months|days|years)?(_|$)",
    r"_dfs", r"months_to_", r"progression", r"recurrence", r"relapse", r"rezidiv",
    r"cause_of_death", r"treatment_outcome", r"new_tumou?r_event",
    r"(^|_)(death|died|dead|deceased|alive)(_|$)", r"(^|_)death", r"verstorben|gestorben|todes",
    r"follow_?up", r"(^|_)fu_?(time|stat)", r"time_to_(event|death|last|metast|recur|relaps|progress)",
    r"(^|_)surv_?(mo|mos|months?|days?|years?|status)(_|$)", r"(^|_)last_?contact", r"exitus",
)  # fmt: skip
"""For every study: later than any decision, wherever they are called so."""

_NOT_T_OR_N = "".join(
    rf"(?<!{start}{part}{end})"
    for start in "^_"
    for part in ("[tn]", "[cpy][tn]")
    for end in ("_", "")
)
OVERALL_STAGE_DENIED = (
    _NOT_T_OR_N + r"stag(e|ing)(?!r)", r"stadium", r"(^|[^a-z])[cpy]*tnm([^a-z]|$)",
    r"(^|[^a-z])duke'?_?s?([^a-z]|$)", r"(^|_)(uicc|figo)_?\d*(_|$)", r"^ajcc_?\d*$", r"ann_?arbor",
)  # fmt: skip
"""Where the label is T, N or M: the overall stage is made of the three."""

_CATEGORY = r"(_?(stage|categor(y|ie)|class|status)(_code)?)"
_PARTS = {
    "m": (
        rf"metasta|(^|_)(mets|distant)(_|$)|(^|_)[cpy]?m{_CATEGORY}?$|(^|_)m_stage|stage_?iv|(^|[^a-z])m1([^a-z]|$)",
        r"[cpy]*m[01x][a-d]?",
        (
            rf"(^|_)[cpy]*m({_CATEGORY}|$)", r"metasta", r"(path|clin)[a-z]*_m(_|$)",
            r"(^|_)mets(_|$)",
        ),
    ),
    "n": (
        rf"(^|_)[cpy]*n{_CATEGORY}?$|lymph_?(node|knoten)|(^|_)nodal|node_?(status|positiv)",
        r"[cpy]*n[0-3x][a-d]?",
        (
            rf"(^|_)[cpy]*n{_CATEGORY}?$", r"(path|clin)[a-z]*_n(_|$)",
            r"lymph_?node.*(stage|status|ratio|metast|positiv|involv)",
            r"(positiv|involved|invaded|metastatic|tumou?r)[a-z]*_(lymph_?)?node",
            r"node.*(positiv|involved|_pos(_|$))", r"(^|_)lnr(_|$)",
        ),
    ),
    "t": (
        rf"(^|_)[cpy]*t{_CATEGORY}?$", r"[cpy]*t([0-4][a-d]?|is|x)",
        (rf"(^|_)[cpy]*t{_CATEGORY}?$", r"(path|clin)[a-z]*_t(_|$)"),
    ),
}  # fmt: skip
"""Part of the stage -> what a label's name says that it is that part, what a class does, and which
columns say it again."""

_ALIVE = frozenset({"alive", "living", "lebend", "lebt", "vivant", "vivo"})
_DEAD = frozenset({"dead", "deceased", "died", "tot", "verstorben", "gestorben", "mort", "muerto"})


def spelled(name: str) -> str:
    """A name in lower case with `_` between its words: 'patientId', 'PATIENT ID' and 'patient.id'
    become 'patient_id'."""
    words = re.sub(r"(?<=[a-zß-ÿ0-9])(?=[A-Z][a-z]|[A-Z]+$)", "_", name)
    return re.sub(r"[\W_]+", "_", words).strip("_").casefold()


def denied_of(names: Iterable[str], classes: Iterable[str]) -> tuple[str, ...]:
    """The patterns, of a spelled name, of what says a label again: of its part of the stage, and of
    the overall stage. `names`: the label's own, its title's, its column's."""
    told, vocabulary = [spelled(n) for n in names], [spelled(c) for c in classes]
    patterns: list[str] = []
    for name_says, class_says, again in _PARTS.values():
        if any(re.search(name_says, n) for n in told) or any(
            re.fullmatch(class_says, c) or (again is _PARTS["m"][2] and re.search(name_says, c))
            for c in vocabulary
        ):
            patterns += [*OVERALL_STAGE_DENIED, *again]
    return tuple(dict.fromkeys(patterns))


def vital_status(values: Iterable[str]) -> bool:
    """Whether a vocabulary tells the living from the dead: 'alive'/'dead', '0:LIVING'/'1:DECEASED'."""
    words = {word for value in values for word in spelled(value).split("_")}
    return bool(words & _ALIVE and words & _DEAD)
