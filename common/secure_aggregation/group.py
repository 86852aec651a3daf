"""Secure aggregation: the coordinator learns a sum over sites and no site's part (Bonawitz et al.
2017, CCS, doi 10.1145/3133956.3133982).

In one step a site draws a seed of its own, derives one with each other site (`pairwise_keys`),
masks its vector with all of them (`masking`) and sends, beside it, shares of all these seeds
(`shamir`), each site's sealed for it. Of very many sites it does so with its neighbours on a
`graph` alone. The coordinator names the sites whose vectors have come, the
*online* ones. Of each of these the sites then reveal shares of the seed of its own and of those
that it has with sites that are not online: what does not cancel. The masks between online sites are
never revealed, and hide each part.

What holds this up: a site answers once at a place, whatever online sites it is told. As more than
half of all sites must answer, the coordinator cannot have one part unmasked under one set and the
rest of its masks under another. With the default threshold that holds while fewer than a third of
the sites are the coordinator's accomplices.

Two sums over two sets tell the sum over what is between them, whatever the protocol. So a sum is
over all sites of the group, unless each of them has signed that it may be over fewer (`group`).
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from common.errors import RefusedError, WireError
from common.secure_aggregation import masking, pairwise_keys, shamir
from common.secure_aggregation.fixed_point import Words
from common.secure_aggregation.graph import Graph
from common.secure_aggregation.pairwise_keys import Pair

FEWEST = 3
"""Sites in a sum: of two, each could take off its own part and have the other's."""
ALL = 0
"""In place of a number of sites: every one of the group, none may drop out."""

Shares = Mapping[str, bytes]
"""Of one site's seeds: under another site's name that of the seed the two share, under its own name
that of its own."""


@dataclass(frozen=True)
class Group:
    """The sites of a step, all of which have exchanged keys. RefusedError M01 where they are too
    few, or not more than half are needed."""

    sites: tuple[str, ...]
    """Sorted."""
    threshold: int
    """How many must answer, and sign who is online; where all share with all, shares that give a
    seed."""
    minimum: int = FEWEST
    """The fewest sites in a sum, by what all of them have signed: all of them, where one has not
    allowed fewer."""
    graph: Graph | None = None
    """Who shares masks with whom; None: all with all."""

    def __post_init__(self) -> None:
        if list(self.sites) != sorted(set(self.sites)):
            raise RefusedError(
                "M01",
                "the sites of a secure sum are not in order, or one is named twice: "
                f"{list(self.sites)}",
            )
        if not len(self.sites) < 2 * self.threshold <= 2 * len(self.sites):
            raise RefusedError(
                "M01",
                f"{self.threshold} of {len(self.sites)} sites are to answer; it must be more than "
                "half of them",
            )
        if self.graph and sorted(self.graph.ring) != list(self.sites):
            raise RefusedError("M01", "the graph of masks is of other sites than the secure sum")
        self.demand(self.sites)

    @property
    def shares(self) -> int:
        """That give a seed, of the sites `near` the one whose it is."""
        return self.graph.degree.threshold if self.graph else self.threshold

    def near(self, site: str) -> tuple[str, ...]:
        """The sites that a site shares masks and shares with, and itself. Sorted: shares are
        numbered by it."""
        return self.graph.near(site) if self.graph else self.sites

    def demand(self, online: Collection[str]) -> None:
        """RefusedError M01 unless the sum over `online` is one that may be known."""
        unknown = sorted(set(online) - set(self.sites))
        fewest = max(FEWEST, self.minimum, self.threshold)
        if unknown or len(set(online)) < fewest:
            raise RefusedError(
                "M01",
                f"a sum over {len(set(online))} sites of {len(self.sites)}; {fewest} are needed, "
                f"unknown: {unknown}",
            )
        if self.graph:
            self.graph.demand(online)

    def owed(self, site: str, online: Collection[str]) -> list[str]:
        """THE RULE. Which of an online site's seeds are revealed: its own, and those with sites
        that are not online."""
        return [site, *(s for s in self.near(site) if s not in online)]


