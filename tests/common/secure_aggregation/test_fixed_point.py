"""Numbers as whole ones: sums come out to the last bit, and nothing is cut, wrapped or renamed in
silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import RefusedError, WireError
from common.secure_aggregation.fixed_point import Scale, decode, encode

SCALES = st.builds(Scale, st.integers(2, 1000), st.integers(10, 50))


@given(st.data(), SCALES)
def test_a_sum_is_that_of_the_rounded_numbers_to_the_last_bit(
    data: st.DataObject, scale: Scale
) -> None:
    size, added = data.draw(st.integers(0, 5)), data.draw(st.integers(1, min(scale.sites, 6)))
    numbers = st.floats(-scale.bound, scale.bound)
    parts = [data.draw(hnp.arrays(np.float64, size, elements=numbers)) for _ in range(added)]
    total = np.zeros(size, np.uint64)
    for part in parts:
        total += encode({"x": part}, {"x": part}, scale)
    whole = [sum(round(float(part[i]) * 2**scale.fraction) for part in parts) for i in range(size)]
    if any(abs(w) >= scale.limit for w in whole):
        with pytest.raises(WireError, match="may be wrong"):
            decode(total, {"x": parts[0]}, scale, added)
        return
    assert decode(total, {"x": parts[0]}, scale, added)["x"].tolist() == [
        float(w) / 2**scale.fraction for w in whole
    ]


@given(SCALES)
def test_the_largest_parts_of_all_sites_do_not_wrap(scale: Scale) -> None:
    for end in (scale.bound, -scale.bound):
        like = {"x": np.array(end)}
        total = encode(like, like, scale) * np.uint64(scale.sites)
        assert int(total.view("<i8")[0]) == scale.sites * scale.limit * (1 if end > 0 else -1)


def test_the_default_is_fine_enough_for_200_sites() -> None:
    scale = Scale(200)
    assert scale.bound >= 2**24
    parts = np.random.default_rng(0).normal(size=(200, 1000)) * 1e5
    total = sum(encode({"x": p}, {"x": p}, scale) for p in parts)
    assert (
        np.abs(decode(total, {"x": parts[0]}, scale, 200)["x"] - parts.sum(axis=0)).max() < 2**-24
    )


ARRAYS = st.one_of(
    hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0), elements=numbers)
    for dtype, numbers in (
        (np.float32, st.floats(-1e6, 1e6, width=32)),
        (np.float64, st.floats(-1e6, 1e6)),
        (np.int64, st.integers(-9, 9)),
    )
)


@given(st.dictionaries(st.text(min_size=1, max_size=4), ARRAYS, max_size=4))
def test_names_and_shapes_come_back(arrays: dict[str, np.ndarray]) -> None:
    vector = encode(arrays, dict(reversed(arrays.items())), Scale(5, 40))
    back = decode(vector, arrays, Scale(5, 40), 1)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in arrays.items()}
    for k, v in arrays.items():
        np.testing.assert_allclose(back[k], v, rtol=0, atol=2**-41)


def test_words_are_little_endian_in_order_of_names() -> None:
    arrays = {"b": np.array([[1.0, -1.0]], np.float32), "a": np.array(0.5)}
    assert (
        encode(arrays, arrays, Scale(3, 10)).astype("<i8").tobytes()
        == np.array([512, 1024, -1024], "<i8").tobytes()
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_refused_by_name(value: float, dtype: type) -> None:
    arrays = {"fine": np.zeros(2), "gradient": np.array([0, value, value], dtype)}
    with pytest.raises(RefusedError, match="'gradient' has 2 non-finite") as caught:
        encode(arrays, arrays, Scale(3))
    assert caught.value.code == "P02"


@pytest.mark.parametrize("factor", [1.0000002, -1.0000002, 1e20, -3e28])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_too_large_is_cut_and_the_total_says_so_by_name(factor: float, dtype: type) -> None:
    """A site that refused it would tell the coordinator, who chooses what it is asked, of one
    patient's value."""
    scale = Scale(10)
    like = {"fine": np.zeros(2), "hessian": np.zeros(2, dtype)}
    large = {"fine": np.ones(2), "hessian": np.array([0, scale.bound * factor], dtype)}
    vector = encode(large, like, scale)
    assert int(np.abs(vector.view("<i8")).max()) == scale.limit
    with pytest.raises(WireError, match="'hessian' comes to") as caught:
        decode(vector + encode(like, like, scale), like, scale, 2)
    assert caught.value.code == "M03"


@pytest.mark.parametrize(
    "arrays",
    [{}, {"y": np.zeros(2)}, {"x": np.zeros((2, 1))}, {"x": np.zeros(2), "y": np.zeros(0)}],
)
def test_other_names_and_shapes_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(RefusedError) as caught:
        encode(arrays, {"x": np.zeros(2)}, Scale(3))
    assert caught.value.code == "P02"


def test_a_sum_that_cannot_be_is_refused() -> None:
    """With the mask of one site still on it: one value may pass by chance, a thousand do not."""
    like = {"x": np.zeros(1000)}
    masked = np.random.default_rng(0).integers(0, 2**64, 1000, np.uint64, endpoint=False)
    for vector, added in ((masked, 5), (masked[:999], 5), (masked * 0, 0), (masked * 0, 6)):
        with pytest.raises(WireError) as caught:
            decode(vector, like, Scale(5), added)
        assert caught.value.code == "M02"


@pytest.mark.parametrize(("sites", "fraction"), [(1, 30), (0, 30), (3, 9), (3, 53), (2**20, 45)])
def test_a_scale_fits_into_64_bits(sites: int, fraction: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Scale(sites, fraction)
