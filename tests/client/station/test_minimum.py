"""The site's minimum holds for each sum by itself, whatever folds a coordinator reads and wherever
its states have no model; and no state that fails at patients of its choice moves what is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.station import guard
from common.data.cohort import UNKNOWN, Cohort, Fold
from common.errors import RefusedError
from common.federated.learner import (
    Contribution,
    Federated,
    Plan,
    fit,
    hyper_of,
    load,
    local_plan,
)
from common.federated.protected_sums import Summands, Summing
from common.federated.states import States
from common.types import Arrays, State
from tests.pictures import imaging, sites

SEED, PARTS = 5, 3
(HERE,) = sites(40, 1, imaging(crops=1), share=0.4, masked=0.9, seed=4, unknown=0.1)
LABELLED = int((HERE.labels != UNKNOWN).sum())
HEADS = ("logistic", "image")
IMAGE = {"rounds": 1, "epochs": 1, "batch": 32, "grid": [4, 8, 8]}
FOLDS = [Fold(), *(Fold(parts=(p,)) for p in range(PARTS))]
FOLDS += [Fold(parts=(p, q)) for p in range(PARTS) for q in range(PARTS) if p < q]


def learner_of(name: str) -> Federated:
    if name in ("evaluation", "comparison", "scores"):
        return load(name, {"heads": list(HEADS), "learners": {"image": IMAGE}})
    return load(name, IMAGE if name == "image" else {"rounds": 1} if name == "mlp" else {})


@cache
def fitted() -> State:
    """One state for all folds: what it predicts is not looked at."""
    state: State = {}
    for name in ("preprocessing", "logistic", "autoencoder", "segmentation", "image"):
        if name in ("autoencoder", "segmentation"):
            state = {**state, name: {}}
        else:
            state = fit(learner_of(name), state, [HERE], local_plan(Fold(), SEED, PARTS))
    return state


@cache
def evaluated() -> Arrays:
    plan = asked(learner_of("evaluation"), "score", FOLDS)
    return learner_of("evaluation").contribute(everywhere(FOLDS), HERE, plan).sums


def everywhere(folds: list[Fold]) -> States:
    return {f: dict(fitted()) for f in folds}


def asked(learner: Federated, phase: str, reads: list[Fold], **more: Any) -> Plan:
    plan = replace(local_plan(reads[0], SEED, PARTS), reads=tuple(reads), **more)
    return replace(plan, learner=learner.name, phase=phase, hyper=hyper_of(learner))


def told(
    learner: Federated, states: States, plan: Plan, minimum: int, cohort: Cohort = HERE
) -> tuple[str, Contribution | None]:
    """A code, or what leaves."""
    try:
        sums = guard.contributed(learner, states, cohort, plan, lambda _: None, minimum)
        return "", guard.release(sums, learner, states, plan, cohort, minimum)
    except RefusedError as error:
        return error.code, None


def counted(sums: Arrays) -> Iterator[tuple[str, Any, float]]:
    """Of an evaluation or comparison each sum, or row, with the patients that it says it is over."""
    for name, value in sums.items():
        before, _, last = name.rpartition("/")
        if "log_loss/" in name:
            for at, row in enumerate(value):
                yield name, at, float(row[1])
                yield name.replace("log_loss", "thresholds"), at, float(row[1])
        elif last in ("n", "counts") and not name.startswith("subgroups"):
            for own in sums:
                if own.rpartition("/")[0] == before:
                    yield own, ..., float(value.sum())


@st.composite
def hostile(draw: st.DrawFn) -> tuple[list[Fold], States]:
    """Folds that are read, and where their states have no model of a head."""
    reads = [Fold(), *draw(st.lists(st.sampled_from(FOLDS[1:]), unique=True))]
    states = everywhere(reads)
    for fold in reads:
        for head in draw(st.sets(st.sampled_from(HEADS))) if draw(st.booleans()) else ():
            states[fold][head] = {}
    states[Fold()]["evaluation"] = evaluated()
    return reads, states


@settings(max_examples=25, deadline=None)
@given(
    asked_for=hostile(),
    name=st.sampled_from(["evaluation", "comparison"]),
    minimum=st.integers(1, LABELLED),
    secure=st.booleans(),
)
def test_no_row_of_an_evaluation_covers_fewer_than_the_minimum(
    asked_for: tuple[list[Fold], States], name: str, minimum: int, secure: bool
) -> None:
    reads, states = asked_for
    learner = learner_of(name)
    plan = asked(learner, next(iter(learner.phases)), reads, secure=secure)
    raw = learner.contribute(states, HERE, plan)
    code, left = told(learner, states, plan, minimum)
    few = {(own, at) for own, at, n in counted(raw.sums) if n < minimum}
    if left is None:
        assert (secure, code) == (True, "M04"), "in all folds or in none"
        assert few
        return
    assert left.cases == raw.cases, "the count of all tells nothing of it"
    for own, at, n in counted(raw.sums):
        if n < minimum:
            assert not left.sums[own][at].any(), (own, at, n)
        else:
            assert (left.sums[own][at] == raw.sums[own][at]).all(), (own, at)


@settings(max_examples=40, deadline=None)
@given(
    reads=st.lists(st.sampled_from(FOLDS[1 : PARTS + 1]), unique=True), minimum=st.integers(2, 12)
)
def test_under_masks_no_folds_leave_a_head_to_fewer_sites(reads: list[Fold], minimum: int) -> None:
    """Zeros stand for a head that has too few patients in every fold, or no model; and else the
    site says that there is no sum."""
    learner, states = learner_of("evaluation"), everywhere([Fold(), *reads])
    plan = asked(learner, "score", [Fold(), *reads], secure=True)
    code, left = told(learner, states, plan, minimum)
    imaged = int((HERE.imaged & (HERE.labels != UNKNOWN)).sum())
    parts = HERE.parts(SEED, PARTS)
    read = np.isin(parts, [f.parts[0] for f in reads])
    for head, able in (("logistic", HERE.labels != UNKNOWN), ("image", HERE.imaged)):
        whole = int((able & (HERE.labels != UNKNOWN)).sum())
        scored = int((able & (HERE.labels != UNKNOWN) & read).sum())
        if reads and scored < minimum <= whole:
            assert code == "M04"
        elif left is not None:
            assert left.sums[f"{head}/within/n"] == (scored if whole >= minimum else 0)
    assert imaged < LABELLED


def test_an_honest_evaluation_is_as_it_was() -> None:
    """All folds read, every head with a model in each: not a bit is another one."""
    for name in ("evaluation", "comparison"):
        learner, states = learner_of(name), everywhere(FOLDS)
        states[Fold()]["evaluation"] = evaluated()
        for secure in (False, True):
            plan = asked(learner, next(iter(learner.phases)), FOLDS, secure=secure)
            raw = learner.contribute(states, HERE, plan)
            code, left = told(learner, states, plan, 5)
            assert not code
            assert left is not None
            for own, at, n in counted(raw.sums):
                assert n >= 5 or not raw.sums[own][at].any() or "left_out" in own
            assert all((left.sums[k] == raw.sums[k]).all() for k in raw.sums)


# ---- states that fail at patients of a coordinator's choice --------------------------------------


def failing(learner: Any, at: frozenset[str]) -> Any:
    """The same learner, which fails at these patients where it looks at them."""
    kind = type(learner)

    def hit(cohort: Cohort, plan: Plan) -> None:
        rows = cohort
        if learner.traits.trains:
            rows = cohort.train(plan.fold, plan.seed, plan.parts)
        if learner.name == "image":
            rows = rows.where(rows.imaged)
        if at.intersection(rows.ids):
            raise ZeroDivisionError("in one patient's row")

    def contribute(self: Any, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        hit(cohort, plan)
        out: Contribution = kind.contribute(self, states, cohort, plan)
        return out

    def summands(self: Any, states: States, cohort: Cohort, plan: Plan) -> Iterator[Summands]:
        hit(cohort, plan)
        yield from kind.summands(self, states, cohort, plan)

    own: dict[str, Callable[..., Any]] = {"contribute": contribute}
    if isinstance(learner, Summing):
        own["summands"] = summands
    made = type("Failing", (kind,), own)
    return made(**{f.name: getattr(learner, f.name) for f in dataclasses.fields(learner)})


MASKED = ("preprocessing", "logistic", "mlp", "image", "evaluation", "scores")


@pytest.mark.parametrize("name", MASKED)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_under_masks_nobodys_failure_moves_a_count_or_a_code(
    name: str, data: st.DataObject
) -> None:
    """Codes, cases and which rows are zeros are those of a state that fails at nobody, for any
    minimum: a site that fell below it would say so by itself, beside the masks."""
    learner = learner_of(name)
    fold = data.draw(st.sampled_from(FOLDS))
    reads = FOLDS if name == "evaluation" else [fold]
    states = everywhere(reads)
    if name in ("preprocessing", "logistic", "mlp", "image"):
        start = learner.start(HERE.schema, SEED)
        start = fitted()["image"] if name == "image" else start
        states[reads[0]] = {**states[reads[0]], name: start}
    phase = learner.phase(states[reads[0]].get(name, {}))
    plan = asked(learner, phase, reads, secure=True)
    rows = HERE.train(plan.fold, SEED, PARTS)
    minimum = data.draw(st.sampled_from([1, 5, len(rows), len(rows) + 1, LABELLED + 1]))
    at = data.draw(st.frozensets(st.sampled_from(HERE.ids), max_size=3) | st.just(HERE.ids))
    honest_code, honest = told(learner, states, plan, minimum)
    code, left = told(failing(learner, frozenset(at)), states, plan, minimum)
    assert code == honest_code
    if honest is None or left is None:
        assert honest is left is None
        return
    assert left.cases == honest.cases
    if name in ("mlp", "image") and phase == "train":
        # new parameters weigh by whom the site was asked for; those that came, where nobody is left
        came = learner.parameters(states[reads[0]][name])  # type: ignore[attr-defined]
        if set(at) >= set(rows.ids):
            assert all((left.sums[k] == came[k].astype(float) * left.cases).all() for k in came)
