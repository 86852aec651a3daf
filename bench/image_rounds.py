"""A federated round of the image network in this process, against Flower's own engine (Ray) doing
the same torch work.

    python -m bench.image_rounds [--sites 4 --cases 48 --rounds 6 --repeats 3]

A: the two apps over `simulation.federation.in_process_grid.InProcessGrid` with two workers: plans,
guards, ledger, state on disk and all. B: a plain Flower app, `FedAvg` and a client that calls the
same training on the same crops, under `flwr.simulation.run_simulation`. Each turn is a process of
its own, A and B in turns; memory is the sum of the process tree's proportional set sizes at its
peak. The first round of each, in which everything is imported and cut, is left out. Goals: time at
most 1.0, memory at most 0.5.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SITES, CASES, ROUNDS = 4, 48, 6


def cohort(site: int, cases: int) -> Any:
    """Noise with a bright ball for half of the patients, one crop of 16 x 24 x 24 each."""
    from common.data.cohort import Cohort
    from common.data.picture import Picture
    from common.data.schema import Channel, Imaging, Label, Number, Schema

    imaging = Imaging(
        (Channel("ct", "CT"),),
        ("lesion",),
        lesion=("lesion",),
        window=(-160, 240),
        crop_mm=(32.0, 48.0, 48.0),
    )
    schema = Schema(
        "bench",
        (Number("x", "u", -8, 8, "now"),),
        Label("y", ("no", "yes")),
        ("now",),
        imaging=imaging,
    )
    r = np.random.default_rng(site)
    labels = np.arange(cases) % 2
    z, y, x = np.meshgrid(*(np.arange(n) - n / 2 for n in (24, 40, 40)), indexing="ij")
    ball = z**2 + y**2 + x**2 < 36
    pictures = []
    for i in range(cases):
        values = r.normal(0, 3000, ball.shape) + 9000 * labels[i] * ball
        voxels = values.astype(np.int16)[None]
        pictures.append(
            Picture(
                f"{site}-{i}",
                voxels,
                1 / 32767,
                (2.0, 2.0, 2.0),
                (True,),
                voxels[:, ::2, ::4, ::4],
                ball.astype(np.uint8),
                None,
                (True,),
            )
        )
    ids = tuple(f"{site}-{i:04d}" for i in range(cases))
    values = r.normal(size=(cases, 1))
    return Cohort(
        f"S{site}",
        schema,
        ids,
        values,
        labels.astype(np.int64),
        modalities=frozenset({"table", "image"}),
        pictures=tuple(pictures),
    )


def here(sites: int, cases: int, rounds: int) -> list[float]:
    from client import app as courier
    from client.site.site_file import Site
    from client.station.station import Station
    from common.data.cohort import Fold
    from common.federated.learner import load
    from common.federated.states import named_arrays
    from common.runtime.threads import fix_threads
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

    fix_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        class Holding(Station):
            def __init__(self, held: Any) -> None:
                key = folder / held.site / site_folders.STATION_KEY
                super().__init__(
                    Site(
                        held.site,
                        folder,
                        ("bench",),
                        coordinator=pinned,
                        key=key,
                        log=folder / "station.log",
                    )
                )
                self.held = held

            def cohort(self, ref: str, task: str) -> Any:
                return self.held

        those = [cohort(k, cases) for k in range(sites)]
        pinned = site_folders.enrol(
            folder / site_folders.COORDINATOR, {c.site: folder / c.site for c in those}
        )
        stations = {f"/{k}": Holding(c) for k, c in enumerate(those)}
        courier.door = lambda context, seconds: stations[str(context.node_config["site"])]  # type: ignore[assignment]
        grid = InProcessGrid(courier.app, {k + 1: Path(f"/{k}") for k in range(sites)}, workers=2)
        run = Run(study="bench", task="now", out=str(folder), expect=sites)
        schema = stations["/0"].held.schema
        roster = register(
            grid,
            Invitation(
                run,
                "bench",
                enrolled_sites.load(str(folder / site_folders.COORDINATOR)),
                "now",
                schema,
            ),
        )
        ledger, seconds, last = Ledger(folder / "ledger.jsonl"), list[float](), time.perf_counter()

        def watch(exchange: Any, now: Any) -> None:
            nonlocal last
            arrays = named_arrays(now.states)
            ledger.append(
                "exchange",
                time=time.time(),
                state=state_store.save(folder / "state", now.step, arrays),
            )
            seconds.append(time.perf_counter() - last)
            last = time.perf_counter()

        learner = load("image", {"segmentation": False, "rounds": rounds})
        job = Job(learner, Fold(), (Fold(),))
        driver.drive(
            driver.Federation(grid, run, "bench", roster, [job], schema, combiner("fedavg")),
            driver.Progress(),
            watch,
        )
        ledger.close()
    return seconds[2:]  # without the counting and the first round


def on_ray(sites: int, cases: int, rounds: int) -> list[float]:
    from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client, server, seconds = ClientApp(), ServerApp(), list[float]()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        import common
        from common.learners import image
        from common.networks import federated_averaging
        from common.networks.augmentation import Augment
        from common.networks.crops import patient_logits
        from common.networks.datasets import Cases
        from common.networks.training import learn

        held = common.__dict__.setdefault("_bench", {})
        k = int(context.node_config["partition-id"])
        if k not in held:
            mine = cohort(k, cases)
            crops = image.LEARNER.crops({"image": {"grid": np.array((16, 24, 24))}}, mine)
            held[k] = Cases(
                crops,
                crops.counts,
                mine.pictures,
                mine.labels,
                Augment(mine.schema.imaging.crop_mm),
            )

        def loss(network: Any, batch: Any) -> Any:
            import torch

            x, present, mean, labels = batch
            return torch.nn.functional.cross_entropy(
                patient_logits(network(x, present), mean), labels, reduction="sum"
            )

        start = {n: np.array(a.numpy()) for n, a in message.content["arrays"].items()}
        how = image.LEARNER.training.schedule("adamw")
        trained = learn(
            federated_averaging.network(image._classifier, "compact3d", 1, 2),
            start,
            held[k],
            loss,
            how,
            seed=k,
        )
        content = RecordDict(
            {
                "arrays": ArrayRecord({n: Array(a) for n, a in trained.arrays.items()}),
                "metrics": MetricRecord({"num-examples": cases}),
            }
        )
        return Message(content, reply_to=message)

    class Timed(FedAvg):
        last = 0.0

        def aggregate_train(self, *args: Any, **kwargs: Any) -> Any:
            out = super().aggregate_train(*args, **kwargs)
            seconds.append(time.perf_counter() - Timed.last)
            Timed.last = time.perf_counter()
            return out

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        from common.learners import image
        from common.networks import federated_averaging as averaging

        weights = averaging.bare(averaging.drawn(image._classifier, ("compact3d", 1, 2), 0))
        strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=sites)
        Timed.last = time.perf_counter()
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord({n: Array(a) for n, a in weights.items()}),
            num_rounds=rounds,
        )

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server, client, sites, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}}
    )
    return seconds[1:]


def tree(root: int) -> list[int]:
    """`root` and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents.setdefault(
                    int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []
                ).append(int(entry.name))
            except OSError:
                continue
    out, todo = [], [root]
    while todo:
        out.append(todo.pop())
        todo += parents.get(out[-1], [])
    return out


