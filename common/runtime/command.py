"""Command line: how whoever runs this program calls its parts, for the lines that say what to type
next."""

from __future__ import annotations

import sys
from pathlib import Path

WORDS = {"simulation": "simulate", "client": "client", "server": "server", "deploy": "deploy"}
"""Part of the package -> its word after `fedmets`."""


def named(part: str) -> str:
    """`python -m simulation` where the checkout's part is what runs, else `fedmets simulate`."""
    running = Path(sys.argv[0])
    if running.name == "__main__.py" and running.parent.name == part:
        return f"python -m {part}"
    return f"fedmets {WORDS[part]}"
