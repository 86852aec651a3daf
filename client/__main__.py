"""`fedmets client`: the site's station, and what a site does with a federation's model for itself.
Nothing here has a network."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from common.runtime import environment
from common.runtime.exit_status import SET_ASIDE, ended, leave

EPILOG = """exit status: 0 done, 2 wrong option, 3 unusable data or another's model, 6 a file cannot be written,
8 predicted, but for patients with a cell that cannot be read (left_out.csv), 130 interrupted

examples:
  fedmets client serve --site site.toml --socket /run/fedmets/station.sock
  fedmets client embed --site site.toml --study liver_recurrence --model runs/<run>/model --out embeddings
  fedmets client explain --site site.toml --study liver_recurrence --model runs/<run>/model --out pictures.html
  fedmets client explain --site site.toml --study liver_recurrence --model runs/<run>/model --report report.json --out mine.html
  fedmets client predict --model runs/<run>/model --data new_patients --out predictions
  fedmets client finetune --site site.toml --model runs/<run>/model --out own_model
  fedmets client budget --site site.toml --new
  fedmets client budget --site site.toml
  fedmets client audit --site site.toml --last 50
  fedmets client cache --site site.toml --unused 90 --remove"""


COMMANDS = {
    "embed": "write per-patient and per-slice embeddings of the site's images",
    "explain": "write the site's own page of Grad-CAM pictures",
    "predict": "score the patients of a folder with a run's final model, offline, beside the data",
    "finetune": "adapt a run's final model to the site's own patients, and say what that is "
    "worth; offline, nothing is sent",
    "serve": "answer the coordinator's plans on the site's data, until it is stopped",
    "check": "the station's half of the doctor: data, counts, GPU, disk, isolation",
    "budget": "what the site's patients may still be asked: epsilon spent and left, by run",
    "audit": "who asked what and when, and what left",
    "cache": "count the prepared images on the site's disk, and remove those that were not used "
    "for long",
}
OUTPUTS = {
    "embed": "folder for patients.parquet and slices.parquet",
    "explain": "the page, an HTML file",
    "predict": "folder for predictions.csv, left_out.csv and notes.txt",
    "finetune": "folder for the site's own model and comparison.json",
}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="fedmets client",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {
        name: commands.add_parser(name, help=told, description=told)
        for name, told in COMMANDS.items()
    }

    def option(names: str, *flags: str, **how: Any) -> None:
        for name in names.split():
            made[name].add_argument(*flags, **how)

    option(
        "embed explain finetune serve check budget audit cache",
        "--site",
        required=True,
        metavar="FILE",
        help="the site's site.toml",
    )
    option(
        "embed explain",
        "--study",
        required=True,
        metavar="NAME|FILE",
        help="the study that the model is of",
    )
    option(
        "embed explain", "--task", default="", help="prediction time (default: the study's last)"
    )
    option(
        "embed explain predict finetune",
        "--model",
        required=True,
        metavar="DIR",
        help="the folder model/ of a run",
    )
    option(
        "predict",
        "--site",
        default="",
        metavar="FILE",
        help="the site's site.toml: the model must then be signed by the coordinator that it pins",
    )
    option(
        "embed explain predict finetune",
        "--coordinator",
        default="",
        metavar="KEY",
        help="public key (64 hex digits) of whoever may have signed the model, beside the "
        "coordinator of site.toml",
    )
    option(
        "embed explain predict finetune",
        "--unsigned",
        action="store_true",
        help="read a model that nobody has signed, too, such as one of an earlier version",
    )
    option(
        "predict",
        "--data",
        required=True,
        metavar="PATH",
        help="folder or file that holds the tables; no label is read",
    )
    option(
        "predict",
        "--images",
        metavar="DIR",
        help="folder that holds the images (default: that of --data)",
    )
    option(
        "predict",
        "--source",
        default="",
        metavar="NAME|FILE",
        help="source mapping (default: recognised from the files)",
    )
    lacking = (
        "the study, as site.toml names it where there is one, if the model does not bring "
        "it (a Python file)"
    )
    option("predict finetune", "--study", default="", metavar="NAME|FILE", help=lacking)
    for name, what in OUTPUTS.items():
        option(name, "--out", required=True, metavar="PATH", help=what)
    option(
        "predict",
        "--cache",
        metavar="DIR",
        help="where prepared images are kept (default: cache/ in --out)",
    )
    option(
        "predict",
        "--strict",
        action="store_true",
        help="refuse the whole table for one cell that cannot be read (default: its patient alone "
        "is set aside, and the exit status is 8)",
    )
    option(
        "predict",
        "--plots",
        action="store_true",
        help="also plot which feature moved whose prediction (shap-HEAD.png)",
    )
    option(
        "explain",
        "--patients",
        type=int,
        default=24,
        metavar="N",
        help="most patients shown (default 24)",
    )
    copy = "the run's report.json: its figures stand above the pictures, as the site sets them"
    option("explain", "--report", default="", metavar="FILE", help=copy)
    option("finetune", "--epochs", type=int, metavar="N", help="of each network (default 3)")
    option(
        "finetune",
        "--learning-rate",
        type=float,
        metavar="X",
        help="of each network (default: a tenth of the learner's own)",
    )
    option(
        "finetune",
        "--ridge",
        type=float,
        metavar="X",
        help="how firmly a logistic regression is held by the federation's (default 10)",
    )
    option(
        "finetune", "--no-local", action="store_true", help="leave out what the site trains alone"
    )
    where = "where the courier finds the station; its folder is made, for this user only"
    option("serve", "--socket", required=True, metavar="PATH", help=where)
    option(
        "check",
        "--socket",
        default="/run/fedmets/station/station.sock",
        metavar="PATH",
        help="where the station will listen",
    )
    new = "begin the account of a site that has never answered under an epsilon; once"
    option("budget", "--new", action="store_true", help=new)
    option(
        "audit",
        "--last",
        type=int,
        default=20,
        metavar="N",
        help="so many messages, the newest (default 20; 0: all)",
    )
    option(
        "cache",
        "--unused",
        type=float,
        default=90,
        metavar="DAYS",
        help="not opened for so many days (default 90)",
    )
    option(
        "cache",
        "--remove",
        action="store_true",
        help="remove these; they are made again if they are asked for",
    )
    at_end = "print one JSON object at the end; progress goes to stderr"
    option("embed explain predict finetune", "--json", action="store_true", help=at_end)
    option("serve", "--json", action="store_true", help="lines for programs on stderr")
    option("check budget audit cache", "--json", action="store_true", help="print one JSON object")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = parser().parse_args(argv)
    environment.prepare()
    return ended(lambda: _do(args))


def _do(args: argparse.Namespace) -> int:
    if args.command == "check":
        return _check(args)
    if args.command in ("budget", "audit"):
        print({"budget": _budget, "audit": _audit}[args.command](args))
        return 0
    if args.command == "finetune":
        return _finetune(args)
    done = {"serve": _serve, "cache": _cache, "predict": _predict}.get(args.command, _run)(args)
    print(
        json.dumps(done)
        if args.json
        else ", ".join(f"{v} {k}" if isinstance(v, int) else str(v) for k, v in done.items())
    )
    return SET_ASIDE if done.get("set aside") else 0


def _run(args: argparse.Namespace) -> dict[str, object]:
    from pathlib import Path

    from client.local_model.embed import embed
    from client.local_model.explain import explain
    from client.local_model.model_folder import open_networks
    from client.local_model.run_figures import read
    from client.station.station import cohort_of, open_site
    from common.errors import UsageError
    from common.runtime.console import progress
    from common.study import load as studies

    if getattr(args, "patients", 1) < 1:
        raise UsageError("C01", f"--patients {args.patients} must be at least 1")
    task = args.task or list(studies.load(args.study).tasks)[-1]
    site = open_site(Path(args.site))
    networks = open_networks(Path(args.model), _trust(args, site))
    with progress() as bar:
        line = bar.add_task(args.command, total=None)

        def tell(at: int, of: int) -> None:
            bar.update(line, completed=at, total=of)

        cohort = cohort_of(site, args.study, task)
        told = {"model": networks.files.signed, "out": args.out}
        if args.command == "embed":
            patients, slices = embed(cohort, networks, Path(args.out), tell)
            return {"patients": patients, "slices": slices, **told}
        run = read(Path(args.report), cohort.site, networks.sha256) if args.report else None
        shown = explain(cohort, networks, Path(args.out), args.patients, tell, run)
        return {"patients": shown, **told}


def _trust(args: argparse.Namespace, site: Any) -> Any:
    from client.local_model.folder_files import trust_of

    return trust_of(site, args.site, args.coordinator, unsigned=args.unsigned)


def _predict(args: argparse.Namespace) -> dict[str, object]:
    from pathlib import Path

    from client.cohort import reader
    from client.local_model import contributions, predict
    from client.local_model.model_folder import open_model
    from client.site import site_file
    from common.runtime.console import progress
    from common.runtime.threads import fix_threads

    fix_threads()
    site = site_file.load(Path(args.site)) if args.site else None
    model, out = open_model(Path(args.model), args.study, _trust(args, site)), Path(args.out)
    with progress() as bar:
        line = bar.add_task("preparing images", total=None)
        images = any("image" in h.modality for h in model.heads)
        folders = reader.ImageFolders(
            images=Path(args.images) if args.images else None,
            cache=(Path(args.cache) if args.cache else out / "cache") if images else None,
            tell=lambda at, of: bar.update(line, completed=at, total=of),
        )
        reading = reader.read_unlabelled(
            model.study,
            model.task,
            Path(args.data),
            source=args.source or None,
            folders=folders,
            strict=args.strict,
        )
        bar.update(line, description="predicting", completed=0, total=None)
        done: dict[str, object] = {**predict.write(model, reading, out)}
        if args.plots:
            bar.update(line, description="plotting")
            done["plots"] = contributions.write(model, reading.cohort, out)
    return {**done, "model": model.files.signed, "out": args.out}


def _finetune(args: argparse.Namespace) -> int:
    from pathlib import Path

    from client.local_model import finetune
    from client.local_model.adaptation import FineTuning
    from client.local_model.folder_files import own_signer
    from client.local_model.model_folder import open_model
    from client.station.station import cohort_of, open_site
    from common.runtime.console import Console, progress

    given = {"epochs": args.epochs, "learning_rate": args.learning_rate, "ridge": args.ridge}
    how = FineTuning(**{k: v for k, v in given.items() if v is not None})
    site = open_site(Path(args.site))
    model = open_model(Path(args.model), args.study, _trust(args, site))
    with progress() as bar:
        line = bar.add_task("reading the site's patients", total=None)

        def tell(what: str, at: int, of: int) -> None:
            bar.update(line, description=what, completed=at, total=of)

        cohort = cohort_of(site, args.study or finetune.named(model, site), model.task)
        told = finetune.finetune(
            model,
            cohort,
            Path(args.out),
            how,
            tell,
            local=not args.no_local,
            signer=own_signer(site),
        )
    if args.json:
        print(json.dumps({**told, "out": args.out}))
        return 0
    console = Console()
    console.print(finetune.table(told))
    for note in finetune.notes(told):
        console.print(note, highlight=False)
    console.print(f"{args.out}: for this site alone", highlight=False)
    return 0


def _serve(args: argparse.Namespace) -> dict[str, object]:
    from pathlib import Path

    from client.station.socket_server import serve

    def tell(text: str) -> None:
        print(json.dumps({"said": text}) if args.json else text, file=sys.stderr, flush=True)

    serve(Path(args.site), Path(args.socket).resolve(), tell=tell)
    return {"stopped": args.socket}


def _check(args: argparse.Namespace) -> int:
    from pathlib import Path

    from client import doctor
    from common.runtime import health_check

    found = doctor.examine(Path(args.site), Path(args.socket))
    print(
        json.dumps({"findings": [f.row() for f in found]})
        if args.json
        else health_check.text(found)
    )
    return health_check.status(found)


def _budget(args: argparse.Namespace) -> str:
    import math
    from pathlib import Path

    from client.site.site_file import load
    from client.station import privacy_budget
    from common.errors import UsageError

    site = load(Path(args.site))
    if args.new and not site.privacy.noised:
        raise UsageError(
            "C01", f"--new: '{site.name}' sets no epsilon; there is nothing to keep account of"
        )
    if args.new:
        privacy_budget.begin(site.state)
    told = privacy_budget.read(site.state, site.privacy)
    if args.json:
        # JSON knows no infinity
        return json.dumps({k: None if v == math.inf else v for k, v in told.items()})
    if not site.privacy.noised:
        return (
            f"'{site.name}' sets no epsilon: sums over at least {site.minimum} patients leave "
            "as they are"
        )
    if not told["begun"]:
        return f"'{site.name}' has no account yet; where there never was one: --new"
    lines = [
        f"epsilon {told['spent']:.3f} of {told['epsilon']:g} spent at delta {told['delta']:g}, "
        f"{told['left']:.3f} left"
    ]
    lines += filter(None, [privacy_budget.trust(told)])
    lines += [f"  run {run}: {n} releases" for run, n in told["runs"].items()]
    lines += [f"head {told['head']}"]
    if told["faults"]:
        lines = [*told["faults"], privacy_budget.NO_BOUND, *lines]
    return "\n".join(lines)


def _audit(args: argparse.Namespace) -> str:
    import datetime
    from pathlib import Path

    from client.site.site_file import load
    from client.station import audit_log

    lines = audit_log.read(load(Path(args.site)).state)
    shown = lines[-args.last :] if args.last else lines
    if args.json:
        return json.dumps({"messages": len(lines), "shown": shown})
    out = []
    for line in shown:
        when = datetime.datetime.fromtimestamp(line["time"], datetime.UTC).strftime(
            "%Y-%m-%d %H:%M:%SZ"
        )
        codes: dict[str, int] = {}
        for *_, code in line["plans"]:
            codes[code] = codes.get(code, 0) + 1
        said = ", ".join(f"{n} {code}" for code, n in codes.items())
        what = f"{line['run']} step {line['step']}: {said}" if said else "no plan"
        out.append(
            f"{when} {line['kind']} {what}; {line['bytes']} bytes left, {line['sha256'][:12]}"
        )
    return "\n".join([*out, f"{len(lines)} messages, unbroken since the first"])


def _cache(args: argparse.Namespace) -> dict[str, object]:
    import time
    from pathlib import Path

    from client.imaging.pipeline.image_cache import Cache
    from client.site.site_file import load
    from common.errors import UsageError

    if not args.unused >= 0:
        raise UsageError("C01", f"--unused {args.unused} must be a number of days, 0 or more")
    cache = Cache(load(Path(args.site)).cache)
    held = cache.files()
    unused = [h for h in held if h.used < time.time() - args.unused * 86_400]
    removed = cache.remove_unused(args.unused) if args.remove else []
    return {
        "files": len(held),
        "bytes": sum(h.size for h in held),
        "files not used": len(unused),
        "bytes not used": sum(h.size for h in unused),
        "files removed": len(removed),
    }


if __name__ == "__main__":
    leave(main)
