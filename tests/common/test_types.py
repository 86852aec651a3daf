"""Packing: canonical, exact, and hostile bytes are a WireError and nothing else."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import WireError
from common.types import Arrays, digest, flatten, nest, pack, unpack

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="<"),
    hnp.unsigned_integer_dtypes(endianness="<"),
    hnp.floating_dtypes(endianness="<", sizes=(16, 32, 64)),
)
NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
ARRAYS = st.dictionaries(
    NAMES,
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    max_size=4,
)


def blob(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@settings(deadline=None)
@given(ARRAYS)
def test_round_trip_is_exact(arrays: Arrays) -> None:
    back = unpack(pack(arrays))
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()  # NaNs and signed zeros too
        assert not back[name].flags.writeable


@settings(deadline=None)
@given(ARRAYS)
def test_equal_arrays_give_equal_bytes_whatever_their_order_and_layout(arrays: Arrays) -> None:
    other = {
        k: np.array(arrays[k], order="F").astype(arrays[k].dtype.newbyteorder(">"))
        for k in reversed(list(arrays))
    }
    assert pack(other) == pack(arrays)
    assert digest(other) == digest(arrays)


def test_another_value_shape_dtype_or_name_gives_another_digest() -> None:
    x = np.arange(6.0)
    others = [
        {"x": x + 1e-16 * (x == 0)},
        {"x": x.reshape(2, 3)},
        {"x": x.astype(np.float32)},
        {"y": x},
        {"x": x, "y": x[:0]},
        {},
    ]
    assert len({digest({"x": x}), *map(digest, others)}) == 7


@pytest.mark.parametrize("dtype", ["O", "S3", "U2", "M8[s]", "m8[s]", "c16", "V4", np.longdouble])
def test_other_kinds_of_array_may_not_be_sent(dtype: object) -> None:
    with pytest.raises(WireError, match="'secret'") as caught:
        pack({"secret": np.zeros(2, dtype)})  # type: ignore[call-overload]
    assert caught.value.code == "W01"


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_hostile_bytes_are_a_wire_error(raw: bytes) -> None:
    try:
        unpack(raw)
    except WireError as error:
        assert error.code == "W02"  # noqa: PT017 (bytes may be well-formed by chance)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["<f8", "|b1", "f8", "<f8,<f8", "(9,)f8", "O"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    JSON
    | st.lists(st.tuples(NAMES, JSON, st.lists(st.integers(-2, 2**70), max_size=3)), max_size=3),
    st.binary(max_size=64),
)
def test_hostile_headers_are_a_wire_error(header: object, data: bytes) -> None:
    try:
        arrays = unpack(blob(header, data))
    except WireError:
        return
    assert sum(a.nbytes for a in arrays.values()) == len(data)


@pytest.mark.parametrize(
    "header",
    [
        [["x", "O", [1]]],
        [["x", "<f8,<f8", [1]]],
        [["x", "(2,)<f8", [1]]],
        [["x", None, [1]]],
        [["x", "<f16", [1]]],
        [["x", ">f8", [1]]],
        [["x", "<f8", [-1]]],
        [["x", "<f8", [1.0]]],
        [["x", "<f8", [True]]],
        [["x", "<f8", "1"]],
        [["x", "<f8", 1]],
        [["x", "<f8", [2**62, 2**62]]],
        [["x", "<f8", [0, 2**80]]],
        [["x", "<f8", [0] * 100]],
        [["x", "<f8", [1]], ["x", "<f8", [0]]],
        [[7, "<f8", [1]]],
        [["x", "<f8"]],
        {"x": 1},
        None,
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 10_000,
    ],
    ids=lambda h: str(h)[:24],
)
def test_each_of_these_headers_is_refused(header: object) -> None:
    with pytest.raises(WireError) as caught:
        unpack(blob(header, b"\0" * 8))
    assert caught.value.code == "W02"


@given(ARRAYS, st.data())
def test_a_message_cut_or_lengthened_anywhere_is_refused(
    arrays: Arrays, data: st.DataObject
) -> None:
    whole = pack(arrays)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(WireError):
        unpack(whole[:cut])
    with pytest.raises(WireError):
        unpack(whole + b"\0")


def test_a_message_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(WireError):
        unpack(pack({"x": np.zeros(1000)}), limit=1000)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\t"), max_size=4),
        ARRAYS,
        max_size=3,
    )
)
def test_nest_undoes_flatten(state: dict[str, Arrays]) -> None:
    back = nest(flatten(state))
    assert {k: set(v) for k, v in back.items()} == {k: set(v) for k, v in state.items() if v}
