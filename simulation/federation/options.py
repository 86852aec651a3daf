"""Options of a simulation, checked: from the command line to a configuration and a folder. All
faults are said before a folder exists."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.table import mapping_file
from common.errors import RunError, UsageError
from common.federated.learner import Averaged, Federated
from common.study import load as studies
from common.study.study import Study
from server.config.run_config import Run
from server.ledger import state_store
from server.ledger.ledger import NAME
from server.report.checklists import statements
from server.rounds import strategies
from simulation.federation import synthetic_cohorts
from simulation.federation.malicious_site import ATTACKS, IN_ANSWERS

SETTINGS = "simulation.json"
DEFAULT_FOLDS, DEFAULT_IMAGE_FOLDS = 5, 3
"""Parts for cross-fitting where none are asked for; fewer where networks are trained on each."""
DEFAULT_SITES, DEFAULT_IMAGE_SITES = 5, 3
"""Virtual sites where no number is asked for; fewer where each should train networks by itself
too."""
LEAST_VALUES: Mapping[str, int] = {
    "seed": 0,
    "permute_labels": 0,
    "noise_seed": 0,
    "attacker": 1,
    "minimum_site": 1,
    "minimum_patients": 1,
    "virtual_sites": 2,
}
"""Option -> the least value that makes sense."""
_NOT_OF_THE_RUN = frozenset({"resume", "json", "prepare", "draft", "given"})
"""Options that are no part of what a run is."""


@dataclass(frozen=True)
class Options:
    """What was asked, and where it goes."""

    args: argparse.Namespace
    folder: Path
    study: Study
    task: str
    run: Run


def settle(args: argparse.Namespace) -> Options:
    """Check the options, then make a new folder; or take up the folder and the options of the run
    to resume."""
    for key in ("data", "study", "images", "cache", "statements"):
        if (value := getattr(args, key)) and Path(value).exists():
            setattr(args, key, str(Path(value).resolve()))
    if args.resume is not None:
        if not args.resume:
            raise UsageError("C01", "--resume needs the folder of a run; it was given nothing")
        folder = Path(args.resume) if Path(args.resume).exists() else Path(args.out) / args.resume
        return checked(_resumed(args, folder), folder)
    checked(args, Path(args.out))
    settings = {k: v for k, v in vars(args).items() if k not in _NOT_OF_THE_RUN}
    return checked(args, new_folder(Path(args.out), Path(args.study).stem, settings))


def forget(folder: Path) -> None:
    """Remove the folder of a run that came to nothing: only while it holds no more than its
    options."""
    if [p.name for p in folder.iterdir()] == [SETTINGS]:
        (folder / SETTINGS).unlink()
        folder.rmdir()


def _resumed(args: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The options that the run was begun with; one given again must say the same, for it would
    otherwise be ignored (C01)."""
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        if not isinstance(settings, dict) or not set(vars(args)) - _NOT_OF_THE_RUN <= set(settings):
            raise ValueError(f"'{SETTINGS}' does not hold the options of a run")
    except (OSError, ValueError) as error:
        text = (
            f"'{args.resume}' is not the folder of a simulation ({error}); give the folder "
            "that the run printed"
        )
        raise RunError("S01", text) from error
    given_again = {
        k: v
        for k, v in vars(args).items()
        if k in getattr(args, "given", ()) and k not in _NOT_OF_THE_RUN | {"out"}
    }
    differ = [
        f"--{k.replace('_', '-')} {v} (the run: {settings[k]})"
        for k, v in given_again.items()
        if v != settings[k]
    ]
    if differ:
        raise UsageError(
            "C01",
            f"--resume goes on with the run's own options; leave out {', '.join(differ)}, or "
            "start a new run",
        )
    return argparse.Namespace(**{**vars(args), **settings})


def checked(args: argparse.Namespace, folder: Path) -> Options:
    """Study, task and configuration for a run in `folder`; all faulty numbers at once (C01)."""
    study = studies.load(args.study)
    task = args.task or list(study.tasks)[-1]
    study.schema_at(task)
    hyper = _hyper(args.set)
    run = Run.parse(
        {
            "study": args.study,
            "task": task,
            "seed": args.seed,
            "parts": args.folds or DEFAULT_FOLDS,
            "full": args.full,
            "learners": args.learners,
            "hyper": json.dumps(hyper) if hyper else "",
            "strategy": args.strategy,
            "transfer": args.transfer,
            "norm_bound": args.norm_bound,
            "secure": args.secure,
            "expect": 3 if args.secure else Run.expect,
            # as its sites allow (`site_folders`): nobody but this machine sees what is summed
            "open_trees": True,
            "smallest_leaf": 0,
            "outliers": args.outliers,
            "evaluations": args.evaluations,
            "quorum": args.quorum,
            "quorum_cases": args.quorum_cases,
            "left_out_sites": args.left_out_sites,
            "deadline": args.deadline,
            "retries": args.retries,
            "accept_leak": ",".join(args.accept_leak),
            "out": str(folder),
            "sites": str((folder / "sites").resolve()),
            "resume": (folder / NAME).exists(),
        }
    )
    heads = run.heads(study)
    strategies.combiner(run.strategy)
    statements.read(args.statements)
    if args.source and study.source is None:
        mapping_file.named(args.source)
    faults = [
        *_parameter_faults(args, run, heads),
        *_range_faults(args),
        *_data_faults(args, study, task),
        *_privacy_faults(args, run),
    ]
    if faults:
        raise UsageError("C01", *faults)
    return Options(args, folder, study, task, run)


