"""Time limit of a piece of work: whoever goes through patients, one after another, begins with no
further one once it has passed, and leaves out whose own is not done by then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PASSED: ContextVar[Callable[[], bool] | None] = ContextVar("passed", default=None)


@contextmanager
def until(over: Callable[[], bool]) -> Iterator[None]:
    """`over()`: has the time of what is done here passed? Once it has, it stays so."""
    token = _PASSED.set(over)
    try:
        yield
    finally:
        _PASSED.reset(token)


def passed() -> bool:
    """False where no limit was set."""
    over = _PASSED.get()
    return over is not None and over()
