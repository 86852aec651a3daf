"""What masking and keeping account cost: bytes and CPU of a masked answer against an open one, and
the account's share of a round.

    python -m bench.secure [--values 12000000] [--sites 3 10] [--repeats 3]

Message level, one site, no transport: from its sums to the packet that leaves. Goals: at most 2
times the bytes of open sums, at most 2 s of CPU for masking. The account: a step of 46 plans (a
fit, cross-fitted, of one head), reserved and written to disk, against the time that one message
takes through Flower (`--exchange`, by `python -m bench.rounds`); goal under 1 %.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
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
from common.wire import signing
from common.wire.envelope import Packet
from common.wire.masked_messages import Ask, Masked, Vouch, pack_masked
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
    parser.add_argument("--values", type=int, default=12_000_000)
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--exchange",
        type=float,
        default=1.4,
        help="seconds of one message to all sites and back through Flower",
    )
    given = parser.parse_args()
    for count in given.sites:
        cpu, packing, masked, plain = masking(given.values, count, given.repeats)
        told = f"masking {cpu:.2f} s of CPU (goal 2), packing and signing {packing:.2f} s"
        print(
            f"{given.values / 1e6:g} M values, {count} sites: bytes {masked / plain:.3f} of open "
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
