"""What crosses the wall: a Plan goes down, an Update comes up. The ONLY file that knows the wire's keys.

A packet is a signed JSON text and one packed blob of arrays. A request carries the plans of one exchange (all learners and folds at
once) and the state that they read; a reply carries one Update a plan: a sum, or an error code. Nothing else is declared, so nothing
else passes: unknown keys, other dtypes and text are refused on arrival (`W02`), and so is what the other side's pinned key has not
signed (`P05`). The courier and Flower carry packets, and can neither write nor change one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Literal

from common.cohort import Fold
from common.errors import CODES, WireError
from common.keys import Signer, verify
from common.learner import Contribution, Plan
from common.transfer import CODE, HOWS, ROUNDED, SCALE, follow
from common.types import Arrays, State, digest, nest, pack, unpack

NO_PLAN = "0" * 64
"""Stands for the plan hash when a site could not read the request at all."""
_FORMAT = 3

Kind = Literal["greeting", "hello", "request", "updates"]
States = dict[str, State]
"""Fold key -> State: everything a run has learnt."""


@dataclass(frozen=True)
class Packet:
    """What a courier carries, unread."""

    kind: Kind
    text: bytes
    """JSON."""
    signature: str = ""
    """Ed25519 by the sender's key, over kind, what is answered, and text; empty where a courier itself answers with a code."""
    blob: bytes | memoryview = b""
    """Packed arrays (`common.types.pack`); the text names their hash."""

    @property
    def hash(self) -> str:
        """SHA-256 of the text: what an answer says it answers."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def size(self) -> int:
        """Bytes, headers of the transport excluded."""
        return len(self.text) + len(self.signature) + len(self.blob)


@dataclass(frozen=True)
class Part:
    """One learner's arrays of one fold, and how they come: `whole`, `held` (the site has them), or as a rounded change of `base`."""

    fold: str
    learner: str
    sha: str
    """SHA-256 of the packed arrays that the site ends up with."""
    how: str
    base: str
    """SHA-256 of what a change starts from; empty otherwise."""
    size: int
    """Bytes in the blob."""


@dataclass(frozen=True)
class Packed:
    """The states of an exchange as they travel: parts, and their bytes one after another."""

    parts: tuple[Part, ...]
    blob: bytes

    @property
    def hash(self) -> str:
        """Of the states themselves, however they travel (`Plan.state_hash`)."""
        return state_hash(self.parts)


@dataclass(frozen=True)
class Greeting:
    """What a coordinator asks every site before the first round."""

    run: str
    study: str
    task: str
    schema: str
    expires: float
    """Unix time after which a site does not answer it."""


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
    seconds: float = 0.0
    """Its doctor's forecast of the longest work on one plan; 0: none was made."""

    @staticmethod
    def failed(code: str, site: str = "", version: str = "") -> Hello:
        """A site, or a courier that knows no site, that can say why and nothing more."""
        return Hello(site, version, "", (), (), 0, code=code)


# ---- coordinator's side --------------------------------------------------------------------------------------------------


def pack_states(states: States) -> Packed:
    """Every state as it is. The same one serves all sites of an exchange: its blob is not copied in process."""
    pieces = [(fold, learner, pack(arrays)) for fold, state in states.items() for learner, arrays in state.items()]
    parts = [Part(fold, learner, hashlib.sha256(piece).hexdigest(), "whole", "", len(piece)) for fold, learner, piece in pieces]
    return Packed(tuple(parts), b"".join(piece for _, _, piece in pieces))


