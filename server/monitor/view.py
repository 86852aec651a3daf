"""View of a run, from its ledger alone, and from `status.json` where that is fresh: what terminal,
page and metrics all show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from common import __version__
from common.errors import CODES
from server.monitor.curve_thinning import Point
from server.monitor.ledger_follower import Follower
from server.monitor.ledger_summary import WITHHELD, LedgerSummary, SitePart
from server.monitor.ledger_wording import is_code, meaning

State = Literal["waiting", "running", "stalled", "stopped", "failed", "finished", "damaged"]
RUN_STATES: tuple[State, ...] = (
    "waiting",
    "running",
    "stalled",
    "stopped",
    "failed",
    "finished",
    "damaged",
)
FRESH_SECONDS = 30.0
"""Seconds without a sign of life after which a run that should be at work is called stalled."""
_HIDDEN_SETTINGS = ("keys", "sites", "out", "resume")


@dataclass(frozen=True)
class SiteView:
    """One site, as the run's ledger and its heartbeat show it."""

    name: str
    state: str
    """registered, ready, working, contributed, late, refused, or the code of why there was no
    answer."""
    code: str
    seen: float | None
    """Unix time of the last sign of life."""
    plans_done: int | None
    plans_asked: int | None
    """Of the step that is under way."""
    forecast: float | None
    """Seconds that its doctor has forecast for the longest work on one plan."""
    cases: int | str | None
    imaged: int | str | None
    """`withheld` where sums are masked."""
    contributed: int
    late: int
    epsilon: float | None
    """At the most, what this run has cost one of its patients."""
    epsilon_by: Mapping[str, float]


@dataclass(frozen=True)
class CurveView:
    """One metric of one learner by step: (step, value), over all sites and at each."""

    learner: str
    metric: str
    all: tuple[Point, ...]
    sites: Mapping[str, tuple[Point, ...]]


@dataclass(frozen=True)
class RefusalView:
    """One code for which a site was not in exchanges."""

    site: str
    code: str
    times: int
    """Exchanges."""
    step: int
    """The last of them."""
    meaning: str
    way_out: str


@dataclass(frozen=True)
class LineView:
    """One line of the ledger, in words."""

    number: int
    time: float | None
    kind: str
    text: str
    verified: bool


@dataclass(frozen=True)
class View:
    """A run at one moment."""

    folder: str
    name: str
    study: str
    task: str
    state: State
    said: str
    """The state in a sentence, with the way out where one is needed."""
    code: str
    step: int
    """Exchanges that are in the ledger."""
    jobs: int
    done: int
    learners: tuple[str, ...]
    """Of the last exchange."""
    expect: int
    sites: tuple[SiteView, ...]
    withheld: bool
    """Sums are masked: what single sites have is not known here."""
    curves: tuple[CurveView, ...]
    evaluation: tuple[Mapping[str, Any], ...]
    scores: Mapping[str, Any]
    """AUC by noisy histograms, of a run with noise."""
    privacy: Mapping[str, Any] | None
    """noise, delta, and what the whole run costs a patient at the most; None without noise."""
    began: float | None
    latest: float | None
    seconds: Mapping[str, float | None]
    """Round times: last, mean, all."""
    round_times: tuple[Point, ...]
    sent: int
    received: int
    refusals: tuple[RefusalView, ...]
    joined_later: tuple[str, ...]
    guard: Mapping[str, Any]
    configuration: Mapping[str, Any]
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    lines: tuple[LineView, ...]
    """The newest, the oldest first."""
    line_count: int
    verified: int
    fault_line: int | None
    fault: str
    head: str
    state_hash: str
    resumed: int

    def json(self) -> dict[str, Any]:
        return asdict(self)


