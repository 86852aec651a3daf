"""The file of a finished model: there and back, the format before, and files that somebody made to
do harm."""

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load

from common.errors import WireError
from common.federated.model_state import model_state, opened
from common.types import State, digest, flatten, pack

KINDS = ("?", "i1", "u2", "<i4", "<u8", "<f2", "<f4", "<f8", ">f8", ">i2")
arrays = st.sampled_from(KINDS).flatmap(
    lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
names = st.text(
    st.characters(exclude_characters="\t", exclude_categories=("Cs",)), min_size=1, max_size=8
)
states = st.dictionaries(names, st.dictionaries(names, arrays, min_size=1, max_size=3), max_size=3)
STATE: State = {
    "logistic": {"beta": np.arange(6.0).reshape(2, 3), "done": np.array(True)},
    "mlp": {"w/0.bias": np.ones(3, np.float32)},
}


@given(states)
def test_there_and_back_in_both_formats(state: State) -> None:
    state = {
        learner: held for learner, held in state.items() if "__metadata__" not in (learner, *held)
    }
    for blob in (model_state(state), pack(flatten(state))):
        back = opened(blob)
        assert digest(flatten(back)) == digest(flatten(state))
        assert not any(array.flags.writeable for array in flatten(back).values())
    assert model_state(
        {k: dict(reversed(v.items())) for k, v in reversed(state.items())}
    ) == model_state(state)


def test_any_program_that_reads_safetensors_opens_it() -> None:
    found = load(model_state(STATE))
    assert set(found) == {"logistic\tbeta", "logistic\tdone", "mlp\tw/0.bias"}
    np.testing.assert_array_equal(found["logistic\tbeta"], STATE["logistic"]["beta"])


def test_only_numbers_are_kept() -> None:
    for array in (np.array(["a"]), np.array([1j]), np.array([None])):
        with pytest.raises(WireError, match="W01"):
            model_state({"a": {"b": array}})


def file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{",
        model_state(STATE)[:-1],
        model_state(STATE)[:40],
        model_state(STATE) + b"x",
        b"\xff" * 8 + b"{}",
        struct.pack("<Q", 1 << 62) + b"{}",
        file(b"{not json"),
        file({"a\tb": {"dtype": "F64", "shape": [1 << 62], "data_offsets": [0, 8]}}, b"\0" * 8),
        file({"a\tb": {"dtype": "F64", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
        file({"a\tb": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}}, b"\0" * 8),
        file({"a\tb": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, b"\0" * 8),
        file({"a\tb": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, b"\0" * 8),
        file({"a\tb": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        file({"a\tb": {"dtype": "object", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        file([["a\tb", "|O8", [1]]], b"\0" * 8),
    ],
)
def test_a_hostile_file_is_refused(blob: bytes) -> None:
    with pytest.raises(WireError, match="W02"):
        opened(blob)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_whatever_is_altered_is_refused_or_read(damage: list[tuple[float, int]]) -> None:
    blob = bytearray(model_state(STATE))
    for at, byte in damage:
        blob[int(at * (len(blob) - 1))] = byte
    with suppress(WireError):
        opened(bytes(blob))
