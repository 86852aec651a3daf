"""The build: what is installed is one top-level package, `fedmets`, made of the checkout's
top-level folders.

In the checkout the five folders are imported as they lie there, `from common.data import cohort`;
what pip installs has them inside `fedmets`, and says `from fedmets.common.data import cohort`. That
one rewriting is the whole rule: an import of one of the five stands at the start of a line, in the
form `from X... import ...` (a test reads every file for others). docs/decisions/0018-one-package.md
"""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FRONT = "fedmets"
PARTS = ("common", "client", "server", "simulation", "deploy")
IMPORT = re.compile(rf"^(\s*from )(?=(?:{'|'.join(PARTS)})\b)", re.MULTILINE)
EDITABLE = "editable_wheel" in sys.argv or "develop" in sys.argv


def inside(source: str) -> str:
    """A module's text as it is installed: line by line the same, imports of the parts through the
    front."""
    return IMPORT.sub(rf"\g<1>{FRONT}.", source)


class Inside(build_py):  # type: ignore[misc]
    """Copy the parts into the front package, their imports rewritten."""

    def build_module(self, module: str, module_file: str, package: str) -> object:
        copied = super().build_module(module, module_file, package)
        path = Path(copied[0])
        if not EDITABLE:
            path.write_text(inside(path.read_text(encoding="utf-8")), encoding="utf-8")
        return copied


if __name__ == "__main__":
    parts = find_packages(include=[f"{part}*" for part in PARTS])
    if EDITABLE:
        setup(packages=[FRONT, *parts])
    else:
        setup(
            packages=[FRONT, *(f"{FRONT}.{name}" for name in parts)],
            package_dir={f"{FRONT}.{part}": part for part in PARTS},
            cmdclass={"build_py": Inside},
        )
