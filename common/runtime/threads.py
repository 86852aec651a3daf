"""Thread count, fixed to one, so that the same sums give the same bits in every engine and on every
laptop."""

from __future__ import annotations

import sys


def fix_threads(count: int = 1) -> None:
    """Limit BLAS, OpenMP and (where it is loaded) torch to `count` threads in this process. Small
    sums are also faster so."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=count)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)
