"""Masked messages, what secure aggregation puts on the wire beside `common.wire.messages`: keys
once a run, masked vectors, who is online, shares of seeds.

The vector of a step holds the sums, tallies and cases of all its plans; a plan that a site cannot
answer is zeros in it, and nobody learns of it. What names a step, and is signed and sealed for, is
its *place*: a hash of everything that is asked, but of which site.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from common.errors import CODES, WireError
from common.federated.learner import Contribution, Plan
from common.secure_aggregation.fixed_point import Scale, Words
from common.secure_aggregation.group import Group
from common.types import Arrays, nest, pack, unpack
from common.wire import envelope
from common.wire.envelope import Packet, demand_keys, finite, listed
from common.wire.signing import Signer

Stage = Literal["key", "group", "online", "reveal"]
_HASH = r"[0-9a-f]{64}"


class Vouch(NamedTuple):
    """What a site vouches for in a run, and its signature of that (`vouched`)."""

    public: str
    """Its key."""
    fewest: int
    """The fewest sites of a sum that it has a part in; `group.ALL`: all of the run."""
    signature: str


@dataclass(frozen=True)
class Ask:
    """`key`: a site's key for the run; `group`: all keys, with their sites' signatures; `online`:
    sign who is; `reveal`: shares."""

    run: str
    site: str
    stage: Stage
    expires: float
    """Unix time after which a site does not answer it."""
    step: int = 0
    place: str = ""
    online: tuple[str, ...] = ()
    keys: Mapping[str, Vouch] = field(default_factory=dict)
    """`group`: every site's."""
    signed: Mapping[str, str] = field(default_factory=dict)
    """`reveal`: online site -> its signature of the online sites (`agreed`)."""
    sealed: Mapping[str, bytes] = field(default_factory=dict)
    """`reveal`: online site near this one -> what it sealed for it."""


@dataclass(frozen=True)
class Told:
    """A site's answer to an Ask, or the code of why there is none."""

    code: str = ""
    public: str = ""
    fewest: int = 0
    signature: str = ""
    shares: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Masked:
    """A site's answer to the plans of a step: a vector that looks random, and its seeds' shares,
    sealed for each site near it; or a code."""

    code: str = ""
    budget: str = ""
    vector: Words = field(default_factory=lambda: np.zeros(0, np.uint64))
    sealed: Mapping[str, bytes] = field(default_factory=dict)


# ---- what is signed, and what is summed ----------------------------------------------------------


def vouched(run: str, site: str, public: str, fewest: int) -> bytes:
    """What a site signs with its identity key: this is my key for this run, and no sum that I have
    a part in is over fewer sites."""
    return json.dumps(["fedmets key", run, site, public, fewest]).encode()


def agreed(run: str, place: str, online: Sequence[str]) -> bytes:
    """What a site signs with its identity key: I have been told that these are online, and will be
    told no others."""
    return json.dumps(["fedmets online", run, place, sorted(online)]).encode()


def scale(group: Group) -> Scale:
    return Scale(len(group.sites))


def place(plans: Sequence[Plan], group: Group) -> str:
    """64 hex digits, the same for every site."""
    asked = [replace(p, site="").question for p in plans]
    rules = [group.sites, group.threshold, group.minimum, dataclasses.astuple(scale(group))]
    if group.graph:
        rules.append(dataclasses.astuple(group.graph))
    text = json.dumps([*rules, asked])
    return hashlib.sha256(text.encode()).hexdigest()


def joined(contributions: Sequence[Contribution]) -> Arrays:
    """All of a step's, under names of their own."""
    out: Arrays = {}
    for i, c in enumerate(contributions):
        out |= {f"{i}\tsums\t{k}": v for k, v in c.sums.items()} | {
            f"{i}\ttally\t{k}": v for k, v in c.tally.items()
        }
        out[f"{i}\tcases"] = np.array(c.cases)
    return out


def parted(arrays: Arrays, zeros: Sequence[Contribution]) -> list[Contribution]:
    """The inverse, in the types of `zeros`."""
    out = []
    for i, zero in enumerate(zeros):
        mine = {
            kind: {k: arrays[f"{i}\t{kind}\t{k}"].astype(v.dtype) for k, v in like.items()}
            for kind, like in _kinds(zero)
        }
        out.append(Contribution(mine["sums"], round(float(arrays[f"{i}\tcases"])), mine["tally"]))
    return out


def _kinds(zero: Contribution) -> tuple[tuple[str, Arrays], ...]:
    return ("sums", zero.sums), ("tally", zero.tally)


# ---- coordinator's side --------------------------------------------------------------------------


def pack_ask(ask: Ask, signer: Signer) -> Packet:
    blob = pack({k: np.frombuffer(v, np.uint8) for k, v in ask.sealed.items()})
    row = {k: getattr(ask, k) for k in _ASKED} | {"blob": hashlib.sha256(blob).hexdigest()}
    return envelope.sign("secure", {"ask": row}, signer, blob=blob)