def state_hash(parts: Sequence[Part]) -> str:
    text = json.dumps(sorted([p.fold, p.learner, p.sha] for p in parts), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def pack_change(arrays: Arrays, coded: Arrays) -> bytes:
    """The piece of a part that comes as a change: `arrays` as they are, and codes and scales where parameters have changed."""
    return pack({**arrays, **coded})


def pack_request(plans: Sequence[Plan], packed: Packed, signer: Signer) -> Packet:
    """The plans of one site."""
    parts = [[getattr(part, f) for f in _PART] for part in packed.parts]
    return _signed("request", {"plans": [_plan_to_json(p) for p in plans], "parts": parts}, signer, blob=packed.blob)


def pack_greeting(greeting: Greeting, signer: Signer) -> Packet:
    return _signed("greeting", {"greeting": dataclasses.asdict(greeting)}, signer)


def unpack_updates(packet: Packet, public: str, to: Packet) -> list[Update]:
    """The updates of the site with the key `public`, in answer to the request `to`."""
    body = _loads(packet, "updates", ("updates", "sums"))
    rows = _list(body["updates"], dict, "updates")
    lone = [r for r in rows if r.get("plan") == NO_PLAN and r.get("code")]
    # a courier that cannot reach its station has no key: it may say so, and nothing else
    if packet.signature or len(rows) != 1 or lone != rows:
        _verify(packet, public, to.hash)
    if body["sums"] != hashlib.sha256(packet.blob).hexdigest():
        raise WireError("P04", "the sums that came are not those that were signed")
    sums = _by_index(unpack(packet.blob))
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


def unpack_hello(packet: Packet, enrolled: Mapping[str, str], to: Packet) -> Hello:
    """What a site says of itself; `enrolled`: site -> public key. Only a code may come without a name and a signature."""
    row = _loads(packet, "hello", ("site",))["site"]
    _only(row, {f.name for f in dataclasses.fields(Hello)}, "hello")
    _code(row["code"], "a site's greeting")
    texts = [row["site"], row["version"], row["schema"], *_list(row["modalities"], str, "hello"), *_list(row["learners"], str, "hello")]
    if any(not isinstance(t, str) or any(ord(c) < 32 for c in t) for t in texts):
        raise WireError("W02", "a site's greeting has a text of the wrong type or with control characters")
    counts, flags = (row["cases"], row["imaged"]), (row["estimable"], row["imaged_estimable"])
    known = _finite(row["seconds"]) and row["seconds"] >= 0
    if any(type(n) is not int or n < 0 for n in counts) or any(type(f) is not bool for f in flags) or not known:
        raise WireError("W02", "a site's greeting has a malformed case count, flag or forecast")
    hello = Hello(**{**row, "modalities": tuple(row["modalities"]), "learners": tuple(row["learners"])})
    if packet.signature or hello != Hello.failed(hello.code):
        if hello.site not in enrolled:
            raise WireError("P05", f"a node says that it is '{hello.site}', which is not enrolled")
        _verify(packet, enrolled[hello.site], to.hash)
    return hello


# ---- the site's side -----------------------------------------------------------------------------------------------------


def unpack_request(packet: Packet, coordinator: str, held: MutableMapping[str, Arrays] | None = None) -> Request:
    """The plans that the coordinator with the public key `coordinator` signed, and the states that came with them.

    held: SHA-256 -> arrays, what a station has kept of earlier requests; those of this one are added to it. WireError W03 where a
    state is told from one that is not among them.
    """
    _verify(packet, coordinator, "")
    body = _loads(packet, "request", ("plans", "parts"))
    plans = tuple(_plan_from_json(row) for row in _list(body["plans"], dict, "plans"))
    parts = tuple(_part(row) for row in _list(body["parts"], list, "parts"))
    digest_of_all = state_hash(parts)
    if any(p.state_hash != digest_of_all for p in plans):
        raise WireError("P04", "the state that came with a plan is not the one that the plan names")
    if all(p.how == "whole" for p in parts):
        states = _whole(packet.blob, parts)
    else:
        states = _states(parts, [_told(part, piece, held or {}) for part, piece in zip(parts, _pieces(packet.blob, parts), strict=True)])
    if held is not None and any(p.transfer != "whole" for p in plans):
        held.update({p.sha: states[p.fold][p.learner] for p in parts})
    return Request(plans, states)


def unpack_greeting(packet: Packet, coordinator: str) -> Greeting:
    _verify(packet, coordinator, "")
    row = _loads(packet, "greeting", ("greeting",))["greeting"]
    _only(row, {f.name for f in dataclasses.fields(Greeting)}, "greeting")
    if not all(type(row[k]) is str for k in ("run", "study", "task", "schema")) or not _finite(row["expires"]):
        raise WireError("W02", "a greeting has a field of the wrong type")
    return Greeting(**row)


def pack_updates(updates: Sequence[Update], signer: Signer | None, to: Packet) -> Packet:
    """`signer`: the site's; None: the courier's own answer, a single code."""
    rows = []
    arrays: Arrays = {}
    for i, u in enumerate(updates):
        rows.append({"plan": u.plan_hash, "cases": u.contribution.cases if u.contribution else 0, "code": u.code})
        if u.contribution:
            arrays.update({f"{i}\tsums\t{k}": v for k, v in u.contribution.sums.items()})
            arrays.update({f"{i}\ttally\t{k}": v for k, v in u.contribution.tally.items()})
    blob = pack(arrays)
    return _signed("updates", {"updates": rows, "sums": hashlib.sha256(blob).hexdigest()}, signer, to.hash, blob)


def refusal(packet: Packet, code: str) -> Packet:
    """The answer of whoever has no key: a code, unsigned."""
    if packet.kind == "greeting":
        return pack_hello(Hello.failed(code), None, packet)
    return pack_updates([Update(NO_PLAN, None, code)], None, packet)


def pack_hello(hello: Hello, signer: Signer | None, to: Packet) -> Packet:
    return _signed("hello", {"site": dataclasses.asdict(hello)}, signer, to.hash)


# ---- both ----------------------------------------------------------------------------------------------------------------


def _signed(kind: Kind, body: Mapping[str, Any], signer: Signer | None, to: str = "", blob: bytes = b"") -> Packet:
    text = json.dumps({"format": _FORMAT, **body}, separators=(",", ":")).encode()
    return Packet(kind, text, signer.sign(_meant(kind, to, text)) if signer else "", blob)


def _verify(packet: Packet, public: str, to: str) -> None:
    if not public:
        raise WireError("P05", f"no key is enrolled by which to judge a {packet.kind}")
    verify(public, _meant(packet.kind, to, packet.text), packet.signature)


def _meant(kind: str, to: str, text: bytes) -> bytes:
    """What is signed: a text with what it is, and which text it answers, so that it serves nowhere else."""
    return f"fedmets {_FORMAT} {kind} {to}\n".encode() + text


@lru_cache(maxsize=2)
def _whole(blob: bytes, parts: tuple[Part, ...]) -> States:
    """Sites of one process share the opened blob: it is read-only. (`bytes` caches its hash, so a look-up costs nothing.)"""
    return _states(parts, [_told(part, piece, MappingProxyType({})) for part, piece in zip(parts, _pieces(blob, parts), strict=True)])


def _pieces(blob: bytes | memoryview, parts: Sequence[Part]) -> list[memoryview]:
    if sum(p.size for p in parts) != len(blob):
        raise WireError("P04", f"{len(blob)} bytes of states came, {sum(p.size for p in parts)} are declared")
    ends = list(accumulate(p.size for p in parts))
    return [memoryview(blob)[end - p.size : end] for p, end in zip(parts, ends, strict=True)]


def _states(parts: Sequence[Part], arrays: Sequence[Arrays]) -> States:
    states: States = {}
    for part, one in zip(parts, arrays, strict=True):
        if part.learner in states.setdefault(part.fold, {}):
            raise WireError("W02", f"two states of {part.learner}, fold '{part.fold}'")
        states[part.fold][part.learner] = one
    return states


def _told(part: Part, piece: memoryview, held: Mapping[str, Arrays]) -> Arrays:
    """The arrays of a part, verified against its hash."""
    if part.how == "whole":
        if hashlib.sha256(piece).hexdigest() != part.sha:
            raise WireError("P04", f"the state of {part.learner}, fold '{part.fold}', is not the one that was signed")
        return unpack(piece)
    start = held.get(part.base if part.how in ROUNDED else part.sha)
    if start is None:
        raise WireError("W03", f"the state of {part.learner}, fold '{part.fold}', is told from one that this station does not hold")
    if part.how == "held":
        return start
    told = unpack(piece)
    coded = {k: told.pop(k) for k in (CODE, SCALE) if k in told}
    parameters = {k: v for k, v in start.items() if k not in told}
    now = {**told, **(follow(parameters, coded, part.how) if coded else parameters)}
    if digest(now) != part.sha:
        raise WireError("P04", f"the changed state of {part.learner}, fold '{part.fold}', is not the one that was signed")
    return now


def _part(row: list[Any]) -> Part:
    kinds = (str, str, str, str, str, int)
    if len(row) != len(kinds) or any(type(v) is not k for v, k in zip(row, kinds, strict=True)):
        raise WireError("W02", "a part of the state is malformed")
    part = Part(*row)
    told = part.how in ("whole", "held", *ROUNDED) and (part.base != "") == (part.how in ROUNDED) and part.size >= 0
    if not told or (part.how == "held" and part.size):
        raise WireError("W02", "a part of the state is malformed")
    return part


def _by_index(arrays: Arrays) -> dict[str, State]:
    return {index: nest(rest) for index, rest in nest(arrays).items()}


_PART = tuple(f.name for f in dataclasses.fields(Part))


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
        if type(row["hyper"]) is not dict or row["privacy"] is not None or row["transfer"] not in HOWS:
            raise TypeError("hyper, privacy or transfer of the wrong type")
        if not _finite(row["expires"]):
            raise TypeError("expires of the wrong type")
        folds = [
            Fold(tuple(_list(sites, str, "fold")), tuple(_list(parts, int, "fold")))
            for sites, parts in [row["fold"], *_list(row["reads"], list, "plan")]
        ]
        participants = tuple(_list(row["participants"], str, "plan"))
        return Plan(**{**row, "fold": folds[0], "reads": tuple(folds[1:]), "participants": participants, "expires": float(row["expires"])})
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise WireError("W02", f"a plan is malformed: {error}") from error


def _loads(packet: Packet, kind: Kind, keys: tuple[str, ...]) -> Any:
    if packet.kind != kind:
        raise WireError("W02", f"a {kind} is expected here, this is a {packet.kind}")
    try:
        body = json.loads(packet.text)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError("W02", "a message is not valid JSON") from error
    if not isinstance(body, dict) or "format" not in body:
        raise WireError("W02", "a message names no format")
    if type(body["format"]) is not int or body["format"] != _FORMAT:
        raise WireError(
            "W02", f"a message has format {body['format']!r}, this version reads {_FORMAT}; use the same fedmets version on both sides"
        )
    _only(body, {"format", *keys}, "message")
    return body


def _list(value: Any, kind: type, what: str) -> list[Any]:
    if type(value) is not list or any(type(v) is not kind for v in value):
        raise WireError("W02", f"{what}: a list of {kind.__name__} is expected")
    return value


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _code(code: Any, where: str) -> None:
    if type(code) is not str or (code and code not in CODES):
        raise WireError("W02", f"{where} has an undeclared code")


def _only(row: Any, keys: set[str], what: str) -> None:
    if not isinstance(row, dict) or set(row) != keys:
        raise WireError("W02", f"a {what} must have exactly the keys {sorted(keys)}")
