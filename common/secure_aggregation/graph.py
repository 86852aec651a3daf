"""Communication graph of secure aggregation: with whom a site shares masks and the shares of its
seeds (SecAgg+, Bell et al. 2020, CCS, doi 10.1145/3372297.3417885, IACR ePrint 2020/704).

Harary's graph H(n, k), k even: the sites stand in a ring, and each is a neighbour of the k/2 on
either side of it. The order of the ring is a hash of the run and of all sites' keys: nobody has it
before the last key is there, and everybody computes it alike.

Removing sites cuts the ring only where k/2 in a row are gone at two places. So a part is hidden
behind all honest sites unless some two such windows hold nobody who is honest and online, and
seeds stay secret unless `threshold` of the sites around one are in league. How unlikely that is,
with sites in league that do not know the order, are hypergeometric tails; here they are whole
numbers, for two machines must not round them differently.

The paper bounds a cut by dropouts at random. Here the coordinator may say of any site that it has
dropped out, and knows the ring: only those in league are at random, and `demand` holds it to enough
online sites in *any* two windows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np

from common.errors import RefusedError

SPARSE = 100
"""Sites from which on the graph is sparse; fewer share with one another, all of them."""


@dataclass(frozen=True)
class Assumed:
    """Under what the graph is good, and how sure."""

    corrupt: Fraction = Fraction(1, 5)
    """Of the sites: in league with the coordinator, whom it won before their keys were there. Below
    a third: two sets of online sites are else both signed by two thirds of them."""
    dropouts: Fraction = Fraction(1, 10)
    """Of the sites: away or fallen silent in a step, at random."""
    secure: int = 40
    """Bits: the chance that honest sites can be told apart is at most 2^-secure."""
    grinding: int = 64
    """Bits: that holds for the best of 2^grinding graphs. Those in league tell their keys last, and
    can try some."""
    correct: int = 30
    """Bits: the chance that a sum cannot be unmasked, or may not, is at most 2^-correct."""


ASSUMED = Assumed()


@dataclass(frozen=True)
class Degree:
    """Of n sites' graph."""

    neighbours: int
    """k, even."""
    threshold: int
    """Shares that give a seed, of the k + 1 sites around one, itself among them."""
    margin: int
    """Sites that must be online in any two windows of k/2 in a row, together."""


