"""What masking and keeping account cost: bytes and CPU of a masked answer against an open one, and
the account's share of a round.

    python -m bench.secure [--values 12000000] [--sites 3 10] [--repeats 3]
    python -m bench.secure --graphs 100 200 [--values 50000] [--repeats 3]

Message level, one site, no transport: from its sums to the packet that leaves. Goals: at most 2
times the bytes of open sums, at most 2 s of CPU for masking. `--graphs`, and nothing else then: one
site's part of a run and of a step where all share masks with all and on a sparse
graph, in turn, so that a busy machine is as busy for both. The account: a step of 46 plans (a
fit, cross-fitted, of one head), reserved and written to disk, against the time that one message
takes through Flower (`--exchange`, by `python -m bench.rounds`); goal under 1 %.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from client.site.privacy_policy import Policy
from client.station.charge import Charge
from client.station.privacy_budget import Budget, begin
from client.station.secure_aggregation import Secure
from common.data.cohort import Fold, empty
from common.data.schema import Label, Schema
from common.federated.learner import Contribution, Plan, local_plan
from common.secure_aggregation import graph as secagg_graph
from common.secure_aggregation import group as secagg_group
from common.secure_aggregation import masking as mask_step
from common.secure_aggregation import pairwise_keys, shamir
from common.secure_aggregation.group import Group
from common.wire import signing
from common.wire.envelope import Packet
from common.wire.masked_messages import (
    Ask,
    Masked,
    Told,
    Vouch,
    pack_ask,
    pack_masked,
    pack_told,
)
from common.wire.messages import Update, pack_updates


def group(count: int) -> tuple[Secure, signing.Signer, list[str]]:
    """One site of `count` that have exchanged keys."""
    names = [f"site {k:03d}" for k in range(count)]
    signers = {n: signing.new() for n in names}
    peers = {n: s.public for n, s in signers.items()}
    policy = Policy(peers=peers)
    sites = {n: Secure(n, partial(signers.__getitem__, n), policy, None) for n in names}
    told = {n: s.answer(Ask("bench", n, "key", 0.0)) for n, s in sites.items()}
    agreed = {n: Vouch(t.public, t.fewest, t.signature) for n, t in told.items()}
    sites[names[0]].answer(Ask("bench", names[0], "group", 0.0, keys=agreed))
    return sites[names[0]], signers[names[0]], names


def masking(values: int, count: int, repeats: int) -> tuple[float, float, float, float]:
    """CPU seconds for masking, and for packing alone; bytes masked, and open."""
    site, signer, names = group(count)
    sums = {"w/all": np.random.default_rng(0).normal(size=values)}
    mine = Contribution(sums, 100)
    zero = Contribution({k: np.zeros_like(v) for k, v in sums.items()}, 0)
    asked = Packet("request", b"{}")
    schema = Schema("bench", (), Label("y", ("no", "yes")), ("now",))
    cohort = empty(schema)
    plain: Plan = replace(
        local_plan(Fold(), 0, 5), run="bench", site=names[0], participants=tuple(names), secure=True
    )
    taken, packing, size = [], [], 0
    for step in range(repeats):
        began = time.process_time()
        vector, sealed = site.mask([replace(plain, step=step)], cohort, [zero], [mine], {})
        masked = Masked("", "", vector, sealed)
        taken.append(time.process_time() - began)
        began = time.process_time()
        size = pack_masked(masked, signer, asked).size
        packing.append(time.process_time() - began)
    open_bytes = pack_updates([Update(plain.hash, mine)], signer, asked).size
    return statistics.median(taken), statistics.median(packing), size, open_bytes


@dataclass(frozen=True)
class Part:
    """Of one site, in the step that begins a run."""

    seconds: float
    """CPU: check every site's two signatures, agree on seeds, seal shares, mask, open the others'
    and tell what is owed."""
    masking: float
    """Of these, masks put on."""
    sent: int
    """Bytes that leave, but for the vector."""
    received: int
    """Bytes of all keys, who is online and the others' shares, as the coordinator brings them."""


