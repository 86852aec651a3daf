"""What every learner promises. The files of `common/learners/` are found by globbing: a new one
needs no new line here."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.station.guard import contributed
from common.data.cohort import Cohort, Fold, empty
from common.data.made_up import made_up
from common.data.schema import Schema
from common.errors import FedmetsError, RefusedError, UsageError
from common.federated.coverage import Covering
from common.federated.learner import (
    Averaged,
    Contribution,
    Federated,
    Head,
    Plan,
    Stacked,
    Step,
    TableHead,
    Traits,
    check,
    configured,
    fit,
    hyper_names,
    hyper_of,
    identity,
    load,
    local_plan,
    names,
    total,
    validate,
)
from common.federated.protected_sums import bounded, protected
from common.federated.states import States, named_arrays, with_arrays
from common.networks import row_independence
from common.privacy.mechanism import Privacy, Sampled
from common.privacy.patient_sums import FINEST, Grid, grid
from common.privacy.random import repeatable
from common.study.study import Study, Task
from common.types import Array, Arrays, State, digest, flatten, pack, unpack
from server.config.jobs import Job, build_jobs
from server.config.run_config import HOLDOUT, Run
from tests import synthetic
from tests.pictures import imaging, with_pictures
from tests.pictures import schema as pictured
from tests.pictures import sites as pictured_sites

NAMES = names()
SEED, PARTS = 11, 3
CLASSES = (2, 3)
HEADS = tuple(n for n in NAMES if isinstance(load(n), Head))
TABLE_HEADS = tuple(n for n in HEADS if isinstance(load(n), TableHead))
IMAGING = imaging(crops=1)
TINY = {"autoencoder": [4, 8, 8], "image": [4, 8, 8], "segmentation": [4, 4, 4]}
"""The grids of networks that train in a moment."""


def hyper(name: str) -> dict[str, object]:
    """Few rounds, so that a whole fit takes milliseconds."""
    learner = load(name)
    few: dict[str, object] = {key: 3 for key in ("trees", "rounds") if key in hyper_names(learner)}
    if name in TINY:
        few |= {"rounds": 2, "epochs": 1, "batch": 32, "learning_rate": 0.01, "grid": TINY[name]}
    if "widths" in hyper_names(learner):
        few["widths"] = [4, 8]
    return few


@cache
def study(classes: int) -> Study:
    return Study(
        "synthetic",
        "?",
        schema(classes),
        {"now": Task("now")},
        HEADS,
        {n: hyper(n) for n in NAMES if hyper(n)},
    )


RUN = Run(seed=SEED, parts=PARTS, learners=",".join(HEADS))
heads = pytest.mark.parametrize("name", HEADS)
table_heads = pytest.mark.parametrize("name", TABLE_HEADS)
learners = pytest.mark.parametrize("name", NAMES)


def small(name: str) -> Federated:
    """The learner as the runs below have it; what reads all heads reads all there are."""
    return jobs(2)[name].learner


def schema(classes: int) -> Schema:
    return pictured(classes, IMAGING)


def cohort(n: int, **how: Any) -> Cohort:
    return with_pictures(synthetic.cohort(n, **how), IMAGING, seed=int(how.get("seed", 0)))


def cohort_for(learner: Federated, n: int, **how: Any) -> Cohort:
    """With images where the learner, or one that it is fitted on, looks at them."""
    if any("image" in load(name).modality for name in (learner.name, *learner.needs)):
        return cohort(n, **how)
    table = synthetic.cohort(n, **how)
    return dataclasses.replace(table, schema=schema(len(table.schema.label.classes)))


def split(whole: Cohort, at: Sequence[int], count: int) -> list[Cohort]:
    return [dataclasses.replace(whole.where(np.array(at) == k), site=f"S{k}") for k in range(count)]


@cache
def federation(classes: int, count: int = 3, n: int = 60) -> list[Cohort]:
    """Some cases without an image, some images without a mask, some labels unknown."""
    return pictured_sites(
        n, count, IMAGING, share=0.9, masked=0.9, classes=classes, seed=5, unknown=0.1
    )


@cache
def found(classes: int) -> tuple[Job, ...]:
    """The jobs of a run that trains every head."""
    return tuple(
        build_jobs(
            RUN, study(classes), tuple((f"S{k}",) for k in range(3)), RUN.heads(study(classes))
        )
    )


@cache
def jobs(classes: int) -> dict[str, Job]:
    """Each learner's job: the last one of the run, on the fold `all`; for what a run with noise
    alone has, that one's."""
    noised = dataclasses.replace(RUN, noise=1.0, learners="private_logistic", evaluations=HOLDOUT)
    bounded = build_jobs(noised, study(classes), (), noised.heads(study(classes)))
    mine = {j.learner.name: j for j in bounded} | {
        j.learner.name: j for j in found(classes) if j.fold == Fold()
    }
    return {n: mine.get(n, Job(load(n, hyper(n)), Fold(), (Fold(),))) for n in NAMES}


