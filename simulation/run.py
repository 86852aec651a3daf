"""One simulated federation from its options to its report. Every step can be repeated: that is all that resuming needs."""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.intake import Reading, read_table
from client.station import open_station
from common import study as studies
from common.cohort import UNKNOWN, Cohort
from common.errors import DataError, FedmetsError, RunError, UsageError
from common.study import Study
from server import store
from server.app import Outcome
from server.run import Run
from simulation import partition, permuted, show

SETTINGS = "simulation.json"


@dataclass(frozen=True)
class Setting:
    """Everything that a run needs, decided before its first round."""

    args: argparse.Namespace
    folder: Path
    study: Study
    task: str
    reading: Reading
    parted: partition.Partition
    sites: dict[int, Path]
    run: Run
    phantom: bool


def simulate(args: argparse.Namespace) -> int:
    """Run, or resume; returns the exit status."""
    started = time.monotonic()
    # tables do not fit the 80 columns that a file or a pipe is taken for
    console = Console(stderr=args.json, width=None if (sys.stderr if args.json else sys.stdout).isatty() else 120)
    args, folder = _folder(args)
    try:
        setting = prepare(args, folder)
        show.opening(console, setting)
        if args.prepare:
            return _prepared(args, setting)
        outcome = federate(setting, console)
        from simulation import finish

        summary = finish.finish(setting, outcome, console, started)
    except KeyboardInterrupt:
        console.print(f"interrupted; go on with: python -m simulation --resume {folder}", highlight=False)
        return 130
    except FedmetsError:
        console.print(f"stopped; the run's folder is {folder}", highlight=False)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        console.print(f"stopped; the run's folder is {folder}", highlight=False)
        where = error.filename or folder
        raise RunError(
            "S03", f"'{where}' cannot be written ({error.strerror}); free space or mend permissions, then resume the run"
        ) from error
    if args.json:
        print(json.dumps(summary))
    else:
        print(folder)
    return 0


