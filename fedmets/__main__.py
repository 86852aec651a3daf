"""`fedmets`: one command for the simulation, a site's station, a coordinator, and the kits of a
federation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from common import __version__
from common.runtime.exit_status import leave

PARTS = {
    "simulate": "a federation of virtual hospitals on this machine",
    "client": "a hospital's station, and what a site does with a federation's model for itself",
    "server": "runs between hospitals: start, watch, stop, resume, report",
    "deploy": "keys and kits for a federation, the coordinator, the courier, the doctor",
}
SHELLS = ("bash", "zsh", "tcsh")


def parser(full: bool = False) -> argparse.ArgumentParser:
    """`full`: with every part's own options, as a shell's completion needs them; else the parts
    read their own."""
    p = argparse.ArgumentParser(prog="fedmets", description=__doc__, allow_abbrev=False)
    p.add_argument("--version", action="version", version=f"fedmets {__version__}")
    p.add_argument(
        "--print-completion",
        choices=SHELLS,
        help="print a completion script for this shell, and stop",
    )
    parts = p.add_subparsers(dest="part", metavar="PART")
    for word, what in PARTS.items():
        if full:
            parts.add_parser(
                word,
                help=what,
                parents=[_part(word).parser()],
                add_help=False,
                conflict_handler="resolve",
            )
        else:
            parts.add_parser(word, help=what, add_help=False)
    return p


def _part(word: str) -> ModuleType:
    """The part's own command, imported when it is asked for."""
    if word == "simulate":
        from simulation import __main__ as simulation

        return simulation
    if word == "client":
        from client import __main__ as client

        return client
    if word == "server":
        from server import __main__ as server

        return server
    from deploy import __main__ as deploy

    return deploy


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: the part's own, 2 for a wrong word."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in PARTS:
        status: int = _part(words[0]).main(words[1:])
        return status
    args = parser().parse_args(words)
    if args.print_completion:
        import shtab

        print(shtab.complete(parser(full=True), shell=args.print_completion))
        return 0
    parser().print_help()
    return 2


def run() -> None:
    """The installed command."""
    leave(main)


if __name__ == "__main__":
    run()
