"""A round with a 48 MB model over Flower's deployment engine: rounded changes against stock
Flower's FedAvg, bytes and time.

    python -m bench.wire [--millions 12] [--rounds 6] [--repeats 2] [--transfer int8]        (as root, for a network namespace)

One SuperLink behind its proxy carries, in turn: a stock FedAvg app over two of Flower's SuperNodes
(the proxy lets bundles through for them), whose sites send back what they got, with so many million
float32 parameters and with ten; and our apps over two couriers with a perceptron of as many
parameters and a small one, at stations that do the same in place of training. Bytes are those that
cross loopback TCP, every hop of Flower's included; rounds are from the second on, since the first
carries the whole model in every case. A SuperNode that finds no message sleeps for three seconds,
which makes rounds longer or shorter by chance; here it sleeps for a twentieth of one. Goals: bytes
and time above one's own empty round at most a third of stock Flower's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.ledger import ledger
from tests.e2e import town as towns

STOCK_SERVER = """
import json, time
import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()

def crossed():
    line = next(x for x in open("/proc/net/dev") if x.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])

@app.main()
def main(grid, context):
    config = context.run_config
    arrays = ArrayRecord({"w": Array(np.random.default_rng(0).normal(size=int(config["values"])).astype(np.float32))})
    seen = []
    def after(server_round, arrays):
        seen.append([time.time(), crossed()])
        return MetricRecord({"none": 0.0})
    FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2).start(
        grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]), timeout=600, evaluate_fn=after)
    open(config["out"], "w").write(json.dumps(seen))
"""
STOCK_CLIENT = """
from flwr.app import ArrayRecord, Array, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
import numpy as np
app = ClientApp()

@app.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy()
    w = w + np.float32(0.001) * np.random.default_rng(context.node_id).normal(size=w.size).astype(np.float32)
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(w)}), "metrics": MetricRecord({"num-examples": 30})}), reply_to=message)
"""
STOCK_PROJECT = """
[project]
name = "stock"
version = "1.0"
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "stock_server:app"
clientapp = "stock_client:app"
[tool.flwr.app.config]
values = 10
rounds = 3
out = ""
"""
START = """
import sys
from pathlib import Path
from server.coordinator.superlink import LOOPBACK, SuperLink
state = Path(sys.argv[1])
SuperLink(state / "flwr", state / LOOPBACK / "ca.pem").start(Path(sys.argv[2]), sys.argv[3])
"""
STATION = """
import sys
from pathlib import Path
import numpy as np
from client.station import socket_server as service, station
from common.networks import federated_averaging as averaging

class Untrained(station.Station):
    def _work(self, plan, states):
        if plan.learner != "mlp":
            return super()._work(plan, states)
        weights = averaging.parameters(states[plan.fold]["mlp"])
        r = np.random.default_rng(len(self.site.name) + plan.step)
        weights = {k: v + np.float32(0.001) * r.normal(size=v.shape).astype(np.float32) for k, v in weights.items()}
        return averaging.weighted(weights, 30, {"loss": np.array(0.0)})

