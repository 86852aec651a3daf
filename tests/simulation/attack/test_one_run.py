"""The bound of one run: the paper's own figures, what is true of randomised response, and what delta
may hide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from common.privacy.random import repeatable
from simulation.attack import one_run
from simulation.attack.one_run import audit, lower_bound, p_value


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.6755)],
)
def test_the_papers_figures(
    canaries: int, guesses: int, right: int, delta: float, published: float
) -> None:
    """Appendix D and section 7, at 95 %."""
    found = lower_bound(canaries, guesses, right, delta, 0.05)
    assert found == pytest.approx(published, abs=1e-3)


def test_without_delta_it_is_a_binomial_test() -> None:
    assert p_value(100, 100, 75, np.log(3), 0) == pytest.approx(0.5535, abs=1e-4)


@given(st.integers(1, 400), st.floats(0, 0.2), st.floats(0, 6))
def test_a_mechanism_that_tells_all_with_chance_delta_is_not_refuted(
    guesses: int, delta: float, epsilon: float
) -> None:
    """(epsilon, delta)-private: all coins as they are, or by randomised response."""
    everything = delta + (1 - delta) * expit(epsilon) ** guesses
    assert p_value(guesses, guesses, guesses, epsilon, delta) >= everything - 1e-12


@given(st.integers(1, 300), st.data(), st.floats(0, 0.01))
def test_more_right_guesses_show_more(guesses: int, data: st.DataObject, delta: float) -> None:
    right = data.draw(st.integers(0, guesses - 1))
    assert lower_bound(guesses, guesses, right, delta, 0.05) <= lower_bound(
        guesses, guesses, right + 1, delta, 0.05
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 4.0])
def test_it_errs_no_more_often_than_it_says_and_not_by_much(epsilon: float) -> None:
    """Of randomised response the true epsilon is known."""
    rng, found = np.random.default_rng(0), []
    for seed in range(100):
        with repeatable(seed, "response"):
            included = one_run.coins(1000)
            told = included ^ (rng.random(1000) >= expit(epsilon))
            found.append(audit(included, told.astype(float), 1e-5).lower)
    assert np.mean(np.array(found) > epsilon) <= 1 - one_run.CONFIDENCE
    assert np.median(found) >= 0.7 * epsilon - 0.2


def test_scores_that_are_equal_say_nothing() -> None:
    """Whoever stands first among equals is drawn, not known."""
    included = np.arange(1000) < 500
    with repeatable(0, "equal"):
        found = [audit(included, np.zeros(1000), 1e-5).lower for _ in range(100)]
    assert np.mean(np.array(found) > 0) <= 1 - one_run.CONFIDENCE


def test_a_count_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="5 right of 4 guesses on 10 canaries"):
        p_value(10, 4, 5, 1.0, 1e-5)
