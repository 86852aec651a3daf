"""What crosses the wall: exactly what is declared and signed comes through unchanged; anything else
is a WireError."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.cohort import Fold
from common.errors import CODES, WireError
from common.federated.learner import Contribution, Plan, hyper_of, load
from common.federated.states import States, named_arrays
from common.privacy.mechanism import Privacy
from common.types import Arrays, digest, pack
from common.wire import compression, envelope
from common.wire.envelope import Packet
from common.wire.messages import (
    NO_PLAN,
    Greeting,
    Hello,
    Update,
    pack_greeting,
    pack_hello,
    pack_request,
    pack_updates,
    refusal,
    unpack_greeting,
    unpack_hello,
    unpack_request,
    unpack_updates,
)
from common.wire.state_transfer import Packed, Part, pack_change, pack_states
from tests import ring

STATES: States = {
    Fold(): {
        "preprocessing": {"mean": np.arange(3.0)},
        "logistic": {"coefficients": np.eye(2), "rounds": np.array(3)},
    },
    Fold(parts=(1,)): {"preprocessing": {"mean": -np.arange(3.0)}},
}
PACKED = pack_states(STATES)
PINNED, SITE = ring.COORDINATOR.public, ring.signer("S1")
ENROLLED = {"S1": SITE.public, "Indivumed": ring.signer("Indivumed").public}
ASKED = Packet("request", b"what was asked")
NAME = st.text(st.characters(min_codepoint=33, max_codepoint=300), min_size=1, max_size=6)


def plan(**changes: Any) -> Plan:
    first = Plan(
        "run", "S1", "study", "now", "0" * 64, 4, "logistic", "newton", Fold(), (Fold(),),
        PACKED.hash, ("S1", "S2"), 1e9,
        hyper_of(load("mlp")), 3, 5,
    )  # fmt: skip
    return dataclasses.replace(first, **changes)


def request(*plans: Plan) -> Packet:
    return pack_request(plans, PACKED, ring.COORDINATOR)


def updates(*them: Update) -> Packet:
    return pack_updates(them, SITE, ASKED)


FOLDS = st.builds(
    Fold, st.lists(NAME, max_size=2).map(tuple), st.lists(st.integers(0, 9), max_size=2).map(tuple)
)
HYPER = st.dictionaries(
    NAME,
    st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.lists(st.integers(), max_size=3),
    max_size=3,
)
PLANS = st.builds(
    plan, site=NAME, study=NAME, learner=NAME, phase=NAME, step=st.integers(0, 10**6), fold=FOLDS,
    reads=st.lists(FOLDS, max_size=3).map(tuple), participants=st.lists(NAME,
    max_size=3).map(tuple),
    expires=st.floats(0, 1e12), hyper=HYPER, seed=st.integers(0, 2**63 - 1), parts=st.integers(2, 20),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(PLANS, max_size=3))
def test_a_request_comes_through_unchanged(plans: list[Plan]) -> None:
    got = unpack_request(request(*plans), PINNED)
    assert got.plans == tuple(plans)
    assert [p.hash for p in got.plans] == [p.hash for p in plans]
    reads = {f for p in plans for f in p.reads} & set(STATES)
    assert digest(named_arrays(got.states)) == digest(named_arrays({f: STATES[f] for f in reads}))


def test_a_state_that_no_plan_of_a_request_reads_is_held_and_handed_to_none() -> None:
    held: dict[str, Arrays] = {}
    (fold, other) = STATES
    got = unpack_request(request(plan(reads=(fold,), transfer="changed")), PINNED, held)
    assert set(got.states) == {fold}
    assert digest(STATES[other]["preprocessing"]) in held


def test_every_field_of_a_plan_counts_in_its_hash() -> None:
    others = {
        "run": "r", "site": "S2", "study": "s", "task": "t", "schema": "1", "step": 5,
        "learner": "mlp", "phase": "p",
        "fold": Fold(parts=(1,)), "reads": (), "state_hash": "1", "participants": ("S1",),
        "expires": 1.0, "hyper": {}, "seed": 4,
        "parts": 6, "transfer": "int8", "secure": True, "privacy": Privacy(2.0), "budget": "1" * 64,
    }  # fmt: skip
    assert set(others) == {f.name for f in dataclasses.fields(Plan)}
    assert len({plan().hash, *(plan(**{k: v}).hash for k, v in others.items())}) == len(others) + 1


def test_a_plan_that_names_another_state_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        unpack_request(request(plan(), plan(state_hash="f" * 64)), PINNED)
    assert caught.value.code == "P04"


@pytest.mark.parametrize("noise", [1e-160, 1e-154, 5e-324, 0.0, -1.0, 1e7, math.nan, math.inf])
def test_noise_outside_of_its_limits_is_refused_on_arrival(noise: float) -> None:
    hostile = Privacy(1.0)
    object.__setattr__(hostile, "noise", noise)
    with pytest.raises(WireError) as caught:
        unpack_request(request(plan(privacy=hostile)), PINNED)
    assert caught.value.code == "W02"


@pytest.mark.parametrize("shared", [-1, 1001, 2.0, True, "2", None])
def test_a_plan_whose_noise_is_in_no_number_of_shares_is_refused(shared: object) -> None:
    hostile = Privacy(1.0)
    object.__setattr__(hostile, "shared", shared)
    with pytest.raises(WireError) as caught:
        unpack_request(request(plan(privacy=hostile)), PINNED)
    assert caught.value.code == "W02"
    told = unpack_request(request(plan(privacy=Privacy(1.0, 4))), PINNED).plans[0].privacy
    assert told == Privacy(1.0, 4)


@pytest.mark.parametrize("step", [-1, -(10**9), 10**9, 10**300])
def test_a_step_that_would_name_no_file_is_refused_on_arrival(step: int) -> None:
    with pytest.raises(WireError, match="step") as caught:
        unpack_request(request(plan(step=step)), PINNED)
    assert caught.value.code == "W02"


ARRAYS = st.dictionaries(NAME, st.lists(st.floats(), max_size=4).map(np.array), max_size=3)
HEADS = st.sampled_from(["", "0a" * 32])
UPDATES = st.one_of(
    st.builds(
        lambda s, n, t, b: Update(plan().hash, Contribution(s, n, t), "", b),
        ARRAYS,
        st.integers(0, 10**6),
        ARRAYS,
        HEADS,
    ),
    st.sampled_from(sorted(CODES)).map(lambda code: Update(NO_PLAN, None, code)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(UPDATES, max_size=4))
def test_updates_come_through_unchanged(them: list[Update]) -> None:
    got = unpack_updates(updates(*them), SITE.public, ASKED)
    assert [(u.plan_hash, u.code) for u in got] == [(u.plan_hash, u.code) for u in them]
    for mine, theirs in zip(got, them, strict=True):
        assert (mine.contribution is None) == (theirs.contribution is None)
        if mine.contribution and theirs.contribution:
            assert mine.contribution.cases == theirs.contribution.cases
            assert digest(mine.contribution.sums) == digest(theirs.contribution.sums)
            assert digest(mine.contribution.tally) == digest(theirs.contribution.tally)


GREETING = Greeting("run", "study", "task", "schema", 1e9)
HELLO = Hello(
    "Indivumed",
    "1.0",
    "f" * 64,
    ("table",),
    ("boosting", "logistic"),
    87,
    True,
    "",
    flow=(120, 20, 13),
)


def test_greetings_come_through_unchanged() -> None:
    asked = pack_greeting(GREETING, ring.COORDINATOR)
    assert unpack_greeting(asked, PINNED) == GREETING
    assert (
        unpack_hello(pack_hello(HELLO, ring.signer("Indivumed"), asked), ENROLLED, asked) == HELLO
    )


def test_only_a_code_leaves_a_site_that_failed() -> None:
    """Not the sentence of the error: it may quote a table."""
    content = updates(Update(plan().hash, None, "X01"))
    assert json.loads(content.text)["updates"] == [
        {"plan": plan().hash, "cases": 0, "code": "X01", "budget": ""}
    ]


def test_size_counts_arrays_and_texts() -> None:
    assert len(PACKED.blob) < request(plan()).size < len(PACKED.blob) + 2000


def test_one_blob_of_the_state_serves_every_site() -> None:
    assert request(plan()).blob is request(plan(site="S2")).blob


# ---- signatures ----------------------------------------------------------------------------------

GOOD: dict[str, tuple[Callable[[], Packet], Callable[[Packet], Any]]] = {
    "request": (lambda: request(plan()), lambda p: unpack_request(p, PINNED)),
    "updates": (
        lambda: updates(Update(plan().hash, Contribution({"x": np.zeros(2)}, 3))),
        lambda p: unpack_updates(p, SITE.public, ASKED),
    ),
    "hello": (
        lambda: pack_hello(Hello("S1", "1", "0", ("table",), (), 3), SITE, ASKED),
        lambda p: unpack_hello(p, ENROLLED, ASKED),
    ),
    "greeting": (
        lambda: pack_greeting(GREETING, ring.COORDINATOR),
        lambda p: unpack_greeting(p, PINNED),
    ),
}
every = pytest.mark.parametrize("kind", GOOD)
MEANT = {"request": "", "greeting": "", "updates": ASKED.hash, "hello": ASKED.hash}


def signed(kind: str, text: bytes) -> str:
    """A true signature under a text that nobody should sign, to get behind the check of it."""
    who = ring.COORDINATOR if kind in ("request", "greeting") else SITE
    return who.sign(f"fedmets {envelope._FORMAT} {kind} {MEANT[kind]}\n".encode() + text)


def altered(kind: str, text: bytes, **more: Any) -> Packet:
    return dataclasses.replace(GOOD[kind][0](), text=text, signature=signed(kind, text), **more)


def refused(kind: str, packet: Packet, *codes: str) -> None:
    with pytest.raises(WireError) as caught:
        GOOD[kind][1](packet)
    assert caught.value.code in (codes or ("W02", "P04"))


@every
def test_the_helper_signs_as_the_product_does(kind: str) -> None:
    good = GOOD[kind][0]()
    assert signed(kind, good.text) == good.signature


@every
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_bit_changed_in_text_or_signature_is_refused(kind: str, data: st.DataObject) -> None:
    good = GOOD[kind][0]()
    blob = bytearray(good.text)
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(kind, dataclasses.replace(good, text=bytes(blob)), "P05", "W02", "P04")
    sign = bytearray.fromhex(good.signature)
    sign[data.draw(st.integers(0, len(sign) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(kind, dataclasses.replace(good, signature=sign.hex()), "P05")


@every
@pytest.mark.parametrize("signature", ["", "00", "zz" * 64, "00" * 64, "é"])
def test_a_signature_that_is_none_is_refused(kind: str, signature: str) -> None:
    refused(kind, dataclasses.replace(GOOD[kind][0](), signature=signature), "P05")


@every
def test_a_packet_of_one_kind_does_not_serve_as_another(kind: str) -> None:
    for other in set(GOOD) - {kind}:
        packet = GOOD[other][0]()
        refused(kind, packet, "P05", "W02")
        refused(kind, dataclasses.replace(packet, kind=kind), "P05", "W02")


def test_an_answer_to_one_question_does_not_serve_for_another() -> None:
    other = Packet("request", b"what else was asked")
    for good, read in (
        (GOOD["updates"][0](), lambda p: unpack_updates(p, SITE.public, other)),
        (GOOD["hello"][0](), lambda p: unpack_hello(p, ENROLLED, other)),
    ):
        with pytest.raises(WireError) as caught:
            read(good)
        assert caught.value.code == "P05"


@pytest.mark.parametrize("flow", [(1,), (5, 3, 3), (5, -1, 0), (5, 1), (5, 0, 0, 0)])
def test_an_account_of_patients_that_does_not_add_up_is_refused(flow: tuple[int, ...]) -> None:
    refused(
        "hello",
        pack_hello(dataclasses.replace(HELLO, flow=flow), ring.signer("Indivumed"), ASKED),
        "W02",
    )


def test_another_sites_key_does_not_serve() -> None:
    forged = pack_hello(Hello("Indivumed", "1", "0", ("table",), (), 3), SITE, ASKED)
    refused("hello", forged, "P05")
    refused("hello", pack_hello(Hello("Nobody", "1", "0", ("table",), (), 3), SITE, ASKED), "P05")


def test_a_courier_without_a_key_may_say_a_code_and_nothing_else() -> None:
    assert unpack_updates(refusal(ASKED, "R05"), SITE.public, ASKED) == [
        Update(NO_PLAN, None, "R05")
    ]
    greeting = pack_greeting(GREETING, ring.COORDINATOR)
    assert unpack_hello(refusal(greeting, "R05"), ENROLLED, greeting) == Hello.failed("R05")
    for more in (
        [Update(plan().hash, None, "R05")],
        [Update(NO_PLAN, None, "R05")] * 2,
        [Update(NO_PLAN, Contribution({}, 3))],
        [],
    ):
        refused("updates", pack_updates(more, None, ASKED), "P05")
    for hello in (
        dataclasses.replace(Hello.failed("R05"), cases=3),
        Hello.failed("R05", "S1"),
        Hello.failed("R05", version="1"),
    ):
        refused("hello", pack_hello(hello, None, ASKED), "P05")


def test_without_a_pinned_key_nothing_is_believed() -> None:
    with pytest.raises(WireError) as caught:
        unpack_request(request(plan()), "")
    assert caught.value.code == "P05"


# ---- what is not declared does not pass, whoever signed it ---------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


@every
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_field_of_the_wrong_kind_is_a_wire_error_and_never_a_crash(
    kind: str, data: st.DataObject
) -> None:
    make, read = GOOD[kind]
    body = json.loads(make().text)
    at, key = body, data.draw(st.sampled_from(sorted(body)))
    while isinstance(at[key], (dict, list)) and at[key] and data.draw(st.integers(0, 4)):
        at = at[key]
        key = data.draw(
            st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at))))
        )
    old, new = at[key], data.draw(JUNK)
    at[key] = new
    try:
        read(altered(kind, json.dumps(body).encode()))
    except WireError as error:
        assert error.code in ("W02", "P04", "P05")  # noqa: PT017 (a change may be harmless)
    else:
        assert type(new) is type(old) or kind == "request" or {type(new), type(old)} == {int, float}


TEXTS = ["null", "[]", "{}", "[" * 100_000, '{"format":1}', '{"format":2,"site":{}}', "NaN"]


@every
@settings(max_examples=100, deadline=None)
@given(
    text=st.binary(max_size=20)
    | st.text(max_size=20).map(str.encode)
    | st.sampled_from([t.encode() for t in TEXTS])
)
def test_any_text_in_place_of_the_json_is_a_wire_error(kind: str, text: bytes) -> None:
    refused(kind, altered(kind, text))


@every
def test_an_unknown_key_inside_the_json_is_refused(kind: str) -> None:
    for path in ([], ["plans", 0], ["updates", 0], ["site"], ["greeting"]):
        at = body = json.loads(GOOD[kind][0]().text)
        if path and path[0] not in body:
            continue
        for step in path:
            at = at[step]
        at["patient"] = "TCGA-AA-3848"
        refused(kind, altered(kind, json.dumps(body).encode()))


@pytest.mark.parametrize("expires", ["NaN", "Infinity", "null", '"never"', "true"])
@pytest.mark.parametrize("kind", ["request", "greeting"])
def test_what_never_expires_is_refused(kind: str, expires: str) -> None:
    text = GOOD[kind][0]().text.decode()
    assert "1000000000.0" in text
    refused(kind, altered(kind, text.replace("1000000000.0", expires).encode()))


def with_sums(blob: bytes) -> Packet:
    good = updates(
        Update(plan().hash, Contribution({"x": np.zeros(2)}, 3)),
        Update(plan(step=5).hash, None, "P01"),
    )
    body = json.loads(good.text) | {"sums": hashlib.sha256(blob).hexdigest()}
    return altered("updates", json.dumps(body).encode(), blob=blob)


@pytest.mark.parametrize("name", ["1\tsums\tx", "2\tsums\tx", "0\tpatients\tx", "0", "", "sums\tx"])
def test_arrays_that_belong_to_no_update_are_refused(name: str) -> None:
    refused("updates", with_sums(pack({"0\tsums\tx": np.zeros(2), name: np.zeros(1)})))


def test_arrays_not_packed_by_fedmets_are_refused() -> None:
    blob = GOOD["updates"][0]().blob
    for bad in (blob[:-1], blob + b"\0", b"", b"\xff" * 40):
        refused("updates", dataclasses.replace(GOOD["updates"][0](), blob=bad))
        refused("updates", with_sums(bad))
        refused("request", dataclasses.replace(GOOD["request"][0](), blob=bad), "P04")
        packed = Packed(
            (Part("all", "logistic", hashlib.sha256(bad).hexdigest(), "whole", "", len(bad)),), bad
        )
        refused("request", pack_request([plan(state_hash=packed.hash)], packed, ring.COORDINATOR))


def test_sums_that_were_exchanged_are_refused() -> None:
    other = pack({"0\tsums\tx": np.ones(2)})
    refused("updates", dataclasses.replace(GOOD["updates"][0](), blob=other), "P04")


# ---- states that are told from what a station holds ----------------------------------------------


MODEL: Arrays = {"round": np.array(1), "w/a": np.linspace(-1, 1, 12_000, dtype=np.float32)}
LATER: Arrays = {"round": np.array(2), "w/a": np.linspace(-1, 1.1, 12_000, dtype=np.float32)}


def told(how: str) -> tuple[Packed, Arrays]:
    """A state that is told from MODEL, and what it is."""
    now, coded, _ = compression.advance({"w/a": MODEL["w/a"]}, {"w/a": LATER["w/a"]}, None, how)
    arrays = {"round": LATER["round"], **now}
    piece = pack_change({"round": LATER["round"]}, coded)
    return Packed(
        (Part("all", "mlp", digest(arrays), how, digest(MODEL), len(piece)),), piece
    ), arrays


def sent(packed: Packed, **changes: Any) -> Packet:
    return pack_request(
        [plan(state_hash=packed.hash, transfer="int8", **changes)], packed, ring.COORDINATOR
    )


@pytest.mark.parametrize("how", ["int8", "float16"])
def test_a_changed_state_is_followed_to_the_bit_and_then_held(how: str) -> None:
    packed, want = told(how)
    held = {digest(MODEL): MODEL}
    got = unpack_request(sent(packed), PINNED, held)
    assert digest(got.states[Fold()]["mlp"]) == digest(want)
    assert set(held) == {digest(MODEL), digest(want)}
    again = Packed((Part("all", "mlp", digest(want), "held", "", 0),), b"")
    assert again.hash == packed.hash
    assert digest(unpack_request(sent(again), PINNED, held).states[Fold()]["mlp"]) == digest(want)
    with pytest.raises(WireError) as caught:
        unpack_request(sent(again), PINNED, {})
    assert caught.value.code == "W03"


def test_a_whole_state_is_kept_only_where_changes_are_to_follow() -> None:
    held: dict[str, Arrays] = {}
    unpack_request(request(plan()), PINNED, held)
    assert not held
    unpack_request(request(plan(transfer="changed")), PINNED, held)
    assert len(held) == 3


PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "from what is not held": ({"base": "f" * 64}, "W03"),
    "another state": ({"sha": "f" * 64}, "P04"),
    "of other bits": ({"how": "float16"}, "W02"),
    "unknown": ({"how": "pickle"}, "W02"),
    "whole with a base": ({"how": "whole"}, "W02"),
    "held with bytes": ({"how": "held", "base": ""}, "W02"),
    "a change without a base": ({"base": ""}, "W02"),
    "negative": ({"size": -1}, "W02"),
    "longer": ({"size": 10**6}, "P04"),
    "of another type": ({"size": 1.5}, "W02"),
}


@pytest.mark.parametrize("fault", PARTS)
def test_a_part_that_is_not_what_it_says_is_refused(fault: str) -> None:
    packed, _ = told("int8")
    changes, code = PARTS[fault]
    bad = dataclasses.replace(packed, parts=(dataclasses.replace(packed.parts[0], **changes),))
    with pytest.raises(WireError) as caught:
        unpack_request(sent(bad), PINNED, {digest(MODEL): MODEL})
    assert caught.value.code == code


def test_two_states_of_one_learner_are_refused() -> None:
    twice = Packed(
        (*PACKED.parts, PACKED.parts[0]), PACKED.blob + PACKED.blob[: PACKED.parts[0].size]
    )
    with pytest.raises(WireError) as caught:
        unpack_request(sent(twice), PINNED)
    assert caught.value.code == "W02"
