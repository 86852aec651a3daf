"""Masks cancel, and look like nothing. The chances of a false alarm are below 1e-6 each, and the
seeds are fixed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from common.secure_aggregation.fixed_point import Words
from common.secure_aggregation.masking import _CHUNK, mask, unmask

SEEDS = st.binary(min_size=32, max_size=32)
SIZE = 200_000


def stream(seed: bytes, size: int) -> Words:
    vector = np.zeros(size, np.uint64)
    mask(vector, "own", {"own": seed})
    return vector


def seed(i: int) -> bytes:
    return i.to_bytes(32)


def chi_square(words: Words) -> float:
    """p of the words' bytes being uniform."""
    counts = np.bincount(words.astype("<u8").view(np.uint8), minlength=256)
    return float(chi2.sf(((counts - counts.mean()) ** 2 / counts.mean()).sum(), 255))


def bits(words: Words) -> float:
    """p of the bit position that is furthest from being set half of the time, for all 64
    together."""
    shares = np.unpackbits(words.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    return float(min(64 * 2 * norm.sf(np.abs(shares - 0.5).max() * 2 * np.sqrt(len(words))), 1))


def test_the_stream_is_that_of_rfc_8439() -> None:
    """Appendix A.1, test vectors 1 and 2: key and nonce zero, blocks 0 and 1."""
    want = bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    assert stream(bytes(32), 16).astype("<u8").tobytes() == want


@given(SEEDS, st.integers(0, 70))
def test_a_stream_is_the_beginning_of_a_longer_one(key: bytes, size: int) -> None:
    assert (stream(key, size) == stream(key, 70)[:size]).all()


def test_pieces_join_without_a_seam() -> None:
    whole = stream(seed(1), 2 * _CHUNK + 5)
    assert len(set(whole.tolist())) == whole.size
    assert (stream(seed(1), _CHUNK + 1) == whole[: _CHUNK + 1]).all()


@given(st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=6, unique=True))
def test_masks_of_pairs_cancel(names: list[str]) -> None:
    def between(a: str, b: str) -> bytes:
        return hashlib.sha256(repr(sorted((a, b))).encode()).digest()

    total = np.zeros(9, np.uint64)
    for a in names:
        vector = np.arange(9, dtype=np.uint64)
        mask(vector, a, {b: between(a, b) for b in names if b != a})
        assert (vector != np.arange(9, dtype=np.uint64)).any()
        total += vector
    assert (total == len(names) * np.arange(9, dtype=np.uint64)).all()


@given(
    st.dictionaries(st.text(max_size=3), SEEDS, max_size=4),
    st.text(max_size=3),
    st.lists(st.integers(0, 2**64 - 1), max_size=9),
)
def test_unmask_undoes_mask(seeds: dict[str, bytes], site: str, values: list[int]) -> None:
    vector = np.array(values, np.uint64)
    mask(vector, site, seeds)
    unmask(vector, site, seeds)
    assert vector.tolist() == values


@pytest.mark.parametrize("value", [0, 1, 2**63, 2**64 - 1])
def test_a_masked_vector_is_indistinguishable_from_a_uniform_one(value: int) -> None:
    vector = np.full(SIZE, value, np.uint64)
    mask(vector, "B", {"A": seed(1), "B": seed(2), "C": seed(3)})
    assert chi_square(vector) > 1e-6
    assert bits(vector) > 1e-6


def test_the_tests_above_see_what_is_not_uniform() -> None:
    plain = np.random.default_rng(0).integers(0, 2**60, SIZE, np.uint64)
    assert chi_square(plain) < 1e-6
    assert bits(plain) < 1e-6


def test_streams_of_two_seeds_are_unrelated() -> None:
    first, second = stream(seed(1), SIZE), stream(seed(2), SIZE)
    for mixed in (first ^ second, first - second):
        assert chi_square(mixed) > 1e-6
        assert bits(mixed) > 1e-6
