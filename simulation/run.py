"""One simulated federation from its options to its report. Every step can be repeated: that is all that resuming needs."""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import sys
import time
from dataclasses import replace

from rich.console import Console

from common.errors import FedmetsError, RunError
from server.coordinator import app_bundle
from server.ledger import state_store
from simulation.federation.options import (
    forget,
    settle,
)
from simulation.federation.setting import (
    Setting,
    federate,
    prepare,
)
from simulation.report import terminal


def simulate(args: argparse.Namespace) -> int:
    """Run, or resume; returns the exit status."""
    started = time.monotonic()
    # tables do not fit the 80 columns that a file or a pipe is taken for
    console = Console(stderr=args.json, width=None if (sys.stderr if args.json else sys.stdout).isatty() else 120)
    asked = settle(args)
    folder = asked.folder
    try:
        setting = prepare(asked, console)
        terminal.opening(console, setting)
        if args.prepare:
            return _prepared(setting)
        outcome = federate(setting, console)
        from simulation.report import finish

        summary = finish.finish(setting, outcome, console, started)
    except KeyboardInterrupt:
        console.print(f"interrupted; go on with: python -m simulation --resume {folder}", highlight=False)
        return 130
    except FedmetsError:
        forget(folder)
        if folder.exists():
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


def _prepared(setting: Setting) -> int:
    """How to run the same federation with Flower's own commands."""
    root = app_bundle.app(setting.folder)
    mine = replace(setting.run, out=str((setting.folder / "flower").resolve()), study=setting.args.study)
    config = setting.folder / "flower.toml"
    state_store.write(config, mine.toml.encode())
    nodes = f"--federation-config num-supernodes={len(setting.sites)}"
    print(f"flwr run {shlex.quote(str(root))} --run-config {shlex.quote(str(config.resolve()))} {nodes} --stream")
    print(setting.folder)
    return 0