def _parameter_faults(
    args: argparse.Namespace, run: Run, heads: Sequence[Federated]
) -> Iterator[str]:
    """Strategies and attacks that work on parameters, in runs that send none."""
    averaged = any(isinstance(h, Averaged) for h in heads)
    if run.strategy != "fedavg" and not averaged:
        names = ", ".join(h.name for h in heads)
        yield (
            f"--strategy {run.strategy} combines parameters, and {names} send sums; add "
            "--learners mlp,logistic_fedavg"
        )
    if args.attack in IN_ANSWERS and not averaged:
        yield (
            f"--attack {args.attack} is on parameters, and this run sends none; add --learners "
            "mlp,logistic_fedavg"
        )
    if args.attack in IN_ANSWERS and (args.prepare or args.engine != "inprocess"):
        yield (
            f"--attack {args.attack} is by a hostile station in this process; leave out "
            "--prepare and --engine ray"
        )
    if args.attacker is not None and not args.attack:
        yield f"--attacker {args.attacker} does what? say it with --attack {'|'.join(ATTACKS)}"


def _range_faults(args: argparse.Namespace) -> Iterator[str]:
    """Numbers below what makes sense."""
    if args.bootstraps < 100:
        yield (
            f"--bootstraps {args.bootstraps} gives no interval worth printing; use at least 100 "
            "(default 1000)"
        )
    for option, least in LEAST_VALUES.items():
        value = getattr(args, option)
        if value is not None and value < least:
            yield f"--{option.replace('_', '-')} {value} must be at least {least}"


def _data_faults(args: argparse.Namespace, study: Study, task: str) -> Iterator[str]:
    """Features that the task has not, and data that are nowhere or twice."""
    features = [f.name for f in study.schema_at(task).features]
    for name in args.accept_leak:
        if name not in features:
            yield (
                f"--accept-leak {name}: task '{task}' has no such feature; it has "
                f"{', '.join(features)}"
            )
    if args.data and (args.phantom != "default" or args.phantom_patients):
        yield (
            "--phantom and --phantom-patients shape a synthetic cohort, and --data names a real "
            "one; leave one of them out"
        )
    if not args.data and study.source is None and not synthetic_cohorts.exists(study.name):
        yield f"study '{study.name}' has no synthetic cohort; say where the tables are: --data PATH"


def _privacy_faults(args: argparse.Namespace, run: Run) -> Iterator[str]:
    """Epsilons, and what goes with them."""
    targets, faults = epsilons(args.epsilon)
    yield from faults
    if (targets or args.audit) and not 0 < args.delta < 1e-2:
        yield f"--delta {args.delta:g} must lie between 0 and 0.01, and below 1 / (patients)"
    if args.noise_seed is not None and not targets and not args.audit:
        yield (
            f"--noise-seed {args.noise_seed} seeds the noise that --epsilon or --audit asks "
            "for; give both, or neither"
        )
    if targets and "within_site" not in run.evaluations:
        yield "--epsilon judges heads within sites; add within_site to --evaluations"
    if args.audit and "within_site" not in run.evaluations:
        yield (
            "--audit needs models that leave a part of each site out; add within_site to "
            "--evaluations"
        )


def epsilons(text: str) -> tuple[list[float], list[str]]:
    """Of `--epsilon`, and what is wrong with them."""
    numbers: list[float] = []
    for word in filter(None, text.split(",")):
        try:
            numbers.append(float(word))
        except ValueError:
            return [], [f"--epsilon {text}: '{word}' is no number; give numbers above 0, or inf"]
    if any(not e > 0 for e in numbers) or len(set(numbers)) < len(numbers):
        return [], [f"--epsilon {text}: give different numbers above 0, or inf"]
    return numbers, []


def new_folder(out: Path, study: str, settings: Mapping[str, object]) -> Path:
    """`<out>/<time>-<study>` with the settings in it, with a number where that name is taken: no
    folder that was there is written into.

    It is made aside and renamed, so that a folder that can be seen can be resumed.
    """
    stem = out / f"{time.strftime('%Y%m%d-%H%M%S')}-{study}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=out))
        aside.chmod(0o755)
        state_store.write(aside / SETTINGS, json.dumps(settings, indent=1).encode())
        for n in range(1, 1000):
            folder = stem if n == 1 else stem.with_name(f"{stem.name}-{n}")
            try:
                if not folder.exists():
                    aside.rename(folder)
                    return folder
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        shutil.rmtree(aside)
    except OSError as error:
        raise RunError(
            "S03",
            f"'{stem}' cannot be made ({error.strerror}); choose another --out, or free space",
        ) from error
    raise RunError("S01", f"'{stem}' and 998 more names are taken; choose another --out")


def _hyper(pairs: list[str]) -> dict[str, dict[str, object]]:
    """`learner.key=value` options; values are read as JSON, else as text."""
    out: dict[str, dict[str, object]] = {}
    for pair in pairs:
        name, eq, value = pair.partition("=")
        learner, dot, key = name.partition(".")
        if not eq or not dot:
            raise UsageError(
                "C01",
                f"--set {pair!r} must look like learner.key=value, for instance boosting.trees=40",
            )
        try:
            parsed: object = json.loads(value)
        except ValueError:
            parsed = value
        out.setdefault(learner, {})[key] = parsed
    return out
