"""Wording of figures: how a value, an interval, a difference and an error code are written, and
what a metric is called.

A value that cannot be estimated is never a number: it reads "not estimable" wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from common.errors import CODES
from common.metrics import definitions

Row = Mapping[str, Any]

NOT_ESTIMABLE = "not estimable"
NO_MODEL = "no model"
NOT_RECORDED = "not recorded"
ONLY_SIMULATED = "only a simulation can know it"
"""The pooled arm of a deployment, for nobody has all rows in one place; and hospitals' own models
elsewhere, for they do not travel."""

ARMS = {"federated": "Federated", "local": "Local", "pooled": "Pooled"}
EVALUATIONS = {"within_site": "Within sites", "leave_one_site_out": "Leave one site out"}
MODELS = {
    "clinical": "Clinical model",
    "logistic": "Logistic regression",
    "private_logistic": "Logistic regression made for noise",
    "boosting": "Gradient boosting (trees)",
    "mlp": "Neural network",
    "image": "Image model",
    "fusion": "Fusion of table and image",
}


METRICS = tuple(metric for metric in definitions.METRICS if metric.title)
"""Those that stand in tables."""

_STATES = {
    "refused": "the site's guard refused every plan of the exchange",
    **{name: code.meaning for name, code in CODES.items()},
}


def finite(value: object) -> float | None:
    """A number that can be written or drawn, else None (NaN and infinity are not)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number(value: object, digits: int = 3) -> str:
    v = finite(value)
    if v is None:
        return NOT_ESTIMABLE
    text = f"{v:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: float, digits: int = 3) -> str:
    """+0.030; zero has no sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def whole(value: object) -> str:
    """A count with thin thousands: 12 345."""
    v = finite(value)
    return NOT_RECORDED if v is None else f"{v:,.0f}".replace(",", "\u202f")


def percent(value: object, digits: int = 0) -> str:
    v = finite(value)
    return NOT_RECORDED if v is None else f"{100 * v:.{digits}f}\u00a0%"


def count(n: object, one: str, many: str = "") -> str:
    """1 site, 2 sites."""
    return f"{whole(n)} {one if n == 1 else many or one + 's'}"


def interval(low: object, high: object, digits: int = 3) -> str:
    if finite(low) is None or finite(high) is None:
        return "no interval"
    return f"{number(low, digits)} to {number(high, digits)}"


def standing(row: Row | None) -> str:
    """Empty for a row that holds an estimate, else why there is none: not estimable, no model, not
    reported."""
    if row is None:
        return NOT_RECORDED
    if row.get("n") == 0:
        return NO_MODEL
    can = row.get("estimable") or row.get("metric") == "no_information_rate"
    return "" if can and finite(row.get("value")) is not None else NOT_ESTIMABLE


def estimate(row: Row | None) -> str:
    """0.875 (0.815 to 0.919)."""
    if missing := standing(row):
        return missing
    assert row is not None
    return f"{number(row.get('value'))} ({interval(row.get('low'), row.get('high'))})"


class Difference(NamedTuple):
    figure: str
    same: str
    verdict: str


def difference(row: Row) -> Difference:
    """`figure` +0.030 (-0.010 to +0.070), `same` patients, `verdict` in words: an interval that
    includes zero shows no difference."""
    a, b = row.get("a") or "?", row.get("b") or "?"
    same = (
        f"same {count(row.get('n'), 'patient')} ({count(row.get('events'), 'event')}) of "
        f"{count(row.get('sites'), 'site')}"
    )
    value, low, high = (finite(row.get(k)) for k in ("difference", "low", "high"))
    if not row.get("estimable") or value is None:
        return Difference(NOT_ESTIMABLE, same, NOT_ESTIMABLE)
    if low is None or high is None:
        return Difference(
            f"{signed(value)} (no interval)", same, "no interval, so nothing can be concluded"
        )
    # a limit that excludes zero must not be written as zero
    digits = next(
        (
            d
            for d in (3, 4, 5)
            if not (low > 0 or high < 0) or all(float(f"{x:.{d}f}") for x in (low, high))
        ),
        6,
    )
    figure = f"{signed(value, digits)} ({signed(low, digits)} to {signed(high, digits)})"
    if low <= 0 <= high:
        return Difference(figure, same, "the interval includes zero: no difference shown")
    return Difference(figure, same, f"the interval excludes zero: {a if value > 0 else b} higher")


def arm_of(text: object) -> tuple[str, str]:
    """("clinical", "federated") from "clinical federated"."""
    model, _, arm = str(text or "").rpartition(" ")
    return model, arm or NOT_RECORDED


def name(value: object) -> str:
    return NOT_RECORDED if value is None or value == "" else str(value)


def arm(value: object) -> str:
    return ARMS.get(str(value), name(value))


def untold(report: Row, arm: str, evaluation: str) -> bool:
    """Is it something that only a simulation can know?"""
    elsewhere = arm == "local" and evaluation == "leave_one_site_out"
    return report.get("setting") == "deployment" and (arm == "pooled" or elsewhere)


def evaluation(value: object) -> str:
    return EVALUATIONS.get(str(value), name(value))


def model(value: object) -> str:
    return MODELS.get(str(value), name(value))


def code(value: str) -> str:
    """What an error code means, in the words of its declaration."""
    return _STATES.get(value, "unknown code")


def size(n: object) -> str:
    """Bytes with a unit of 1000."""
    v = finite(n)
    if v is None:
        return NOT_RECORDED
    for unit in ("bytes", "kB", "MB", "GB"):
        if v < 1000 or unit == "GB":
            return f"{v:.0f} bytes" if unit == "bytes" else f"{v:.2f} {unit}"
        v /= 1000
    return NOT_RECORDED
