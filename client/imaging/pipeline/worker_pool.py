"""Worker pool: one function on many items in a few processes, so that what images need of memory is
given back, and cores are used.

Not multiprocessing: its children import the caller's main module again and outlive a caller that is
killed. These are plain children that read their work from a pipe; they end when the pipe does. One
that dies (out of memory, say) costs the item it had, and is replaced.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerDeath:
    """What stands in the place of a result whose process died."""

    how: str


def each(
    call: Callable[[T], R], items: Sequence[T], workers: int
) -> Iterator[tuple[int, R | WorkerDeath]]:
    """(position, `call(item)`) as the results come. `call` is a function of a module, its items and
    results can be pickled.

    An exception of `call` is raised here. With no worker it is called in this process. Closing the
    iterator, or an interrupt, ends the processes at once.
    """
    workers = min(workers, len(items))
    if workers < 1:
        for n, item in enumerate(items):
            yield n, call(item)
        return
    todo = queue.SimpleQueue[tuple[int, T]]()
    for pair in enumerate(items):
        todo.put(pair)
    done = queue.SimpleQueue[tuple[int, Any]]()
    crew = [_Worker(todo, done, call) for _ in range(workers)]
    for worker in crew:
        worker.start()
    try:
        for _ in items:
            n, (failed, result) = done.get()
            if failed:
                raise result
            yield n, result
    finally:
        for worker in crew:
            worker.stop()
        for worker in crew:
            worker.join()


class _Worker(threading.Thread):
    """Hands items to one child process and its answers back; starts another child where one has
    died."""

    def __init__(
        self, todo: queue.SimpleQueue[Any], done: queue.SimpleQueue[Any], call: Callable[[Any], Any]
    ) -> None:
        super().__init__(daemon=True)
        self._todo, self._done, self._call = todo, done, call
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def run(self) -> None:
        while not self._stopped:
            try:
                n, item = self._todo.get_nowait()
            except queue.Empty:
                break
            try:
                answer = self._ask(item)
            except Exception as error:
                answer = (True, error)
            self._done.put((n, answer))
        self._end()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def _ask(self, item: Any) -> tuple[bool, Any]:
        with self._lock:
            if self._child is None and not self._stopped:
                self._child = _child()
        child = self._child
        if child is None:
            return False, WorkerDeath("stopped")
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            pickle.dump((self._call, item), child.stdin)
            child.stdin.flush()
            answer: tuple[bool, Any] = pickle.load(child.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            status = self._end()
            return False, WorkerDeath(
                f"its process was ended by signal {-status}"
                if status < 0
                else f"its process ended with status {status}"
            )
        return answer

    def _end(self) -> int:
        child, self._child = self._child, None
        if child is None:
            return 0
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        return child.wait()


def _child() -> subprocess.Popen[bytes]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    code = f"from {__name__} import serve; serve()"
    # a session of its own: the terminal's interrupt reaches this process alone, which then ends its
    # children
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        start_new_session=True,
    )


def serve() -> None:
    """In a child: answer until the pipe ends."""
    # what a library prints must not stand among the answers
    answers: IO[bytes] = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            call, item = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (False, call(item))
        except Exception as error:
            answer = (True, error)
        try:
            answers.write(pickle.dumps(answer))
            answers.flush()
        except BrokenPipeError:
            # the asker was killed; what it asked for is done, and nobody is there to hear it
            os._exit(1)
