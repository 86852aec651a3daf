"""Limits of all that is public and enters the mechanism: noise, rate, steps, clip, bound, parts.

A coordinator chooses them, and an account adds up what follows from them. Outside of these the
arithmetic of an accountant, or of the noise itself, ends: 1 / noise^2 overflows, a series has no
last term, noise falls below what floating-point numbers resolve. They are declared here alone, and
looked at where such a value is made, read from the wire, or read back from disk.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """The least and the most of one value."""

    name: str
    kind: type[int] | type[float]
    least: float
    most: float

    def holds(self, value: object) -> bool:
        """Of the very type (a bool is no number), and inside; NaN is not."""
        if type(value) is not self.kind:
            return False
        return self.least <= value <= self.most

    @property
    def rule(self) -> str:
        return f"{self.least:g} <= {self.name} <= {self.most:g}"

    def demand(self, value: object) -> None:
        """ValueError where it does not hold."""
        if not self.holds(value):
            article = "a whole number" if self.kind is int else "a number"
            raise ValueError(f"{self.name} = {value!r} must be {article}, {self.rule}")


NOISE = Limit("noise", float, 1e-6, 1e6)
"""In units of a sum's sensitivity. At the least one sum costs an epsilon of 10^11, which no site
allows; it is for drills that look at sums as they are."""
RATE = Limit("rate", float, 1e-4, 1.0)
"""The chance of a patient to be in a step."""
STEPS = Limit("steps", int, 1, 1_000_000)
"""Of DP-SGD in one training."""
CLIP = Limit("clip", float, 1e-6, 1e6)
"""What a patient's values, or gradient, are cut to."""
BOUND = Limit("bound", float, 1e-9, 1e18)
"""By how much (L2) one patient can change a sum; one that nobody can change (0) is a count alone."""
SHARES = Limit("shares", int, 1, 1000)
"""Of a noise that sites share."""
PARTS = Limit("parts", int, 1, 1000)
"""Of a split."""
