"""Terminal console: tables and progress by rich, whose reader may leave like any other
program's."""

from __future__ import annotations

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Console(rich.console.Console):
    """rich ends a program with status 1 when its reader has gone; here it ends as all of ours do
    (`exit_status.leave`)."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def progress(console: rich.console.Console | None = None, *, hidden: bool = False) -> Progress:
    """A bar for each task of a long operation, gone when it is done; on stderr unless told otherwise."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    where = console or Console(stderr=True)
    return Progress(*columns, console=where, transient=True, disable=hidden)
