"""What crosses the wall: exactly what is declared comes through unchanged; anything else is a WireError."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cohort import Fold
from common.errors import CODES, WireError
from common.exchange import (
    NO_PLAN,
    Hello,
    States,
    Update,
    blob_record,
    pack_greeting,
    pack_hello,
    pack_request,
    pack_states,
    pack_updates,
    size,
    unpack_greeting,
    unpack_hello,
    unpack_request,
    unpack_updates,
)
from common.learner import Contribution, Plan, hyper_of, load
from common.types import Arrays, digest, flatten, pack
from tests.courier import message

STATES: States = {
    "all": {"preprocessing": {"mean": np.arange(3.0)}, "logistic": {"coefficients": np.eye(2), "rounds": np.array(3)}},
    "part:1": {"preprocessing": {"mean": -np.arange(3.0)}},
}
BLOB, DIGEST = pack_states(STATES)
NAME = st.text(st.characters(min_codepoint=33, max_codepoint=300), min_size=1, max_size=6)


def plan(**changes: Any) -> Plan:
    first = Plan(
        "run", "S1", "study", "now", "0" * 64, 4, "logistic", "newton", Fold(), (Fold(),), DIGEST, ("S1", "S2"), 1e9,
        hyper_of(load("mlp")), 3, 5,
    )  # fmt: skip
    return dataclasses.replace(first, **changes)


def request(*plans: Plan) -> RecordDict:
    return pack_request(plans, blob_record(BLOB))


FOLDS = st.builds(Fold, st.lists(NAME, max_size=2).map(tuple), st.lists(st.integers(0, 9), max_size=2).map(tuple))
HYPER = st.dictionaries(
    NAME, st.integers() | st.floats(allow_nan=False) | st.text(max_size=4) | st.lists(st.integers(), max_size=3), max_size=3
)
PLANS = st.builds(
    plan, site=NAME, study=NAME, learner=NAME, phase=NAME, step=st.integers(0, 10**6), fold=FOLDS,
    reads=st.lists(FOLDS, max_size=3).map(tuple), participants=st.lists(NAME, max_size=3).map(tuple),
    expires=st.floats(0, 1e12), hyper=HYPER, seed=st.integers(), parts=st.integers(2, 20),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(PLANS, max_size=3))
def test_a_request_comes_through_unchanged(plans: list[Plan]) -> None:
    got = unpack_request(message(request(*plans)))
    assert got.plans == tuple(plans)
    assert [p.hash for p in got.plans] == [p.hash for p in plans]
    assert {k: digest(flatten(v)) for k, v in got.states.items()} == {k: digest(flatten(v)) for k, v in STATES.items()}


def test_every_field_of_a_plan_counts_in_its_hash() -> None:
    others = {
        "run": "r", "site": "S2", "study": "s", "task": "t", "schema": "1", "step": 5, "learner": "mlp", "phase": "p",
        "fold": Fold(parts=(1,)), "reads": (), "state_hash": "1", "participants": ("S1",), "expires": 1.0, "hyper": {}, "seed": 4,
        "parts": 6,
    }  # fmt: skip
    assert set(others) | {"privacy"} == {f.name for f in dataclasses.fields(Plan)}
    assert len({plan().hash, *(plan(**{k: v}).hash for k, v in others.items())}) == len(others) + 1


def test_a_plan_that_names_another_state_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        unpack_request(message(request(plan(), plan(state_hash="f" * 64))))
    assert caught.value.code == "P04"


ARRAYS = st.dictionaries(NAME, st.lists(st.floats(), max_size=4).map(np.array), max_size=3)
UPDATES = st.one_of(
    st.builds(lambda s, n, t: Update(plan().hash, Contribution(s, n, t)), ARRAYS, st.integers(0, 10**6), ARRAYS),
    st.sampled_from(sorted(CODES)).map(lambda code: Update(NO_PLAN, None, code)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(UPDATES, max_size=4))
def test_updates_come_through_unchanged(updates: list[Update]) -> None:
    got = unpack_updates(message(pack_updates(updates)))
    assert [(u.plan_hash, u.code) for u in got] == [(u.plan_hash, u.code) for u in updates]
    for mine, theirs in zip(got, updates, strict=True):
        assert (mine.contribution is None) == (theirs.contribution is None)
        if mine.contribution and theirs.contribution:
            assert mine.contribution.cases == theirs.contribution.cases
            assert digest(mine.contribution.sums) == digest(theirs.contribution.sums)
            assert digest(mine.contribution.tally) == digest(theirs.contribution.tally)


def test_greetings_come_through_unchanged() -> None:
    hello = Hello("Indivumed", "1.0", "f" * 64, ("table",), ("boosting", "logistic"), 87, True, "")
    assert unpack_hello(message(pack_hello(hello))) == hello
    assert unpack_greeting(message(pack_greeting("study", "task", "schema"))) == ("study", "task", "schema")


def test_only_a_code_leaves_a_site_that_failed() -> None:
    """Not the sentence of the error: it may quote a table."""
    content = pack_updates([Update(plan().hash, None, "X01")])
    assert json.loads(content.config_records["update"]["json"])["updates"] == [{"plan": plan().hash, "cases": 0, "code": "X01"}]  # type: ignore[arg-type]


def test_size_counts_arrays_and_texts() -> None:
    assert len(BLOB) < size(request(plan())) < len(BLOB) + 1500


def test_one_record_of_the_state_serves_every_site() -> None:
    record = blob_record(BLOB)
    assert pack_request([plan()], record)["state"] is pack_request([plan(site="S2")], record)["state"]


# ---- what is not declared does not pass --------------------------------------------------------------------------------------

GOOD: dict[str, tuple[Callable[[], RecordDict], Callable[[Message], Any], str]] = {
    "request": (lambda: request(plan()), unpack_request, "plan"),
    "updates": (lambda: pack_updates([Update(plan().hash, Contribution({"x": np.zeros(2)}, 3))]), unpack_updates, "update"),
    "hello": (lambda: pack_hello(Hello("S1", "1", "0", ("table",), (), 3)), unpack_hello, "hello"),
    "greeting": (lambda: pack_greeting("s", "t", "h"), unpack_greeting, "greeting"),
}
every = pytest.mark.parametrize("kind", GOOD)


def refused(kind: str, content: RecordDict) -> None:
    with pytest.raises(WireError) as caught:
        GOOD[kind][1](message(content))
    assert caught.value.code in ("W02", "P04")


@every
def test_a_record_too_many_or_too_few_is_refused(kind: str) -> None:
    make, _, name = GOOD[kind]
    extra: list[tuple[str, Any]] = [
        ("notes", ConfigRecord({"name": "Jane Doe"})),
        ("metrics", MetricRecord({"auc": 0.9})),
        ("more", ArrayRecord({"x": Array(np.zeros(3))})),
    ]
    for key, record in extra:
        content = make()
        content[key] = record
        refused(kind, content)
    for key in list(make()):
        content = make()
        del content[key]
        refused(kind, content)
    content = make()
    content[name]["comment"] = "Jane Doe"
    refused(kind, content)


@every
def test_a_flower_error_or_an_empty_message_is_a_wire_error(kind: str) -> None:
    refused(kind, RecordDict())
    if kind in ("updates", "hello"):
        with pytest.raises(WireError) as caught:
            GOOD[kind][1](Message(Error(3, "the node is gone"), reply_to=asked()))
        assert caught.value.code == "R02"


def asked() -> Message:
    out = message(RecordDict())
    out.metadata.__dict__["_message_id"] = "m1"
    return out


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", ["request", "updates", "hello"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_field_of_the_wrong_kind_is_a_wire_error_and_never_a_crash(kind: str, data: st.DataObject) -> None:
    make, read, name = GOOD[kind]
    content = make()
    body = json.loads(str(content[name]["json"]))
    at, key = body, data.draw(st.sampled_from(sorted(body)))
    while isinstance(at[key], (dict, list)) and at[key] and data.draw(st.integers(0, 4)):
        at = at[key]
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at)))))
    old, new = at[key], data.draw(JUNK)
    at[key] = new
    content[name]["json"] = json.dumps(body)
    try:
        read(message(content))
    except WireError as error:
        assert error.code in ("W02", "P04")  # noqa: PT017 (a change may be harmless)
    else:
        assert type(new) is type(old) or kind == "request"  # hyperparameters are judged by the learner


@every
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=20) | st.sampled_from(["null", "[]", "{}", "[" * 100_000, '{"format":1}', '{"format":2,"site":{}}', "NaN"]))
def test_any_text_in_place_of_the_json_is_a_wire_error(kind: str, text: str) -> None:
    make, read, name = GOOD[kind]
    content = make()
    for key in list(content[name]):
        content[name][key] = text if kind != "greeting" else text.encode()
        with pytest.raises(WireError):
            read(message(content))


@every
def test_an_unknown_key_inside_the_json_is_refused(kind: str) -> None:
    if kind == "greeting":
        return  # has no JSON
    make, _, name = GOOD[kind]
    for path in ([], ["plans", 0], ["updates", 0], ["site"]):
        content = make()
        at = body = json.loads(str(content[name]["json"]))
        if path and path[0] not in body:
            continue
        for step in path:
            at = at[step]
        at["patient"] = "TCGA-AA-3848"
        content[name]["json"] = json.dumps(body)
        refused(kind, content)


@pytest.mark.parametrize("expires", ["NaN", "Infinity", "null", '"never"', "true"])
def test_a_plan_that_never_expires_is_refused(expires: str) -> None:
    content = request(plan())
    content["plan"]["json"] = str(content["plan"]["json"]).replace("1000000000.0", expires)
    refused("request", content)


def with_sums(arrays: Arrays) -> RecordDict:
    content = pack_updates([Update(plan().hash, Contribution({"x": np.zeros(2)}, 3)), Update(plan(step=5).hash, None, "P01")])
    content["sums"] = blob_record(pack(arrays))
    return content


@pytest.mark.parametrize("name", ["1\tsums\tx", "2\tsums\tx", "0\tpatients\tx", "0", "", "sums\tx"])
def test_arrays_that_belong_to_no_update_are_refused(name: str) -> None:
    refused("updates", with_sums({"0\tsums\tx": np.zeros(2), name: np.zeros(1)}))


@pytest.mark.parametrize("kind", ["request", "updates"])
def test_arrays_not_packed_by_fedmets_are_refused(kind: str) -> None:
    make = GOOD[kind][0]
    name = {"request": "state", "updates": "sums"}[kind]
    for record in (ArrayRecord({"blob": Array(np.zeros(3))}), ArrayRecord({"other": Array(np.zeros(3))}), ArrayRecord({})):
        content = make()
        content[name] = record
        refused(kind, content)
    blob = bytes(make()[name]["blob"].data)
    for bad in (blob[:-1], blob + b"\0", b"", b"\xff" * 40):
        content = make()
        content[name] = blob_record(bad)
        refused(kind, content)
