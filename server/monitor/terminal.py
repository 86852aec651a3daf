"""Terminal output of the coordinator's commands: for people by rich, for programs one JSON object,
an exit status for cron."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.runtime.console import Console
from server.monitor import run_folders
from server.monitor.json_log import Log
from server.monitor.ledger_wording import ago, size
from server.monitor.run_watcher import RunWatcher
from server.monitor.view import SiteView, State, View

EXIT: Mapping[State, int] = {
    "finished": 0, "running": 0, "waiting": 3, "stalled": 3, "failed": 5, "damaged": 6,
    "stopped": 7,
}  # fmt: skip
"""Exit status of `status`, `show` and `watch`."""
ENDS = ("finished", "failed", "stopped", "damaged")
_COLOURS = {
    "finished": "green",
    "running": "cyan",
    "waiting": "yellow",
    "stalled": "red",
    "stopped": "yellow",
    "failed": "red",
    "damaged": "red",
}
LOOK_SECONDS = 1.0
"""Seconds between looks."""


def status(word: str, folder: Path, as_json: bool) -> int:
    """In short."""
    current = RunWatcher(run_folders.chosen(word, folder)).look()
    if as_json:
        print(json.dumps(brief(current)))
    else:
        Console(stderr=True, width=_width(sys.stderr)).print(
            _head(current), _sites(current), highlight=False
        )
        print(current.folder)
    return EXIT[current.state]


def show(word: str, folder: Path, as_json: bool) -> int:
    """All of it."""
    watched = RunWatcher(run_folders.chosen(word, folder))
    current = watched.look()
    if as_json:
        print(json.dumps(current.json()))
    else:
        console = Console(width=_width(sys.stdout))
        for part in _whole(current):
            console.print(part, highlight=False)
    return EXIT[current.state]


def listed(folder: Path, as_json: bool) -> int:
    """Every run in the folder, the newest first."""
    views = [RunWatcher(path).look() for path in run_folders.listed(folder)]
    if as_json:
        print(json.dumps([brief(v) for v in views]))
        return 0
    table = Table(
        "run",
        "study",
        "task",
        "state",
        "jobs",
        "exchanges",
        "sites",
        "last sign of life",
        box=None,
        pad_edge=False,
    )
    for v in views:
        jobs = f"{v.done} of {v.jobs}" if v.jobs else ""
        state = Text(v.state, _COLOURS[v.state])
        table.add_row(
            _plain(Path(v.folder).name),
            _plain(v.study),
            _plain(v.task),
            state,
            jobs,
            str(v.step),
            str(len(v.sites)),
            _since(v.latest),
        )
    Console(width=_width(sys.stdout)).print(
        table if views else f"no run in '{folder}'", highlight=False
    )
    return 0


def watch(
    word: str, folder: Path, as_json: bool, log: Log, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Until the run has ended. On a terminal one picture that changes, else a line an exchange,
    with --json one object each."""
    path = run_folders.chosen(word, folder)
    watched, printed = RunWatcher(path, lambda line: log.line(path.name, line)), 0
    picture = sys.stdout.isatty() and not as_json
    with (
        Live(console=Console(), auto_refresh=False, transient=False)
        if picture
        else _NoPicture() as live
    ):
        last_shown: tuple[object, ...] = ()
        while True:
            current = watched.look()
            if isinstance(live, Live):
                live.update(Group(_head(current), _sites(current)), refresh=True)
            elif as_json:
                key = (
                    current.state,
                    current.step,
                    current.line_count,
                    tuple((s.name, s.state, s.code, s.plans_done) for s in current.sites),
                )
                if key != last_shown:
                    last_shown = key
                    print(json.dumps(brief(current)), flush=True)
            else:
                for line in watched.lines(None, current.line_count - printed):
                    mark = "" if line.verified else "NOT VERIFIED "
                    print(
                        f"{_clock(line.time)} {line.number:>5} {mark}{_safe(line.text)}", flush=True
                    )
                printed = current.line_count
                if (current.state,) != last_shown:
                    last_shown = (current.state,)
                    print(f"{_clock(time.time())} {current.state}: {current.said}", flush=True)
            if current.state in ENDS:
                return EXIT[current.state]
            sleep(LOOK_SECONDS)


class _NoPicture:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def brief(v: View) -> dict[str, Any]:
    """What `status --json` prints: what programs ask for, and the state."""
    return {
        "folder": v.folder,
        "run": v.name,
        "study": v.study,
        "task": v.task,
        "state": v.state,
        "said": v.said,
        "code": v.code,
        "closed": v.state == "finished",
        "state_hash": v.state_hash,
        "scores": dict(v.scores),
        "exchanges": v.step,
        "done": v.done,
        "jobs": v.jobs,
        "sites": {s.name: s.code if s.state not in _PLAIN_STATES else s.state for s in v.sites},
        "late": {s.name: s.late for s in v.sites if s.late},
        "refused": [[r.site, r.code] for r in v.refusals],
        "joined_later": list(v.joined_later),
        "latest": v.latest,
        "head": v.head,
        "fault_line": v.fault_line,
    }


