"""Studies by name or by file: those of `common/studies/`, and a TOML or Python file of one's own
anywhere."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import tomllib
from pathlib import Path
from typing import Any

from common import studies
from common.errors import UsageError
from common.study.study import Study


def names() -> tuple[str, ...]:
    """The studies that come with fedmets: the files of `common/studies/`."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(studies.__path__)))


def load(ref: str) -> Study:
    """A study by name, or from a `.toml` or `.py` file (a Python file has a module-level
    `STUDY`)."""
    path = Path(ref)
    if path.suffix == ".toml":
        from common.study.study_file import from_toml

        return from_toml(_table(path), str(path))
    if path.suffix == ".py":
        return _from_python(path)
    if ref not in names():
        raise UsageError(
            "C02",
            f"study '{ref}' is unknown; there are {', '.join(names())}, or give the path of a "
            ".toml or .py file",
        )
    study: Study = importlib.import_module(f"{studies.__name__}.{ref}").STUDY
    return study


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            "C02", f"study file '{path}' cannot be read: {error.strerror}; check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("C02", f"study file '{path}' is not valid TOML: {error}") from error


def _from_python(path: Path) -> Study:
    spec = importlib.util.spec_from_file_location(f"fedmets_study_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError("C02", f"study file '{path}' cannot be read; check the path")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            "C02", f"study file '{path}' failed: {type(error).__name__}: {error}"
        ) from error
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise UsageError(
            "C02",
            f"study file '{path}' needs a module-level STUDY of type fedmets.Study, has "
            f"{type(study).__name__}",
        )
    return study
