"""What crosses the wall: a Plan goes down, an Update comes up. The ONLY file that knows the wire's keys.

A request carries the plans of one exchange (all learners and folds at once) and one packed blob with the state that they read; a
reply carries one Update a plan: a sum, or an error code. Nothing else is declared, so nothing else passes: unknown keys, other
dtypes and text are refused on arrival (`W02`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from common.cohort import Fold
from common.errors import CODES, WireError
from common.learner import Contribution, Plan
from common.types import Arrays, State, flatten, nest, pack, unpack

WORK = "train.work"
HELLO = "query.hello"
NO_PLAN = "0" * 64
"""Stands for the plan hash when a site could not read the request at all."""
_STYPE = "fedmets.arrays"
_FORMAT = 1

States = dict[str, State]
"""Fold key -> State: everything a run has learnt."""


@dataclass(frozen=True)
class Request:
    """The plans of one exchange for one site, and the states that they read."""

    plans: tuple[Plan, ...]
    states: States


@dataclass(frozen=True)
class Update:
    """A site's answer to one plan: a contribution, or the code of the reason why there is none."""

    plan_hash: str
    contribution: Contribution | None
    code: str = ""
    spent: None = None
    budget_head: str = ""


@dataclass(frozen=True)
class Hello:
    """What a site says of itself before the first round: no data, only what it can do."""

    site: str
    version: str
    schema: str
    modalities: tuple[str, ...]
    learners: tuple[str, ...]
    cases: int
    """Labelled cases, or 0 where they are fewer than the site's minimum."""
    estimable: bool = False
    """Whether the site is one institution with at least 10 cases of two classes (guard E01): leave-one-site-out leaves it out alone."""
    code: str = ""
    """Why the site cannot take part; empty when it is ready."""
    imaged: int = 0
    """Labelled cases with an image, or 0 where they are fewer than the site's minimum."""
    imaged_estimable: bool = False
    """Whether at least 10 of them are of each of two classes: images of one class say which hospital they come from, not who is ill."""


# ---- coordinator's side --------------------------------------------------------------------------------------------------


def pack_states(states: States) -> tuple[bytes, str]:
    """The blob of an exchange, and its hash (`Plan.state_hash`)."""
    blob = pack({f"{key}\t{name}": array for key, state in states.items() for name, array in flatten(state).items()})
    return blob, hashlib.sha256(blob).hexdigest()


def blob_record(blob: bytes) -> ArrayRecord:
    """The blob as a Flower record. One record serves all sites of an exchange: it is not copied in process."""
    return ArrayRecord({"blob": Array(dtype="uint8", shape=(len(blob),), stype=_STYPE, data=blob)})


def pack_request(plans: Sequence[Plan], states: ArrayRecord) -> RecordDict:
    """The content of a `WORK` message."""
    text = json.dumps({"format": _FORMAT, "plans": [_plan_to_json(p) for p in plans]}, separators=(",", ":"))
    return RecordDict({"plan": ConfigRecord({"json": text}), "state": states})


def pack_greeting(study: str, task: str, schema: str) -> RecordDict:
    """The content of a `HELLO` message: which study is asked about."""
    return RecordDict({"greeting": ConfigRecord({"study": study, "task": task, "schema": schema})})


