"""Wording of a ledger's lines, for people."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from common.errors import CODES
from common.runtime.hash_chain import cut_off

_MOST_NAMES = 6
"""Names in a list."""


@lru_cache(maxsize=1024)
def is_code(text: str) -> bool:
    """Asked of every site in every line; the words are few."""
    return re.fullmatch(r"[A-Z]\d\d", text) is not None


def meaning(code: str) -> str:
    return (
        CODES[code].meaning
        if code in CODES
        else "a code that this version of fedmets does not know"
    )


def sentence(line: Mapping[str, Any]) -> str:
    """One sentence or two; a kind of line that this version does not know is named. KeyError and
    the like for a line of another form."""
    kind = line["kind"]
    text = (
        _SENTENCES[kind](line)
        if kind in _SENTENCES
        else f"a line of kind '{kind}', which this version of fedmets does not know"
    )
    return (
        f"{text}; {cut_off(line['lost'], 'the end of what stands above')}"
        if line.get("lost")
        else text
    )


def _open(line: Mapping[str, Any]) -> str:
    return (
        f"run {line['name']} begins with {_count(line['sites'], 'site')} "
        f"({some(line['sites'])}) and {_count(line['jobs'], 'job')}"
    )


def _resume(line: Mapping[str, Any]) -> str:
    torn = (
        f"; {line['torn']} bytes of a line that was cut short were removed"
        if line.get("torn")
        else ""
    )
    return f"resumed at step {line['step']} with {_count(line['sites'], 'site')}{torn}"


def _exchange(line: Mapping[str, Any]) -> str:
    contributed = [s for s, what in line["sites"].items() if what == "contributed"]
    learners = dict.fromkeys(w["learner"] for w in line["work"])
    text = (
        f"step {line['step']}: {some(list(learners))}; {len(contributed)} of "
        f"{_count(line['sites'], 'site')} contributed"
    )
    text += f", {line['seconds']:.1f} s, {size(line['sent'])} down, {size(line['received'])} up"
    codes: dict[str, set[str]] = {}
    for w in line["work"]:
        for s, code in w["refused"].items():
            codes.setdefault(s, set()).add(code)
    others = [
        f"{s}: {' '.join(sorted(codes.get(s, {what})))}"
        for s, what in line["sites"].items()
        if what != "contributed"
    ]
    refused = [
        f"{s}: {' '.join(sorted(site_codes))}"
        for s, site_codes in sorted(codes.items())
        if line["sites"].get(s) == "contributed"
    ]
    doubted = [d for w in line["work"] for d in w.get("doubted", [])]
    late = [f"{entry['site']} (step {entry['step']})" for entry in line.get("late", [])]
    for what, names in (
        ("not in it", others),
        ("refused in part", refused),
        ("doubted", doubted),
        ("late and not used", late),
    ):
        text += f"; {what}: {some(names)}" if names else ""
    return text


def _guard(line: Mapping[str, Any]) -> str:
    refused, accepted = line.get("refused", []), line.get("accepted", [])
    text = f"guard {line['guard']}: " + (
        f"stopped the run for {some(refused)}" if refused else "nothing found"
    )
    return text + (f"; accepted all the same: {some(accepted)}" if accepted else "")


def _close(line: Mapping[str, Any]) -> str:
    later = (
        f"; joined too late to take part: {some(line['joined_later'])}"
        if line.get("joined_later")
        else ""
    )
    return (
        f"finished after {_count(line['exchanges'], 'exchange')}, state "
        f"{line['state_hash'][:12]}{later}"
    )


def _failed(line: Mapping[str, Any]) -> str:
    return (
        f"ended without a result, {line['code']} ({meaning(line['code'])}): "
        f"{'; '.join(map(str, line['said']))}"
    )


_SENTENCES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "open": _open,
    "resume": _resume,
    "exchange": _exchange,
    "guard": _guard,
    "close": _close,
    "failed": _failed,
    "stopped": lambda line: "interrupted at the coordinator",
    "report": lambda line: f"report written: {line['file']}, SHA-256 {line['sha256'][:12]}",
}


def some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    shown = ", ".join(map(str, names[:_MOST_NAMES]))
    return f"{shown} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else shown


def _count(what: Any, name: str) -> str:
    n = what if isinstance(what, int) else len(what)
    return f"{n} {name}{'' if n == 1 else 's'}"


def size(count: float) -> str:
    """Bytes, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def ago(seconds: float) -> str:
    """A span of time."""
    seconds = max(seconds, 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