def group(fewest: Mapping[str, int], graph: Graph | None = None) -> Group:
    """Of the sites that have exchanged keys, with the default threshold, two thirds of them.

    fewest: site -> the fewest sites of a sum that it has a part in; `ALL`: all of the group. The
    most that one asks for holds for everybody: a site that is called dropped out has no say any
    more.
    """
    count = len(fewest)
    minimum = max((n or count for n in fewest.values()), default=0)
    return Group(tuple(sorted(fewest)), count - count // 3, minimum, graph)


# ---- at a site -----------------------------------------------------------------------------------


def own_seed() -> bytes:
    """Of the mask that a site shares with nobody: drawn once at a place, so that the same vector
    leaves again."""
    return secrets.token_bytes(masking.SEED_BYTES)


def seeds(
    group: Group, me: str, pairs: Mapping[str, Pair], place: bytes, own: bytes
) -> dict[str, bytes]:
    """What `masking.mask` takes: the seed that `me` has with each site, and under its own name its
    own."""
    with_others = {s: pairwise_keys.seed(pairs[s], place) for s in group.near(me) if s != me}
    return with_others | {me: own}


def seal(
    group: Group, me: str, seeds: Mapping[str, bytes], pairs: Mapping[str, Pair], place: bytes
) -> dict[str, bytes]:
    """Shares of all seeds of `me`: to each site near it, `me` too, the one text that it alone can
    open."""
    near = group.near(me)
    shares_of = [shamir.split(seeds[s], group.shares, len(near)) for s in near]
    sealed = {}
    for i, to in enumerate(near):
        text = b"".join(shares[i] for shares in shares_of)
        sealed[to] = pairwise_keys.seal(pairs[to], place, me, to, text)
    return sealed


def unseal(
    group: Group, me: str, sender: str, blob: bytes, pair: Pair, place: bytes
) -> dict[str, bytes]:
    """The shares that `sender` sealed for `me`. WireError M02 where they are not that."""
    text, near = pairwise_keys.unseal(pair, place, sender, me, blob), group.near(sender)
    if len(text) != len(near) * shamir.SHARE_BYTES:
        raise WireError(
            "M02",
            f"'{sender}' sealed {len(text)} bytes, shares for {len(near)} sites are expected",
        )
    return {
        s: text[i * shamir.SHARE_BYTES : (i + 1) * shamir.SHARE_BYTES] for i, s in enumerate(near)
    }


def reveal(
    group: Group, me: str, online: Collection[str], received: Mapping[str, Shares]
) -> dict[str, dict[str, bytes]]:
    """What `me` tells the coordinator, once at a place: online site near it -> shares of the seeds
    by which the sum is unmasked.

    `received`: what `unseal` gave, by sender. RefusedError M01 where the sites are too few;
    WireError M02 where an online site's are missing.
    """
    group.demand(online)
    near = sorted(set(online) & set(group.near(me)))
    missing = sorted(set(near) - set(received))
    if missing:
        raise WireError(
            "M02", f"the shares of {missing} did not come, and they are said to be online"
        )
    return {site: {s: received[site][s] for s in group.owed(site, online)} for site in near}


# ---- at the coordinator --------------------------------------------------------------------------


def unmask(
    group: Group,
    online: Collection[str],
    revealed: Mapping[str, Mapping[str, Shares]],
    total: Words,
) -> None:
    """Take off `total`, the sum of the online sites' masked vectors, what masks are left on it, in
    place.

    `revealed`: what `reveal` gave, by site. RefusedError M01 where too few are online or have told;
    WireError M02 where a site told something else than is owed, or shares do not belong together.
    `total` is then as it was.
    """
    group.demand(online)
    owed = {site: group.owed(site, online) for site in sorted(set(online))}
    for teller, shares in revealed.items():
        near = group.near(teller) if teller in group.sites else ()
        expected = {s: set(v) for s, v in owed.items() if s in near}
        if not near or {s: set(v) for s, v in shares.items()} != expected:
            raise WireError(
                "M02",
                f"'{teller}' told other shares than those of the {len(expected)} online sites that "
                "are owed",
            )
    recovered: dict[str, dict[str, bytes]] = {}
    for site, names in owed.items():
        recovered[site] = {}
        tellers = {i: s for i, s in enumerate(group.near(site), start=1) if s in revealed}
        for other in names:
            shares_by_point = {i: revealed[s][site][other] for i, s in tellers.items()}
            recovered[site][other] = shamir.combine(shares_by_point, group.shares)
    for site, seeds in recovered.items():
        masking.unmask(total, site, seeds)
