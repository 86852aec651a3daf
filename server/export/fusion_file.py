"""Late fusion as a file, `fusion.json`: figures that a reader can recompute by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.data.schema import Schema
from common.types import State

FORMULA = (
    "log-odds of the class against the reference = log-odds by the clinical head (or prior, "
    "without a table) + intercept "
    "+ image_log_odds.coefficient * (image log-odds - image_log_odds.mean) / image_log_odds.spread "
    "+ sum over the latent code of coefficient * (code - mean) / scale. "
    "Image log-odds and code are means over the patient's crops. A patient without an image has "
    "the clinical head's probabilities."
)


def figures(schema: Schema, state: State, clinical: str) -> dict[str, Any]:
    """Of the final model. `clinical`: the head that the fusion starts from."""
    fusion, image = state["fusion"], state["image"]
    counts = state["preprocessing"]["classes"] + 0.5
    beta, classes = fusion["coefficients"][0], schema.label.classes
    return {
        "formula": FORMULA,
        "reference": classes[0],
        "clinical": clinical,
        "probabilities": "softmax over the classes, the reference's log-odds being 0",
        "classes": [
            {
                "class": name,
                "intercept": float(beta[k, 0]),
                "image_log_odds": {
                    "coefficient": float(beta[k, 1]),
                    "mean": float(image["mean"][k]),
                    "spread": float(image["spread"][k]),
                },
                "latent_code": [
                    {"mean": float(m), "scale": float(s), "coefficient": float(c)}
                    for m, s, c in zip(fusion["mean"], fusion["scale"], beta[k, 2:], strict=True)
                ],
                "prior_log_odds": float(np.log(counts[1 + k] / counts[0])),
            }
            for k, name in enumerate(classes[1:])
        ],
        "training_cases": int(fusion["cases"]),
        "converged": bool(fusion["converged"]),
    }