def several(job: Job) -> bool:
    return job.reads != (job.fold,)


def prepared(job: Job, those: Sequence[Cohort]) -> States:
    """What the job reads, and the learner's own start."""
    start = job.learner.start(those[0].schema, SEED)
    return with_arrays(reading(job, those, {}), job.fold, job.learner.name, start)


Fitted = dict[tuple[Fold, str], Arrays]


def reading(job: Job, those: Sequence[Cohort], fitted: Fitted) -> States:
    classes = len(those[0].schema.label.classes)
    trains = {(j.fold, j.learner.name) for j in found(classes)}
    names = tuple(
        dict.fromkeys(
            n for need in job.learner.needs for n in (*jobs(classes)[need].learner.needs, need)
        )
    )
    if not several(job):
        # what is stacked on other heads exists for the run's outer folds only
        gone = {
            n
            for n in names
            if isinstance(jobs(classes)[n].learner, Stacked) and (job.fold, n) not in trains
        }
        return {
            job.fold: {n: {} if n in gone else fit_one(n, job.fold, those, fitted) for n in names}
        }
    return {
        f: {n: fit_one(n, f, those, fitted) for n in names if (f, n) in trains} for f in job.reads
    }


def fit_one(name: str, fold: Fold, those: Sequence[Cohort], fitted: Fitted) -> Arrays:
    """One learner's arrays for one fold, with all that it needs."""
    if (fold, name) not in fitted:
        classes = len(those[0].schema.label.classes)
        job = next((j for j in found(classes) if (j.fold, j.learner.name) == (fold, name)), None)
        job = job or dataclasses.replace(jobs(classes)[name], fold=fold, reads=(fold,))
        # networks take long, and that they look at nothing but their training rows is tested below
        seen = tuple(c.train(fold, SEED, PARTS, labelled=False).hash for c in those)
        key = (name, classes, fold, *seen, *(c.site for c in those))
        arrays = _NETWORKS.get(key) if name in TINY else None
        if arrays is None:
            plan = dataclasses.replace(local_plan(fold, SEED, PARTS), reads=job.reads)
            states = reading(job, those, fitted)
            state = states.get(fold, {})
            arrays = fit(job.learner, state, those, plan, inner=states)[name]
            _NETWORKS.update({key: arrays} if name in TINY else {})
        fitted[fold, name] = arrays
    return fitted[fold, name]


_NETWORKS: dict[tuple[object, ...], Arrays] = {}


def asked(job: Job, states: States) -> Plan:
    learner = job.learner
    plan = dataclasses.replace(local_plan(job.fold, SEED, PARTS), reads=job.reads)
    return dataclasses.replace(
        plan,
        learner=learner.name,
        phase=learner.phase(states[job.fold][learner.name]),
        hyper=hyper_of(learner),
    )


@dataclass(frozen=True)
class Moment:
    """One exchange: the states before it, the plan, what the sites gave, the step taken."""

    states: States
    plan: Plan
    given: tuple[Contribution, ...]
    step: Step


def walk(job: Job, those: Sequence[Cohort], states: States | None = None) -> Iterator[Moment]:
    learner = job.learner
    states = states or prepared(job, those)
    for _ in range(200):
        plan = asked(job, states)
        given_ = tuple(learner.contribute(states, c, plan) for c in those)
        step = learner.apply(states, total(given_), plan)
        yield Moment(states, plan, given_, step)
        states = with_arrays(states, job.fold, learner.name, step.arrays)
        if step.done:
            return
    raise AssertionError(f"{learner.name} does not come to an end")


@cache
def history(name: str, classes: int) -> tuple[Moment, ...]:
    return tuple(walk(jobs(classes)[name], federation(classes)))


def changed(states: States, change: Callable[[Array], Array]) -> States:
    """The states with every array changed."""
    return {
        fold: {n: {k: change(v) for k, v in arrays.items()} for n, arrays in state.items()}
        for fold, state in states.items()
    }