def view(
    folder: str,
    ledger: Follower,
    summary: LedgerSummary,
    status: Mapping[str, Any],
    stopped: Mapping[str, Any],
    now: float,
) -> View:
    """`status`, `stopped`: what is in those files, empty where there are none."""
    first, newest_begin = summary.first, summary.begun
    config = newest_begin.get("config") or first.get("config") or {}
    alive = now - _time(status) < FRESH_SECONDS
    state, sentence, code = _state(folder, ledger, summary, status, stopped, now)
    live = status if state in ("running", "waiting") and alive else {}
    secure = bool(config.get("secure"))
    return View(
        folder=folder,
        name=str(first.get("name") or status.get("run") or ""),
        study=str(config.get("study") or status.get("study") or ""),
        task=str(config.get("task") or status.get("task") or ""),
        state=state,
        said=sentence,
        code=code,
        step=summary.exchanges,
        jobs=summary.jobs,
        done=summary.done,
        learners=tuple(summary.learners),
        expect=int(config.get("expect") or status.get("expect") or 0),
        sites=tuple(
            _site(name, summary, live, _heard(status))
            for name in sorted({*summary.sites, *_names(live)})
        ),
        withheld=secure,
        curves=tuple(
            CurveView(
                learner, metric, c.all.points, {s: t.points for s, t in sorted(c.sites.items())}
            )
            for (learner, metric), c in sorted(summary.curves.items())
        ),
        evaluation=tuple(summary.evaluation),
        scores=dict(summary.closed.get("scores") or {}),
        privacy=_privacy(config, first),
        began=summary.began,
        latest=max(filter(None, (summary.latest, _time(status) or None)), default=None),
        seconds={
            "last": summary.last_seconds,
            "mean": summary.spent_time / summary.exchanges if summary.exchanges else None,
            "all": summary.spent_time,
        },
        round_times=summary.seconds.points,
        sent=summary.sent,
        received=summary.received,
        refusals=_refusals(summary),
        joined_later=tuple(map(str, summary.closed.get("joined_later") or ())),
        guard={
            k: summary.guard[k]
            for k in ("guard", "found", "accepted", "refused")
            if k in summary.guard
        },
        configuration={k: v for k, v in config.items() if k not in _HIDDEN_SETTINGS},
        versions={str(k): str(v) for k, v in (newest_begin.get("versions") or {}).items()},
        notes=_notes(ledger, summary),
        lines=tuple(LineView(n, t, kind, text, True) for n, t, kind, text in summary.lines),
        line_count=ledger.lines,
        verified=ledger.verified,
        fault_line=ledger.fault.line if ledger.fault else None,
        fault=ledger.fault.what if ledger.fault else "",
        head=ledger.head,
        state_hash=str(summary.closed.get("state_hash", "")),
        resumed=summary.resumed,
    )


# a sentence changes when the state does, and not every second: screen readers speak it
def _state(
    folder: str,
    ledger: Follower,
    summary: LedgerSummary,
    status: Mapping[str, Any],
    stopped: Mapping[str, Any],
    now: float,
) -> tuple[State, str, str]:
    resume = f"fedmets server resume {folder}"
    if ledger.fault:
        line = ledger.fault
        verified = (
            f"the {line.line - 1} lines before it are verified"
            if line.line > 1
            else "no line is verified"
        )
        if line.lost:
            return (
                "damaged",
                f"line {line.line} of the ledger is missing ({line.what}); {verified}: restore "
                "the run's folder from a backup, "
                f"or go on from what is left, which puts the loss on record: {resume}",
                "S02",
            )
        return (
            "damaged",
            f"line {line.line} of the ledger was altered or damaged ({line.what}); {verified}, "
            "what comes after it is not to be "
            "trusted: restore the run's folder from a backup, or start a new run",
            "S02",
        )
    if summary.closed:
        return (
            "finished",
            f"all {summary.jobs} jobs are done, after {summary.exchanges} exchanges",
            "",
        )
    ended = summary.ended if summary.first else status.get("failed") or {}
    begun = max(_time(summary.begun), 0.0)
    if stopped and float(stopped.get("time", 0.0)) >= begun:
        return "stopped", f"stopped by command; take it up again: {resume}", ""
    if ended.get("code"):
        code = str(ended["code"])
        why, way_out = (
            "; ".join(map(str, ended.get("said") or ())),
            CODES[code].way_out if code in CODES else "",
        )
        return "failed", f"{code}, {meaning(code)}: {why}. What to do: {way_out} ({resume})", code
    if ended:
        return "stopped", f"interrupted at the coordinator; take it up again: {resume}", ""
    last = max(_time(status), summary.latest or 0.0)
    if now - last < FRESH_SECONDS:
        if not summary.first or not status.get("begun", True):
            present = len(_names(status))
            return (
                "waiting",
                f"waiting for sites: {present} of {status.get('expect', '?')} have come",
                "",
            )
        return "running", "at work", ""
    if not summary.first and not status:
        return (
            "waiting",
            "the ledger has no line yet: sites are being waited for, or the run never began",
            "",
        )
    return (
        "stalled",
        f"no sign of life for more than {FRESH_SECONDS:.0f} s: the coordinator's process has "
        "ended or hangs; look at its log, "
        f"then: {resume}",
        "R07",
    )