@dataclass(frozen=True)
class Graph:
    ring: tuple[str, ...]
    """The sites in order; the last stands beside the first."""
    degree: Degree

    def __post_init__(self) -> None:
        k, sites = self.degree.neighbours, len(self.ring)
        if (
            k % 2
            or not 2 <= k < sites
            or len(set(self.ring)) != sites
            or not 1 <= self.degree.threshold <= k + 1
            or not 1 <= self.degree.margin <= k
        ):
            raise ValueError(f"no graph of {sites} sites: {self.degree}")

    @cached_property
    def _near(self) -> Mapping[str, tuple[str, ...]]:
        half, sites = self.degree.neighbours // 2, len(self.ring)
        around = range(-half, half + 1)
        return {
            site: tuple(sorted(self.ring[(i + step) % sites] for step in around))
            for i, site in enumerate(self.ring)
        }

    def near(self, site: str) -> tuple[str, ...]:
        """The sites that have shares of a site's seeds: its neighbours and itself, sorted."""
        return self._near[site]

    def demand(self, online: Collection[str]) -> None:
        """RefusedError M01 where the online sites' masks could fall into parts, each with a sum of
        its own, or where too few are left around one of them to unmask it."""
        here = set(online)
        if here.issuperset(self.ring):
            return
        alive = [site in here for site in self.ring]
        half, sites = self.degree.neighbours // 2, len(self.ring)
        ahead = np.cumsum([0, *alive, *alive, *alive])
        # by where a window begins; twice around, for the other one
        window = ahead[half:][: 2 * sites] - ahead[: 2 * sites]
        # a site stands between two windows on either side, or there is nothing to cut
        apart = range(half + 1, sites // 2 + 1)
        pairs = [int((window[:sites] + window[d : d + sites]).min()) for d in apart]
        fewest = min(pairs, default=self.degree.neighbours)
        if fewest < self.degree.margin:
            raise RefusedError(
                "M01",
                f"where the graph of masks is thinnest {fewest} sites are online, "
                f"{self.degree.margin} must be: parts of the sum could be told",
            )
        for site in sorted(here):
            around = len(here.intersection(self.near(site)))
            if around < self.degree.threshold:
                raise RefusedError(
                    "M01",
                    f"{around} of the sites with shares of '{site}' are online, "
                    f"{self.degree.threshold} must be",
                )


def declared(run: str, keys: Mapping[str, str], assumed: Assumed = ASSUMED) -> Graph | None:
    """The graph of a run; keys: site -> its public key of this run. None: of so few sites, or for
    so much assumed, all share with all.

    A ring's order is that of hashes of what no site or coordinator chooses alone: every honest
    site's key is new in each run.
    """
    degree = degree_of(len(keys), assumed) if len(keys) >= SPARSE else None
    return _drawn(run, tuple(sorted(keys.items())), degree) if degree else None


@lru_cache(maxsize=8)
def _drawn(run: str, keys: tuple[tuple[str, str], ...], degree: Degree) -> Graph:
    seed = hashlib.sha256(json.dumps(["fedmets ring", run, keys]).encode()).digest()
    ring = sorted(dict(keys), key=lambda site: hashlib.sha256(seed + site.encode()).digest())
    return Graph(tuple(ring), degree)


def league(sites: int, assumed: Assumed = ASSUMED) -> int:
    """The sites in league that a sparse graph stands against."""
    return math.floor(assumed.corrupt * sites)


@lru_cache(maxsize=64)
def degree_of(sites: int, assumed: Assumed = ASSUMED) -> Degree | None:
    """The fewest neighbours that hold what is `assumed` (Bell et al. 2020, sec. 3, good graphs);
    None: only all would. Each of two events of either kind has half of the chance."""
    if not 0 <= assumed.corrupt < Fraction(1, 3):
        raise ValueError(f"{assumed.corrupt} of the sites in league: it must be less than a third")
    corrupt = league(sites, assumed)
    away = math.floor(assumed.dropouts * sites)
    bits = assumed.secure + assumed.grinding + 1
    for k in range(2, sites - 1, 2):
        pairs = sites * (sites - k - 1) // 2
        threshold = k + 1 - _most(sites, Draw(sites, away, k + 1), assumed.correct + 1)
        margin = k - _most(pairs, Draw(sites, away, k), assumed.correct + 1)
        if (
            min(threshold, margin) > 0
            and Draw(sites - 1, corrupt, k).rare(sites, threshold, bits)
            and Draw(sites, corrupt, k).rare(pairs, margin, bits)
        ):
            return Degree(k, threshold, margin)
    return None


@dataclass(frozen=True)
class Draw:
    """Of `sites`, `marked` of which are marked, `drawn` at random: the hypergeometric law."""

    sites: int
    marked: int
    drawn: int

    def rare(self, events: int, least: int, bits: int) -> bool:
        """Are `least` marked ones or more, in any of so many draws, rarer than 2^-bits?"""
        unmarked, most = self.sites - self.marked, min(self.marked, self.drawn)
        ways = sum(
            math.comb(self.marked, x) * math.comb(unmarked, self.drawn - x)
            for x in range(least, most + 1)
        )
        return (events * ways) << bits <= math.comb(self.sites, self.drawn)


def _most(events: int, draw: Draw, bits: int) -> int:
    """The marked ones that any of so many draws holds, more being rarer than 2^-bits."""
    return next(q for q in range(draw.drawn + 1) if draw.rare(events, q + 1, bits))
