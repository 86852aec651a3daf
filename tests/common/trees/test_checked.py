"""Trees in a state are data: whatever is done to them, they are refused with a code or give finite
predictions, and no process ends of them."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.cohort import Fold
from common.errors import RefusedError
from common.federated.learner import fit, local_plan, validate
from common.learners.preprocessing import LEARNER as PREPARE
from common.trees.checked import _cuts
from common.types import Array, State, flatten, nest, pack
from tests.common.trees.hostile_trees import HEAD, cohort
from tests.paths import ROOT

NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 3, 7, 100, -2, 2**31 - 1, -(2**31), 2**40, 0.5, 1e30, -3e38, np.nan, np.inf]
)
KINDS = st.sampled_from(["<i4", "<i8", "|b1", "<f4", "<f8", "|u1", "<u8"])


class Site:
    """The process that uses trees; started again where it has ended."""

    def __init__(self, classes: int) -> None:
        self.classes, self.process = classes, cast(Any, None)

    def told(self, state: State) -> str:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.common.trees.hostile_trees", str(self.classes)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        blob = pack(flatten(state))
        self.process.stdin.write(struct.pack("<Q", len(blob)) + blob)
        self.process.stdin.flush()
        line = self.process.stdout.readline().decode().strip()
        return line or f"the process ended with {self.process.wait()}"

    def stop(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()


@pytest.fixture(scope="module", params=[2, 3])
def trained(request: pytest.FixtureRequest) -> Iterator[tuple[Site, State]]:
    those, state = cohort(request.param), cast(State, {})
    for learner in (PREPARE, HEAD):
        state = fit(learner, state, [those], local_plan(Fold(), 0, 5))
    assert (state["boosting"]["column"] >= 0).any()
    site = Site(request.param)
    yield site, state
    site.stop()


def changed(array: Array, draw: Any) -> Array:
    """Another array, near the one given."""
    how = draw(st.sampled_from(["element", "element", "element", "all", "kind", "shape", "cut"]))
    if how == "kind":
        with np.errstate(all="ignore"):
            return array.astype(draw(KINDS))
    if how == "shape":
        return array[None] if draw(st.booleans()) else array.ravel()[: draw(st.integers(0, 3))]
    if how == "cut" and array.ndim:
        axis = draw(st.integers(0, array.ndim - 1))
        keep = draw(st.integers(0, array.shape[axis]))
        longer = np.concatenate([array, array], axis=axis)
        return np.take(longer if draw(st.booleans()) else array, range(keep), axis=axis)
    out = array.copy()
    with np.errstate(all="ignore"):
        value = np.array(draw(NUMBERS)).astype(array.dtype)
    if how == "all" or not array.size:
        return np.full_like(out, value)
    out.flat[draw(st.integers(0, array.size - 1))] = value
    return out


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(st.data())
def test_altered_trees_are_refused_or_give_finite_numbers(
    trained: tuple[Site, State], data: st.DataObject
) -> None:
    site, state = trained
    flat = dict(flatten(state))
    names = [n for n in flat if n.startswith("boosting\t")] * 3 + [
        f"preprocessing\t{n}" for n in ("edges", "offsets", "classes")
    ]
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        if data.draw(st.integers(0, 9)):
            flat[name] = changed(flat[name], data.draw)
        else:
            flat.pop(name)
    said = site.told(nest(flat))
    assert said in ("fine", "P02"), said


def test_what_was_trained_is_fine(trained: tuple[Site, State]) -> None:
    site, state = trained
    assert site.told(state) == "fine"
    alone = HEAD.alone([cohort(site.classes)], Fold(), 0, 5)
    assert site.told(alone) == "fine"


def test_bytes_that_would_be_a_booster_are_read_by_nobody(trained: tuple[Site, State]) -> None:
    site, state = trained
    received: State = {**state, "boosting": {"booster": np.frombuffer(b"{hostile", np.uint8)}}
    assert site.told(received) == "P02"
    both: State = {**state, "boosting": {**state["boosting"], **received["boosting"]}}
    assert site.told(both) == "P02"


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("column", (0, 0, 0), 10_000, "'column' has a value outside"),
        ("column", (0, 0, -1), 0, "below a leaf|last level"),
        ("bin", (0, 0, 0), 9_999, "bin: a split's"),
        ("value", (0, 0, 1), np.nan, "'value' has a value outside"),
        ("value", (0, 0, 1), 3e38, "'value' has a value outside"),
    ],
)
def test_a_refusal_says_what_is_wrong(
    trained: tuple[Site, State], name: str, place: tuple[int, ...], value: float, said: str
) -> None:
    site, state = trained
    bad = state["boosting"][name].copy()
    bad[place] = value
    with pytest.raises(RefusedError, match=said) as caught:
        validate(
            {**state, "boosting": {**state["boosting"], name: bad}}, cohort(site.classes).schema
        )
    assert caught.value.code == "P02"


@given(st.lists(st.sampled_from([0, 1, 3, 4, -1, 2**62, 2**63 - 1, -2, -(2**63)]), max_size=6))
def test_offsets_that_turn_round_are_refused(offsets: list[int]) -> None:
    """Differences of numbers near 2^63 looked like widths, and ended the process in numpy."""
    cuts = {"edges": np.arange(4, dtype=np.float32), "offsets": np.array(offsets, np.int64)}
    try:
        _cuts(cuts, 3)
    except RefusedError:
        assert (
            offsets[:1] != [0]
            or sorted(offsets) != offsets
            or offsets[-1] != 4
            or len(offsets) != 4
        )
    else:
        assert len(offsets) == 4
        assert offsets == sorted(offsets)
        assert (offsets[0], offsets[-1]) == (0, 4)