_PLAIN_STATES = ("registered", "ready", "working", "contributed", "late", "refused")


def _head(v: View) -> Group:
    lines = [Text.assemble((v.state, f"bold {_COLOURS[v.state]}"), f"  {_safe(v.said)}")]
    subject = ", ".join(filter(None, (v.study, v.task)))
    lines.append(_plain(f"{v.name or Path(v.folder).name}  {subject}"))
    if v.jobs:
        mean = f", {v.seconds['mean']:.1f} s each" if v.seconds["mean"] else ""
        lines.append(
            Text(
                f"{v.done} of {v.jobs} jobs, {v.step} exchanges{mean}, {size(v.sent)} down, "
                f"{size(v.received)} up"
            )
        )
    lines += [Text(f"note: {_safe(n)}", "yellow") for n in v.notes]
    return Group(*lines)


def _sites(v: View) -> Table:
    table = Table(
        "site",
        "state",
        "heard of",
        "plans",
        "forecast",
        "cases",
        "imaged",
        "in",
        "late",
        "not",
        box=None,
        pad_edge=False,
    )
    if v.privacy:
        table.add_column("epsilon")
    for s in v.sites:
        state = Text(
            s.state if not s.code or s.code == s.state else f"{s.state} {s.code}",
            "red" if s.code else "",
        )
        plans = f"{s.plans_done} of {s.plans_asked}" if s.plans_asked is not None else ""
        refused = ", ".join(f"{r.code} x{r.times}" for r in v.refusals if r.site == s.name)
        row: list[str | Text] = [
            _plain(s.name), state, _since(s.seen), plans,
            "" if s.forecast is None else ago(s.forecast),
            _number(s.cases), _number(s.imaged), str(s.contributed), str(s.late or ""), refused,
            *([_epsilon(s)] if v.privacy else []),
        ]  # fmt: skip
        table.add_row(*row)
    return table


def _whole(v: View) -> list[object]:
    out: list[object] = [_head(v), "", _sites(v)]
    if v.privacy:
        planned = v.privacy.get("planned")
        whole = f"the whole run costs at most {planned:.3g}; " if isinstance(planned, float) else ""
        out.append(
            f"noise {v.privacy['noise']:g}; {whole}what a site allows is withheld: it keeps its "
            "limit to itself"
        )
    for c in (c for c in v.curves if c.all):
        first, last = c.all[0], c.all[-1]
        out.append(
            f"{c.learner} {c.metric}: {first[1]:.4g} at step {first[0]}, {last[1]:.4g} at step "
            f"{last[0]}"
        )
    for e in v.evaluation:
        figures = ", ".join(
            f"{k} {e[k]:.3f}"
            for k in ("auc", "auc_pooled", "brier", "log_loss")
            if isinstance(e.get(k), float)
        )
        out.append(
            f"{e.get('model')} {e.get('evaluation')}: {figures or 'not estimable'} ({e.get('n')} "
            "cases)"
        )
    if v.refusals:
        table = Table(
            "site", "code", "exchanges", "what it means", "what to do", box=None, pad_edge=False
        )
        for r in v.refusals:
            table.add_row(
                _plain(r.site), r.code, str(r.times), _plain(r.meaning), _plain(r.way_out)
            )
        out += ["", table]
    out.append("")
    out += [
        f"{line.number:>5} {_clock(line.time)} "
        f"{'' if line.verified else 'NOT VERIFIED '}{line.text}"
        for line in v.lines
    ]
    out.append("")
    out.append(f"{v.verified} of {v.line_count} lines verified, head {v.head}")
    out.append(", ".join(f"{k} {version}" for k, version in v.versions.items()))
    return [_plain(part) if isinstance(part, str) else part for part in out]


def _epsilon(s: SiteView) -> str:
    return "" if s.epsilon is None else f"{s.epsilon:.3g} of withheld"


def _plain(text: str) -> Text:
    """As it is: a site's name is no markup."""
    return Text(_safe(text))


def _safe(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _number(value: int | str | None) -> str:
    return "" if value is None else str(value)


def _since(when: float | None) -> str:
    return "" if when is None else f"{ago(time.time() - when)} ago"


def _clock(when: Any) -> str:
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
        if isinstance(when, int | float)
        else " " * 19
    )


def _width(out: Any) -> int | None:
    return None if out.isatty() else 140
