"""The coordinator's memory with many sites and a large model: answers wait on disk, so that 50
sites need little more than 2.

    python -m bench.coordinator [--sites 2 50] [--millions 12] [--rounds 3]

Each number of sites is a process of its own that drives rounds of a model of so many million
float32 parameters over sites that make their signed answer when it is pulled. Printed is the peak
of resident memory, without the pages of files that the kernel may drop (RssAnon). Goal: 50 sites at
most 2 times 2 sites.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parent.parent


def anonymous() -> float:
    """MB."""
    line = next(
        x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon")
    )
    return int(line.split()[1]) / 1024


def one(sites: int, millions: int, rounds_: int) -> float:
    import numpy as np
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid
    from flwr.supercore.run import Run as FlowerRun
    from flwr.supercore.task_identity import TaskIdentity

    from common.data.cohort import Cohort, Fold
    from common.data.schema import Label, Number, Schema
    from common.federated.array_rules import ArrayRule, ArrayRules, whole
    from common.federated.learner import Contribution, Phase, Plan, Step, Traits
    from common.federated.states import States
    from common.types import Arrays
    from common.wire import signing
    from common.wire.flower_records import content, packet
    from common.wire.messages import Hello, Update, pack_updates, unpack_request
    from server.config.enrolled_sites import Enrolled
    from server.config.jobs import Job
    from server.config.run_config import Run
    from server.rounds.driver import Exchange, Federation, Progress, drive
    from server.rounds.registration import Roster
    from server.rounds.strategies import combiner

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

    @dataclass(frozen=True)
    class Wide:
        name: str = "wide"
        needs: tuple[str, ...] = ()
        modality: frozenset[str] = frozenset({"table"})
        phases: ClassVar[Mapping[str, Phase]] = {"add": Phase("ones", rounds_, None)}
        traits: ClassVar[Traits] = Traits()

        def start(self, schema: Schema, seed: int) -> Arrays:
            return {"w": np.zeros(millions * 1_000_000, np.float32), "rounds": np.array(0)}

        def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
            return {"w": ArrayRule(np.float32, ("numbers",)), "rounds": whole()}

        def phase(self, arrays: Arrays) -> str:
            return "add"

        def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
            return Contribution(
                {"w": np.ones_like(states[plan.fold]["wide"]["w"]), "n": np.array(1.0)}, 30
            )

        def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
            done = int(states[plan.fold]["wide"]["rounds"]) + 1
            return Step(
                {
                    "w": np.divide(total.sums["w"], total.sums["n"], dtype=np.float32),
                    "rounds": np.array(done),
                },
                done >= rounds_,
            )

    class Late(Grid):
        """Answers are made when they are pulled, as a SuperLink hands them out one by one."""

        def __init__(self) -> None:
            self.waiting: dict[str, Message] = {}

        def set_run(self, run: FlowerRun) -> None: ...

        @property
        def run(self) -> FlowerRun:
            return FlowerRun.create_empty(run_id=1)

        def create_message(
            self,
            content: RecordDict,
            message_type: str,
            dst_node_id: int,
            group_id: str,
            ttl: float | None = None,
        ) -> Message:
            return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

        def get_node_ids(self) -> Iterable[int]:
            return range(sites)

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            out = []
            for m in messages:
                m.metadata.__dict__["_message_id"] = f"m{len(self.waiting)}-{time.monotonic_ns()}"
                self.waiting[m.metadata.message_id] = m
                out.append(m.metadata.message_id)
            return out

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            for name in list(message_ids):
                m = self.waiting.pop(name)
                asked = packet(m, "request")
                (plan,) = unpack_request(asked, coordinator.public).plans
                sums = {"w": np.ones(millions * 1_000_000, np.float32), "n": np.array(1.0)}
                answer = pack_updates(
                    [Update(plan.hash, Contribution(sums, 30))], signers[plan.site], asked
                )
                yield Message(content(answer), reply_to=m)

        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> Iterable[Message]:
            return self.pull_messages(self.push_messages(messages))

    coordinator = signing.new()
    signers = {f"S{k:03d}": signing.new() for k in range(sites)}
    schema = Schema(
        name="bench",
        times=("now",),
        features=(Number("age", "years", 0, 120, "now"),),
        label=Label("y", ("no", "yes")),
    )
    hellos = {s: Hello(s, "", schema.hash, ("table",), ("wide",), 30) for s in signers}
    roster = Roster(
        hellos,
        {s: k for k, s in enumerate(signers)},
        Enrolled(coordinator, {s: k.public for s, k in signers.items()}),
    )
    peak = 0.0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as name:
        run = Run(study="bench", task="now", out=name, expect=sites)

        def seen(exchange: Exchange, progress: Progress) -> None: ...

        jobs = [Job(Wide(), Fold(), (Fold(),))]
        drive(
            Federation(Late(), run, "bench", roster, jobs, schema, combiner("fedavg")),
            Progress(),
            seen,
        )
    over.set()
    watcher.join()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 50])
    parser.add_argument("--millions", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(one(given.one, given.millions, given.rounds))
        return
    peaks = {}
    for sites in given.sites:
        more = [
            "--one",
            str(sites),
            "--millions",
            str(given.millions),
            "--rounds",
            str(given.rounds),
        ]
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "bench.coordinator", *more],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        peaks[sites] = float(done.stdout)
        seconds = time.perf_counter() - started
        print(
            f"{sites} sites, {4 * given.millions} MB of parameters: peak {peaks[sites]:.0f} MB "
            f"({seconds:.0f} s)",
            flush=True,
        )
    first, last = given.sites[0], given.sites[-1]
    print(f"{last} sites / {first} sites: {peaks[last] / peaks[first]:.2f} (goal at most 2)")


if __name__ == "__main__":
    main()
