"""Rounded changes: what is lost is bounded and comes back, both sides hold the same bits, and a
malformed change is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from common.errors import RefusedError, WireError
from common.federated.learner import Contribution
from common.types import Arrays, digest
from common.wire import compression

LOSSY = sorted(compression.ROUNDED)
every = pytest.mark.parametrize("how", LOSSY)
VALUES = st.floats(-1e6, 1e6, width=32)
CHANGES = arrays_of.arrays(np.float32, st.integers(0, 3 * compression.BLOCK + 5), elements=VALUES)
STEP = {"int8": 1 / 127 / 2, "float16": 2.0**-11}
"""Largest error of a value, in units of its block's scale."""


def parameters(seed: int, scale: float = 1.0) -> Arrays:
    r = np.random.default_rng(seed)
    shapes = {"w/a": (40, 100), "w/b": (300,), "w/c": (7, 900), "w/d": ()}
    return {k: (scale * r.normal(size=s)).astype(np.float32) for k, s in shapes.items()}


def restored(coded: Arrays, how: str, size: int) -> compression.Vector:
    out = np.zeros(size, np.float32)
    compression.add(out, coded, how)
    return out


@every
@given(change=CHANGES)
def test_no_value_is_off_by_more_than_half_a_step_of_its_block(
    how: str, change: compression.Vector
) -> None:
    left = change.copy()
    coded = compression.round_off(left, how)
    back = restored(coded, how, change.size)
    assert left == pytest.approx(change - back, abs=1e-30)
    scale = np.repeat(coded[compression.SCALE], compression.BLOCK)[: change.size]
    assert (np.abs(back - change) <= STEP[how] * (1 + 1e-5) * scale + 1e-30).all()
    assert (coded[compression.SCALE] <= np.abs(change).max(initial=0)).all()


@every
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1e-31, 9e29, -9e29])
def test_the_ends_of_the_range_come_back(how: str, value: float) -> None:
    change = np.full(5, value, np.float32)
    assert restored(compression.round_off(change.copy(), how), how, 5) == pytest.approx(
        change, rel=1e-3, abs=1e-30
    )


@every
def test_bytes_of_a_value(how: str) -> None:
    change = np.zeros(256 * compression.BLOCK, np.float32)
    size = sum(v.nbytes for v in compression.round_off(change, how).values())
    assert size / change.nbytes == pytest.approx({"int8": 0.25, "float16": 0.5}[how], abs=0.005)


@every
def test_a_step_is_the_same_to_the_bit_on_both_sides_and_what_is_left_comes_later(how: str) -> None:
    """Error feedback: after many steps the sites are where the coordinator wanted them, but for one
    step's rounding."""
    held, wanted, rest = parameters(0), parameters(0), {}
    for step in range(1, 30):
        change = parameters(step, 0.01)
        wanted = {k: wanted[k] + change[k] for k in wanted}
        new = {k: held[k] + change[k] for k in held}
        now, coded, rest = compression.advance(held, new, rest, how)
        assert digest(compression.follow(held, coded, how)) == digest(now)
        held = now
    off = np.abs(compression.flat(held) - compression.flat(wanted)).max()
    plain = np.abs(restored(rest, "int8", compression.flat(held).size)).max()
    assert off <= plain * 1.2 + 1e-5
    assert plain < 0.06 * {"int8": 1 / 127, "float16": 2.0**-10}[how] + 1e-6


@every
def test_a_contribution_loses_only_what_is_kept_for_the_next(how: str) -> None:
    base = parameters(0)
    rest: Arrays = {}
    lost = np.zeros(compression.flat(base).size)
    for step in range(1, 20):
        mine = {
            k: (base[k] + 0.01 * v).astype(np.float64) * 37 for k, v in parameters(step).items()
        }
        whole = Contribution(mine, 37, {"loss": np.array(2.0)})
        thin, rest = compression.thin(whole, base, rest, how)
        thick = compression.thicken(thin, base, how)
        assert (thick.cases, float(thick.tally["loss"]), set(thick.sums)) == (37, 2.0, set(mine))
        assert all(
            v.dtype == np.float32 and v.shape == base[k].shape for k, v in thick.sums.items()
        )
        lost += (compression.flat(mine).astype(np.float64) - compression.flat(thick.sums)) / 37
    assert lost == pytest.approx(restored(rest, "int8", lost.size), abs=1e-4)


@every
@pytest.mark.parametrize(
    "fault", ["type", "short", "long", "nan", "huge", "scale", "missing", "more"]
)
def test_a_malformed_change_is_refused(how: str, fault: str) -> None:
    base = parameters(0)
    coded = compression.round_off(compression.flat(parameters(1)), how)
    codes, scales = coded[compression.CODE], coded[compression.SCALE]
    bad: Arrays = {
        "type": {**coded, compression.CODE: codes.astype(np.float64)},
        "short": {**coded, compression.CODE: codes[:-1]},
        "long": {**coded, compression.SCALE: np.append(scales, np.float32(1))},
        "nan": {
            **coded,
            compression.SCALE: np.where(np.arange(scales.size) == 3, np.float32("nan"), scales),
        },
        "huge": {**coded, compression.SCALE: np.full_like(scales, 1e31)},
        "scale": {**coded, compression.SCALE: scales.astype(np.float16)},
        "missing": {compression.CODE: codes},
        "more": {**coded, "patients": codes},
    }[fault]
    with pytest.raises(RefusedError) as caught:
        compression.check(Contribution(bad, 30), base, how)
    assert caught.value.code == "P02"
    for use in (
        lambda: compression.follow(base, bad, how),
        lambda: compression.thicken(Contribution(bad, 30), base, how),
    ):
        with pytest.raises(WireError):
            use()


def test_a_small_model_and_one_of_other_numbers_are_sent_as_they_are() -> None:
    assert compression.worthwhile(parameters(0))
    assert not compression.worthwhile({"w/a": np.zeros(compression.LEAST - 1, np.float32)})
    assert not compression.worthwhile({"w/a": np.zeros(compression.LEAST)})