def _site(
    name: str, summary: LedgerSummary, live: Mapping[str, Any], heard: Mapping[str, Any]
) -> SiteView:
    part, live_state = summary.sites.get(name, SitePart()), str(_names(live).get(name, ""))
    state, code = part.state, part.code
    if live_state and not (live_state == "refused" and part.code):
        state, code = live_state, live_state if is_code(live_state) else ""
    if (
        part.late_at
        and part.late_at >= (part.seen or 0.0)
        and state not in ("working", "contributed")
    ):
        state = "late"
    plans = _pair((live.get("plans") or {}).get(name)) if state == "working" else (None, None)
    seen = max(filter(None, (part.seen, _number(heard.get(name)))), default=None)
    return SiteView(
        name, state, code, seen, *plans, _forecast(summary, name), _count(summary, "cases", name),
        _count(summary, "imaged", name),
        part.contributed, part.late, part.spent, dict(part.spent_by),
    )  # fmt: skip


def _refusals(summary: LedgerSummary) -> tuple[RefusalView, ...]:
    return tuple(
        RefusalView(
            site,
            code,
            times,
            part.refused_at.get(code, 0),
            meaning(code),
            CODES[code].way_out if code in CODES else "",
        )
        for site, part in sorted(summary.sites.items())
        for code, times in sorted(part.refused.items())
    )


def _notes(ledger: Follower, summary: LedgerSummary) -> tuple[str, ...]:
    out = []
    written = str((summary.begun.get("versions") or {}).get("fedmets", ""))
    if summary.first and written != __version__:
        out.append(
            f"written by fedmets {written or 'of an unknown version'}, shown by {__version__}: "
            "what that version wrote differently "
            "may be missing here"
        )
    if ledger.torn:
        out.append(
            f"line {ledger.lines + 1} is not complete ({ledger.torn} bytes): it is being written, "
            "or was cut off; resuming removes it"
        )
    out += [f"line {n}: {text}" for n, text in summary.odd.items()]
    if summary.resumed:
        out.append(f"resumed {summary.resumed} time{'' if summary.resumed == 1 else 's'}")
    return tuple(out)


def _privacy(config: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any] | None:
    noise = _number(config.get("noise"))
    if not noise:
        return None
    return {
        "noise": noise,
        "delta": first.get("delta"),
        "planned": first.get("planned"),
        "allowed": WITHHELD,
    }


def _names(status: Mapping[str, Any]) -> Mapping[str, Any]:
    sites = status.get("sites")
    return sites if isinstance(sites, dict) else {}


def _heard(status: Mapping[str, Any]) -> Mapping[str, Any]:
    heard = status.get("heard")
    return heard if isinstance(heard, dict) else {}


def _forecast(summary: LedgerSummary, name: str) -> float | None:
    return _number((summary.begun.get("seconds") or {}).get(name)) or None


def _count(summary: LedgerSummary, what: str, name: str) -> int | str | None:
    value = (summary.begun.get(what) or {}).get(name)
    return value if isinstance(value, int) or value == WITHHELD else None


def _pair(value: Any) -> tuple[int | None, int | None]:
    return (
        (int(value[0]), int(value[1]))
        if isinstance(value, list) and len(value) == 2
        else (None, None)
    )


def _time(what: Mapping[str, Any]) -> float:
    return _number(what.get("time")) or 0.0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