def unpack_told(packet: Packet, public: str, to: Packet) -> Told:
    """By the site with the key `public`; without a signature only a code."""
    body = envelope.loads(packet, "secured", ("told",))["told"]
    demand_keys(body, {"code", "public", "fewest", "signature", "shares"}, "told")
    if packet.signature or not body["code"]:
        envelope.verify(packet, public, to.hash)
    _code(body["code"])
    shares = body["shares"]
    if type(shares) is not dict or any(type(v) is not dict for v in shares.values()):
        raise WireError("W02", "shares are malformed")
    texts = (body["public"], body["signature"], *(t for v in shares.values() for t in v.values()))
    if any(type(t) is not str or not re.fullmatch(r"([0-9a-f]{2})*", t) for t in texts):
        raise WireError("W02", "a key, signature or share is malformed")
    if type(body["fewest"]) is not int or body["fewest"] < 0:
        raise WireError("W02", "what a site vouches for is malformed")
    told = {site: {k: bytes.fromhex(t) for k, t in of.items()} for site, of in shares.items()}
    return Told(body["code"], body["public"], body["fewest"], body["signature"], told)


def unpack_masked(packet: Packet, public: str, to: Packet, sites: Sequence[str]) -> Masked:
    """By the site with the key `public`, in answer to the request `to`; `sites`: those that it
    seals shares for."""
    envelope.verify(packet, public, to.hash)
    body = envelope.loads(packet, "masked", ("code", "budget", "blob"))
    _code(body["code"])
    if type(body["budget"]) is not str or not re.fullmatch(f"({_HASH})?", body["budget"]):
        raise WireError("W02", "a masked answer has a malformed head of a budget")
    if body["blob"] != hashlib.sha256(packet.blob).hexdigest():
        raise WireError("P04", "the vector that came is not the one that was signed")
    arrays = unpack(packet.blob)
    if body["code"]:
        return Masked(body["code"], body["budget"])
    vector, sealed = arrays.pop("vector", None), nest(arrays).get("to", {})
    if (
        vector is None
        or vector.dtype != np.dtype("<u8")
        or vector.ndim != 1
        or set(arrays) != {f"to\t{s}" for s in sites}
    ):
        raise WireError("W02", "a masked answer holds other than a vector and a text for each site")
    if any(v.dtype != np.uint8 or v.ndim != 1 for v in sealed.values()):
        raise WireError("W02", "a sealed text is malformed")
    return Masked("", body["budget"], vector, {k: v.tobytes() for k, v in sealed.items()})


# ---- the site's side -----------------------------------------------------------------------------


def unpack_ask(packet: Packet, coordinator: str) -> Ask:
    envelope.verify(packet, coordinator)
    row = envelope.loads(packet, "secure", ("ask",))["ask"]
    demand_keys(row, {*_ASKED, "blob"}, "ask")
    if row.pop("blob") != hashlib.sha256(packet.blob).hexdigest():
        raise WireError("P04", "the sealed texts that came are not those that were signed")
    texts = all(type(row[k]) is str for k in ("run", "site", "place")) and row["stage"] in get_args(
        Stage
    )
    keys, signed = row["keys"], row["signed"]
    if (
        not texts
        or type(row["step"]) is not int
        or not finite(row["expires"])
        or type(keys) is not dict
        or type(signed) is not dict
    ):
        raise WireError("W02", "an ask is malformed")
    vouches = {k: _vouch(v) for k, v in keys.items()}
    if any(type(v) is not str for v in signed.values()):
        raise WireError("W02", "an ask has malformed signatures")
    sealed = unpack(packet.blob)
    if any(v.dtype != np.uint8 or v.ndim != 1 for v in sealed.values()):
        raise WireError("W02", "a sealed text is malformed")
    online = tuple(listed(row["online"], str, "online"))
    return Ask(
        **{
            **row,
            "keys": vouches,
            "online": online,
            "sealed": {k: v.tobytes() for k, v in sealed.items()},
        }
    )


def pack_told(told: Told, signer: Signer | None, to: Packet) -> Packet:
    """`signer` None: whoever has no key says a code and nothing else."""
    shares = {site: {k: share.hex() for k, share in of.items()} for site, of in told.shares.items()}
    row = {k: getattr(told, k) for k in ("code", "public", "fewest", "signature")}
    row["shares"] = shares
    return envelope.sign("secured", {"told": row}, signer, to.hash)


def pack_masked(masked: Masked, signer: Signer, to: Packet) -> Packet:
    arrays = (
        {}
        if masked.code
        else {"vector": masked.vector}
        | {f"to\t{k}": np.frombuffer(v, np.uint8) for k, v in masked.sealed.items()}
    )
    blob = pack(arrays)
    body = {"code": masked.code, "budget": masked.budget, "blob": hashlib.sha256(blob).hexdigest()}
    return envelope.sign("masked", body, signer, to.hash, blob)


def _vouch(row: Any) -> Vouch:
    kinds = [type(v) for v in row] if type(row) is list else []
    if kinds != [str, int, str] or row[1] < 0:
        raise WireError("W02", "an ask has a malformed key")
    return Vouch(*row)


def _code(code: Any) -> None:
    if type(code) is not str or (code and code not in CODES):
        raise WireError("W02", f"an answer has the unknown code {code!r}")


_ASKED = tuple(f.name for f in dataclasses.fields(Ask) if f.name != "sealed")
