"""Fewer bytes for a model's parameters: their changes in 16 or 8 bits, with error feedback.

Rounded is a change, never the parameters, and what rounding lost is kept by whoever rounded and added to the next change (Seide et al.
2014, Interspeech; Karimireddy et al. 2019, arXiv 1901.09847). The global parameters are what the rounded changes add up to:
coordinator and sites hold the same ones to the bit.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import RefusedError, WireError
from common.learner import Averaged, Contribution, Federated
from common.types import Array, Arrays

How = Literal["whole", "changed", "float16", "int8"]
"""What a run sends: every state to every site; what a site does not hold; and of parameters their rounded changes."""
HOWS: tuple[str, ...] = get_args(How)
ROUNDED: dict[str, tuple[type, float]] = {"float16": (np.float16, 1.0), "int8": (np.int8, 127.0)}
"""Type of a rounded value, and the largest one that is used."""
BLOCK = 256
"""Values that share a scale, their largest magnitude: it costs 4 bytes."""
LEAST = 10_000
"""Parameters below which a model is sent as it is: every value of a small one can be afforded."""
CODE, SCALE = "change/codes", "change/scales"
REST = "rest"
_NOTHING = 1e-30
"""Changes below it stay in the rest: their scale's reciprocal would overflow."""

Vector = NDArray[np.float32]


def worthwhile(parameters: Arrays) -> bool:
    """Are these parameters rounded at all? Both sides ask it of the same ones."""
    return sum(v.size for v in parameters.values()) >= LEAST and all(v.dtype == np.float32 for v in parameters.values())


def averaged(learner: Federated, arrays: Arrays, sums: Arrays) -> Arrays | None:
    """The parameters of which `sums` are new ones times cases; None where the sums are others, or the model is a small one."""
    if not isinstance(learner, Averaged):
        return None
    parameters = learner.parameters(arrays)
    return parameters if set(sums) == set(parameters) and worthwhile(parameters) else None


def round_off(change: Vector, how: str) -> Arrays:
    """(values,) -> codes (values,) and one scale a block: value = code / largest code * scale."""
    kind, top = ROUNDED[how]
    blocks = np.zeros((-(-change.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: change.size] = change
    scales = np.abs(blocks).max(axis=1, initial=0.0)
    scales[scales < _NOTHING] = 0
    codes = blocks * np.divide(np.float32(top), scales, out=np.zeros_like(scales), where=scales > 0)[:, None]
    if kind is np.int8:
        np.rint(codes, out=codes)
    np.clip(codes, -top, top, out=codes)  # 1 / x * x may pass 1
    return {CODE: codes.astype(kind).reshape(-1)[: change.size], SCALE: scales}


def restore(coded: Arrays, how: str, size: int) -> Vector:
    """(size,): the change that codes and scales stand for. WireError W02 where they are of other names, types or shapes, or not finite."""
    kind, top = ROUNDED[how]
    blocks = -(-size // BLOCK)
    wanted = {CODE: (np.dtype(kind), (size,)), SCALE: (np.dtype(np.float32), (blocks,))}
    if {k: (v.dtype, v.shape) for k, v in coded.items()} != wanted or not all(np.isfinite(v).all() for v in coded.values()):
        raise WireError("W02", f"a change in {how} must be {size} codes and {blocks} scales, all of them finite")
    out = np.zeros((blocks, BLOCK), np.float32)
    out.reshape(-1)[:size] = coded[CODE]
    out *= (coded[SCALE] / np.float32(top))[:, None]
    return out.reshape(-1)[:size]


def flat(arrays: Arrays) -> Vector:
    """All values, names sorted."""
    return np.concatenate([np.asarray(arrays[k], np.float32).ravel() for k in sorted(arrays)])


def shaped(values: Vector, like: Arrays) -> Arrays:
    """The inverse of `flat`."""
    names = sorted(like)
    parts = np.split(values, np.cumsum([like[k].size for k in names])[:-1])
    return {k: part.reshape(like[k].shape) for k, part in zip(names, parts, strict=True)}


def advance(old: Arrays, new: Arrays, rest: Array | None, how: str) -> tuple[Arrays, Arrays, Vector]:
    """At the coordinator: a step from `old`, what sites hold, towards `new`. Returns what they will hold, what is sent, what is left."""
    base = flat(old)
    change = flat(new) - base
    if rest is not None:
        change += rest
    coded = round_off(change, how)
    sent = restore(coded, how, base.size)
    return shaped(base + sent, old), coded, change - sent


def follow(old: Arrays, coded: Arrays, how: str) -> Arrays:
    """At a site: the parameters after a change, bit for bit the coordinator's."""
    base = flat(old)
    return shaped(base + restore(coded, how, base.size), old)


def thin(contribution: Contribution, parameters: Arrays, rest: Array | None, how: str) -> tuple[Contribution, Vector]:
    """At a site: parameters times cases -> the rounded change from the global `parameters`, and what is left for the next one."""
    cases = max(contribution.cases, 1)
    change = flat({k: v / cases for k, v in contribution.sums.items()}) - flat(parameters)
    if rest is not None and rest.shape == change.shape:
        change += rest
    coded = round_off(change, how)
    return Contribution(coded, contribution.cases, contribution.tally), change - restore(coded, how, change.size)


def thicken(contribution: Contribution, parameters: Arrays, how: str) -> Contribution:
    """At the coordinator: the inverse of `thin` but for what rounding lost. RefusedError P02 where it is no such change."""
    base = flat(parameters)
    try:
        means = shaped(base + restore(contribution.sums, how, base.size), parameters)
    except WireError as error:
        raise RefusedError("P02", *error.faults) from error
    sums: Arrays = {k: v.astype(np.float64) * contribution.cases for k, v in means.items()}
    return Contribution(sums, contribution.cases, contribution.tally)
