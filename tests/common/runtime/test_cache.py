"""The bounded cache, and what is derived from a cohort."""

import gc
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data import cohort as module
from common.data.cohort import Cohort, Fold
from common.runtime.cache import ENTRY, Cache, array_bytes
from tests.synthetic import cohort


def test_it_keeps_within_its_bytes_and_drops_what_was_used_longest_ago() -> None:
    memory: Cache[str, np.ndarray] = Cache(3 * (80 + ENTRY), array_bytes)
    for key in "abc":
        memory[key] = np.zeros(10)
    assert memory.get("a") is not None
    memory["d"] = np.zeros(10)
    assert sorted(memory) == ["a", "c", "d"]
    memory["d"] = np.zeros(10)
    assert len(memory) == 3
    memory["e"] = np.zeros(10_000)  # the latest stays, whatever its size
    assert sorted(memory) == ["e"]
    memory["f"] = np.zeros(10)
    assert sorted(memory) == ["f"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60))
def test_never_more_than_its_limit_and_always_the_latest(writes: list[tuple[int, int]]) -> None:
    memory: Cache[int, int] = Cache(50, lambda size: size)
    for key, size in writes:
        memory[key] = size
        assert sum(memory.values()) <= 50
        assert memory[key] == size


def test_several_threads_share_it() -> None:
    memory: Cache[int, int] = Cache(8)

    def work(offset: int) -> None:
        for n in range(3000):
            memory[n % 16] = n + offset
            memory.get((n + offset) % 16)
            list(memory)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(memory) == 8


def test_a_cohort_keeps_nothing_of_what_is_derived_and_nothing_outlives_it() -> None:
    whole = cohort(60)
    before = set(vars(whole))
    rows = whole.train(Fold(parts=(1,)), 0, 5)
    assert rows is whole.train(Fold(parts=(1,)), 0, 5)
    assert set(vars(whole)) == before
    known = len(module._DERIVED)
    gone = weakref.ref(whole), weakref.ref(rows)
    del whole, rows
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert len(module._DERIVED) < known


def test_a_cohort_that_is_its_own_training_set_does_not_keep_itself_alive() -> None:
    known = cohort(60)
    assert known.train(Fold(), 0, 5) is known
    gone = weakref.ref(known)
    del known
    gc.collect()
    assert gone() is None


def test_the_arrays_derived_from_a_cohort_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Cohort = cohort(60)
    monkeypatch.setattr(module, "DERIVED_LIMIT", 3 * whole.values.nbytes)
    for part in range(5):
        whole.train(Fold(parts=(part,)), 0, 5)
    selected = [rows for rows in whole.derived.values() if isinstance(rows, Cohort)]
    assert 1 <= len(selected) < 5
    assert sum(map(module._bytes, selected)) <= 3 * whole.values.nbytes
    assert module._bytes((np.zeros(3), {"no": "array"}, "text")) == 24
