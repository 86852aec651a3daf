"""Messages, what crosses the wall: a Plan goes down, an Update comes up. With
`common.wire.masked_messages`, the ONLY file that knows the wire's keys.

A packet is a signed JSON text and one packed blob of arrays. A request carries the plans of one
exchange (all learners and folds at once) and the state that they read; a reply carries one Update a
plan: a sum, or an error code. Nothing else is declared, so nothing else passes: unknown keys, other
dtypes and text are refused on arrival (`W02`), and so is what the other side's pinned key has not
signed (`P05`). The courier and Flower carry packets, and can neither write nor change one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from common.data.cohort import Fold
from common.errors import CODES, WireError
from common.federated.learner import Contribution, Plan
from common.federated.states import States
from common.privacy.mechanism import Privacy
from common.types import Arrays, State, nest, pack, unpack
from common.wire import envelope
from common.wire.compression import HOWS, ROUNDED
from common.wire.envelope import Packet, demand_keys, finite, listed
from common.wire.masked_messages import Told, pack_told
from common.wire.signing import Signer
from common.wire.state_transfer import Packed, Part, state_hash, states_of, unpack_parts

CANNOT = frozenset({"P01", "D06"})
"""Codes by which a site says that it cannot do a step: named in the ledger, not counted against the
quorum."""
MOST_STEPS = 10**9
"""Of a run."""
MOST_SEEDS = 2**63
NO_PLAN = "0" * 64
"""Stands for the plan hash when a site could not read the request at all."""


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
    expires: ClassVar[float] = math.inf
    """Each of its plans expires by itself, where it has not been begun or answered by then."""


@dataclass(frozen=True)
class Update:
    """A site's answer to one plan: a contribution, or the code of the reason why there is none."""

    plan_hash: str
    contribution: Contribution | None
    code: str = ""
    budget: str = ""
    """The head of the site's budget chain; empty where it keeps none."""


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
    """Whether the site is one institution with at least 10 cases of two classes (guard E01):
    leave-one-site-out leaves it out alone."""
    code: str = ""
    """Why the site cannot take part; empty when it is ready."""
    imaged: int = 0
    """Labelled cases with an image, or 0 where they are fewer than the site's minimum."""
    imaged_estimable: bool = False
    """Whether at least 10 of them are of each of two classes: images of one class say which
    hospital they come from, not who is ill."""
    seconds: float = 0.0
    """Its doctor's forecast of the longest work on one plan; 0: none was made."""
    parts: int = 0
    """Into how many parts its patients may be folded, by its minimum; 0: they are fewer than that."""
    flow: tuple[int, ...] = ()
    """Patients read, left out, and kept without a known label, as the reports of studies ask for;
    empty where the site keeps them."""
    shares: tuple[int, ...] = ()
    """With whom it shares noise under masks: the fewest sites that are sure to be in a sum (0: all
    of the run's), and how many of them may be in league with the coordinator. Empty: with nobody."""

    @staticmethod
    def failed(code: str, site: str = "", version: str = "") -> Hello:
        """A site, or a courier that knows no site, that can say why and nothing more."""
        return Hello(site, version, "", (), (), 0, code=code)


# ---- coordinator's side --------------------------------------------------------------------------


def pack_request(plans: Sequence[Plan], packed: Packed, signer: Signer) -> Packet:
    """The plans of one site."""
    parts = [[getattr(part, f) for f in _PART] for part in packed.parts]
    return envelope.sign(
        "request",
        {"plans": [_plan_to_json(p) for p in plans], "parts": parts},
        signer,
        blob=packed.blob,
    )


def pack_greeting(greeting: Greeting, signer: Signer) -> Packet:
    return envelope.sign("greeting", {"greeting": dataclasses.asdict(greeting)}, signer)


