"""fedmets: federated learning for metastasis across hospitals.

    import fedmets

    run = fedmets.simulate("colorectal_metastasis", "hospitals/", task="preop")
    run.results          # every metric of every model, a pandas DataFrame
    run.differences      # models against each other, on the same patients
    run.predictions      # out-of-fold probabilities, a row a patient, model and evaluation
    fedmets.load_run("runs/20260101-120000-colorectal_metastasis")

What a study is made of (`Study`, `Task`, `Schema`, `Number`, `Choice`, `Label`, `Imaging`,
`Channel`, `Survival`) is for studies in code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from common import __version__

if TYPE_CHECKING:
    from common.data.schema import Channel, Choice, Imaging, Label, Number, Schema, Survival
    from common.study.load import load as load_study
    from common.study.study import Study, Task
    from fedmets.runs import Run, load_run, simulate

__all__ = [
    "Channel", "Choice", "Imaging", "Label", "Number", "Run", "Schema", "Study", "Survival", "Task",
    "__version__", "load_run",
    "load_study", "simulate",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Imported when it is asked for: `fedmets --help` needs neither numpy nor Flower."""
    from common.data import schema
    from common.study import load, study

    if name in ("Channel", "Choice", "Imaging", "Label", "Number", "Schema", "Survival"):
        return getattr(schema, name)
    if name in ("Study", "Task"):
        return getattr(study, name)
    if name == "load_study":
        return load.load
    if name in __all__:
        return getattr(importlib.import_module("fedmets.runs"), name)
    raise AttributeError(f"module 'fedmets' has no attribute '{name}'; it has {', '.join(__all__)}")
