"""Simulation: one federation from its options to its report. Every step can be repeated: that is
all that resuming needs."""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.cohort.reader import Reading
from client.site import site_file
from client.site.site_log import SiteLog
from common.errors import FedmetsError, RunError
from common.runtime.command import named
from common.runtime.console import Console
from common.runtime.exit_status import INTERRUPTED
from server.coordinator import app_bundle
from server.ledger import state_store
from simulation.federation.options import Options, forget, settle
from simulation.federation.partition import Partition
from simulation.federation.setting import Setting, federate, prepare
from simulation.report import terminal


def simulate(args: argparse.Namespace) -> int:
    """The command: run, or resume, and show what came of it; returns the exit status."""
    # tables do not fit the 80 columns that a file or a pipe is taken for
    console = Console(
        stderr=args.json, width=None if (sys.stderr if args.json else sys.stdout).isatty() else 120
    )
    options = settle(args)
    try:
        report = carry_out(options, console)
    except KeyboardInterrupt:
        console.print(
            f"interrupted; go on with: {named('simulation')} --resume {options.folder}",
            highlight=False,
        )
        return INTERRUPTED
    print(json.dumps(report) if report and args.json else options.folder)
    return 0


def carry_out(options: Options, console: Console) -> dict[str, Any] | None:
    """Run, or resume, up to the report, which is returned; None where the site folders alone were
    asked for.

    A FedmetsError is raised as it came, a disk that takes no more as RunError S03.
    """
    started, folder = time.monotonic(), options.folder
    try:
        setting = prepare(options, console)
        terminal.opening(console, setting)
        if options.args.prepare:
            _log_images(setting.sites, setting.reading, setting.parted)
            _show_flower_command(setting)
            return None
        outcome = federate(setting, console)
        from simulation.report import finish

        return finish.finish(setting, outcome, console, started)
    except FedmetsError:
        forget(folder)
        if folder.exists():
            console.print(f"stopped; the run's folder is {folder}", highlight=False)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        console.print(f"stopped; the run's folder is {folder}", highlight=False)
        path = error.filename or folder
        raise RunError(
            "S03",
            f"'{path}' cannot be written ({error.strerror}); free space or mend permissions, then "
            "resume the run",
        ) from error


def _log_images(sites: Mapping[int, Path], reading: Reading, parted: Partition) -> None:
    """What a site's station writes into its log when it reads the images: here none is started."""
    for path in sites.values():
        site = site_file.load(path)
        log = SiteLog(site.log)
        for line in reading.image_log(parted.sites.get(site.name, ())):
            log.info(line)


def _show_flower_command(setting: Setting) -> None:
    """How to run the same federation with Flower's own commands."""
    root = app_bundle.app(setting.folder)
    run = replace(
        setting.run, out=str((setting.folder / "flower").resolve()), study=setting.args.study
    )
    config = setting.folder / "flower.toml"
    state_store.write(config, run.toml.encode())
    nodes = f"--federation-config num-supernodes={len(setting.sites)}"
    print(
        f"flwr run {shlex.quote(str(root))} --run-config {shlex.quote(str(config.resolve()))} "
        f"{nodes} --stream"
    )
