"""`fedmets server`: start, stop, resume and look at runs, on the machine (or in the container) of
the coordinator's SuperLink."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.runtime.exit_status import ended, leave

EPILOG = """exit status: 0 done, 2 wrong option or key, 4 no such run, 5 the run failed, 6 the folder, 130 interrupted (the run goes on)
of status, show and watch: 0 finished or at work, 3 waiting for sites or without a sign of life, 4 no such run, 5 failed, 6 its ledger is
damaged, 7 stopped

examples:
  fedmets server run --study colorectal_metastasis --expect 3 --set secure=true
  fedmets server noise --study colorectal_metastasis --learners private_logistic --epsilon 3
  fedmets server runs
  fedmets server status 20260101-120000-colorectal_metastasis
  fedmets server watch /state/runs/20260101-120000-colorectal_metastasis
  fedmets server stop 20260101-12
  fedmets server resume 20260101-12
  fedmets server monitor
RUN is a run's folder, or the beginning of its name; without one, the newest run"""


SHOWN = {"noise": "noise", "mlflow": "run"}
"""What a command prints, where that is not the run's folder."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="fedmets server",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    c = commands.add_parser(
        "run", help="start a run and follow it", description="start a run and follow it"
    )
    c.add_argument("--study", required=True, metavar="NAME", help="the study")
    c.add_argument("--task", default="", help="prediction time (default: the study's last)")
    c.add_argument(
        "--expect",
        type=int,
        required=True,
        metavar="N",
        help="sites to wait for before the first round",
    )
    c.add_argument(
        "--out", default="", metavar="DIR", help="folder of the runs (default: runs, in the state)"
    )
    c.add_argument(
        "--keys",
        default="/kit",
        metavar="DIR",
        help="the folder `signer` of the coordinator's, as the signer sees it (default /kit)",
    )
    c.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of the run configuration, as JSON or text",
    )
    n = commands.add_parser(
        "noise",
        help="the noise that an epsilon affords",
        description="the least `noise` of a run that an epsilon affords",
    )
    n.add_argument("--study", required=True, metavar="NAME", help="the study")
    n.add_argument("--task", default="", help="prediction time (default: the study's last)")
    n.add_argument(
        "--learners", default="", metavar="A,B", help="heads to train (default: the study's)"
    )
    n.add_argument(
        "--epsilon", type=float, required=True, help="for each patient, of training once"
    )
    n.add_argument(
        "--delta", type=float, default=1e-5, help="of the sites' policies (default 1e-5)"
    )
    n.add_argument("--shared", action="store_true", help="of a run with shared_noise, under masks")
    n.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="other keys of the run, such as hyper",
    )
    n.add_argument("--json", action="store_true", help="print one JSON object")
    r = commands.add_parser(
        "resume", help="take a run up where it ended", description="take a run up where it ended"
    )
    x = commands.add_parser(
        "stop",
        help="end a run, to be resumed or not",
        description="end a run at the SuperLink; it can be resumed",
    )
    s = commands.add_parser(
        "status", help="what a run is doing", description="what a run is doing, in short"
    )
    v = commands.add_parser(
        "show", help="all that a run's ledger says", description="all that a run's ledger says"
    )
    w = commands.add_parser(
        "watch",
        help="follow a run to its end",
        description="follow a run to its end; Ctrl-C leaves it to go on",
    )
    ls = commands.add_parser(
        "runs", help="the runs there are", description="the runs there are, the newest first"
    )
    m = commands.add_parser(
        "monitor",
        help="the live page and the metrics",
        description="serve a page that follows the runs, and their metrics",
    )
    f = commands.add_parser(
        "mlflow",
        help="hand a run to MLflow",
        description="write parameters and metrics of a run to MLflow",
    )
    for one in (s, v, w):
        one.add_argument(
            "run",
            nargs="?",
            default="",
            metavar="RUN",
            help="folder or name of the run (default: the newest)",
        )
    told = "write the report and the model's files of a run that is done, again"
    g = commands.add_parser("report", help=told, description=told)
    g.add_argument(
        "--statements",
        default="",
        metavar="FILE",
        help="TOML of what only people can say, for the TRIPOD+AI and CLAIM tables "
        "(docs/report.md); kept with the run",
    )
    for one in (r, x, f, g):
        one.add_argument("run", metavar="RUN", help="folder or name of the run")
    for one in (r, x, s, v, w, ls, m, f, g):
        one.add_argument(
            "--out",
            default="",
            metavar="DIR",
            help="folder of the runs (default: runs, in the state)",
        )
    for one in (c, r, x, s, v, w, ls, m, f, g):
        one.add_argument(
            "--state", default="/state", metavar="DIR", help="of the coordinator (default /state)"
        )
    for one in (c, r, x):
        one.add_argument(
            "--address",
            default="127.0.0.1:8000",
            metavar="HOST:PORT",
            help="the SuperLink (default 127.0.0.1:8000)",
        )
        one.add_argument(
            "--link",
            default="/run/fedmets",
            metavar="DIR",
            help="the folder in which SuperLink and signer meet (default /run/fedmets)",
        )
    for one in (c, r, x, g):
        one.add_argument(
            "--json",
            action="store_true",
            help="print one JSON object at the end; progress goes to stderr",
        )
    for one in (s, v, ls, f):
        one.add_argument("--json", action="store_true", help="print one JSON object")
    w.add_argument(
        "--json", action="store_true", help="print one JSON object a line, at each change"
    )
    for one in (c, r, w, m):
        one.add_argument(
            "--log",
            default="",
            metavar="FILE",
            help="append what happens to a file, one JSON object a line",
        )
        one.add_argument(
            "--log-json", action="store_true", help="the same to stderr, in place of progress"
        )
    for one in (c, r):
        one.add_argument(
            "--mlflow",
            default="",
            metavar="URI",
            help="hand parameters and metrics to this MLflow tracking server or folder",
        )
    f.add_argument("--uri", required=True, help="of the tracking server, or file:/path/of/a/folder")
    m.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default 127.0.0.1: this machine alone)",
    )
    m.add_argument("--port", type=int, default=8090, help="default 8090")
    m.add_argument(
        "--socket", default="", metavar="PATH", help="listen at a Unix socket instead of a port"
    )
    m.add_argument(
        "--token-file",
        default="",
        metavar="FILE",
        help="whoever looks must know the token in this file",
    )
    m.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="IP",
        help="address of a proxy that says who the user is",
    )
    m.add_argument(
        "--user-header",
        default="",
        metavar="NAME",
        help="the header in which it does, such as X-Remote-User",
    )
    m.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a name under which the page is reached (Host header)",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = parser().parse_args(argv)
    return ended(
        lambda: _commanded(args),
        "interrupted; the run goes on at the coordinator: fedmets server status",
    )


def _commanded(args: argparse.Namespace) -> int:
    if args.command in _LOOKS:
        return _look(args)
    done = _do(args)
    print(json.dumps(done) if args.json else done[SHOWN.get(args.command, "folder")])
    return 0


_LOOKS = ("status", "show", "watch", "runs", "monitor")


def _look(args: argparse.Namespace) -> int:
    """What only reads: needs neither Flower nor a learner."""
    from server.monitor import terminal
    from server.monitor.json_log import Log

    folder = _runs(args)
    if args.command == "monitor":
        from server.monitor.web import service
        from server.monitor.web.access import Access

        access = Access.parse(
            args.host, args.socket, args.token_file, args.proxy, args.user_header, args.name
        )
        return service.run(
            folder, access, args.host, args.port, args.socket, Log(args.log, args.log_json)
        )
    if args.command == "runs":
        return terminal.listed(folder, args.json)
    if args.command == "watch":
        return terminal.watch(args.run, folder, args.json, Log(args.log, args.log_json))
    return (terminal.status if args.command == "status" else terminal.show)(
        args.run, folder, args.json
    )


def _runs(args: argparse.Namespace) -> Path:
    return Path(args.out or f"{args.state}/runs")


def _do(args: argparse.Namespace) -> dict[str, object]:
    import time

    if args.command == "noise":
        return _noise(args)
    from server.monitor import run_folders

    if args.command == "mlflow":
        from server.monitor import mlflow_sink

        return mlflow_sink.write(run_folders.chosen(args.run, _runs(args)), args.uri)
    from server.config.run_config import Run
    from server.coordinator import launch

    if args.command == "stop":
        folder = run_folders.chosen(args.run, _runs(args))
        launch.stop(_flower(args), folder)
        return {"folder": str(folder), "state": "stopped"}
    if args.command == "report":
        from server.report import deployment

        folder = run_folders.chosen(args.run, _runs(args))
        deployment.publish(folder, args.statements)
        return {
            "folder": str(folder),
            "report": str(folder / "report.html"),
            "model": str(folder / "model"),
        }
    if args.command == "resume":
        folder = run_folders.chosen(args.run, _runs(args))
        return _shown(args, folder, lambda tell: launch.resume(_flower(args), folder, tell))
    out = _runs(args).resolve() / f"{time.strftime('%Y%m%d-%H%M%S')}-{Path(args.study).stem}"
    keys = str(Path(args.keys).resolve())
    run = Run.parse(
        {
            "study": args.study,
            "task": args.task,
            "expect": args.expect,
            "out": str(out),
            "keys": keys,
            **_more(args.set),
        }
    )
    run.demand_protection(run.load_study())
    return _shown(args, out, lambda tell: launch.new(_flower(args), run, tell))


def _noise(args: argparse.Namespace) -> dict[str, object]:
    from common.errors import UsageError
    from server.config.run_config import Run
    from server.rounds.noisy_scores import noise_for

    if not args.epsilon > 0 or not 0 < args.delta < 1:
        raise UsageError(
            "C01",
            f"--epsilon {args.epsilon:g} must be above 0, --delta {args.delta:g} between 0 and 1",
        )
    run = Run.parse(
        {"study": args.study, "task": args.task, "learners": args.learners, **_more(args.set)}
    )
    noise = noise_for(run, run.load_study(), args.epsilon, args.delta, args.shared)
    return {
        "noise": noise,
        "epsilon": args.epsilon,
        "delta": args.delta,
        "learners": [h.name for h in run.heads(run.load_study())],
    }


def _flower(args: argparse.Namespace) -> Any:
    from server.coordinator.superlink import SuperLink

    authority = Path(args.link).resolve() / "ca.pem"
    return SuperLink(Path(args.state).resolve() / "flwr", authority, args.address)


def _more(pairs: Sequence[str]) -> dict[str, object]:
    from common.errors import UsageError

    out: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(
                "C01", f"--set {pair!r} must look like key=value, for instance quorum=0.8"
            )
        try:
            out[key] = json.loads(value)
        except ValueError:
            out[key] = value
        if isinstance(out[key], (dict, list)):
            out[key] = value
    return out


def _shown(args: argparse.Namespace, folder: Path, do: Any) -> dict[str, object]:
    """Follow a run that `do` starts, on the terminal, in the log and to MLflow, whichever are asked
    for."""
    from contextlib import ExitStack

    from common.errors import FedmetsError
    from common.runtime.console import progress
    from server.monitor.json_log import Log
    from server.monitor.run_watcher import RunWatcher

    log = Log(args.log, args.log_json)
    watched = RunWatcher(folder, lambda line: log.line(folder.name, line))
    with ExitStack() as opened:
        keep = None
        if args.mlflow:
            from server.monitor.mlflow_sink import Sink

            keep = Sink(folder, args.mlflow)
            opened.callback(keep.take)
        bar = opened.enter_context(progress(hidden=args.log_json))
        line = bar.add_task("waiting for sites", total=None)

        def tell(now: Mapping[str, Any]) -> None:
            sites = ", ".join(f"{s} {state}" for s, state in list(now["sites"].items())[:6])
            bar.update(
                line,
                total=now["jobs"],
                completed=now["done"],
                description=f"exchange {now['exchanges']}: {sites}",
            )
            watched.look()
            if keep:
                keep.take()

        try:
            return dict(do(tell))
        except FedmetsError as error:
            log.event("error", "command_failed", run=folder.name, code=error.code)
            raise
        finally:
            watched.look()


if __name__ == "__main__":
    leave(main)