def frozen(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def both(c: Contribution) -> Arrays:
    return flatten({"sums": c.sums, "tally": c.tally})


def same(a: Contribution, b: Contribution) -> bool:
    return a.cases == b.cases and digest(both(a)) == digest(both(b))


# ---- what it is ----------------------------------------------------------------------------------


@learners
def test_is_a_frozen_dataclass_named_as_its_file(name: str) -> None:
    learner = importlib.import_module(f"common.learners.{name}").LEARNER
    assert isinstance(learner, Federated)
    assert learner.name == name
    assert dataclasses.is_dataclass(learner)
    field = hyper_names(learner)[0] if hyper_names(learner) else "name"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(learner, field, getattr(learner, field))
    assert set(learner.needs) <= set(NAMES)
    assert isinstance(learner.traits, Traits)
    # of the learner as it is configured in the history
    phases = small(name).phases
    for phase, times in Counter(m.plan.phase for m in history(name, 2)).items():
        assert times <= phases[phase].exchanges, phase
    assert all(phase.sends for phase in learner.phases.values())


@learners
def test_hyperparameters_survive_json(name: str) -> None:
    learner = small(name)
    assert configured(load(name), json.loads(json.dumps(hyper_of(learner)))) == learner


@learners
def test_an_unknown_or_mistyped_hyperparameter_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match="learning_speed") as caught:
        load(name, {"learning_speed": 1, "names": "x"})
    assert caught.value.code == "C01"
    assert len(caught.value.faults) == 2
    for key, value in hyper_of(load(name)).items():
        with pytest.raises(UsageError, match=key):
            load(name, {key: {"a": 1} if value != {} else 1})


# ---- how it works --------------------------------------------------------------------------------


@learners
@pytest.mark.parametrize("classes", CLASSES)
def test_start_contribute_and_apply_are_pure(name: str, classes: int) -> None:
    learner, those = jobs(classes)[name].learner, federation(classes)
    assert digest(learner.start(those[0].schema, SEED)) == digest(
        learner.start(those[0].schema, SEED)
    )
    for moment in history(name, classes):
        states = changed(moment.states, frozen)
        before = [c.hash for c in those]
        assert learner.phase(states[moment.plan.fold][name]) == moment.plan.phase
        for c, first in zip(those, moment.given, strict=True):
            assert same(learner.contribute(states, c, moment.plan), first)
        sums = both(total(moment.given))
        again = learner.apply(states, total(moment.given), moment.plan)
        assert digest(again.arrays) == digest(moment.step.arrays)
        assert again.done == moment.step.done
        assert digest(both(total(moment.given))) == digest(sums)
        assert digest(named_arrays(states)) == digest(named_arrays(moment.states))
        assert [dataclasses.replace(c).hash for c in those] == before


@learners
@pytest.mark.parametrize("classes", CLASSES)
def test_nobody_is_the_identity_element_and_declares_names_shapes_and_dtypes(
    name: str, classes: int
) -> None:
    for moment in history(name, classes):
        zero = jobs(classes)[name].learner.contribute(
            moment.states, empty(schema(classes)), moment.plan
        )
        assert zero.cases == 0
        for c in moment.given:
            check(c, zero, moment.plan)
            assert same(c + zero, c)
            assert same(zero + c, c)
        assert not any(v.any() for v in both(zero).values())


@learners
def test_a_contribution_of_other_names_or_shapes_is_refused(name: str) -> None:
    moment = history(name, 2)[0]
    good = moment.given[0]
    zero = jobs(2)[name].learner.contribute(moment.states, empty(schema(2)), moment.plan)
    key = next(iter(good.sums))
    wrong: dict[str, Any] = {
        "shape": {**good.sums, key: np.zeros((7, 7, 7))},
        "dtype": {
            **good.sums,
            key: good.sums[key].astype(np.float32)
            if good.sums[key].dtype != np.float32
            else good.sums[key].astype(int),
        },
        "nan": {**good.sums, key: np.full_like(good.sums[key], np.nan)}
        if good.sums[key].dtype.kind == "f"
        else {},
        "name": {**good.sums, "more": np.zeros(1)},
        "lacking": {k: v for k, v in good.sums.items() if k != key},
    }
    for sums in wrong.values():
        with pytest.raises(RefusedError) as caught:
            check(Contribution(sums, good.cases, good.tally), zero, moment.plan)
        assert caught.value.code == "P02"


@learners
def test_adding_is_associative_up_to_rounding(name: str) -> None:
    for moment in history(name, 2):
        a, b, c = moment.given
        left, right = both((a + b) + c), both(a + (b + c))
        for key, value in left.items():
            np.testing.assert_allclose(value, right[key], rtol=1e-12, atol=1e-9)
        assert ((a + b) + c).cases == (a + (b + c)).cases


@learners
def test_it_looks_at_no_fold_but_those_that_its_plan_reads(name: str) -> None:
    (c, *_), learner = federation(2), jobs(2)[name].learner
    moment = history(name, 2)[0]
    own = {fold: moment.states[fold] for fold in moment.plan.reads}
    strange = {Fold(("nobody",)): changed(own, np.zeros_like)[moment.plan.reads[0]], **own}
    assert same(learner.contribute(own, c, moment.plan), moment.given[0])
    assert same(learner.contribute(strange, c, moment.plan), moment.given[0])


