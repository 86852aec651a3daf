"""Trees at a station: grown openly nowhere but where its policy says so, and of leaves as large as
it asks; and why cells of enough patients each would hide nobody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from client.site.privacy_policy import Policy
from client.site.site_file import Site
from client.station import guard
from common.data.cohort import Fold
from common.errors import RefusedError, UsageError
from common.federated.learner import Plan, fit, hyper_of, load, local_plan, names
from common.learners.boosting import Boosting
from common.learners.preprocessing import LEARNER as PREPARE
from common.privacy.mechanism import Privacy
from common.study import load as studies
from common.trees import best_split
from common.trees import model as trees_model
from common.trees.binning import bin_indices
from common.trees.model import KINDS, between
from common.types import State
from server.config.run_config import Run
from tests.synthetic import cohort

COHORT = replace(cohort(120, seed=4), site="North")
FINE = [(n, p) for n in names() for p, phase in load(n).phases.items() if phase.fine]


def site(minimum: int, policy: Policy) -> Site:
    return Site("North", Path(), (), minimum=minimum, privacy=policy)


def asked(learner: Boosting, **changes: object) -> Plan:
    plan = replace(local_plan(Fold(), 0, 5), site="North", schema=COHORT.schema.hash)
    plan = replace(plan, learner="boosting", phase="grow", hyper=hyper_of(learner))
    return replace(plan, **changes)  # type: ignore[arg-type]


learners = st.builds(
    Boosting,
    trees=st.integers(1, 5),
    depth=st.integers(1, 4),
    eta=st.sampled_from([0.1, 1.0]),
    min_child_weight=st.sampled_from([0.0, 1.0, 1e6]),
    smallest_leaf=st.integers(0, 60),
    subsample=st.sampled_from([0.3, 1.0]),
    early_stopping=st.integers(0, 2),
)


def test_boosting_is_the_learner_whose_sums_are_fine() -> None:
    assert ("boosting", "grow") in FINE
    assert not load("boosting").phases["score"].fine


@settings(max_examples=150, deadline=None)
@given(
    learner=learners,
    minimum=st.integers(1, 40),
    least=st.none() | st.integers(0, 60),
    open_trees=st.booleans(),
    secure=st.booleans(),
    noise=st.none() | st.just(3.0),
)
def test_trees_are_grown_as_the_site_says_or_refused_by_one_code(
    learner: Boosting,
    minimum: int,
    least: int | None,
    open_trees: bool,
    secure: bool,
    noise: float | None,
) -> None:
    plan = asked(learner, secure=secure, privacy=None if noise is None else Privacy(noise))
    mine = site(minimum, Policy(open_trees=open_trees, smallest_leaf=least))
    leaf = minimum if least is None else least
    allowed = (open_trees or plan.protected) and (leaf <= 1 or learner.smallest_leaf >= leaf)
    if allowed:
        guard.admit(plan, mine, COHORT)
        return
    with pytest.raises(RefusedError) as caught:
        guard.admit(plan, mine, COHORT)
    assert caught.value.code == "P11"


@settings(max_examples=40, deadline=None)
@given(
    patients=st.integers(20, 200),
    classes=st.integers(2, 3),
    least=st.integers(2, 30),
    seed=st.integers(0, 10**6),
    trees=st.integers(1, 4),
    subsample=st.sampled_from([0.6, 1.0]),
    base=st.sampled_from([0.5, 0.0, 0.1]),
)
def test_no_leaf_of_the_model_holds_fewer_patients(
    patients: int,
    classes: int,
    least: int,
    seed: int,
    trees: int,
    subsample: float,
    base: float,
) -> None:
    """Of a model of four sites; counted from the patients, whatever its cover says."""
    rows = cohort(patients, classes=classes, seed=seed)
    part = np.arange(patients) % 4
    cohorts = [rows.where(part == k) for k in range(4)]
    learner = Boosting(
        trees=trees, eta=0.5, min_child_weight=0.0, smallest_leaf=least, subsample=subsample,
        base_score=base,
    )  # fmt: skip
    state = grown(learner, cohorts)
    counts = held(state, rows)
    assert ((counts == 0) | (counts >= least)).all()
    told = learner.leaves(state, rows.schema)
    assert told.fewest >= least or not told.count


def grown(learner: Boosting, cohorts: list[object]) -> State:
    plan = local_plan(Fold(), 0, 5)
    state: State = {}
    for each in (PREPARE, learner):
        state = fit(each, state, cohorts, plan)  # type: ignore[arg-type]
    return state


def held(state: State, rows: object) -> np.ndarray:
    """Patients of every leaf that a split has made; of single-leaf trees none is counted."""
    arrays, prepared = state["boosting"], state["preprocessing"]
    trees = between(arrays, 0, int(arrays["finished"]))
    bins = bin_indices({k: prepared[k] for k in ("edges", "offsets")}, rows)  # type: ignore[arg-type]
    count, groups, nodes = trees["column"].shape
    at = trees_model.walk(trees, bins, nodes.bit_length() - 1)
    out = np.zeros((count, groups, nodes), int)
    t, g = np.meshgrid(np.arange(count), np.arange(groups), indexing="ij")
    for row in at:
        out[t, g, row] += 1
    return out[:, :, 1:].ravel()


def test_the_card_s_counts_of_the_first_round_are_the_patients() -> None:
    rows = cohort(150, seed=9, noise=0.1)
    learner = Boosting(trees=1, depth=3, smallest_leaf=5, lambda_=0.7, eta=0.3)
    state = grown(learner, [rows])
    arrays, prepared = state["boosting"], state["preprocessing"]
    bins = bin_indices({k: prepared[k] for k in ("edges", "offsets")}, rows)
    reached = trees_model.walk({k: arrays[k] for k in KINDS}, bins, 3)[:, 0, 0]
    leaves = [rows.labels[reached == n] for n in np.unique(reached)]
    told = learner.leaves(state, rows.schema)
    assert told.count == len(leaves)
    assert told.fewest == min(len(y) for y in leaves)
    assert told.pure == tuple(sorted(len(y) for y in leaves if len(set(y.tolist())) == 1))
    assert told.pure, "the cohort is nearly separable"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10), st.integers(0, 40), st.integers(0, 40), st.integers(0, 10**6))
def test_why_cells_are_not_merged_a_sum_tells_how_many_of_each_earlier_leaf_are_in_it(
    few: int, second: int, third: int, seed: int
) -> None:
    """A cell of many patients, one of them alone in a leaf of the tree before: the hessian sum,
    exact to 2^-36, names the counts by earlier leaf, for the coordinator knows each leaf's hessian.
    A floor on the patients of a cell, of its sibling or of a difference changes nothing in that."""
    assume(few + second + third >= 10)
    margins = np.random.default_rng(seed).normal(size=3).astype(np.float32)
    p = trees_model.probabilities(margins[:, None])[:, 0]
    each = best_split.exact(p * (1 - p))
    assume(len(np.unique(each.round(6))) == 3)
    counts = np.array([few, second, third])
    cell = np.repeat(each, counts).sum()
    # of all ways to fill a cell with up to 40 patients a leaf, those with this sum
    ways = np.stack(np.meshgrid(*[np.arange(41)] * 3, indexing="ij"), -1).reshape(-1, 3)
    fits = ways[np.abs(ways @ each - cell) < 2.0**-37]
    assert (fits == counts).all(axis=1).any()
    assume(len(fits) == 1)  # by chance of the margins: see the test below for how often
    assert (fits[0] == counts).all()


def test_it_does_so_for_nearly_all_margins() -> None:
    ways = np.stack(np.meshgrid(*[np.arange(21)] * 3, indexing="ij"), -1).reshape(-1, 3)
    unique = 0
    for seed in range(40):
        margins = np.random.default_rng(seed).normal(size=3).astype(np.float32)
        p = trees_model.probabilities(margins[:, None])[:, 0]
        sums = np.sort(ways @ best_split.exact(p * (1 - p)))
        unique += bool(np.diff(sums).min() > 2.0**-37)
    assert unique >= 38


def test_the_coordinator_names_the_heads_before_anybody_is_asked() -> None:
    study = studies.load("colorectal_metastasis")
    with pytest.raises(UsageError, match=r"boosting: without noise or masks") as caught:
        Run.parse({}).demand_protection(study)
    assert caught.value.code == "C01"
    for more in (
        {"secure": True, "expect": 3}, {"noise": 5.0}, {"open_trees": True},
        {"learners": "logistic"},
    ):  # fmt: skip
        Run.parse(more).demand_protection(study)


def test_a_run_between_hospitals_asks_for_leaves_of_ten() -> None:
    study = studies.load("colorectal_metastasis")
    run = Run.parse({"learners": "boosting"})
    (head,) = run.heads(study)
    assert isinstance(head, Boosting)
    assert head.smallest_leaf == run.smallest_leaf == Site("A", Path(), ()).minimum
    (head,) = Run.parse(
        {"learners": "boosting", "hyper": '{"boosting": {"smallest_leaf": 25}}'}
    ).heads(study)
    assert isinstance(head, Boosting)
    assert head.smallest_leaf == 25