def unpack_updates(packet: Packet, public: str, to: Packet) -> list[Update]:
    """The updates of the site with the key `public`, in answer to the request `to`."""
    body = envelope.loads(packet, "updates", ("updates", "sums"))
    rows = listed(body["updates"], dict, "updates")
    lone = [r for r in rows if r.get("plan") == NO_PLAN and r.get("code")]
    # a courier that cannot reach its station has no key: it may say so, and nothing else
    if packet.signature or len(rows) != 1 or lone != rows:
        envelope.verify(packet, public, to.hash)
    if body["sums"] != hashlib.sha256(packet.blob).hexdigest():
        raise WireError("P04", "the sums that came are not those that were signed")
    sums = _by_index(unpack(packet.blob))
    out = []
    for i, row in enumerate(rows):
        demand_keys(row, {"plan", "cases", "code", "budget"}, "update")
        _code(row["code"], f"update {i}")
        if (
            type(row["cases"]) is not int
            or row["cases"] < 0
            or not re.fullmatch(r"[0-9a-f]{64}", str(row["plan"]))
        ):
            raise WireError("W02", f"update {i} has a malformed plan hash or case count")
        _head(row["budget"], f"update {i}")
        arrays = sums.pop(str(i), {})
        if set(arrays) - {"sums", "tally"} or (row["code"] and (arrays or row["cases"])):
            raise WireError("W02", f"update {i} carries what is not declared")
        contribution = (
            None
            if row["code"]
            else Contribution(arrays.get("sums", {}), row["cases"], arrays.get("tally", {}))
        )
        out.append(Update(row["plan"], contribution, row["code"], row["budget"]))
    if sums:
        raise WireError("W02", f"{len(sums)} sets of sums belong to no update")
    return out


def unpack_hello(packet: Packet, enrolled: Mapping[str, str], to: Packet) -> Hello:
    """What a site says of itself; `enrolled`: site -> public key. Only a code may come without a
    name and a signature."""
    row = envelope.loads(packet, "hello", ("site",))["site"]
    demand_keys(row, {f.name for f in dataclasses.fields(Hello)}, "hello")
    _code(row["code"], "a site's greeting")
    texts = [
        row["site"],
        row["version"],
        row["schema"],
        *listed(row["modalities"], str, "hello"),
        *listed(row["learners"], str, "hello"),
    ]
    if any(not isinstance(t, str) or any(ord(c) < 32 for c in t) for t in texts):
        raise WireError(
            "W02", "a site's greeting has a text of the wrong type or with control characters"
        )
    counts = row["cases"], row["imaged"], row["parts"]
    flags = row["estimable"], row["imaged_estimable"]
    known = finite(row["seconds"]) and row["seconds"] >= 0
    flow, shares = (listed(row[k], int, "hello") for k in ("flow", "shares"))
    if (
        any(type(n) is not int or n < 0 for n in (*counts, *flow, *shares))
        or any(type(f) is not bool for f in flags)
        or not known
    ):
        raise WireError("W02", "a site's greeting has a malformed case count, flag or forecast")
    if flow and (len(flow) != 3 or flow[0] < flow[1] + flow[2]):
        raise WireError(
            "W02", "a site's greeting has an account of its patients that does not add up"
        )
    if len(shares) not in (0, 2):
        raise WireError("W02", "a site's greeting has a malformed word on shared noise")
    hello = Hello(
        **{
            **row,
            "modalities": tuple(row["modalities"]),
            "learners": tuple(row["learners"]),
            "flow": tuple(flow),
            "shares": tuple(shares),
        }
    )
    if packet.signature or hello != Hello.failed(hello.code):
        if hello.site not in enrolled:
            raise WireError("P05", f"a node says that it is '{hello.site}', which is not enrolled")
        envelope.verify(packet, enrolled[hello.site], to.hash)
    return hello


# ---- the site's side -----------------------------------------------------------------------------


def unpack_request(
    packet: Packet, coordinator: str, held: MutableMapping[str, Arrays] | None = None
) -> Request:
    """The plans that the coordinator with the public key `coordinator` signed, and the states that
    came with them.

    held: SHA-256 -> arrays, what a station has kept of earlier requests; those of this one are
    added to it. WireError W03 where a state is told from one that is not among them.
    """
    envelope.verify(packet, coordinator)
    body = envelope.loads(packet, "request", ("plans", "parts"))
    plans = tuple(_plan_from_json(row) for row in listed(body["plans"], dict, "plans"))
    parts = tuple(_part(row) for row in listed(body["parts"], list, "parts"))
    digest_of_all = state_hash(parts)
    if any(p.state_hash != digest_of_all for p in plans):
        raise WireError("P04", "the state that came with a plan is not the one that the plan names")
    arrays = unpack_parts(parts, packet.blob, held or {})
    if held is not None and any(p.transfer != "whole" for p in plans):
        # also those that no plan of this request reads: a later one's may
        for part, its_arrays in zip(parts, arrays, strict=True):
            if held.get(part.sha) is None:
                # its own copy: a view would keep the whole message in memory
                held[part.sha] = {name: array.copy() for name, array in its_arrays.items()}
    return Request(plans, states_of(parts, arrays, [f for p in plans for f in p.reads]))