def proportional(root: int) -> float:
    """Megabytes of the whole tree, shared pages counted by share."""
    total = 0
    for pid in tree(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def turn(arm: str, given: argparse.Namespace) -> tuple[float, float]:
    """(median seconds a round, peak megabytes) of one arm in a process of its own."""
    size = ["--sites", str(given.sites), "--cases", str(given.cases), "--rounds", str(given.rounds)]
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    peak = 0.0
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.image_rounds", "--arm", arm, *size],
            env={**os.environ, **quiet},
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parent.parent,
        )
        while process.poll() is None:
            peak = max(peak, proportional(process.pid))
            time.sleep(0.25)
        out.seek(0)
        last = out.read().decode().strip().splitlines()[-1:]
    if process.returncode or not last:
        raise SystemExit(f"arm {arm} failed with status {process.returncode}")
    return statistics.median(json.loads(last[0])), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=SITES)
    parser.add_argument("--cases", type=int, default=CASES, help="patients a site")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", choices=("here", "ray"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        print(
            json.dumps(
                (here if given.arm == "here" else on_ray)(given.sites, given.cases, given.rounds)
            )
        )
        return
    found: dict[str, list[tuple[float, float]]] = {"here": [], "ray": []}
    for _ in range(given.repeats):
        for arm in found:
            found[arm].append(turn(arm, given))
    seconds, memory = ({arm: [t[i] for t in turns] for arm, turns in found.items()} for i in (0, 1))
    print(
        f"{given.sites} sites x {given.cases} patients, {given.rounds} rounds, {given.repeats} "
        "turns each"
    )
    for what, values, unit in (("seconds a round", seconds, "s"), ("peak memory", memory, "MB")):
        ratios = [a / b for a, b in zip(values["here"], values["ray"], strict=True)]
        told = ", ".join(
            f"{name} {statistics.median(v):.2f} {unit} [{min(v):.2f}, {max(v):.2f}]"
            for name, v in (("in process", values["here"]), ("Ray", values["ray"]))
        )
        print(
            f"  {what}: {told}; ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, "
            f"{max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()
