"""Kaplan-Meier from counts that add: deaths and censorings per interval of follow-up, at a site;
the curve, from the sum.

Product-limit estimate (Kaplan & Meier 1958) with Greenwood's variance and the log(-log) interval
(Kalbfleisch & Prentice, The Statistical Analysis of Failure Time Data, 2nd ed., section 1.4). Times
are taken as the end of their interval, so the curve equals that of the raw times wherever these are
whole numbers of intervals.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Floats
from common.errors import DataError
from common.types import Array


def survival_counts(
    time: Floats, event: Floats, horizon: float, intervals: int
) -> NDArray[np.int64]:
    """(intervals, 2): deaths and censorings in (0, h], (h, 2h], ... up to `horizon`; time 0 falls
    into the first.

    Whoever is followed beyond the horizon is censored there: in the last interval, and at risk in
    all of them.

    time (n,) >= 0 in the study's unit; event (n,) 1 or 0. A case with either of them NaN is not
    counted. D07 for another value.
    """
    time, event = np.asarray(time, np.float64), np.asarray(event, np.float64)
    complete = ~(np.isnan(time) | np.isnan(event))
    time, event = time[complete], event[complete]
    bad = ~((time >= 0) & np.isfinite(time) & ((event == 0) | (event == 1)))
    if bad.any():
        first_bad = f"time {time[bad][0]!r}, event {event[bad][0]!r}"
        raise DataError(
            "D07",
            f"{bad.sum()} of {len(time)} follow-ups are not a time >= 0 with an event 0 or 1 "
            f"(first: {first_bad}); check the survival columns",
        )
    ends = np.linspace(0, horizon, intervals + 1)
    interval = np.clip(np.searchsorted(ends, time, "left") - 1, 0, intervals - 1)
    censored = (event == 0) | (time > horizon)
    return (
        np.bincount(2 * interval + censored, minlength=2 * intervals)
        .astype(np.int64)
        .reshape(intervals, 2)
    )


class KaplanMeier(NamedTuple):
    """All (intervals,). `low` and `high` are NaN where survival is still 1 or has come to 0: no
    interval can be given there."""

    times: Floats
    """End of each interval, in the study's unit."""
    survival: Floats
    """Share alive just after `times`."""
    at_risk: NDArray[np.int64]
    """Followed at the start of the interval; those censored in it count as at risk for its
    deaths."""
    low: Floats
    high: Floats


def kaplan_meier(counts: Array, horizon: float, level: float = 0.95) -> KaplanMeier:
    """The curve from summed `survival_counts` with the same horizon."""
    counts = np.asarray(counts)
    at_risk, deaths = counts[::-1].sum(1).cumsum()[::-1], counts[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(np.where(at_risk > 0, 1 - deaths / at_risk, 1.0))
        greenwood = np.cumsum(
            np.where(deaths > 0, deaths / (at_risk * (at_risk - deaths).astype(np.float64)), 0.0)
        )
        between = (survival > 0) & (survival < 1)
        width = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(greenwood) / np.log(survival)
        # width is negative: log S < 0
        low, high = (
            np.where(between, survival ** np.exp(sign * width), np.nan) for sign in (-1, 1)
        )
    times = np.linspace(0, horizon, len(counts) + 1)[1:]
    # past the last patient nothing is estimated
    nobody = at_risk == 0
    return KaplanMeier(
        times,
        np.where(nobody, np.nan, survival),
        at_risk,
        np.where(nobody, np.nan, low),
        np.where(nobody, np.nan, high),
    )
