"""What secure aggregation puts on the wire: there and back, and nothing but what is declared."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WireError
from common.federated.learner import Contribution
from common.types import pack
from common.wire import envelope
from common.wire.envelope import Packet
from common.wire.masked_messages import (
    Ask,
    Masked,
    Told,
    Vouch,
    joined,
    pack_ask,
    pack_masked,
    pack_told,
    parted,
    unpack_ask,
    unpack_masked,
    unpack_told,
)
from tests import ring

SITES = ("A", "B", "C")
ASK = Ask(
    "run", "A", "reveal", 1e12, 3, "1" * 64, SITES, {"B": Vouch("2" * 64, 4, "3" * 128)}, {"C": "4" * 128},
    {"B": b"\0sealed", "C": b""}
)  # fmt: skip
ASKED = pack_ask(ASK, ring.COORDINATOR)
MASKED = Masked("", "5" * 64, np.array([1, 2**64 - 1], np.uint64), {s: s.encode() for s in SITES})
TOLD = Told("", "6" * 64, 4, "7" * 128, {"B": {"B": b"\1\2", "C": b"\3"}})


def test_there_and_back() -> None:
    assert unpack_ask(ASKED, ring.COORDINATOR.public) == ASK
    got = unpack_masked(
        pack_masked(MASKED, ring.signer("A"), ASKED), ring.signer("A").public, ASKED, SITES
    )
    assert (got.code, got.budget, got.sealed) == ("", MASKED.budget, MASKED.sealed)
    assert (got.vector == MASKED.vector).all()
    assert (
        unpack_told(pack_told(TOLD, ring.signer("A"), ASKED), ring.signer("A").public, ASKED)
        == TOLD
    )
    assert unpack_told(pack_told(Told("X01"), None, ASKED), ring.signer("A").public, ASKED) == Told(
        "X01"
    )


def test_only_a_code_comes_without_a_signature_and_nothing_from_another_key() -> None:
    with pytest.raises(WireError, match="not by the key"):
        unpack_told(pack_told(TOLD, None, ASKED), ring.signer("A").public, ASKED)
    with pytest.raises(WireError, match="not by the key"):
        unpack_masked(
            pack_masked(MASKED, ring.signer("B"), ASKED), ring.signer("A").public, ASKED, SITES
        )
    with pytest.raises(WireError, match="not by the key"):
        unpack_ask(pack_ask(ASK, ring.signer("A")), ring.COORDINATOR.public)


def test_an_answer_to_another_message_or_with_another_blob_is_refused() -> None:
    other = pack_ask(Ask("run", "A", "key", 1e12), ring.COORDINATOR)
    with pytest.raises(WireError):
        unpack_masked(
            pack_masked(MASKED, ring.signer("A"), other), ring.signer("A").public, ASKED, SITES
        )
    told = pack_masked(MASKED, ring.signer("A"), ASKED)
    with pytest.raises(WireError) as caught:
        unpack_masked(
            Packet(told.kind, told.text, told.signature, pack({})),
            ring.signer("A").public,
            ASKED,
            SITES,
        )
    assert caught.value.code == "P04"
    with pytest.raises(WireError) as caught:
        unpack_ask(
            Packet(ASKED.kind, ASKED.text, ASKED.signature, pack({})), ring.COORDINATOR.public
        )
    assert caught.value.code == "P04"


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"}, {"stage": "other"}, {"expires": None}, {"online": "A"},
        {"keys": {"B": ["2"]}}, {"keys": []}, {"keys": {"B": ["2", -1, "3"]}},
        {"keys": {"B": ["2", True, "3"]}}, {"keys": {"B": ["2", 3.0, "3"]}}, {"signed": {"C": 1}},
        {"run": 1}, {"more": 1},
    ],
)  # fmt: skip
def test_an_ask_that_is_not_declared_is_refused(change: dict[str, Any]) -> None:
    row = json.loads(ASKED.text)["ask"] | change
    with pytest.raises(WireError) as caught:
        unpack_ask(
            envelope.sign("secure", {"ask": row}, ring.COORDINATOR, blob=bytes(ASKED.blob)),
            ring.COORDINATOR.public,
        )
    assert caught.value.code == "W02"


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"vector": np.zeros(2)},
        {"vector": np.zeros((2, 2), np.uint64)},
        {"vector": np.zeros(2, np.uint64)},
        {
            "vector": np.zeros(2, np.uint64),
            **{f"to\t{s}": np.zeros(3, np.uint8) for s in (*SITES, "D")},
        },
        {"vector": np.zeros(2, np.uint64), **{f"to\t{s}": np.zeros(3) for s in SITES}},
        {
            "vector": np.zeros(2, np.uint64),
            "patients": np.zeros(3),
            **{f"to\t{s}": np.zeros(3, np.uint8) for s in SITES},
        },
    ],
)
def test_a_masked_answer_that_is_not_declared_is_refused(arrays: dict[str, np.ndarray]) -> None:
    blob = pack(arrays)
    body = {"code": "", "budget": "", "blob": hashlib.sha256(blob).hexdigest()}
    with pytest.raises(WireError) as caught:
        unpack_masked(
            envelope.sign("masked", body, ring.signer("A"), ASKED.hash, blob),
            ring.signer("A").public,
            ASKED,
            SITES,
        )
    assert caught.value.code == "W02"


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_no_text_that_a_site_signs_breaks_the_coordinator(value: Any) -> None:
    row = {"code": "", "public": "", "fewest": 0, "signature": "", "shares": {}}
    for key in row:
        told = envelope.sign("secured", {"told": {**row, key: value}}, ring.signer("A"), ASKED.hash)
        try:
            got = unpack_told(told, ring.signer("A").public, ASKED)
        except WireError:
            continue
        assert isinstance(got.public, str)
        assert type(got.fewest) is int
        assert got.fewest >= 0
        assert all(isinstance(b, bytes) for of in got.shares.values() for b in of.values())


def test_contributions_keep_names_shapes_and_types() -> None:
    mine = [
        Contribution(
            {"a": np.arange(3.0), "b": np.array(2, np.float32)}, 7, {"loss": np.array(1.5)}
        ),
        Contribution({"a": np.ones((2, 2))}, 0),
    ]
    zeros = [
        Contribution(
            {k: np.zeros_like(v) for k, v in c.sums.items()},
            0,
            {k: np.zeros_like(v) for k, v in c.tally.items()},
        )
        for c in mine
    ]
    back = parted(joined(mine), zeros)
    for a, b in zip(mine, back, strict=True):
        assert a.cases == b.cases
        for x, y in ((a.sums, b.sums), (a.tally, b.tally)):
            assert {k: (v.shape, v.dtype, v.tolist()) for k, v in x.items()} == {
                k: (v.shape, v.dtype, v.tolist()) for k, v in y.items()
            }
