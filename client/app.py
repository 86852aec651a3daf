"""ClientApp: carries packets between Flower's own nodes and a station, and sees no data.

For Flower's simulation engine and for its stock SuperNodes (`flwr run` in a checkout). A hospital's
courier is `client.courier`, which runs no app; both carry by `client.courier.carrier`. It imports
neither torch nor the learners: Flower starts a fresh process for every message.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.courier.carrier import Station, answered
from common.errors import UsageError
from common.wire.flower_records import HELLO, NUDGE, SECURE, WORK

app = ClientApp()


@app.query(HELLO.partition(".")[2])
@app.train(WORK.partition(".")[2])
@app.query(SECURE.partition(".")[2])
@app.query(NUDGE.partition(".")[2])
def carry(message: Message, context: Context) -> Message:
    """Can this site take part; the plans of one exchange; keys, and shares of masks; and nothing:
    that a message came is enough (`server.rounds.transport`)."""
    return answered(message, lambda seconds: door(context, seconds))


def door(context: Context, seconds: float) -> Station:
    """The station of a node; `seconds`: how long its answer is waited for.

    Behind a socket (`--node-config 'socket="/run/fedmets/station.sock"'`), or in this process: for a
    virtual site by its site file (`site="..."`) or, on Flower's simulation engine, as the n-th one
    of the run's folder.
    """
    if "socket" in context.node_config:
        from client.station.socket_client import Link

        return Link(Path(str(context.node_config["socket"])), seconds)
    from client.station.station import open_station

    if "site" in context.node_config:
        return open_station(str(context.node_config["site"]))
    folder = Path(str(context.run_config.get("sites", "")))
    files = sorted(folder.glob("*/site.toml")) if str(folder) != "." else []
    index = int(context.node_config.get("partition-id", -1))
    if not 0 <= index < len(files):
        raise UsageError(
            "C01",
            f"node {index} has no site file: {len(files)} found in '{folder}'; set node-config "
            "site=... or run-config sites=FOLDER",
        )
    return open_station(str(files[index]))
