"""What a round costs beyond its training: the in-process engine against a plain loop over the same
torch code.

    python -m bench.rounds [--sites 10 --rows 200 --features 30 --rounds 20 --repeats 7] [--many 200] [--ray]

A: `server.rounds.driver.drive` over `simulation.federation.in_process_grid.InProcessGrid` with the
two apps' own code: plans and updates packed and unpacked, guards, retries, state and ledger written
and synced each round. B: a loop that calls `common.networks.training.train` at each site and
averages. A and B take turns in one process; a ratio is of the medians of one run. Goal: at most
1.3. CPU seconds are printed beside the wall clock's: they leave out waiting for the disk and for
whatever else the machine does. `--many`: memory and time a site; goals: below 1 MB a site beyond
its rows, time proportional to the sites. `--ray`: the same apps on Flower's Ray engine.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from client import app as courier
from client.site.site_file import Site
from client.station.station import Station
from common.data.cohort import Cohort, Fold
from common.data.schema import Label, Number, Schema
from common.federated.learner import configured, fit, local_plan
from common.federated.states import named_arrays
from common.learners.mlp import Perceptron
from common.learners.preprocessing import Preprocessing, standardise
from common.runtime.threads import fix_threads
from common.types import Arrays
from server.config import enrolled_sites
from server.config.jobs import Job
from server.config.run_config import Run
from server.ledger import state_store
from server.ledger.ledger import Ledger
from server.rounds import driver
from server.rounds.registration import Invitation, register
from server.rounds.strategies import combiner
from simulation.federation import site_folders
from simulation.federation.in_process_grid import InProcessGrid

ALL = Fold()


class Holding(Station):
    """The station, over rows made here instead of read from a table."""

    def __init__(self, held: Cohort, folder: Path, pinned: str) -> None:
        super().__init__(
            Site(
                held.site,
                folder,
                ("bench",),
                coordinator=pinned,
                key=folder / held.site / site_folders.STATION_KEY,
                log=folder / "station.log",
            )
        )
        self.held = held

    def cohort(self, ref: str, task: str) -> Cohort:
        return self.held


def cohorts(sites: int, rows: int, features: int) -> list[Cohort]:
    r = np.random.default_rng(0)
    numbers = tuple(Number(f"x{j}", "u", -8.0, 8.0, "now") for j in range(features))
    schema = Schema("bench", numbers, Label("y", ("no", "yes")), ("now",))
    slopes = r.normal(size=features)
    out = []
    for k in range(sites):
        x = r.normal(size=(rows, features)).clip(-7, 7)
        y = (x @ slopes + r.logistic(size=rows) > 0).astype(np.int64)
        out.append(Cohort(f"S{k:04d}", schema, tuple(f"{k}-{i}" for i in range(rows)), x, y))
    return out


Seconds = tuple[float, float]
"""On the wall clock, and of this process's CPU time."""


def clock() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    now = clock()
    return now[0] - start[0], now[1] - start[1]


def engine(
    grid: Grid, those: int, schema: Schema, learner: Perceptron, folder: Path
) -> list[Seconds]:
    """Each training round, as `server.app` drives them."""
    run = Run(study="bench", task="now", out=str(folder), learners="mlp", expect=those)
    roster = register(
        grid,
        Invitation(
            run, "bench", enrolled_sites.load(str(folder / site_folders.COORDINATOR)), "now", schema
        ),
    )
    ledger, seconds, last = Ledger(folder / "ledger.jsonl"), list[Seconds](), clock()

    def watch(exchange: driver.Exchange, now: driver.Progress) -> None:
        nonlocal last
        arrays = named_arrays(now.states)
        sha = state_store.save(folder / "state", now.step, arrays)
        ledger.append(
            "exchange", time=time.time(), **asdict(exchange), state=sha, done=len(now.done)
        )
        if exchange.work[0]["learner"] == "mlp":
            seconds.append(since(last))
        last = clock()

    jobs = [Job(one, ALL, (ALL,)) for one in (Preprocessing(), learner)]
    driver.drive(
        driver.Federation(grid, run, "bench", roster, jobs, schema, combiner("fedavg")),
        driver.Progress(),
        watch,
    )
    ledger.close()
    return seconds


def in_process(those: list[Cohort], learner: Perceptron) -> list[Seconds]:
    with tempfile.TemporaryDirectory() as name:
        pinned = site_folders.enrol(
            Path(name) / site_folders.COORDINATOR, {c.site: Path(name) / c.site for c in those}
        )
        stations = {f"/{c.site}": Holding(c, Path(name), pinned) for c in those}
        courier.door = lambda context, seconds: stations[str(context.node_config["site"])]  # type: ignore[assignment]
        grid = InProcessGrid(courier.app, {k + 1: Path(path) for k, path in enumerate(stations)})
        return engine(grid, len(those), those[0].schema, learner, Path(name))


def plain(those: list[Cohort], learner: Perceptron) -> list[Seconds]:
    """Each round of the loop that one would write by hand: rows prepared once, one network,
    parameters in memory."""
    import torch
    from torch import nn

    from common.networks.training import Table, cross_entropy, learn

    plan = local_plan(ALL, 0, 5)
    prepared = fit(Preprocessing(), {}, those, plan)["preprocessing"]
    data = [(standardise(prepared, c), c.labels) for c in those]
    weights = learner.parameters(learner.start(those[0].schema, 0))
    shapes = [w.shape for k, w in weights.items() if k.endswith("weight")]
    layers: list[nn.Module] = []
    for out, into in shapes:
        layers += [nn.Tanh(), nn.Linear(into, out)] if layers else [nn.Linear(into, out)]
    network = nn.Sequential(*layers)
    current: Arrays = {k.removeprefix("w/"): v for k, v in weights.items()}
    seconds = []
    for number in range(learner.training.rounds):
        start = clock()
        sums: Arrays = {k: np.zeros(v.shape) for k, v in current.items()}
        for site, (x, y) in enumerate(data):
            seed, schedule = 1000 * number + site, learner.training.schedule()
            trained = learn(
                network,
                current,
                Table(x, y),
                cross_entropy,
                schedule,
                seed=seed,
                device=torch.device("cpu"),
            )
            for k, v in trained.arrays.items():
                sums[k] += v * len(y)
        current = {
            k: (v / sum(len(y) for _, y in data)).astype(np.float32) for k, v in sums.items()
        }
        seconds.append(since(start))
    return seconds


