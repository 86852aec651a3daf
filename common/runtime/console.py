"""Terminal console: tables and progress by rich, whose reader may leave like any other
program's."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """rich ends a program with status 1 when its reader has gone; here it ends as all of ours do
    (`exit_status.leave`)."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
