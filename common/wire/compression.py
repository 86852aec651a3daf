"""Quantisation of the changes of a model's parameters to 16 or 8 bits, with error feedback.

Rounded is a change, never the parameters, and what rounding lost is kept by whoever rounded and
added to the next change (Seide et al. 2014, Interspeech; Karimireddy et al. 2019, arXiv
1901.09847). The global parameters are what the rounded changes add up to: coordinator and sites
hold the same ones to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import RefusedError, WireError
from common.federated.learner import Averaged, Contribution, Federated
from common.types import Array, Arrays

How = Literal["whole", "changed", "float16", "int8"]
"""What a run sends: every state to every site; what a site does not hold; and of parameters their
rounded changes."""
HOWS: tuple[str, ...] = get_args(How)
ROUNDED: dict[str, tuple[type, float]] = {"float16": (np.float16, 1.0), "int8": (np.int8, 127.0)}
"""Type of a rounded value, and the largest one that is used."""
LARGEST = 1e30
"""What no change of a parameter exceeds: parameters stay finite whatever a site sends."""
BLOCK = 256
"""Values that share a scale, their largest magnitude: it costs 4 bytes."""
LEAST = 10_000
"""Parameters below which a model is sent as it is: every value of a small one can be afforded."""
CODE, SCALE = "change/codes", "change/scales"
_NOTHING = 1e-30
"""Changes below it stay in the rest: their scale's reciprocal would overflow."""

_CACHED = 256 * BLOCK

Vector = NDArray[np.float32]


def worthwhile(parameters: Arrays) -> bool:
    """Are these parameters rounded at all? Both sides ask it of the same ones."""
    return sum(v.size for v in parameters.values()) >= LEAST and all(
        v.dtype == np.float32 for v in parameters.values()
    )


def averaged(learner: Federated, arrays: Arrays, sums: Arrays) -> Arrays | None:
    """The parameters of which `sums` are new ones times cases; None where the sums are others, or
    the model is a small one."""
    if not isinstance(learner, Averaged):
        return None
    parameters = learner.parameters(arrays)
    return parameters if set(sums) == set(parameters) and worthwhile(parameters) else None


