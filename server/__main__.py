"""`python -m server`: start, resume and look at a run, on the machine (or in the container) of the coordinator's SuperLink."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

EPILOG = """exit status: 0 done, 2 wrong option or key, 5 the run failed, 6 the folder, 130 interrupted (the run goes on)

examples:
  python -m server run --study colorectal_metastasis --expect 3
  python -m server noise --study colorectal_metastasis --learners private_logistic --epsilon 3
  python -m server status /state/runs/20260101-120000-colorectal_metastasis
  python -m server resume /state/runs/20260101-120000-colorectal_metastasis"""


SHOWN = {"noise": "noise"}
"""What a command prints, where that is not the run's folder."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m server", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    c = commands.add_parser("run", help="start a run and follow it", description="start a run and follow it")
    c.add_argument("--study", required=True, metavar="NAME")
    c.add_argument("--task", default="", help="prediction time (default: the study's last)")
    c.add_argument("--expect", type=int, required=True, metavar="N", help="sites to wait for before the first round")
    c.add_argument("--out", default="", metavar="DIR", help="folder of the runs (default: runs, in the state)")
    c.add_argument("--keys", default="/kit", metavar="DIR", help="the coordinator's kit (default /kit)")
    c.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of the run configuration, as JSON or text"
    )
    n = commands.add_parser(
        "noise", help="the noise that an epsilon affords", description="the least `noise` of a run that an epsilon affords"
    )
    n.add_argument("--study", required=True, metavar="NAME")
    n.add_argument("--task", default="", help="prediction time (default: the study's last)")
    n.add_argument("--learners", default="", metavar="A,B", help="heads to train (default: the study's)")
    n.add_argument("--epsilon", type=float, required=True, help="for each patient, of training once")
    n.add_argument("--delta", type=float, default=1e-5, help="of the sites' policies (default 1e-5)")
    n.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="other keys of the run, such as hyper")
    n.add_argument("--json", action="store_true", help="print one JSON object")
    r = commands.add_parser("resume", help="take a run up where it ended", description="take a run up where it ended")
    s = commands.add_parser("status", help="what a run is doing", description="what a run is doing")
    told = "write the report and the model's files of a run that is done, again"
    w = commands.add_parser("report", help=told, description=told)
    for one in (r, s, w):
        one.add_argument("folder", metavar="DIR", help="the run's folder")
    for one in (c, r):
        one.add_argument("--state", default="/state", metavar="DIR", help="of the coordinator (default /state)")
        one.add_argument("--address", default="127.0.0.1:8000", metavar="HOST:PORT", help="the SuperLink (default 127.0.0.1:8000)")
    for one in (c, r, s, w):
        one.add_argument("--json", action="store_true", help="print one JSON object at the end; progress goes to stderr")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = parser().parse_args(argv)
    from common.errors import FedmetsError

    try:
        done = _do(args)
    except FedmetsError as error:
        print(f"error {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the run goes on at the coordinator: python -m server status DIR", file=sys.stderr)
        return 130
    print(json.dumps(done) if args.json else done[SHOWN.get(args.command, "folder")])
    return 0


def _do(args: argparse.Namespace) -> dict[str, object]:
    import time
    from pathlib import Path

    from server import launch
    from server.run import Run

    if args.command == "status":
        told = launch.summary(Path(args.folder))
        if not args.json:
            print("\n".join(f"{k}: {v}" for k, v in told.items()), file=sys.stderr)
        return told
    if args.command == "noise":
        return _noise(args)
    if args.command == "report":
        from server.report import deployed

        deployed.publish(Path(args.folder))
        return {"folder": args.folder, "report": str(Path(args.folder) / "report.html"), "model": str(Path(args.folder) / "model")}
    if args.command == "resume":
        return _shown(args, lambda tell: launch.resume(_flower(args), Path(args.folder), tell))
    out = Path(args.out or f"{args.state}/runs").resolve() / f"{time.strftime('%Y%m%d-%H%M%S')}-{Path(args.study).stem}"
    keys = str(Path(args.keys).resolve())
    run = Run.parse({"study": args.study, "task": args.task, "expect": args.expect, "out": str(out), "keys": keys, **_more(args.set)})
    run.heads(run.load_study())
    return _shown(args, lambda tell: launch.new(_flower(args), run, tell))


def _noise(args: argparse.Namespace) -> dict[str, object]:
    from common.errors import UsageError
    from server.run import Run
    from server.scores import noise_for

    if not args.epsilon > 0 or not 0 < args.delta < 1:
        raise UsageError("C01", f"--epsilon {args.epsilon:g} must be above 0, --delta {args.delta:g} between 0 and 1")
    run = Run.parse({"study": args.study, "task": args.task, "learners": args.learners, **_more(args.set)})
    noise = noise_for(run, run.load_study(), args.epsilon, args.delta)
    return {"noise": noise, "epsilon": args.epsilon, "delta": args.delta, "learners": [h.name for h in run.heads(run.load_study())]}


def _flower(args: argparse.Namespace) -> Any:
    from pathlib import Path

    from server.flower import LOOPBACK, Flower

    state = Path(args.state).resolve()
    return Flower(state / "flwr", state / LOOPBACK / "ca.pem", args.address)


def _more(pairs: Sequence[str]) -> dict[str, object]:
    from common.errors import UsageError

    out: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError("C01", f"--set {pair!r} must look like key=value, for instance quorum=0.8")
        try:
            out[key] = json.loads(value)
        except ValueError:
            out[key] = value
        if isinstance(out[key], (dict, list)):
            out[key] = value
    return out


def _shown(args: argparse.Namespace, do: Any) -> dict[str, object]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("waiting for sites", total=None)

        def tell(now: Mapping[str, Any]) -> None:
            sites = ", ".join(f"{s} {state}" for s, state in list(now["sites"].items())[:6])
            bar.update(line, total=now["jobs"], completed=now["done"], description=f"exchange {now['exchanges']}: {sites}")

        return dict(do(tell))


if __name__ == "__main__":
    sys.exit(main())
