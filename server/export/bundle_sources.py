"""Source code that a MONAI bundle brings: a module of `common` and all of `common` that it imports,
file by file as they are; only the package that they are imported from is another."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from common import networks

FRONT = networks.__name__.removesuffix("common.networks")
"""What stands before `common` where it is installed."""
IMPORT = re.compile(rf"^(\s*from ){re.escape(FRONT)}(?=common\b)", re.MULTILINE)


def sources(module: str, folder: str) -> dict[str, bytes]:
    """Path below the package `folder` -> file; there `module` is imported as `<folder>.<module>`."""
    return {_path(name): _moved(name, folder) for name in sorted(_closure(FRONT + module))}


def _closure(module: str) -> set[str]:
    """Modules, and the packages that they lie in."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and f"{name}.".startswith(f"{FRONT}common."):
            found.add(name)
            waiting += [name.rpartition(".")[0], *_imported(name)]
    return found


def _imported(name: str) -> Iterator[str]:
    """By `from X import Y`, wherever in the file, the only form that is used here."""
    for node in ast.walk(ast.parse(_file(name).read_bytes())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        yield node.module
        if _is_package(node.module):
            members = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (member for member in members if importlib.util.find_spec(member))


def _path(name: str) -> str:
    path = name.removeprefix(FRONT).replace(".", "/")
    return f"{path}/__init__.py" if _is_package(name) else f"{path}.py"


def _moved(name: str, folder: str) -> bytes:
    return IMPORT.sub(rf"\g<1>{folder}.", _file(name).read_text(encoding="utf-8")).encode()


def _is_package(name: str) -> bool:
    return f"{name}.".startswith(f"{FRONT}common.") and _file(name).name == "__init__.py"


def _file(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)