class Federation:
    """`count` sites, of which the first works."""

    def __init__(self, count: int, values: int) -> None:
        self.private = {f"site {k:03d}": pairwise_keys.new() for k in range(count)}
        self.keys = {n: a.public for n, a in self.private.items()}
        self.me, self.signer = next(iter(self.keys)), signing.new()
        self.vector = np.random.default_rng(0).integers(0, 2**64, values, np.uint64)
        self.asked, self.text = Packet("request", b"{}"), b"what each site signs"
        self.signature = self.signer.sign(self.text)

    def group(self, sparse: bool) -> Group:
        graph = secagg_graph.declared("bench", self.keys) if sparse else None
        return secagg_group.group(dict.fromkeys(self.keys, 3), graph)

    def sealed_for_me(self, group: Group, place: bytes) -> dict[str, bytes]:
        """By the sites near: shares of the right number, whatever they are."""
        blobs = {}
        for site in group.near(self.me):
            pair = pairwise_keys.agree(
                self.private[site], self.keys[self.me], site, self.me, "bench"
            )
            text = secrets.token_bytes(shamir.SHARE_BYTES * len(group.near(site)))
            blobs[site] = pairwise_keys.seal(pair, place, site, self.me, text)
        return blobs

    def part(self, group: Group) -> Part:
        """With one site in twenty gone."""
        me, place = self.me, secrets.token_bytes(pairwise_keys.PLACE)
        blobs, vector = self.sealed_for_me(group, place), self.vector.copy()
        ring = group.graph.ring if group.graph else group.sites
        online = [s for i, s in enumerate(ring) if i % 20 != 7 or s == me]
        began = time.process_time()
        pairs = {
            s: pairwise_keys.agree(self.private[me], self.keys[s], me, s, "bench")
            for s in group.near(me)
        }
        seeds = secagg_group.seeds(group, me, pairs, place, secagg_group.own_seed())
        sealed = secagg_group.seal(group, me, seeds, pairs, place)
        masking_began = time.process_time()
        mask_step.mask(vector, me, seeds)
        masked_at = time.process_time()
        for _ in [*self.keys, *online]:
            signing.verify(self.signer.public, self.text, self.signature)
        received = {
            s: secagg_group.unseal(group, me, s, blob, pairs[s], place)
            for s, blob in blobs.items()
            if s in online
        }
        shares = secagg_group.reveal(group, me, online, received)
        ended = time.process_time()
        masked = pack_masked(
            Masked("", "", np.zeros(0, np.uint64), sealed), self.signer, self.asked
        )
        told = pack_told(Told(shares=shares), self.signer, self.asked)
        vouches = {s: Vouch(key, 3, self.signature) for s, key in self.keys.items()}
        asks = (
            Ask("bench", me, "group", 0.0, keys=vouches),
            Ask("bench", me, "online", 0.0, online=tuple(online)),
            Ask(
                "bench",
                me,
                "reveal",
                0.0,
                online=tuple(online),
                signed=dict.fromkeys(online, self.signature),
                sealed={s: blobs[s] for s in received},
            ),
        )
        brought = sum(pack_ask(ask, self.signer).size for ask in asks)
        return Part(ended - began, masked_at - masking_began, masked.size + told.size, brought)


def graphs(count: int, values: int, repeats: int) -> None:
    federation = Federation(count, values)
    parts: dict[bool, list[Part]] = {False: [], True: []}
    for _ in range(repeats):
        for sparse, taken in parts.items():
            taken.append(federation.part(federation.group(sparse)))
    columns = ("seconds", "masking", "sent", "received")
    medians = {
        sparse: [statistics.median(getattr(p, c) for p in taken) for c in columns]
        for sparse, taken in parts.items()
    }
    sparse_group = federation.group(True)
    for sparse, (seconds, masks, sent, received) in medians.items():
        near = len(sparse_group.near(federation.me) if sparse else sparse_group.sites) - 1
        print(
            f"{count} sites, {near} neighbours, {values:,} values: {seconds:.3f} s of CPU "
            f"(masks {masks:.3f}), {sent / 1000:,.0f} kB sent beside the vector, "
            f"{received / 1000:,.0f} kB received"
        )
    ratios = [full / sparse for full, sparse in zip(*medians.values(), strict=True)]
    print(
        f"{count} sites, full over sparse: CPU {ratios[0]:.1f} (masks {ratios[1]:.1f}), sent "
        f"{ratios[2]:.1f}, received {ratios[3]:.1f}"
    )


def accounting(plans: int, repeats: int) -> float:
    """Wall seconds a step: each plan looked at, reserved, and all of them written."""
    with tempfile.TemporaryDirectory() as name:
        begin(Path(name))
        budget = Budget(Path(name), Policy(100.0, 1e-5))
        taken = []
        for step in range(repeats):
            began = time.perf_counter()
            for k in range(plans):
                charge = Charge("bench", step, "logistic", f"-p{k}", "q" * 64, 5000.0, (0, 5), ())
                budget.affordable(charge)
                budget.reserve(charge)
            budget.settle()
            taken.append(time.perf_counter() - began)
        budget.close()
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, help="12 million; with --graphs 50,000")
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--graphs",
        type=int,
        nargs="+",
        default=[],
        help="numbers of sites, of a full and a sparse graph",
    )
    parser.add_argument(
        "--exchange",
        type=float,
        default=1.4,
        help="seconds of one message to all sites and back through Flower",
    )
    given = parser.parse_args()
    values = given.values or (50_000 if given.graphs else 12_000_000)
    for count in given.graphs:
        graphs(count, values, given.repeats)
    if given.graphs:
        return
    for count in given.sites:
        cpu, packing, masked, plain = masking(values, count, given.repeats)
        told = f"masking {cpu:.2f} s of CPU (goal 2), packing and signing {packing:.2f} s"
        print(
            f"{values / 1e6:g} M values, {count} sites: bytes {masked / plain:.3f} of open "
            f"sums (goal 2), {told}"
        )
    for plans in (1, 6, 46):
        seconds = accounting(plans, 20)
        share = 100 * seconds / given.exchange
        print(
            f"the account of {plans} plans: {1000 * seconds:.1f} ms, {share:.2f} % of "
            f"{given.exchange:g} s (goal 1)"
        )


if __name__ == "__main__":
    main()
