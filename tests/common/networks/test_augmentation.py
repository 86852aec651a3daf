"""What varies a crop, and what must not: missing sequences, the mask's values, other cases of the
batch."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.picture import Picture
from common.networks.augmentation import Augment
from common.networks.datasets import Cases, Singles

CPU = torch.device("cpu")
PLAIN = Augment(mirror=(0, 0, 0), resampled=0, gain=0, shift=0, dropout=0)


def inputs(
    counts: list[int], channels: int = 3, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    g = torch.Generator().manual_seed(seed)
    n = sum(counts)
    x = torch.rand(n, channels + 1, 4, 6, 6, generator=g)
    case = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    which = torch.cat([torch.arange(c) for c in counts])
    return x, torch.ones(n, channels), case, which, max(counts)


def noise(augment: Augment, cases: int, channels: int, most: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(
        cases, augment.draws(channels, most), generator=torch.Generator().manual_seed(seed)
    )


def test_nothing_asked_for_changes_nothing() -> None:
    x, present, case, which, most = inputs([1, 2, 3])
    y, bits = PLAIN(x.clone(), present, noise(PLAIN, 3, 3, most), case, which)
    assert torch.equal(x, y)
    assert torch.equal(bits, present)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=4), st.integers(0, 99))
def test_a_case_is_varied_alike_whatever_batch_it_is_in(counts: list[int], seed: int) -> None:
    augment = Augment((10.0, 20.0, 20.0))
    x, present, case, which, most = inputs(counts, seed=seed)
    drawn = noise(augment, len(counts), 3, most, seed)
    together, bits = augment(x.clone(), present, drawn, case, which)
    last = case == len(counts) - 1
    alone, own = augment(x[last].clone(), present[last], drawn[-1:], case[last] * 0, which[last])
    assert torch.equal(together[last], alone)
    assert torch.equal(bits[last], own)


def test_a_missing_sequence_stays_zero_and_the_mask_is_only_moved() -> None:
    x, present, case, which, most = inputs([2, 2])
    present[:2, 1] = 0
    x[:2, 1] = 0
    x[:, -1] = (x[:, -1] > 0.5).float()
    augment = Augment(gain=0.5, shift=0.5, resampled=0)
    y, bits = augment(x.clone(), present, noise(augment, 2, 3, most), case, which)
    assert not y[:2, 1].any()
    assert set(y[:, -1].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(y[:, -1].sum((1, 2, 3)), x[:, -1].sum((1, 2, 3)))
    assert (bits <= present).all()


def test_sequences_drop_out_at_their_rate_for_whole_cases_and_never_the_last_one() -> None:
    cases, channels = 2000, 3
    x, present, case, which, most = inputs([2] * cases, channels)
    single = torch.arange(2 * cases) < 400
    present[single, 1:] = 0
    augment = Augment(dropout=0.25, mirror=(0, 0, 0), resampled=0, gain=0, shift=0)
    y, bits = augment(
        x * torch.cat([present, present[:, :1]], 1)[:, :, None, None, None],
        present,
        noise(augment, cases, channels, most),
        case,
        which,
    )
    gone = (present - bits).reshape(cases, 2, channels)
    assert torch.equal(gone[:, 0], gone[:, 1])
    assert not gone[:200].any()
    assert gone[200:].sum(dim=(1, 2)).max() == 2  # one sequence, of both crops
    np.testing.assert_allclose(gone[200:, 0].mean(dim=0), 0.25 / 3, atol=0.02)
    assert not y[:, :channels][bits == 0].any()
    assert y[:, :channels][bits == 1].any()


def test_mirrors_are_of_the_axis_asked_for() -> None:
    x, present, case, which, most = inputs([1])
    for axis in range(3):
        augment = Augment(
            mirror=tuple(float(a == axis) for a in range(3)),
            resampled=0,
            gain=0,
            shift=0,
            dropout=0,
        )  # type: ignore[arg-type]
        y, _ = augment(x.clone(), present, noise(augment, 1, 3, most), case, which)
        assert torch.equal(y, x.flip(2 + axis))


def test_mirrors_that_are_interpolated_are_the_same_mirrors() -> None:
    x, present, case, which, most = inputs([2, 2])
    for mirror in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.5)):
        copied = Augment(mirror=mirror, resampled=0, gain=0, shift=0, dropout=0)
        turned = Augment(mirror=mirror, turn=0, scale=0, resampled=1, gain=0, shift=0, dropout=0)
        drawn = noise(copied, 2, 3, most)
        a, b = (f(x.clone(), present, drawn, case, which)[0] for f in (copied, turned))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_turning_is_done_in_mm() -> None:
    """A quarter turn about z of a crop twice as wide as high: what lay along x lies along y, shrunk
    by the ratio of the edges."""
    augment = Augment(
        (1.0, 10.0, 20.0),
        mirror=(0, 0, 0),
        turn=float(np.pi / 2),
        scale=0,
        resampled=1,
        gain=0,
        shift=0,
        dropout=0,
    )
    x = torch.zeros(1, 2, 3, 41, 41)
    x[0, 0, :, 20, 25] = 1  # 5 of 41 cells of 20 mm: 2.44 mm to the left
    drawn = torch.full((1, augment.draws(1, 1)), 0.5)  # the middle: no angle
    drawn[0, -8 + 5] = 1.0  # the third angle, about z, at its largest
    y, _ = augment(
        x,
        torch.ones(1, 1),
        drawn,
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
    )
    _, row, column = np.unravel_index(int(y[0, 0].argmax()), (3, 41, 41))
    assert abs(row - 20) == 10
    assert column == 20


def picture(present: tuple[bool, ...]) -> Picture:
    return Picture(
        "k",
        np.zeros((2, 1, 1, 1), np.int16),
        1.0,
        (1, 1, 1),
        present,
        np.zeros((2, 1, 1, 1), np.int16),
    )


def test_batches_hold_the_crops_of_their_rows_in_order() -> None:
    arrays = [
        np.full((n, 3, 2, 2, 2), 10 * i + np.arange(n).reshape(-1, 1, 1, 1, 1), np.float16)
        for i, n in enumerate((1, 3, 2))
    ]
    counts, pictures = (
        np.array([1, 3, 2]),
        [picture((True, True)), picture((True, False)), picture((False, True))],
    )
    cases = Cases(arrays, counts, pictures, np.array([0, 1, 1]), None)
    x, present, mean, labels = cases.batch(np.array([2, 1]), CPU, None)
    assert x[:, 0, 0, 0, 0].tolist() == [20, 21, 10, 11, 12]
    assert x.dtype == torch.float32
    assert present.tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [1, 0]]
    np.testing.assert_allclose(mean, [[0.5, 0.5, 0, 0, 0], [0, 0, 1 / 3, 1 / 3, 1 / 3]])
    assert labels.tolist() == [1, 1]
    singles = Singles(arrays, counts, pictures, None)
    assert len(singles) == 6
    x, present = singles.batch(np.array([5, 1]), CPU, None)
    assert x[:, 0, 0, 0, 0].tolist() == [21, 10]
    assert present.tolist() == [[0, 1], [1, 0]]
