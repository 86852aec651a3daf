"""What only people can say of a study (funding, ethics approval, registration, ...), from a TOML file: item number -> text.

[tripod]
18a = "Funded by ..."
[claim]
44 = "Funded by ..."
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from common.errors import UsageError
from server.report.checklists import claim, tripod

NAME = "statements.toml"
"""In the folder of a run between hospitals."""
CHECKLISTS = {"tripod": tripod.ITEMS, "claim": claim.ITEMS}


def read(path: str) -> dict[str, dict[str, str]]:
    """The file's statements; none without a file. C01 for all that is wrong with it, at once."""
    if not path:
        return {}
    try:
        told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("C01", f"statements '{path}' cannot be read ({error}); give a TOML file with [tripod] and [claim]") from error
    faults = []
    for name, items in told.items():
        known = [i.number for i in CHECKLISTS.get(name, ())]
        if not known or not isinstance(items, dict):
            faults.append(f"statements '{path}': '{name}' is no checklist; there are [tripod] and [claim]")
            continue
        faults += [f"statements '{path}': {name} has no item '{n}'; it has {', '.join(known)}" for n in items if n not in known]
        faults += [f"statements '{path}': {name} {n} must be text" for n, v in items.items() if not isinstance(v, str) or not v.strip()]
    if faults:
        raise UsageError("C01", *faults)
    return {name: dict(items) for name, items in told.items()}
