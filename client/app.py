"""The courier: Flower's ClientApp. It takes a message, hands it to the site's station, returns the answer; it sees no data.

Nothing that goes wrong here may travel as text: Flower would send a traceback, so the station answers with codes.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.station import Station, open_station
from common.errors import FedmetsError, UsageError
from common.exchange import HELLO, NO_PLAN, WORK, Hello, Update, pack_hello, pack_updates, unpack_greeting, unpack_request

app = ClientApp()


@app.query(HELLO.partition(".")[2])
def hello(message: Message, context: Context) -> Message:
    """Say whether this site can take part, and what it can do."""
    try:
        content = pack_hello(_station(context).hello(*unpack_greeting(message)))
    except Exception as error:
        content = pack_hello(Hello("", "", "", (), (), 0, code=_told(error)))
    return Message(content, reply_to=message)


@app.train(WORK.partition(".")[2])
def work(message: Message, context: Context) -> Message:
    """Answer the plans of one exchange; a request that cannot be read gets one code for the whole of it."""
    try:
        content = pack_updates(_station(context).handle(unpack_request(message)))
    except Exception as error:
        content = pack_updates([Update(NO_PLAN, None, _told(error))])
    return Message(content, reply_to=message)


def _told(error: Exception) -> str:
    """The text goes to the node's own console; the code is what may leave."""
    if isinstance(error, FedmetsError):
        print(error, file=sys.stderr, flush=True)
        return error.code
    traceback.print_exception(error)
    return "X01"


def _station(context: Context) -> Station:
    """The node's site file (`--node-config 'site="..."'`), or, on Flower's simulation engine, the n-th one of the run's folder."""
    if "site" in context.node_config:
        return open_station(str(context.node_config["site"]))
    folder = Path(str(context.run_config.get("sites", "")))
    files = sorted(folder.glob("*/site.toml")) if str(folder) != "." else []
    index = int(context.node_config.get("partition-id", -1))
    if not 0 <= index < len(files):
        raise UsageError(
            "C01", f"node {index} has no site file: {len(files)} found in '{folder}'; set node-config site=... or run-config sites=FOLDER"
        )
    return open_station(str(files[index]))