def round_off(change: Vector, how: str) -> Arrays:
    """(values,) -> codes (values,) and one scale a block: value = code / largest code * scale. What
    they miss is left in `change`."""
    kind, top = ROUNDED[how]
    codes: Array = np.empty(change.size, kind)
    scales = np.empty(-(-change.size // BLOCK), np.float32)
    for values, blocks in _pieces(change.size):
        piece = np.zeros((scales[blocks].size, BLOCK), np.float32)
        piece.reshape(-1)[: codes[values].size] = change[values]
        largest = np.minimum(np.abs(piece).max(axis=1), np.float32(LARGEST))
        largest[largest < _NOTHING] = 0
        piece *= np.divide(np.float32(top), largest, out=np.zeros_like(largest), where=largest > 0)[
            :, None
        ]
        if kind is np.int8:
            np.rint(piece, out=piece)
        np.clip(piece, -top, top, out=piece)  # 1 / x * x may pass 1
        codes[values] = piece.reshape(-1)[: codes[values].size]
        scales[blocks] = largest
        change[values] -= _value(codes[values], largest, top)
    return {CODE: codes, SCALE: scales}


def add(values: Vector, coded: Arrays, how: str) -> None:
    """Add the change that codes and scales stand for. WireError W02 where they are of other names,
    types or shapes, or not finite."""
    _demand(coded, how, values.size)
    for some, blocks in _pieces(values.size):
        values[some] += _value(coded[CODE][some], coded[SCALE][blocks], ROUNDED[how][1])


def norm(coded: Arrays, how: str) -> float:
    """L2 norm of the change that codes and scales stand for."""
    square = 0.0
    for some, blocks in _pieces(coded[CODE].size):
        value = _value(coded[CODE][some], coded[SCALE][blocks], ROUNDED[how][1]).astype(np.float64)
        square += float(value @ value)
    return math.sqrt(square)


def _value(codes: Array, scales: Array, top: float) -> Vector:
    return np.multiply(
        codes, np.repeat(scales / np.float32(top), BLOCK)[: codes.size], dtype=np.float32
    )


def _pieces(size: int) -> Iterator[tuple[slice, slice]]:
    """Values and their blocks, as many at a time as a core's cache holds."""
    for at in range(0, size, _CACHED):
        yield (
            slice(at, min(at + _CACHED, size)),
            slice(at // BLOCK, -(-min(at + _CACHED, size) // BLOCK)),
        )


def _demand(coded: Arrays, how: str, size: int) -> None:
    """WireError W02 unless these are codes and scales of `size` values."""
    kind, top = ROUNDED[how]
    blocks = -(-size // BLOCK)
    wanted = {CODE: (np.dtype(kind), (size,)), SCALE: (np.dtype(np.float32), (blocks,))}
    if (
        {k: (v.dtype, v.shape) for k, v in coded.items()} != wanted
        or not _within(coded[SCALE], LARGEST)
        or not _within(coded[CODE], top)
    ):
        raise WireError(
            "W02",
            f"a change in {how} must be {size} codes up to {top:g} and {blocks} scales up to "
            f"{LARGEST:g}",
        )


def _within(values: Array, limit: float) -> bool:
    """NaN is not."""
    return not values.size or bool(values.max() <= limit and values.min() >= -limit)


def flat(arrays: Arrays, by: float = 1.0) -> Vector:
    """All values divided by `by`, names sorted: a vector of its own."""
    out, at = np.empty(sum(v.size for v in arrays.values()), np.float32), 0
    for k in sorted(arrays):
        values = arrays[k].ravel()
        np.divide(values, by, out=out[at : at + values.size], casting="unsafe")
        at += values.size
    return out


def shaped(values: Vector, like: Arrays) -> Arrays:
    """The inverse of `flat`: views."""
    names = sorted(like)
    parts = np.split(values, np.cumsum([like[k].size for k in names])[:-1])
    return {k: part.reshape(like[k].shape) for k, part in zip(names, parts, strict=True)}


def _less(values: Vector, arrays: Arrays) -> None:
    """Subtract, in place, what `flat` would give."""
    for k, part in shaped(values, arrays).items():
        part -= arrays[k]


def advance(old: Arrays, new: Arrays, rest: Arrays, how: str) -> tuple[Arrays, Arrays, Arrays]:
    """At the coordinator: a step from `old`, what sites hold, towards `new`. Returns what they will
    hold, what is sent, what is left."""
    change = flat(new)
    _less(change, old)
    _again(change, rest)
    coded = round_off(change, how)
    return follow(old, coded, how), coded, _kept(change)


def _kept(left: Vector) -> Arrays:
    """What rounding left, itself in int8: a quarter of what would go to disk each step, and what
    that loses is a 254th of half a step."""
    return round_off(left, "int8")


def _again(change: Vector, rest: Arrays) -> None:
    """Add what the last rounding left; of a model of another size it is nothing."""
    if rest and rest[CODE].size == change.size:
        add(change, rest, "int8")


def follow(old: Arrays, coded: Arrays, how: str) -> Arrays:
    """The parameters after a change: at a site bit for bit the coordinator's."""
    now = flat(old)
    add(now, coded, how)
    return shaped(now, old)


def thin(
    contribution: Contribution, parameters: Arrays, rest: Arrays, how: str
) -> tuple[Contribution, Arrays]:
    """At a site: parameters times cases -> the rounded change from the global `parameters`, and
    what is left for the next one."""
    change = flat(contribution.sums, max(contribution.cases, 1))
    _less(change, parameters)
    _again(change, rest)
    coded = round_off(change, how)
    return Contribution(coded, contribution.cases, contribution.tally), _kept(change)


def check(contribution: Contribution, parameters: Arrays, how: str) -> None:
    """At the coordinator: RefusedError P02 unless the sums are a change of these parameters."""
    try:
        _demand(contribution.sums, how, sum(v.size for v in parameters.values()))
    except WireError as error:
        raise RefusedError("P02", *error.faults) from error


def thicken(contribution: Contribution, parameters: Arrays, how: str) -> Contribution:
    """At the coordinator: the inverse of `thin` but for what rounding lost. WireError W02 where it
    is no such change.

    The sums are float32, as the parameters are: beside what rounding loses, more digits would be
    only memory.
    """
    sums = flat(parameters)
    add(sums, contribution.sums, how)
    sums *= contribution.cases
    return Contribution(shaped(sums, parameters), contribution.cases, contribution.tally)