def unpack_updates(message: Message) -> list[Update]:
    """The updates in a reply. A Flower error (the node crashed or vanished) becomes a WireError."""
    if message.has_error():
        raise WireError("R02", f"Flower reports error {message.error.code}")
    rows = _list(_loads(_config(message.content, {"update", "sums"}, {"json"})["json"], "updates"), dict, "updates")
    sums = _by_index(unpack(_blob(message.content, "sums")))
    out = []
    for i, row in enumerate(rows):
        _only(row, {"plan", "cases", "code"}, "update")
        _code(row["code"], f"update {i}")
        if type(row["cases"]) is not int or row["cases"] < 0 or not re.fullmatch(r"[0-9a-f]{64}", str(row["plan"])):
            raise WireError("W02", f"update {i} has a malformed plan hash or case count")
        arrays = sums.pop(str(i), {})
        if set(arrays) - {"sums", "tally"} or (row["code"] and (arrays or row["cases"])):
            raise WireError("W02", f"update {i} carries what is not declared")
        contribution = None if row["code"] else Contribution(arrays.get("sums", {}), row["cases"], arrays.get("tally", {}))
        out.append(Update(row["plan"], contribution, row["code"]))
    if sums:
        raise WireError("W02", f"{len(sums)} sets of sums belong to no update")
    return out


def unpack_hello(message: Message) -> Hello:
    if message.has_error():
        raise WireError("R02", f"Flower reports error {message.error.code}")
    row = _loads(_config(message.content, {"hello"}, {"json"})["json"], "site")
    _only(row, {f.name for f in dataclasses.fields(Hello)}, "hello")
    _code(row["code"], "a site's greeting")
    texts = [row["site"], row["version"], row["schema"], *_list(row["modalities"], str, "hello"), *_list(row["learners"], str, "hello")]
    if any(not isinstance(t, str) or any(ord(c) < 32 for c in t) for t in texts):
        raise WireError("W02", "a site's greeting has a text of the wrong type or with control characters")
    counts, flags = (row["cases"], row["imaged"]), (row["estimable"], row["imaged_estimable"])
    if any(type(n) is not int or n < 0 for n in counts) or any(type(f) is not bool for f in flags):
        raise WireError("W02", "a site's greeting has a malformed case count or flag")
    return Hello(**{**row, "modalities": tuple(row["modalities"]), "learners": tuple(row["learners"])})


# ---- the site's side -----------------------------------------------------------------------------------------------------


def unpack_request(message: Message) -> Request:
    raw = _list(_loads(_config(message.content, {"plan", "state"}, {"json"})["json"], "plans"), dict, "plans")
    states, digest = _open(_blob(message.content, "state"))
    plans = tuple(_plan_from_json(row) for row in raw)
    if any(p.state_hash != digest for p in plans):
        raise WireError("P04", "the state that came with a plan is not the one that the plan names")
    return Request(plans, states)


def unpack_greeting(message: Message) -> tuple[str, str, str]:
    record = _config(message.content, {"greeting"}, {"study", "task", "schema"})
    if not all(isinstance(v, str) for v in record.values()):
        raise WireError("W02", "a greeting holds something that is not text")
    return str(record["study"]), str(record["task"]), str(record["schema"])


def pack_updates(updates: Sequence[Update]) -> RecordDict:
    rows = []
    arrays: Arrays = {}
    for i, u in enumerate(updates):
        rows.append({"plan": u.plan_hash, "cases": u.contribution.cases if u.contribution else 0, "code": u.code})
        if u.contribution:
            arrays.update({f"{i}\tsums\t{k}": v for k, v in u.contribution.sums.items()})
            arrays.update({f"{i}\ttally\t{k}": v for k, v in u.contribution.tally.items()})
    text = json.dumps({"format": _FORMAT, "updates": rows}, separators=(",", ":"))
    return RecordDict({"update": ConfigRecord({"json": text}), "sums": blob_record(pack(arrays))})


def pack_hello(hello: Hello) -> RecordDict:
    text = json.dumps({"format": _FORMAT, "site": dataclasses.asdict(hello)}, separators=(",", ":"))
    return RecordDict({"hello": ConfigRecord({"json": text})})


# ---- both ----------------------------------------------------------------------------------------------------------------


def size(content: RecordDict) -> int:
    """Bytes of a message's content, headers of the transport excluded."""
    # not through RecordDict's views by kind: each of them is a checked copy
    arrays = sum(len(a.data) for r in content.values() if isinstance(r, ArrayRecord) for a in r.values())
    texts = sum(len(v) for r in content.values() if isinstance(r, ConfigRecord) for v in r.values() if isinstance(v, str))
    return arrays + texts