def _folder(args: argparse.Namespace) -> tuple[argparse.Namespace, Path]:
    """A new folder that did not exist before, or the one to resume with the options it was begun with."""
    if args.resume:
        folder = Path(args.resume)
        try:
            settings = json.loads((folder / SETTINGS).read_text())
            if not isinstance(settings, dict) or not set(vars(args)) - {"resume", "json", "prepare"} <= set(settings):
                raise ValueError(f"'{SETTINGS}' does not hold the options of a run")
        except (OSError, ValueError) as error:
            raise RunError(
                "S01", f"'{folder}' is not the folder of a simulation ({error}); give the folder that the run printed"
            ) from error
        return argparse.Namespace(**{**settings, "resume": str(folder), "json": args.json}), folder
    study = Path(args.study).stem
    stem = Path(args.out) / f"{time.strftime('%Y%m%d-%H%M%S')}-{study}"
    for n in range(1, 1000):
        folder = stem if n == 1 else stem.with_name(f"{stem.name}-{n}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError("S03", f"'{folder}' cannot be made ({error.strerror}); choose another --out") from error
        settings = {k: v for k, v in vars(args).items() if k not in ("resume", "json", "prepare")}
        for key in ("data", "study"):
            if settings[key] and Path(settings[key]).exists():
                settings[key] = str(Path(settings[key]).resolve())
        args = argparse.Namespace(**{**vars(args), **settings})
        store.write(folder / SETTINGS, json.dumps({**settings, "prepare": False}, indent=1).encode())
        return args, folder
    raise RunError("S01", f"'{stem}' and 998 more names are taken; choose another --out")


def prepare(args: argparse.Namespace, folder: Path) -> Setting:
    """Study, data, sites, configuration: all that can be wrong is found here, before any round."""
    study = studies.load(args.study)
    task = args.task or list(study.tasks)[-1]
    study.schema_at(task)
    hyper = _hyper(args.set)
    run = Run.parse(
        {
            "study": args.study,
            "task": task,
            "out": str(folder),
            "sites": str((folder / "sites").resolve()),
            "seed": args.seed,
            "parts": args.folds,
            "learners": args.learners,
            "hyper": json.dumps(hyper) if hyper else "",
            "strategy": args.strategy,
            "evaluations": args.evaluations,
            "quorum": args.quorum,
            "left_out_sites": args.left_out_sites,
            "deadline": args.deadline,
            "retries": args.retries,
            "accept_leak": ",".join(args.accept_leak),
            "resume": (folder / "ledger.jsonl").exists(),
        }
    )
    run.heads(study)
    if args.bootstraps < 100:
        raise UsageError("C01", f"--bootstraps {args.bootstraps} gives no interval worth printing; use at least 100 (default 1000)")
    if args.seed < 0 or (args.permute_labels or 0) < 0:
        raise UsageError("C01", f"--seed {args.seed} and --permute-labels {args.permute_labels or 0} must not be below 0")
    names = [f.name for f in study.schema_at(task).features]
    for name in args.accept_leak:
        if name not in names:
            raise UsageError("C01", f"--accept-leak {name}: task '{task}' has no such feature; it has {', '.join(names)}")
    if args.minimum_site < 1 or args.minimum_patients < 1:
        raise UsageError("C01", f"--minimum-site {args.minimum_site} and --minimum-patients {args.minimum_patients} must be at least 1")
    data, phantom = _data(args, folder, study)
    reading = read_table(study, task, data, source=args.source or None)
    _two_classes(reading)
    _unchanged(folder, reading)
    source = "" if study.source else reading.source
    if args.permute_labels is not None:
        data, mapping = permuted.write(folder / "permuted", reading, args.permute_labels)
        source = str(mapping.resolve())
        reading = read_table(study, task, data, source=source)
    parted = _parted(args, reading)
    sites = partition.write_sites(folder / "sites", parted, data=data, study=args.study, source=source, minimum=args.minimum_patients)
    return Setting(args, folder, study, task, reading, parted, sites, replace(run, expect=len(sites)), phantom)


def _data(args: argparse.Namespace, folder: Path, study: Study) -> tuple[Path, bool]:
    if args.data:
        return Path(args.data), False
    if study.source is not None and "tables" in study.source and Path(args.study).suffix:
        return Path(args.study).parent, False
    if study.name != "colorectal_metastasis":
        raise UsageError("C01", f"study '{study.name}' has no synthetic cohort; say where the tables are: --data PATH")
    from simulation.phantom import colorectal

    colorectal.write(folder / "data", seed=args.seed)
    return folder / "data", True


def _two_classes(reading: Reading) -> None:
    """With one class in the whole table there is nothing to learn."""
    label = reading.cohort.schema.label
    found = sorted({int(k) for k in reading.cohort.labels} - {UNKNOWN})
    if len(found) < 2:
        n = int((reading.cohort.labels != UNKNOWN).sum())
        only = f"all {n} labelled cases are '{label.classes[found[0]]}'" if found else "no case has a known label"
        raise DataError("D09", f"label '{label.name}': {only}; check the label's column and its values ({', '.join(label.classes)})")


def _unchanged(folder: Path, reading: Reading) -> None:
    """A resumed run must meet the table that it was begun with."""
    path = folder / "cohort.sha256"
    if path.exists():
        if path.read_text().strip() != reading.cohort.hash:
            raise RunError("S01", f"the data changed since '{folder}' was begun; put the old files back, or start a new run")
    else:
        store.write(path, reading.cohort.hash.encode())


def _parted(args: argparse.Namespace, reading: Reading) -> partition.Partition:
    kind = args.partition or ("natural" if len(set(reading.institutions)) > 1 else "even")
    if kind == "natural":
        return partition.natural(reading, args.minimum_site, args.small_sites)
    if args.virtual_sites < 2:
        raise UsageError("C01", f"--virtual-sites {args.virtual_sites} must be at least 2")
    split = partition.even if kind == "even" else partition.skewed
    return split(reading, args.virtual_sites, args.seed, args.minimum_site)


def _hyper(pairs: list[str]) -> dict[str, dict[str, object]]:
    """`learner.key=value` options; values are read as JSON, else as text."""
    out: dict[str, dict[str, object]] = {}
    for pair in pairs:
        name, eq, value = pair.partition("=")
        learner, dot, key = name.partition(".")
        if not eq or not dot:
            raise UsageError("C01", f"--set {pair!r} must look like learner.key=value, for instance boosting.trees=40")
        try:
            parsed: object = json.loads(value)
        except ValueError:
            parsed = value
        out.setdefault(learner, {})[key] = parsed
    return out


def _prepared(args: argparse.Namespace, setting: Setting) -> int:
    """How to run the same federation with Flower's own commands."""
    root = Path(__file__).resolve().parent.parent
    mine = replace(setting.run, out=str((setting.folder / "flower").resolve()), study=setting.args.study)
    config = " ".join(f"{k}={json.dumps(v)}" for k, v in asdict(mine).items() if v != getattr(Run, k))
    nodes = f"--federation-config num-supernodes={len(setting.sites)}"
    print(f"flwr run {shlex.quote(str(root))} --run-config {shlex.quote(config)} {nodes} --stream")
    print(setting.folder)
    return 0


def federate(setting: Setting, console: Console) -> Outcome:
    """Run the two apps; on a failure, show what the sites wrote in their own logs (here they are all ours)."""
    try:
        with _progress(console) as bar:
            line = bar.add_task("federated", total=None)

            def tell(exchange: Any, progress: Any, jobs: int) -> None:
                names = ", ".join(dict.fromkeys(str(w["learner"]) for w in exchange.work))
                bar.update(line, total=jobs, completed=len(progress.done), description=f"exchange {progress.step}: {names}")

            if setting.args.engine == "ray":
                from simulation.ray import run_on_ray

                return run_on_ray(setting.run, len(setting.sites), tell)
            from client.app import app as client
            from server.app import coordinate
            from simulation.grid import InProcessGrid

            return coordinate(InProcessGrid(client, setting.sites), setting.run, tell)
    except FedmetsError:
        for path in sorted((setting.folder / "sites").glob("*/station.log")):
            print(f"--- {path}\n{path.read_text().strip()[-2000:]}", file=sys.stderr)
        raise


def cohorts(setting: Setting) -> list[Cohort]:
    """The sites' cohorts, in site order; the same objects as the stations hold."""
    found = [open_station(str(path)).cohort(setting.args.study, setting.task) for path in setting.sites.values()]
    return sorted(found, key=lambda c: c.site)


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True)
