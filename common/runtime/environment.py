"""Environment of a process: one thread a sum, and nothing that calls home."""

from __future__ import annotations

import os

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SILENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def prepare() -> None:
    """Before numpy and Flower are imported: sums have the same bits everywhere. What is set already
    stays."""
    for key, value in {**dict.fromkeys(ONE_THREAD, "1"), **SILENT}.items():
        os.environ.setdefault(key, value)
