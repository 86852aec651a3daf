"""Costs by part of each split: a patient stands in one part of a split, and what left out that part
cost the patient nothing.

Which part of one split a patient shares with which of another nobody knows, so the dearest choice
of parts counts. Where the choices are too many, each split is charged with the most of each kind
of release that any of its parts has paid, which no choice exceeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from common.privacy.limits import PARTS
from common.privacy.mechanism import Cost, epsilon, least_upper

Split = tuple[int, int]
"""Seed and number of parts."""
CHOICES = 16
"""Of parts, the most that are looked at one by one."""


@dataclass(frozen=True)
class Share:
    """What something costs, and whom. ValueError where it spares what is no part."""

    cost: Cost
    split: Split = (0, 1)
    spared: frozenset[int] = frozenset()
    """Parts none of whose patients are in it."""

    def __post_init__(self) -> None:
        seed, parts = self.split
        PARTS.demand(parts)
        if type(seed) is not int:
            raise ValueError(f"the seed of a split is {seed!r}, no whole number")
        if not all(type(p) is int and 0 <= p < parts for p in self.spared):
            raise ValueError(f"parts {sorted(self.spared)} are not all among {parts}")


@dataclass(frozen=True)
class _Paid:
    """Of one split."""

    everything: Cost = Cost()
    saved: tuple[tuple[int, Cost], ...] = ()
    """(part, what it was spared), in order."""

    def plus(self, share: Share) -> _Paid:
        saved = dict(self.saved)
        for part in share.spared:
            saved[part] = saved.get(part, Cost()) + share.cost
        return _Paid(self.everything + share.cost, tuple(sorted(saved.items(), key=_part)))

    def dearest(self, parts: int) -> tuple[Cost, ...]:
        """What its parts have paid, but for those that another one exceeds."""
        if len(self.saved) < parts:
            return (self.everything,)
        paid = {self.everything - saved for _, saved in self.saved}
        if len(paid) > CHOICES:
            return (reduce(least_upper, paid),)
        return tuple(c for c in paid if not any(c <= other for other in paid if other != c))


def _part(saved: tuple[int, Cost]) -> int:
    return saved[0]


class ByPart:
    """Costs put together; in which order does not matter."""

    def __init__(self, shares: Iterable[Share] = ()) -> None:
        self._paid: dict[Split, _Paid] = {}
        self._dearest: dict[Split, tuple[Cost, ...]] = {}
        self._several: set[Split] = set()
        """Those of several dearest."""
        self._at_most = Cost()
        """The sum, over splits, of the most of each kind."""
        for share in shares:
            self.add(share)

    def add(self, share: Share) -> None:
        split = share.split
        paid = self._paid.get(split, _Paid()).plus(share)
        dearest = paid.dearest(split[1])
        self._at_most = self._at_most - self._bound(split) + reduce(least_upper, dearest)
        self._paid[split], self._dearest[split] = paid, dearest
        if len(dearest) > 1:
            self._several.add(split)
        else:
            self._several.discard(split)

    def epsilon(self, delta: float, more: Share | None = None) -> float:
        """Of the worst-off patient; `more`: if it were added, too. NaN, should one come of it, is
        handed on."""
        most = 0.0
        for cost in self._choices(more):
            spent = epsilon(cost, delta)
            if not spent <= most:
                most = spent
            if math.isnan(most):
                break
        return most

    def _bound(self, split: Split) -> Cost:
        return reduce(least_upper, self._dearest.get(split, (Cost(),)))

    def _choices(self, more: Share | None) -> Sequence[Cost]:
        at_most = self._at_most
        several = {split: self._dearest[split] for split in self._several}
        if more is not None:
            paid = self._paid.get(more.split, _Paid()).plus(more)
            dearest = paid.dearest(more.split[1])
            at_most = at_most - self._bound(more.split) + reduce(least_upper, dearest)
            several.pop(more.split, None)
            if len(dearest) > 1:
                several[more.split] = dearest
        if math.prod(len(costs) for costs in several.values()) > CHOICES:
            return (at_most,)
        sums = [at_most]
        for costs in several.values():
            bound = reduce(least_upper, costs)
            sums = [total - bound + cost for total in sums for cost in costs]
        return sums
