"""Low-order bits of a noisy sum: what they tell where noise in floating point was added to it (Mironov
2012; Haney et al. 2022, arXiv 2207.13793).

A number near 0 has finer last bits than one near 1, and a sum keeps those of its larger part: a cell
whose noisy count has bits that 1 + noise cannot have held nobody. A one-run audit of a whole fit of
preprocessing: each canary has a cell of a histogram to itself, and is judged by how fine the last bit
of that cell's number is, and by nothing else.
"""

from __future__ import annotations

import numpy as np

from common.data.cohort import Cohort
from common.data.schema import Floats, Label, Number, Schema
from common.federated.accounting import calibrate
from common.learners.preprocessing import COARSE, LEARNER
from common.privacy.mechanism import Privacy
from simulation.attack import one_run
from simulation.attack.canary_cohort import SITE
from simulation.attack.fit_audit import Audited
from simulation.attack.observed_fit import account, releases

_CLASSES = 32
CANARIES = COARSE * _CLASSES
SHARE = 1 / 64
"""Of the canaries, those with the finest bits: they are guessed to be out."""


def audited(most: float, delta: float) -> Audited:
    """One fit at the least noise by which it costs `most`."""
    patients = _canaries()
    privacy = Privacy(calibrate([LEARNER], patients.schema, most, delta))
    included = one_run.coins(CANARIES)
    with account(most, delta) as at:
        seen = list(releases([LEARNER], {}, patients.where(included), privacy, at))
        spent = at[1].spent
    histogram = seen[0].answer.sums["histogram"][0, :COARSE]
    scores = last_bit(histogram).ravel()
    found = one_run.audit(included, scores, delta, shares=(SHARE,), both=False)
    return Audited(spent, len(seen), included, scores, found)


def last_bit(values: Floats) -> Floats:
    """The exponent of the last bit that is set of each number; of 0 infinity."""
    mantissa, exponent = np.frexp(values)
    whole = np.abs(mantissa * 2.0**53).astype(np.int64)
    lowest = np.log2(np.maximum(whole & -whole, 1))
    return np.where(whole == 0, np.inf, exponent - 53 + lowest)


def _canaries() -> Cohort:
    """A patient for each cell and class."""
    label = Label("y", tuple(f"class {k}" for k in range(_CLASSES)))
    schema = Schema("audit", (Number("x", "u", 0, COARSE, "audit"),), label, ("audit",))
    values = np.repeat(np.arange(COARSE) + 0.5, _CLASSES)[:, None]
    ids = tuple(f"c{i:05d}" for i in range(CANARIES))
    return Cohort(SITE, schema, ids, values, np.tile(np.arange(_CLASSES), COARSE))
