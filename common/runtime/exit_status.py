"""Exit status of a program: an error's own, 130 where it was interrupted, 141 where its reader has
gone, 8 where it is done but for patients who were set aside."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from common.errors import FedmetsError

_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")
SET_ASIDE = 8
"""Of a prediction that leaves out patients for cells of theirs that cannot be read."""
INTERRUPTED = 130
CLOSED = 141
"""Of a program whose reader has gone (128 + SIGPIPE), as `head` goes when it has seen enough."""


def ended(work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """The status that `work` ends with; an error is printed, and so is what an interrupt leaves
    behind."""
    try:
        return work()
    except FedmetsError as error:
        print(f"error {_plain(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def _plain(text: str) -> str:
    """An error quotes files that came from elsewhere; a terminal would obey what stands there."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def leave(main: Callable[[], int]) -> NoReturn:
    """End the process with the status of `main`, also where nobody reads its output any more."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = CLOSED
    sys.exit(status)
