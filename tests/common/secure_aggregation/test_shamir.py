"""Shares: any that are enough give the secret, fewer say nothing of it, and what does not belong
together is found out."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from common.errors import RefusedError, WireError
from common.secure_aggregation import shamir
from common.secure_aggregation.shamir import PRIME, SHARE_BYTES, combine, split

SECRETS = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(32), b"\xff" * 32])


def test_the_field_is_one() -> None:
    """Miller and Rabin with 40 bases; the even part of PRIME - 1 is 2."""
    odd = (PRIME - 1) // 2
    assert odd % 2 == 1
    assert all(pow(base, odd, PRIME) in (1, PRIME - 1) for base in range(2, 42))
    assert 2 ** (8 * (shamir.SECRET_BYTES + 8)) < PRIME < 2 ** (8 * SHARE_BYTES)


@st.composite
def shared(draw: st.DrawFn) -> tuple[bytes, int, list[bytes], list[int]]:
    """A secret, its threshold, its shares, and points in any order."""
    count = draw(st.integers(1, 9))
    threshold, secret = draw(st.integers(1, count)), draw(SECRETS)
    return (
        secret,
        threshold,
        split(secret, threshold, count),
        draw(st.permutations(range(1, count + 1))),
    )


def some(shares: list[bytes], points: list[int]) -> dict[int, bytes]:
    return {x: shares[x - 1] for x in points}


@given(shared())
def test_any_shares_that_are_enough_give_the_secret(
    them: tuple[bytes, int, list[bytes], list[int]],
) -> None:
    secret, threshold, shares, points = them
    assert {len(s) for s in shares} == {SHARE_BYTES}
    assert combine(some(shares, points[:threshold]), threshold) == secret
    assert combine(some(shares, points), threshold) == secret


@given(shared())
def test_too_few_give_an_error(them: tuple[bytes, int, list[bytes], list[int]]) -> None:
    _, threshold, shares, points = them
    with pytest.raises(RefusedError) as caught:
        combine(some(shares, points[: threshold - 1]), threshold)
    assert caught.value.code == "M01"


@given(shared())
def test_too_few_that_are_passed_off_as_enough_give_an_error(
    them: tuple[bytes, int, list[bytes], list[int]],
) -> None:
    _, threshold, shares, points = them
    if threshold > 1:
        with pytest.raises(WireError) as caught:
            combine(some(shares, points[: threshold - 1]), threshold - 1)
        assert caught.value.code == "M02"


def test_too_few_fit_any_secret() -> None:
    """Whatever the secret, one polynomial goes through it and two shares of a secret of which three
    are needed."""
    shares = split(secrets.token_bytes(32), 3, 5)
    known = {x: int.from_bytes(shares[x - 1]) for x in (2, 5)}
    other = secrets.token_bytes(32)
    known[0] = int.from_bytes(other + shamir._check(other))

    def at(x: int) -> int:
        """Through the three known points."""
        total = 0
        for a, y in known.items():
            for b in known:
                if b != a:
                    y = y * (x - b) * pow(a - b, -1, PRIME) % PRIME
            total += y
        return total % PRIME

    fake = {x: shares[x - 1] if x in (2, 5) else at(x).to_bytes(SHARE_BYTES) for x in range(1, 6)}
    assert (
        combine(some(list(fake.values()), [2, 5, 1]), 3)
        == combine(some(list(fake.values()), [2, 5, 4]), 3)
        == other
    )


def test_a_share_looks_like_nothing() -> None:
    """The first byte says only that the prime is little above 2^320."""
    told = b"".join(split(bytes(32), 3, 5)[2][1:] for _ in range(5000))
    counts = np.bincount(np.frombuffer(told, np.uint8), minlength=256)
    assert chi2.sf(((counts - counts.mean()) ** 2 / counts.mean()).sum(), 255) > 1e-6
    assert split(bytes(32), 2, 3) != split(bytes(32), 2, 3)


@given(shared(), st.integers(0, 8 * SHARE_BYTES - 1), st.integers(0, 8))
def test_one_changed_bit_is_found_out(
    them: tuple[bytes, int, list[bytes], list[int]], bit: int, which: int
) -> None:
    _, threshold, shares, points = them
    used = some(shares, points[:threshold])
    x = points[which % threshold]
    used[x] = (int.from_bytes(used[x]) ^ (1 << bit)).to_bytes(SHARE_BYTES)
    with pytest.raises(WireError) as caught:
        combine(used, threshold)
    assert caught.value.code == "M02"


@pytest.mark.parametrize(
    "share",
    [
        b"",
        bytes(SHARE_BYTES - 1),
        bytes(SHARE_BYTES + 1),
        b"\xff" * SHARE_BYTES,
        PRIME.to_bytes(SHARE_BYTES),
    ],
)
def test_a_malformed_share_is_refused(share: bytes) -> None:
    with pytest.raises(WireError, match="malformed") as caught:
        combine({1: split(bytes(32), 2, 2)[0], 2: share}, 2)
    assert caught.value.code == "M02"


def test_shares_of_two_secrets_do_not_mix() -> None:
    first, second = split(b"a" * 32, 2, 3), split(b"a" * 32, 2, 3)
    with pytest.raises(WireError, match="do not belong together"):
        combine({1: first[0], 2: second[1]}, 2)


@pytest.mark.parametrize(
    ("secret", "threshold", "count"), [(b"short", 1, 1), (bytes(32), 0, 3), (bytes(32), 4, 3)]
)
def test_what_cannot_be_shared(secret: bytes, threshold: int, count: int) -> None:
    with pytest.raises(ValueError, match="shares of which"):
        split(secret, threshold, count)
