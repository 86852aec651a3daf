"""Time forecast, which the doctor has measured of this site's own work, kept beside the station's
state: a coordinator waits accordingly."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from common.errors import RunError

NAME = "forecast.json"


def save(state: Path, study: str, task: str, seconds: float) -> None:
    """Seconds that the longest work on one plan of a task is expected to take."""
    path = state / NAME
    forecasts = {**_forecasts(path), f"{study}\t{task}": round(seconds, 3)}
    temporary = path.with_suffix(".part")
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.write_text(json.dumps(forecasts, sort_keys=True))
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(
            "S03", f"'{path}' cannot be written ({error.strerror}); mend `state` in the site file"
        ) from error


def load(state: Path, study: str, task: str) -> float:
    """0 where the doctor has not been asked."""
    return _forecasts(state / NAME).get(f"{study}\t{task}", 0.0)


def _forecasts(path: Path) -> dict[str, float]:
    """What cannot be read counts as not there: the doctor makes it anew."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    pairs = content.items() if isinstance(content, dict) else ()
    return {
        k: float(v) for k, v in pairs if type(v) in (int, float) and math.isfinite(v) and v >= 0
    }