service.Station = Untrained
service.serve(Path(sys.argv[1]), Path(sys.argv[2]), tell=lambda text: print(text, flush=True))
"""
AWAKE = """
import time
slept = time.sleep
time.sleep = lambda seconds: slept(0.05 if seconds == 3 else seconds)
"""
Rounds = list[tuple[float, float]]
"""Seconds and MB of each round from the second on."""


def differences(seen: list[list[float]]) -> Rounds:
    return [(b[0] - a[0], (b[1] - a[1]) / 1e6) for a, b in itertools.pairwise(seen)]


@contextmanager
def flower_nodes(town: towns.Town, names: list[str]) -> Iterator[None]:
    """Flower's own nodes in the couriers' place."""

    def end(processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()

    conf = town.coordinator / "nginx.conf"
    closed = conf.read_text()
    conf.write_text(closed.replace("(activate-node|", "(get-run|get-fab|activate-node|"))
    town.kill("nginx")
    end([courier for name in names for courier in town.couriers.pop(name)])
    nodes = []
    for k, name in enumerate(names):
        home = town.home(name)
        words = (
            "flower-supernode", "--superlink", "127.0.0.1:8443",
            "--root-certificates", str(home / "ca.pem"),
            "--auth-supernode-private-key", str(home / "courier.key"),
            "--host", "127.0.0.1", "--port", str(9200 + k),
        )  # fmt: skip
        nodes.append(town.start(f"node-{name}", *words, inside=True))
    try:
        yield
    finally:
        end(nodes)
        conf.write_text(closed)
        town.kill("nginx")
        for name in names:
            town.courier(name)


def stock(town: towns.Town, values: int, rounds: int) -> Rounds:
    app, out = town.folder / "stock", town.folder / f"stock-{time.monotonic_ns()}.json"
    app.mkdir(exist_ok=True)
    for name, text in (
        ("stock_server.py", STOCK_SERVER),
        ("stock_client.py", STOCK_CLIENT),
        ("pyproject.toml", STOCK_PROJECT),
    ):
        (app / name).write_text(text)
    config = f"values = {values}\nrounds = {rounds}\nout = {json.dumps(str(out))}\n"
    town.call(towns.PYTHON, "-c", START, str(town.folder / "state"), str(app), config, inside=True)
    town.until(out.exists, 900)
    time.sleep(1)
    return differences(json.loads(out.read_text()))[1:]


def crossed(town: towns.Town) -> int:
    told = town.call("cat", "/proc/net/dev", inside=True).stdout
    return int(
        next(x for x in told.splitlines() if x.strip().startswith("lo:")).split(":")[1].split()[0]
    )


def ours(town: towns.Town, hidden: list[int], rounds: int, transfer: str) -> Rounds:
    # one round more than is measured: what follows the last one (importance of the columns) takes
    # minutes with such a perceptron
    hyper = json.dumps({"mlp": {"hidden": hidden, "rounds": rounds + 1, "epochs": 1}})
    keys = {"learners": "mlp", "evaluations": "", "hyper": hyper, "transfer": transfer}
    process, folder = town.begin(
        2, 0, *(word for k, v in keys.items() for word in ("--set", f"{k}={v}"))
    )
    seen: list[list[float]] = []
    while (
        len(
            trained := [
                k for k, line in enumerate(exchanges(folder)) if line["work"][0]["learner"] == "mlp"
            ]
        )
        < rounds
    ):
        assert process.poll() is None, town.log("run")
        seen += [[time.time(), crossed(town)]] * (town.exchanges(folder) - len(seen))
        time.sleep(0.02)
    seen += [[time.time(), crossed(town)]] * (town.exchanges(folder) - len(seen))
    town.kill("flwr-serverapp")
    process.wait()
    return [(seen[k][0] - seen[k - 1][0], (seen[k][1] - seen[k - 1][1]) / 1e6) for k in trained[1:]]


def exchanges(folder: Path) -> list[dict[str, Any]]:
    path = folder / ledger.NAME
    return (
        [line for line in ledger.read(path) if line["kind"] == "exchange"] if path.exists() else []
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--transfer", nargs="+", default=["int8"])
    given = parser.parse_args()
    if why := towns.possible():
        raise SystemExit(why)
    values = given.millions * 1_000_000
    kinds = {"stock, empty": (10, ""), "stock": (values, ""), "ours, empty": (0, "whole")} | {
        f"ours, {t}": (values, t) for t in given.transfer
    }
    found: dict[str, Rounds] = {k: [] for k in kinds}
    with tempfile.TemporaryDirectory() as patch, towns.town() as town:
        (Path(patch) / "sitecustomize.py").write_text(AWAKE)
        os.environ["PYTHONPATH"] = patch
        names = town.settle()[0]
        for name in names:
            town.kill("client serve", town.home(name).name)
            words = (
                towns.PYTHON,
                "-c",
                STATION,
                str(town.home(name) / "site.toml"),
                str(town.socket(name)),
            )
            town.start(f"station-{name}", *words, inside=False)
        time.sleep(5)
        for _ in range(given.repeats):
            for kind, (size, transfer) in kinds.items():
                if kind.startswith("stock"):
                    with flower_nodes(town, names):
                        found[kind] += stock(town, size, given.rounds)
                else:
                    # two layers of as many units: nearly all parameters lie between them
                    found[kind] += ours(
                        town, [round(size**0.5)] * 2 if size else [], given.rounds, transfer
                    )
                told = [
                    f"{statistics.median(x):.2f} ({min(x):.2f} to {max(x):.2f})"
                    for x in zip(*found[kind], strict=True)
                ]
                print(f"{kind}: {told[0]} s, {told[1]} MB a round", flush=True)
    seconds = {k: statistics.median(s for s, _ in r) for k, r in found.items()}
    megabytes = {k: statistics.median(b for _, b in r) for k, r in found.items()}
    for t in given.transfer:
        kind = f"ours, {t}"
        above = (seconds[kind] - seconds["ours, empty"]) / (
            seconds["stock"] - seconds["stock, empty"]
        )
        print(
            f"{kind} / stock: bytes {megabytes[kind] / megabytes['stock']:.2f}, time above an "
            f"empty round {above:.2f} (goals at most 0.33)"
        )


if __name__ == "__main__":
    main()