def unpack_greeting(packet: Packet, coordinator: str) -> Greeting:
    envelope.verify(packet, coordinator)
    row = envelope.loads(packet, "greeting", ("greeting",))["greeting"]
    demand_keys(row, {f.name for f in dataclasses.fields(Greeting)}, "greeting")
    if not all(type(row[k]) is str for k in ("run", "study", "task", "schema")) or not finite(
        row["expires"]
    ):
        raise WireError("W02", "a greeting has a field of the wrong type")
    return Greeting(**row)


def pack_updates(updates: Sequence[Update], signer: Signer | None, to: Packet) -> Packet:
    """`signer`: the site's; None: the courier's own answer, a single code."""
    rows = []
    arrays: Arrays = {}
    for i, u in enumerate(updates):
        rows.append(
            {
                "plan": u.plan_hash,
                "cases": u.contribution.cases if u.contribution else 0,
                "code": u.code,
                "budget": u.budget,
            }
        )
        if u.contribution:
            arrays.update({f"{i}\tsums\t{k}": v for k, v in u.contribution.sums.items()})
            arrays.update({f"{i}\ttally\t{k}": v for k, v in u.contribution.tally.items()})
    blob = pack(arrays)
    return envelope.sign(
        "updates",
        {"updates": rows, "sums": hashlib.sha256(blob).hexdigest()},
        signer,
        to.hash,
        blob,
    )


def refusal(packet: Packet, code: str) -> Packet:
    """The answer of whoever has no key: a code, unsigned."""
    if packet.kind == "greeting":
        return pack_hello(Hello.failed(code), None, packet)
    if packet.kind == "secure":
        return pack_told(Told(code), None, packet)
    return pack_updates([Update(NO_PLAN, None, code)], None, packet)


def pack_hello(hello: Hello, signer: Signer | None, to: Packet) -> Packet:
    return envelope.sign("hello", {"site": dataclasses.asdict(hello)}, signer, to.hash)


# ---- both ----------------------------------------------------------------------------------------


def _part(row: list[Any]) -> Part:
    kinds = (str, str, str, str, str, int)
    if len(row) != len(kinds) or any(type(v) is not k for v, k in zip(row, kinds, strict=True)):
        raise WireError("W02", "a part of the state is malformed")
    part = Part(*row)
    told = (
        part.how in ("whole", "held", *ROUNDED)
        and (part.base != "") == (part.how in ROUNDED)
        and part.size >= 0
    )
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
    row["privacy"] = [plan.privacy.noise, plan.privacy.shared] if plan.privacy else None
    return row


def _plan_from_json(row: Any) -> Plan:
    demand_keys(row, {f.name for f in dataclasses.fields(Plan)}, "plan")
    try:
        texts = ("run", "site", "study", "task", "schema", "learner", "phase", "state_hash")
        if not all(type(row[k]) is str for k in texts) or not all(
            type(row[k]) is int for k in ("step", "seed", "parts")
        ):
            raise TypeError("a field of the wrong type")
        # a station names files by it
        if not 0 <= row["step"] < MOST_STEPS:
            raise ValueError(f"step {row['step']}, 0 to {MOST_STEPS - 1} are taken")
        if not 0 <= row["seed"] < MOST_SEEDS:
            raise ValueError("a seed that is out of range, 0 to 2^63 - 1 are taken")
        if (
            type(row["hyper"]) is not dict
            or row["transfer"] not in HOWS
            or type(row["secure"]) is not bool
        ):
            raise TypeError("hyper, transfer or secure of the wrong type")
        privacy = None
        if row["privacy"] is not None:
            noise, shared = row["privacy"]
            privacy = Privacy(noise, shared)
        _head(row["budget"], "a plan")
        if not finite(row["expires"]):
            raise TypeError("expires of the wrong type")
        folds = [
            Fold(tuple(listed(sites, str, "fold")), tuple(listed(parts, int, "fold")))
            for sites, parts in [row["fold"], *listed(row["reads"], list, "plan")]
        ]
        participants = tuple(listed(row["participants"], str, "plan"))
        told = {
            "fold": folds[0],
            "reads": tuple(folds[1:]),
            "participants": participants,
            "privacy": privacy,
        }
        return Plan(**{**row, **told, "expires": float(row["expires"])})
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise WireError("W02", f"a plan is malformed: {error}") from error


def _head(head: Any, where: str) -> None:
    if type(head) is not str or not re.fullmatch(r"([0-9a-f]{64})?", head):
        raise WireError("W02", f"{where} has a malformed head of a budget")


def _code(code: Any, where: str) -> None:
    if type(code) is not str or (code and code not in CODES):
        raise WireError("W02", f"{where} has an undeclared code")
