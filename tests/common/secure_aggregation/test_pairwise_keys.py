"""What two sites have between them: the same on both sides, another for each pair, run and step,
and opened by nobody else."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import WireError
from common.secure_aggregation import pairwise_keys

KEYS = {name: pairwise_keys.new() for name in ("A", "B", "C")}
PLACE, LATER = b"1" * 32, b"2" * 32


def pair(me: str, other: str, run: str = "run") -> pairwise_keys.Pair:
    return pairwise_keys.agree(KEYS[me], KEYS[other].public, me, other, run)


def test_both_sides_derive_the_same_and_others_do_not() -> None:
    for a, b in itertools.product(KEYS, repeat=2):
        assert pair(a, b) == pair(b, a)
    pairs = [
        pair(a, b, run)
        for a, b in itertools.combinations_with_replacement(KEYS, 2)
        for run in ("run", "other")
    ]
    assert len({v for p in pairs for v in (p.masks, p.texts)}) == 2 * len(pairs)


@given(st.tuples(*[st.text(max_size=3)] * 3), st.tuples(*[st.text(max_size=3)] * 3))
def test_names_and_run_count_however_they_are_cut(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    first, second = (
        pairwise_keys.agree(KEYS["A"], KEYS["B"].public, *names) for names in (one, other)
    )
    same = sorted(one[:2]) == sorted(other[:2]) and one[2] == other[2]
    assert (first == second) == same


def test_seeds_are_the_steps_own() -> None:
    p = pair("A", "B")
    seeds = {
        pairwise_keys.seed(p, PLACE),
        pairwise_keys.seed(p, LATER),
        pairwise_keys.seed(pair("A", "C"), PLACE),
        p.masks,
        p.texts,
    }
    assert len(seeds) == 5
    assert pairwise_keys.seed(pair("B", "A"), PLACE) == pairwise_keys.seed(p, PLACE)


def test_keys_are_not_told_by_accident() -> None:
    p = pair("A", "B")
    assert repr(p) == "Pair()"
    assert KEYS["A"].key.private_bytes_raw().hex() not in repr(KEYS["A"])


@pytest.mark.parametrize("public", ["", "0" * 64, "01" + "0" * 62, "f" * 62, "g" * 64, "no key"])
def test_what_is_no_key_is_refused(public: str) -> None:
    """Also points of small order, with which everybody would agree on the same."""
    with pytest.raises(WireError) as caught:
        pairwise_keys.agree(KEYS["A"], public, "A", "B", "run")
    assert caught.value.code == "M02"


@given(st.binary(max_size=100))
def test_what_is_sealed_is_opened_by_the_other(text: bytes) -> None:
    blob = pairwise_keys.seal(pair("A", "B"), PLACE, "A", "B", text)
    assert len(blob) == len(text) + 28
    assert pairwise_keys.unseal(pair("B", "A"), PLACE, "A", "B", blob) == text
    assert pairwise_keys.seal(pair("A", "B"), PLACE, "A", "B", text) != blob


@pytest.mark.parametrize(
    ("who", "place", "sender", "to"),
    [
        (("B", "A"), LATER, "A", "B"),  # from another step
        (("B", "A"), PLACE, "B", "A"),  # sent back
        (("B", "A"), PLACE, "A", "C"),
        (("C", "A"), PLACE, "A", "C"),  # brought to another site
        (("B", "C"), PLACE, "C", "B"),  # passed off as another's
    ],
)
def test_what_is_for_another_site_or_step_stays_shut(
    who: tuple[str, str], place: bytes, sender: str, to: str
) -> None:
    blob = pairwise_keys.seal(pair("A", "B"), PLACE, "A", "B", b"text")
    with pytest.raises(WireError) as caught:
        pairwise_keys.unseal(pair(*who), place, sender, to, blob)
    assert caught.value.code == "M02"


def test_what_is_of_another_run_stays_shut() -> None:
    blob = pairwise_keys.seal(pair("A", "B", "earlier"), PLACE, "A", "B", b"text")
    with pytest.raises(WireError):
        pairwise_keys.unseal(pair("B", "A"), PLACE, "A", "B", blob)


@given(st.integers(0, 8 * 32 - 1), st.integers(0, 31))
def test_what_was_altered_or_cut_stays_shut(bit: int, length: int) -> None:
    blob = pairwise_keys.seal(pair("A", "B"), PLACE, "A", "B", b"text")
    altered = (int.from_bytes(blob) ^ (1 << bit)).to_bytes(len(blob))
    for other in (altered, blob[:length]):
        with pytest.raises(WireError) as caught:
            pairwise_keys.unseal(pair("B", "A"), PLACE, "A", "B", other)
        assert caught.value.code == "M02"


def test_a_place_is_a_hash() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        pairwise_keys.seed(pair("A", "B"), b"1")
