"""Ray engine: the same two apps on Flower's simulation engine, sites in worker processes, for a
cluster or a machine with many cores."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from common.errors import FedmetsError, UsageError
from server.app import Outcome, coordinate
from server.config.run_config import Run


class _Placed(ClientApp):
    """Our ClientApp, told where the run's site folders lie: Flower's Python entry point has no run
    configuration to say it in."""

    def __init__(self, sites: str) -> None:
        super().__init__()
        self._sites = sites

    def __call__(self, message: Message, context: Context) -> Message:
        from client.app import app

        config = {**context.run_config, "sites": self._sites}
        return app(
            message,
            Context(context.run_id, context.node_id, context.node_config, context.state, config),
        )


def run_on_ray(run: Run, sites: int, tell: Callable[[Any, Any, int], None]) -> Outcome:
    """Coordinate `run` over `sites` virtual SuperNodes; needs the `ray` extra."""
    try:
        import ray  # noqa: F401 - only to say in time that it is missing
    except ImportError as error:
        raise UsageError(
            "C01",
            "--engine ray needs Ray: pip install -c constraints.txt '.[ray]', or use --engine "
            "inprocess",
        ) from error
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    done: list[Outcome] = []
    failed: list[FedmetsError] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            done.append(coordinate(grid, run, tell))
        except FedmetsError as error:
            failed.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_simulation(
            server,
            _Placed(run.sites),
            sites,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    if failed:
        raise failed[0]
    return done[0]
