"""Devices where networks run: a CUDA device if there is one, else the CPU; and how a run is made
repeatable there.

`FEDMETS_DEVICE` (`cpu`, `cuda`, `cuda:1`) decides where it is set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from common.errors import UsageError

if TYPE_CHECKING:
    import torch


def choose() -> torch.device:
    """The device of this process. UsageError C01 where `FEDMETS_DEVICE` names none that is here."""
    import torch

    asked = os.environ.get("FEDMETS_DEVICE", "")
    if not asked:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        if device.type not in ("cpu", "cuda") or (
            device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
        ):
            raise RuntimeError(asked)
    except RuntimeError as error:
        raise UsageError(
            "C01",
            f"FEDMETS_DEVICE={asked} is no device here; use cpu, cuda or cuda:<number>, or unset "
            "it",
        ) from error
    return device


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes of data may stay on a GPU: at most half of what is free, for the network
    needs room too."""
    import torch

    return bool(size <= torch.cuda.mem_get_info(device)[0] // 2)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Only deterministic kernels inside; on the CPU one thread is enough, and that much is set for
    good."""
    import torch

    torch.set_num_threads(1)
    if device.type == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
