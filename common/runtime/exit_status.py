"""How a program ends: with its status, also where nobody reads its output any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

CLOSED = 141
"""The status of a program whose reader has gone (128 + SIGPIPE), as `head` goes when it has seen enough."""


def leave(main: Callable[[], int]) -> NoReturn:
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = CLOSED
    sys.exit(status)
