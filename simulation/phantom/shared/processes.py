"""Process pool for phantoms: the same work on many patients, results in order, equal to those of
one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final, TypeVar

from threadpoolctl import threadpool_limits

FEW: Final = 40
"""Below so many items a second process costs more than it saves."""
MOST_PROCESSES: Final = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    work: Callable[[Item], Result], items: Sequence[Item], tell: Callable[[int, int], None]
) -> list[Result]:
    """`work(item)` of each item. `work` is a function of a module, items and results can be
    pickled. `tell(done, of)` after each."""
    processes = min(
        MOST_PROCESSES,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
    out: list[Result] = []
    if processes == 1 or len(items) < FEW:
        with threadpool_limits(1):
            for item in items:
                out.append(work(item))
                tell(len(out), len(items))
        return out
    # a fresh interpreter: a fork would take over the locks of whatever threads are running; its
    # matrices are small, and threads that wait for each other on a busy machine cost more than they
    # win
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=threadpool_limits, initargs=(1,)
    ) as pool:
        for result in pool.map(work, items, chunksize=4):
            out.append(result)
            tell(len(out), len(items))
    return out
