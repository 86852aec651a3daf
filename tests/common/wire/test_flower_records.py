"""Packets in Flower's messages: what is there comes through, and nothing beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common.errors import WireError
from common.wire.envelope import Kind, Packet
from common.wire.flower_records import content, packet
from tests.courier import message

KINDS: tuple[Kind, ...] = ("greeting", "hello", "request", "updates")
GOOD = Packet("updates", b"{}", "00", b"sums")


@given(
    st.builds(
        Packet,
        st.sampled_from(KINDS),
        st.binary(max_size=50),
        st.text(max_size=5),
        st.binary(max_size=50),
    )
)
def test_a_packet_comes_through_unchanged(one: Packet) -> None:
    assert packet(message(content(one)), one.kind) == one


def test_the_blob_is_not_copied() -> None:
    blob = bytes(1000)
    assert packet(message(content(Packet("request", b"", "", blob))), "request").blob is blob


def refused(record: RecordDict) -> None:
    with pytest.raises(WireError) as caught:
        packet(message(record), "updates")
    assert caught.value.code == "W02"


def test_a_record_too_many_or_too_few_is_refused() -> None:
    extra: list[tuple[str, Any]] = [
        ("notes", ConfigRecord({"name": "Jane Doe"})),
        ("metrics", MetricRecord({"auc": 0.9})),
        ("more", ArrayRecord({"x": Array(np.zeros(3))})),
    ]
    for key, record in extra:
        more = content(GOOD)
        more[key] = record
        refused(more)
    for key in list(content(GOOD)):
        less = content(GOOD)
        del less[key]
        refused(less)
    refused(RecordDict())
    refused(content(Packet("hello", b"{}")))
    commented = content(GOOD)
    commented["updates"]["comment"] = "Jane Doe"
    refused(commented)


@pytest.mark.parametrize(
    ("key", "value"),
    [("json", "{}"), ("json", 1), ("json", [b"x"]), ("signature", b"00"), ("signature", 0.5)],
)
def test_a_field_of_the_wrong_type_is_refused(key: str, value: Any) -> None:
    changed = content(GOOD)
    changed["updates"][key] = value
    refused(changed)


def test_arrays_not_packed_by_fedmets_are_refused() -> None:
    for record in (
        ArrayRecord({"blob": Array(np.zeros(3))}),
        ArrayRecord({"other": Array(np.zeros(3))}),
        ArrayRecord({}),
    ):
        changed = content(GOOD)
        changed["arrays"] = record
        refused(changed)


def test_an_error_of_flowers_is_a_site_that_did_not_answer() -> None:
    asked = message(RecordDict())
    asked.metadata.__dict__["_message_id"] = "m1"
    with pytest.raises(WireError) as caught:
        packet(Message(Error(3, "the node is gone"), reply_to=asked), "updates")
    assert caught.value.code == "R02"