@lru_cache(maxsize=2)
def _open(blob: bytes) -> tuple[States, str]:
    """Sites of one process share the opened blob: it is read-only. (`bytes` caches its hash, so a look-up costs nothing.)"""
    states: States = {}
    for key, arrays in nest(unpack(blob)).items():
        states[key] = nest(arrays)
    return states, hashlib.sha256(blob).hexdigest()


def _by_index(arrays: Arrays) -> dict[str, State]:
    return {index: nest(rest) for index, rest in nest(arrays).items()}


def _plan_to_json(plan: Plan) -> dict[str, Any]:
    row = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    row["fold"] = [list(plan.fold.sites), list(plan.fold.parts)]
    row["reads"] = [[list(f.sites), list(f.parts)] for f in plan.reads]
    return row


def _plan_from_json(row: Any) -> Plan:
    _only(row, {f.name for f in dataclasses.fields(Plan)}, "plan")
    try:
        texts = ("run", "site", "study", "task", "schema", "learner", "phase", "state_hash")
        if not all(type(row[k]) is str for k in texts) or not all(type(row[k]) is int for k in ("step", "seed", "parts")):
            raise TypeError("a field of the wrong type")
        if type(row["hyper"]) is not dict or row["privacy"] is not None:
            raise TypeError("hyper or privacy of the wrong type")
        if type(row["expires"]) not in (int, float) or not math.isfinite(row["expires"]):
            raise TypeError("expires of the wrong type")
        folds = [
            Fold(tuple(_list(sites, str, "fold")), tuple(_list(parts, int, "fold")))
            for sites, parts in [row["fold"], *_list(row["reads"], list, "plan")]
        ]
        participants = tuple(_list(row["participants"], str, "plan"))
        return Plan(**{**row, "fold": folds[0], "reads": tuple(folds[1:]), "participants": participants, "expires": float(row["expires"])})
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise WireError("W02", f"a plan is malformed: {error}") from error


def _config(content: RecordDict, records: set[str], keys: set[str]) -> Mapping[str, Any]:
    """The one config record with these keys, of a message that has exactly these records."""
    found = [r for r in content.values() if isinstance(r, ConfigRecord)]
    if set(content.keys()) != records or len(found) != 1 or set(found[0].keys()) != keys:
        raise WireError("W02", f"a message must have exactly the records {sorted(records)}, and in one of them the keys {sorted(keys)}")
    return dict(found[0])


def _blob(content: RecordDict, name: str) -> bytes:
    record = content.get(name)
    if not isinstance(record, ArrayRecord) or set(record.keys()) != {"blob"} or record["blob"].stype != _STYPE:
        raise WireError("W02", f"a message lacks the packed arrays '{name}'")
    return bytes(record["blob"].data)


def _loads(text: Any, key: str) -> Any:
    try:
        body = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError("W02", "a message is not valid JSON") from error
    _only(body, {"format", key}, "message")
    if type(body["format"]) is not int or body["format"] != _FORMAT:
        raise WireError(
            "W02", f"a message has format {body['format']!r}, this version reads {_FORMAT}; use the same fedmets version on both sides"
        )
    return body[key]


def _list(value: Any, kind: type, what: str) -> list[Any]:
    if type(value) is not list or any(type(v) is not kind for v in value):
        raise WireError("W02", f"{what}: a list of {kind.__name__} is expected")
    return value


def _code(code: Any, where: str) -> None:
    if type(code) is not str or (code and code not in CODES):
        raise WireError("W02", f"{where} has an undeclared code")


def _only(row: Any, keys: set[str], what: str) -> None:
    if not isinstance(row, dict) or set(row) != keys:
        raise WireError("W02", f"a {what} must have exactly the keys {sorted(keys)}")