def resident() -> float:
    """Megabytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def spread(values: Sequence[float], unit: float = 1e3) -> str:
    return (
        f"{statistics.median(values) * unit:.1f} [{min(values) * unit:.1f}, "
        f"{max(values) * unit:.1f}]"
    )


def medians(seconds: list[Seconds]) -> Seconds:
    wall, cpu = zip(*seconds, strict=True)
    return statistics.median(wall), statistics.fmean(cpu)


def overhead(those: list[Cohort], learner: Perceptron, repeats: int) -> None:
    a: list[Seconds] = []
    b: list[Seconds] = []
    in_process(those, learner), plain(those, learner)  # imports, caches
    for _ in range(repeats):
        a.append(medians(in_process(those, learner)))
        b.append(medians(plain(those, learner)))
    columns = len(those[0].schema.columns)
    size = f"{len(those)} sites x {len(those[0])} rows x {columns} features"
    print(
        f"{size}, {learner.training.epochs} local epochs, {learner.training.rounds} rounds, "
        f"{repeats} turns each",
        flush=True,
    )
    for kind, x, y in zip(("wall", "CPU"), zip(*a, strict=True), zip(*b, strict=True), strict=True):
        ratios = [p / q for p, q in zip(x, y, strict=True)]
        print(
            f"  {kind} ms a round: engine {spread(x)}, plain loop {spread(y)}; "
            f"ratio {statistics.median(x) / statistics.median(y):.2f} [{min(ratios):.2f}, "
            f"{max(ratios):.2f}]",
            flush=True,
        )


def growth(counts: list[int], rows: int, features: int, learner: Perceptron) -> None:
    in_process(cohorts(2, rows, features), learner)
    for count in counts:
        those = cohorts(count, rows, features)
        for c in those:
            _ = c.design  # the rows that a site holds in any case
        gc.collect()
        before = resident()
        seconds = [wall for wall, _ in in_process(those, learner)]
        after = resident()
        print(
            f"{count} sites: ms a round {spread(seconds)}, ms a round and site "
            f"{statistics.median(seconds) / count * 1e3:.2f}; "
            f"memory {before:.0f} -> {after:.0f} MB, {(after - before) / count:.2f} MB a site "
            "beyond its rows",
            flush=True,
        )


def on_ray(those: list[Cohort], learner: Perceptron) -> list[Seconds]:
    """The same apps under `flwr.simulation.run_simulation`; each actor makes the rows of its sites
    anew."""
    from flwr.clientapp import ClientApp
    from flwr.simulation import run_simulation

    client, server, seconds = ClientApp(), ServerApp(), list[Seconds]()
    rows, features, count = len(those[0]), len(those[0].schema.columns), len(those)
    folder = Path(tempfile.mkdtemp())
    pinned = site_folders.enrol(
        folder / site_folders.COORDINATOR, {c.site: folder / c.site for c in those}
    )

    def station(context: Context, seconds: float) -> Holding:
        held: dict[int, Holding] = courier.__dict__.setdefault("_held", {})
        k = int(context.node_config["partition-id"])
        if not held:
            held.update(
                {
                    i: Holding(c, folder, pinned)
                    for i, c in enumerate(cohorts(count, rows, features))
                }
            )
        return held[k]

    @client.query("hello")
    def hello(message, context):  # type: ignore[no-untyped-def]
        courier.door = station
        return courier.carry(message, context)

    @client.train("work")
    def work(message, context):  # type: ignore[no-untyped-def]
        courier.door = station
        return courier.carry(message, context)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        seconds.extend(engine(grid, count, those[0].schema, learner, folder))

    run_simulation(
        server, client, count, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}}
    )
    shutil.rmtree(folder)
    return seconds


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--epochs",
        type=int,
        nargs="+",
        default=[2, 8],
        help="local epochs; 8 are about the work that peers were timed with",
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--many",
        type=int,
        default=200,
        help="sites for the measurement of memory and growth; 0: leave it out",
    )
    parser.add_argument(
        "--ray", action="store_true", help="also run the sites of --many on Flower's Ray engine"
    )
    given = parser.parse_args()
    fix_threads()
    with quiet():
        for epochs in given.epochs:
            learner = configured(Perceptron(), {"rounds": given.rounds, "epochs": epochs})
            overhead(cohorts(given.sites, given.rows, given.features), learner, given.repeats)
        if given.many:
            few = configured(Perceptron(), {"rounds": 6})
            growth(
                sorted({given.sites, given.many // 4, given.many}), given.rows, given.features, few
            )
        if given.ray:
            those = cohorts(given.many, given.rows, given.features)
            here = in_process(those, configured(Perceptron(), {"rounds": 3}))
            there = on_ray(those, configured(Perceptron(), {"rounds": 3}))
            print(
                f"{given.many} sites: ms a round in process {spread([w for w, _ in here])}, on "
                f"Ray {spread([w for w, _ in there])}"
            )


if __name__ == "__main__":
    main()
