"""Label leakage (guard L03) at the coordinator: does a single feature predict the label almost
perfectly, on the summed training histograms?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.data.schema import Schema
from common.types import Arrays

LIMIT = 0.95


def single_feature_auc(arrays: Arrays, schema: Schema) -> dict[str, float]:
    """Feature -> the largest AUC that it reaches alone on the training rows; `arrays` are
    preprocessing's."""
    return {f.name: float(auc) for f, auc in zip(schema.features, arrays["auc"], strict=True)}


def leaks(fits: Mapping[str, Arrays], schema: Schema) -> dict[str, tuple[float, str]]:
    """Feature -> (AUC, fold key) where a feature exceeds the limit on some training set."""
    leaking: dict[str, tuple[float, str]] = {}
    for fold, arrays in fits.items():
        for name, auc in single_feature_auc(arrays, schema).items():
            if auc > LIMIT and auc > leaking.get(name, (0.0, ""))[0]:
                leaking[name] = (auc, fold)
    return leaking


def describe(leaking: Mapping[str, tuple[float, str]], names: Sequence[str]) -> list[str]:
    """A sentence for each feature in `names`."""
    return [
        f"L03 feature '{n}' alone reaches AUC {leaking[n][0]:.3f} on the training rows of fold "
        f"'{leaking[n][1]}' (limit {LIMIT}); "
        f"it probably encodes the label: remove it, or accept it with --accept-leak {n}, which "
        "the report will show"
        for n in names
    ]