EXACT = [n for n in NAMES if not isinstance(load(n), Averaged) and not several(jobs(2)[n])]


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sums_do_not_depend_on_how_patients_are_split(name: str, data: st.DataObject) -> None:
    classes = data.draw(st.sampled_from(CLASSES))
    job = jobs(classes)[name]
    # what reads other learners has them fitted first
    seed = data.draw(st.integers(0, 0 if job.learner.needs else 2))
    whole, moments = fit_of_one_site(name, classes, seed)
    count = data.draw(st.integers(1, 6))
    those = split(
        whole, data.draw(st.lists(st.integers(0, count - 1), min_size=40, max_size=40)), count
    )
    for moment in moments:
        parts = total([job.learner.contribute(moment.states, c, moment.plan) for c in those])
        one = moment.given[0]
        assert parts.cases == one.cases
        for key, value in both(one).items():
            np.testing.assert_allclose(both(parts)[key], value, rtol=1e-9, atol=1e-9)


@cache
def fit_of_one_site(name: str, classes: int, seed: int) -> tuple[Cohort, tuple[Moment, ...]]:
    """Forty patients at one site, and all exchanges with it."""
    job = jobs(classes)[name]
    whole = cohort_for(job.learner, 40, classes=classes, seed=seed, unknown=0.1)
    return whole, tuple(walk(job, [whole]))


