"""Ledger summary, kept while a run is followed: totals, each site's last part, thinned curves.

Its size does not grow with the run.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.monitor.curve_thinning import ThinnedCurve
from server.monitor.ledger_wording import is_code, sentence

HELD_LINES = 40
"""Lines that are held in words."""
POINTS = 400
"""Most points of a curve over all sites."""
SITE_POINTS = 4000
"""Most points of all sites' curves of one metric together."""
WITHHELD = "withheld"


@dataclass
class SitePart:
    """What the ledger says of one site."""

    state: str = "registered"
    code: str = ""
    seen: float | None = None
    contributed: int = 0
    late: int = 0
    late_at: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    refused_at: dict[str, int] = field(default_factory=dict)
    spent: float | None = None
    spent_by: dict[str, float] = field(default_factory=dict)


@dataclass
class CurvePart:
    """One learner's one metric."""

    all: ThinnedCurve
    sites: dict[str, ThinnedCurve] = field(default_factory=dict)


class LedgerSummary:
    """`take` each verified line, once and in order."""

    def __init__(self) -> None:
        self.first: dict[str, Any] = {}
        """Of the line that opened the run: what was begun."""
        self.begun: dict[str, Any] = {}
        """The newest line that opened or resumed it."""
        self.began: float | None = None
        self.latest: float | None = None
        """Times of the first line and of the newest that has one."""
        self.closed: dict[str, Any] = {}
        self.ended: dict[str, Any] = {}
        """A `failed` or `stopped` line, as long as nothing has gone on since."""
        self.guard: dict[str, Any] = {}
        self.evaluation: list[dict[str, Any]] = []
        self.sites: dict[str, SitePart] = defaultdict(SitePart)
        self.curves: dict[tuple[str, str], CurvePart] = {}
        self.seconds = ThinnedCurve(POINTS)
        self.exchanges = self.done = self.jobs = self.sent = self.received = self.resumed = 0
        self.spent_time = 0.0
        self.last_seconds: float | None = None
        self.learners: list[str] = []
        self.lines: deque[tuple[int, float | None, str, str]] = deque(maxlen=HELD_LINES)
        self.odd: dict[int, str] = {}
        """Lines that are as they were written and yet not of a form that this version knows."""

    def take(self, line: Mapping[str, Any]) -> None:
        number = int(line["n"]) + 1
        try:
            text = sentence(line)
            kind = str(line["kind"])
            if kind in _TAKE:
                _TAKE[kind](self, line)
            if isinstance(line.get("time"), int | float):
                self.latest = float(line["time"])
                self.began = self.latest if self.began is None else self.began
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = (
                f"not of a form that this version of fedmets knows ({type(error).__name__}: "
                f"{error})"
            )
            kind = str(line.get("kind", "?"))
            if len(self.odd) < HELD_LINES:
                self.odd[number] = text
        time = line.get("time")
        self.lines.append(
            (number, float(time) if isinstance(time, int | float) else None, kind, text)
        )

    def _begin(self, line: Mapping[str, Any]) -> None:
        if not self.first:
            self.first = dict(line)
        else:
            self.resumed += 1
        self.begun, self.ended, self.jobs = dict(line), {}, int(line["jobs"])
        for name in line["registered"]:
            part = self.sites[str(name)]
            part.state, part.code = ("ready" if name in line["sites"] else "registered"), ""
            part.seen = max(part.seen or 0.0, float(line["time"]))

    def _exchange(self, line: Mapping[str, Any]) -> None:
        step, time = int(line["step"]), float(line["time"])
        self.exchanges, self.done = self.exchanges + 1, int(line["done"])
        self.sent, self.received = (
            self.sent + int(line["sent"]),
            self.received + int(line["received"]),
        )
        self.last_seconds = float(line["seconds"])
        self.spent_time += self.last_seconds
        self.seconds.add(step, self.last_seconds)
        self.learners = list(dict.fromkeys(str(w["learner"]) for w in line["work"]))
        codes: dict[str, set[str]] = {}
        for work in line["work"]:
            for site, code in work["refused"].items():
                codes.setdefault(site, set()).add(str(code))
        for site, state in line["sites"].items():
            part, site_codes = self.sites[str(site)], set(codes.get(site, ()))
            part.state, part.code = str(state), ""
            if is_code(part.state):
                part.code = part.state
                site_codes.add(part.state)
            else:
                part.code = min(site_codes, default="") if state == "refused" else ""
                part.seen = time
                part.contributed += state == "contributed"
            for code in site_codes:
                part.refused[code] += 1
                part.refused_at[code] = step
        for entry in line.get("late", []):
            part = self.sites[str(entry["site"])]
            part.late, part.late_at, part.seen = part.late + 1, time, time
        for row in line.get("metrics", []):
            self._metrics(step, row)
        self.evaluation = list(line.get("evaluation", self.evaluation))
        for site, spent in line.get("spent", {}).items():
            part = self.sites[str(site)]
            part.spent, part.spent_by = (
                float(spent["epsilon"]),
                {str(k): float(v) for k, v in spent["learners"].items()},
            )

    def _metrics(self, step: int, row: Mapping[str, Any]) -> None:
        for metric, value in row["all"].items():
            curve = self.curves.setdefault(
                (str(row["learner"]), str(metric)), CurvePart(ThinnedCurve(POINTS))
            )
            curve.all.add(step, float(value))
            for site, site_metrics in row["sites"].items():
                if metric in site_metrics:
                    if site not in curve.sites:
                        curve.sites[str(site)] = ThinnedCurve(
                            min(SITE_POINTS // max(len(self.sites), 1), POINTS)
                        )
                    curve.sites[str(site)].add(step, float(site_metrics[metric]))

    def _guard(self, line: Mapping[str, Any]) -> None:
        self.guard = dict(line)

    def _close(self, line: Mapping[str, Any]) -> None:
        self.closed, self.ended = dict(line), {}

    def _end(self, line: Mapping[str, Any]) -> None:
        self.ended = dict(line)


_TAKE = {
    "open": LedgerSummary._begin,
    "resume": LedgerSummary._begin,
    "exchange": LedgerSummary._exchange,
    "guard": LedgerSummary._guard,
    "close": LedgerSummary._close,
    "failed": LedgerSummary._end,
    "stopped": LedgerSummary._end,
}