@learners
@pytest.mark.parametrize("classes", CLASSES)
def test_goes_on_from_packed_arrays_at_any_step(name: str, classes: int) -> None:
    moments = history(name, classes)
    want = digest(moments[-1].step.arrays)
    for at in {0, 1, len(moments) // 2, len(moments) - 1} & set(range(len(moments))):
        states = {
            fold: {n: unpack(pack(arrays)) for n, arrays in state.items()}
            for fold, state in moments[at].states.items()
        }
        *_, last = walk(jobs(classes)[name], federation(classes), states)
        assert digest(last.step.arrays) == want


# ---- under noise and masks -----------------------------------------------------------------------

NOISED = Privacy(1.0)


def bent(states: States, data: st.DataObject) -> States:
    """States that a coordinator has made up: values of any size, in the declared shapes."""
    scale = data.draw(st.sampled_from([1.0, 1.0, 1e3, 1e150, 1e308, np.inf, np.nan]))
    r = np.random.default_rng(data.draw(st.integers(0, 99)))

    def bend(v: Array) -> Array:
        if v.dtype.kind != "f" or r.random() < 0.5:
            return v
        with np.errstate(all="ignore"):
            return (v + scale * r.choice([-1.0, 0.0, 1.0], v.shape)).astype(v.dtype)

    return {
        fold: {n: {k: bend(v) for k, v in arrays.items()} for n, arrays in state.items()}
        for fold, state in states.items()
    }


# ---- what a state may be -------------------------------------------------------------------------


@learners
@pytest.mark.parametrize("classes", CLASSES)
def test_states_of_an_honest_fit_are_what_learners_say_they_are(name: str, classes: int) -> None:
    moments = history(name, classes)
    for moment in moments:
        for state in moment.states.values():
            validate(state, schema(classes))
    if any(name in load(n).needs for n in NAMES) or isinstance(load(name), Head):
        validate(
            {**moments[-1].states[moments[-1].plan.fold], name: moments[-1].step.arrays},
            schema(classes),
        )


BENDS = ("shape", "longer", "dtype", "whole", "nan", "huge", "missing", "more")


@learners
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_state_of_another_form_is_refused_before_a_patient_is_looked_at(
    name: str, data: st.DataObject
) -> None:
    """Other names, dtypes, shapes, indices, no numbers or huge ones: P02, by `validate` alone."""
    classes = data.draw(st.sampled_from(CLASSES))
    moments = history(name, classes)
    states = moments[data.draw(st.integers(0, len(moments) - 1))].states
    places = [(f, n, k) for f, s in states.items() for n, a in s.items() for k in a]
    if not places:
        return  # it reads nothing, and has nothing yet
    fold, learner, key = data.draw(st.sampled_from(sorted(places, key=str)))
    own, how = dict(states[fold][learner]), data.draw(st.sampled_from(BENDS))
    array, kind = own[key], own[key].dtype.kind
    if how == "missing" and len(own) > 1:
        del own[key]
    elif how == "more":
        own["more"] = np.zeros(1)
    elif how == "shape":
        own[key] = array[None]
    elif how == "longer" and array.ndim:
        own[key] = np.concatenate([array, np.repeat(array[-1:], 3, axis=0)])
        if not len(array) or key in LOOSE:
            return
    elif how == "dtype":
        with np.errstate(all="ignore"):
            own[key] = array.astype(np.float16)
    elif how == "nan" and kind == "f" and array.size:
        own[key] = np.full_like(array, np.nan)
        if key in ("auc", "base"):
            return  # as it is where nobody knows
    elif how == "huge" and kind in "fi" and array.size:
        own[key] = np.full_like(array, -(2**31) if kind == "i" else 3e38)
    elif how == "whole" and kind == "i" and array.size:
        bent_ = array.copy()
        bent_.flat[data.draw(st.integers(0, array.size - 1))] = 2**31 - 1
        own[key] = bent_
    else:
        return
    with pytest.raises(RefusedError) as caught:
        validate({**states[fold], learner: own}, schema(classes))
    assert caught.value.code == "P02"


LOOSE = ("edges", "losses")
"""Of any length; `edges` is held against `offsets` where trees count bins."""


@learners
@pytest.mark.parametrize("how", ["noise", "masks"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_under_noise_and_masks_patients_add_up_to_the_last_bit(
    name: str, how: str, data: st.DataObject
) -> None:
    """Whatever the states are, a cohort's sum is that of its patients, each alone: nobody's values
    depend on who else is there, nothing fails because of one, and each stays within the bound."""
    classes = data.draw(st.sampled_from(CLASSES))
    learner, moments = jobs(classes)[name].learner, history(name, classes)
    moment = moments[data.draw(st.integers(0, len(moments) - 1))]
    noise = {"privacy": NOISED} if how == "noise" else {"secure": True}
    plan = dataclasses.replace(moment.plan, **noise)  # type: ignore[arg-type]
    # some are in no training set: their labels are not known
    seed = data.draw(st.integers(0, 999))
    c = cohort_for(learner, 8, classes=classes, seed=seed, missing=0.2, unknown=0.3)
    bound = bounded(learner, plan, c)
    if bound is None:
        return  # it cannot account; or adds its noise itself
    states = bent(moment.states, data)
    try:
        identity(learner, states, c.schema, plan)
    except Exception:
        return  # refused whoever the patients are
    whole = protected(learner, states, c, plan, bound, lambda _: None)
    each = [
        protected(learner, states, c.where(np.arange(8) == i), plan, bound, lambda _: None)
        for i in range(8)
    ]
    assert whole.cases == sum(e.cases for e in each)
    on = grid(bound, NOISED.spread) if how == "noise" else Grid(FINEST)
    size = sum(v.size for v in whole.sums.values())
    for key, value in whole.sums.items():
        assert (value == np.sum([e.sums[key] for e in each], axis=0)).all(), key
    for e in each:
        steps = np.concatenate([np.ravel(v).astype(float) for v in e.sums.values()])
        length = np.linalg.norm(steps) * (on.step if how == "noise" else 1.0)
        assert length <= on.sensitivity(bound, size) * (1 + 1e-9)


@learners
@pytest.mark.parametrize("classes", CLASSES)
def test_what_is_added_patient_by_patient_is_the_sum(name: str, classes: int) -> None:
    learner = jobs(classes)[name].learner
    for moment in history(name, classes):
        plan = dataclasses.replace(moment.plan, secure=True)
        for c, given_ in zip(federation(classes), moment.given, strict=True):
            if (bound := bounded(learner, plan, c)) is None:
                continue
            own = protected(learner, moment.states, c, plan, bound, lambda _: None)
            assert own.cases == given_.cases
            for key, value in both(given_).items():
                np.testing.assert_allclose(both(own)[key], value, rtol=1e-6, atol=1e-6)


@learners
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_one_patient_moves_the_sums_by_no_more_than_declared(
    name: str, data: st.DataObject
) -> None:
    classes = data.draw(st.sampled_from(CLASSES))
    learner, moments = jobs(classes)[name].learner, history(name, classes)
    moment = moments[data.draw(st.integers(0, len(moments) - 1))]
    bound = learner.phases[moment.plan.phase].sensitivity(schema(classes))
    if not isinstance(bound, float):
        return  # it cannot account, and a plan with a budget will not be given to it; or adds its noise itself, see below
    assert bound > 0
    c = cohort_for(
        learner,
        12,
        classes=classes,
        seed=data.draw(st.integers(0, 999)),
        missing=data.draw(st.sampled_from([0.0, 0.5])),
    )
    values = c.values.copy()
    who = data.draw(st.integers(0, 11))
    for j, feature in enumerate(c.schema.features):
        # the one patient may sit on the bounds
        if hasattr(feature, "low") and data.draw(st.booleans()):
            values[who, j] = data.draw(st.sampled_from([feature.low, feature.high]))
    c = dataclasses.replace(
        c,
        values=values,
        labels=np.where(np.arange(12) == who, data.draw(st.integers(0, classes - 1)), c.labels),
    )
    with_ = learner.contribute(moment.states, c, moment.plan)
    without = learner.contribute(moment.states, c.where(np.arange(12) != who), moment.plan)
    moved = np.sqrt(
        sum(float(((with_.sums[k] - without.sums[k]).astype(float) ** 2).sum()) for k in with_.sums)
    )
    assert moved <= bound * (1 + 1e-6)


@learners
@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_state_that_a_coordinator_may_send_moves_them_further(
    name: str, data: st.DataObject
) -> None:
    """The bound is the site's, whatever the arrays say; that they are refused, or give no number,
    is as good."""
    classes = data.draw(st.sampled_from(CLASSES))
    learner, moments = jobs(classes)[name].learner, history(name, classes)
    moment = moments[data.draw(st.integers(0, len(moments) - 1))]
    bound = learner.phases[moment.plan.phase].sensitivity(schema(classes))
    if not isinstance(bound, float):
        return
    r = np.random.default_rng(data.draw(st.integers(0, 999)))
    chosen = st.sampled_from(["as it is", "large", "negative", "small", "random", "nan"])

    def bent(array: Array) -> Array:
        how = data.draw(chosen)
        if array.dtype.kind != "f" or how == "as it is":
            return array
        by = {"large": 1e6, "negative": -50.0, "small": 1e-6, "nan": np.nan}.get(how)
        return (
            array * by + (by > 1) if by is not None else array + 10 * r.normal(size=array.shape)
        ).astype(array.dtype)

    states = changed(moment.states, bent)
    c = cohort_for(learner, 12, classes=classes, seed=data.draw(st.integers(0, 999)))
    who = data.draw(st.integers(0, 11))
    try:
        with_ = learner.contribute(states, c, moment.plan)
        without = learner.contribute(states, c.where(np.arange(12) != who), moment.plan)
    except (FedmetsError, ValueError, IndexError, OverflowError, ZeroDivisionError):
        return
    moved = np.sqrt(
        sum(float(((with_.sums[k] - without.sums[k]).astype(float) ** 2).sum()) for k in with_.sums)
    )
    assert not np.isfinite(moved) or moved <= bound * (1 + 1e-6) + 1e-9 * max(
        float(np.abs(v).max(initial=0)) for v in with_.sums.values()
    )


@learners
def test_what_adds_its_noise_itself_sends_one_case_and_nothing_that_a_seed_makes_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whether patients may share a pass is tried out for long, and tested with the networks
    monkeypatch.setattr(row_independence, "row_independent", lambda *_: False)
    learner, those = small(name), federation(2)
    sampled = [
        m
        for m in history(name, 2)
        if isinstance(learner.phases[m.plan.phase].sensitivity(schema(2)), Sampled)
    ]
    for moment in sampled[:1]:
        plan = dataclasses.replace(moment.plan, privacy=Privacy(1.0))
        first, again = (learner.contribute(moment.states, those[0], plan) for _ in range(2))
        nobody = learner.contribute(moment.states, empty(schema(2)), plan)
        assert (first.cases, first.tally) == (moment.given[0].cases, {})
        check(first, nobody, plan)
        assert digest(first.sums) != digest(again.sums)
        with repeatable(7, "x"):
            seeded = learner.contribute(moment.states, those[0], plan)
        with repeatable(7, "x"):
            reseeded = learner.contribute(
                moment.states, those[0], dataclasses.replace(plan, seed=SEED + 1)
            )
        assert digest(seeded.sums) == digest(reseeded.sums)
        given = {k: moment.states[plan.fold][name][k] for k in nobody.sums}
        assert all((nobody.sums[k] != v).any() for k, v in given.items()), "nobody is hidden, too"


# ---- what it has not seen (guard L05) ------------------------------------------------------------


def poisoned(those: Sequence[Cohort], fold: Fold) -> list[Cohort]:
    """Other values, labels and follow-up wherever a row is outside the training set of `fold`."""
    out = []
    for c in those:
        kept = set(c.train(fold, SEED, PARTS, labelled=False).ids)
        bad = np.array([i not in kept for i in c.ids])
        other = cohort(len(c), classes=len(c.schema.label.classes), seed=99)
        labels = np.where(
            bad & (c.labels >= 0), (c.labels + 1) % len(c.schema.label.classes), c.labels
        )
        pictures = tuple(
            q if b and p else p for p, q, b in zip(c.pictures, other.pictures, bad, strict=True)
        )
        assert bad.any()
        values = np.where(bad[:, None], other.values, c.values)
        out.append(
            dataclasses.replace(c, values=values, labels=labels, pictures=pictures, flow=c.flow)
        )
    return out


TRAINED = [n for n in NAMES if load(n).traits.trains and not several(jobs(2)[n])]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    "fold", [Fold(parts=(1,)), Fold(("S1",)), Fold(("S0",), (2,))], ids=lambda f: f.key
)
def test_rows_outside_the_training_set_change_nothing(name: str, fold: Fold) -> None:
    job = dataclasses.replace(jobs(2)[name], fold=fold, reads=(fold,))
    those = federation(2)
    (*_, clean), (*_, dirty) = (
        walk(job, those),
        walk(job, poisoned(those, fold) if fold.parts else [*poisoned_site(those, fold)]),
    )
    assert digest(clean.step.arrays) == digest(dirty.step.arrays)
    (*_, other) = walk(
        dataclasses.replace(job, fold=Fold(), reads=(Fold(),)),
        poisoned(those, fold) if fold.parts else poisoned_site(those, fold),
    )
    # the poison does work where it is eaten
    assert digest(other.step.arrays) != trained_on_all(name)


@cache
def trained_on_all(name: str) -> str:
    job = dataclasses.replace(jobs(2)[name], fold=Fold(), reads=(Fold(),))
    (*_, whole) = walk(job, federation(2))
    return digest(whole.step.arrays)


def poisoned_site(those: Sequence[Cohort], fold: Fold) -> list[Cohort]:
    return [poisoned([c], fold)[0] if c.site in fold.sites else c for c in those]


@pytest.mark.parametrize("name", [n for n in HEADS if isinstance(load(n), Stacked)])
def test_a_head_on_other_heads_does_not_see_the_test_rows_of_its_outer_fold(name: str) -> None:
    fold, those = Fold(parts=(1,)), federation(2)
    (job,) = (j for j in found(2) if (j.fold, j.learner.name) == (fold, name))
    (*_, clean), (*_, dirty) = walk(job, those), walk(job, poisoned(those, fold))
    assert digest(clean.step.arrays) == digest(dirty.step.arrays)
    (*_, other) = walk(job, poisoned(those, Fold(parts=(0,))))
    assert digest(other.step.arrays) != digest(clean.step.arrays)


JUDGES = [n for n in NAMES if len(jobs(2)[n].reads) > 1 and "heads" in hyper_names(load(n))]


# who needs the evaluation has its thresholds from there
@pytest.mark.parametrize("name", [n for n in JUDGES if "evaluation" not in load(n).needs])
def test_thresholds_of_a_fold_do_not_see_its_test_rows(name: str) -> None:
    job = jobs(2)[name]
    those = pictured_sites(45, 3, IMAGING, seed=5)
    (clean,) = walk(job, those)
    # everything is fitted anew for each fold: one stands for all
    (dirty,) = walk(job, poisoned(those, Fold(parts=(1,))))
    assert_unmoved(clean.step.arrays, dirty.step.arrays, HEADS, "within", 1)
    # learners on images leave no site out but in a full run
    job = dataclasses.replace(job, learner=configured(job.learner, {"heads": list(TABLE_HEADS)}))
    (clean,) = walk(job, those)
    alone = [f for f in job.reads if f.sites and not f.parts]
    assert len(alone) == 3
    for at in (0, 2):
        (dirty,) = walk(job, poisoned_site(those, alone[at]))
        assert_unmoved(clean.step.arrays, dirty.step.arrays, TABLE_HEADS, "left_out", at)


def assert_unmoved(clean: Arrays, dirty: Arrays, those: Sequence[str], kind: str, at: int) -> None:
    names = [k for k in clean if "/thresholds/" in k or "/log_loss/" in k]
    chosen = [k for k in names if k.endswith(kind)]
    assert len(chosen) == 2 * len(those)
    for key in chosen:
        assert clean[key][at].tobytes() == dirty[key][at].tobytes(), key
        assert clean[key][at].any(), key
    assert any(clean[k].tobytes() != dirty[k].tobytes() for k in names)


# ---- heads ---------------------------------------------------------------------------------------


def trained(name: str, classes: int) -> State:
    last = history(name, classes)[-1]
    return {**last.states[last.plan.fold], name: last.step.arrays}


def nothing_known(classes: int) -> Cohort:
    c = cohort(4, classes=classes)
    return dataclasses.replace(c, values=np.full_like(c.values, np.nan))


@heads
@pytest.mark.parametrize("classes", CLASSES)
def test_predictions_are_distributions_even_for_patients_of_whom_nothing_is_known(
    name: str, classes: int
) -> None:
    head, state = small(name), trained(name, classes)
    assert isinstance(head, Head)
    for c in (*federation(classes), nothing_known(classes), empty(schema(classes))):
        p = head.predict(state, c)
        assert p.shape == (len(c), classes)
        assert ((p >= 0) & (p <= 1)).all()
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)


@heads
@pytest.mark.parametrize("classes", CLASSES)
def test_a_prediction_depends_on_the_patient_alone(name: str, classes: int) -> None:
    head, state = small(name), trained(name, classes)
    assert isinstance(head, Head)
    (c, *_) = federation(classes)
    together = head.predict(state, c)
    some = np.arange(len(c)) % 3 == 0
    np.testing.assert_allclose(head.predict(state, c.where(some)), together[some], atol=1e-12)
    assert together.std(axis=0).min() > 1e-4  # not a constant


@table_heads
@pytest.mark.parametrize("classes", CLASSES)
def test_explanations_add_up_to_the_log_odds(name: str, classes: int) -> None:
    """Contributions and a base that is the same for everybody; integrated gradients of a network
    add up to their quadrature."""
    head, state = small(name), trained(name, classes)
    assert isinstance(head, TableHead)
    c = dataclasses.replace(federation(classes)[0])
    values = head.explain(state, c)
    assert values.shape[:2] == (len(c), len(c.schema.features))
    assert values.shape[2] in (classes - 1, classes)
    p = head.predict(state, c)
    if values.shape[2] == classes:
        values = values[:, :, 1:] - values[:, :, :1]
    rest = np.log(p[:, 1:] / p[:, :1]) - values.sum(axis=1)
    spread = 0.05 if isinstance(head, Averaged) and hyper_of(head).get("hidden") else 1e-5
    assert np.ptp(rest, axis=0).max() <= spread
    assert head.explain(state, empty(c.schema)).shape == (
        0,
        *values.shape[1:2],
        *head.explain(state, c).shape[2:],
    )


@table_heads
def test_alone_trains_without_federation_and_predicts(name: str) -> None:
    head = small(name)
    assert isinstance(head, TableHead)
    those = federation(2)
    for some in (those[:1], those):
        state = head.alone(some, Fold(parts=(0,)), SEED, PARTS)
        for c in (those[2], nothing_known(2), empty(schema(2))):
            p = head.predict(state, c)
            assert p.shape == (len(c), 2)
            np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
        assert head.explain(state, those[2]).shape[:2] == (len(those[2]), len(schema(2).features))
    poison = [dataclasses.replace(c, flow=c.flow) for c in poisoned(those, Fold(parts=(0,)))]
    left, right = (
        head.alone(those, Fold(parts=(0,)), SEED, PARTS),
        head.alone(poison, Fold(parts=(0,)), SEED, PARTS),
    )
    assert digest(flatten(left)) == digest(flatten(right))


# ---- the minimum ---------------------------------------------------------------------------------

COVERING = [n for n in NAMES if isinstance(load(n), Covering)]


@pytest.mark.parametrize("name", COVERING)
@pytest.mark.parametrize("read", ["all", "some"])
def test_sums_cover_no_fewer_patients_than_their_learner_says(name: str, read: str) -> None:
    """Whoever is behind a row moves it by going: all folds read, and one or two of them."""
    learner, moment = jobs(2)[name].learner, history(name, 2)[-1]
    plan = moment.plan
    if read == "some":
        plan = dataclasses.replace(plan, reads=(plan.fold, *plan.reads[1:3]))
    c = federation(2)[0]
    c = c.where(np.arange(len(c)) < 9)
    assert isinstance(learner, Covering)
    told, covers = (
        learner.contribute(moment.states, c, plan),
        learner.covers(moment.states, c, plan),
    )
    others = [
        learner.contribute(moment.states, c.where(np.arange(len(c)) != i), plan)
        for i in range(len(c))
    ]
    rows = 0
    for beginning, cover in covers.items():
        assert cover.rows.shape == cover.most.shape
        assert (cover.rows <= cover.most).all() or cover.rows.ndim == 0
        mine = [k for k in told.sums if k == beginning or k.startswith(f"{beginning}/")]
        assert mine, f"{beginning} begins no sum"
        for at, declared in np.ndenumerate(cover.rows):
            if not any(told.sums[k][at].any() for k in mine):
                continue
            moved = sum(
                any((o.sums[k][at] != told.sums[k][at]).any() for k in mine) for o in others
            )
            # a tree, or a line, need not look at each feature of everybody
            assert moved >= declared or name == "importance", (beginning, at)
            rows += 1
    assert rows or read == "some"


@learners
def test_work_can_be_timed_on_made_up_patients(name: str) -> None:
    """None of them fails: else what is timed would be the failure."""
    learner, phases = jobs(2)[name].learner, {m.plan.phase: m for m in history(name, 2)}
    for moment in phases.values():
        plan = dataclasses.replace(moment.plan, secure=True)
        made = made_up(schema(2), 3, (plan.fold, plan.seed, plan.parts), imaged=True)
        said: list[str] = []
        sums = contributed(learner, moment.states, made, plan, said.append, one_by_one=True)
        assert sums.cases == learner.contribute(moment.states, made, plan).cases
        assert all(": 0 patients add nothing" in s for s in said)
