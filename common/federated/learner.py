"""Learner, something federated: it starts, asks each site for a Contribution, applies the total,
says when it is done.

A learner is a frozen dataclass whose fields are its hyperparameters; all that changes lives in the
arrays that go in and come out (FedJAX's `init` and `apply`). Each learner bounds what one *patient*
can add to its sums and declares that bound.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache, partial
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

from common import learners
from common.data.cohort import Cohort, Fold, empty
from common.data.schema import Floats, Schema
from common.errors import RefusedError, UsageError, WireError
from common.federated import hyper_limits
from common.federated.array_rules import ArrayRules, demand_arrays
from common.federated.states import States, with_arrays
from common.privacy.mechanism import Bound, Privacy, Sampled
from common.runtime.cache import Cache
from common.types import Arrays, Probs, State, digest

Hyper = Mapping[str, object]
MEMORY = "memory/"
"""Arrays of a learner so named are the coordinator's own (moments of a strategy, what rounding left
over): they do not travel."""


@dataclass(frozen=True)
class Plan:
    """What a coordinator asks of one site for one learner and one fold in one exchange."""

    run: str
    site: str
    study: str
    task: str
    schema: str
    """Hash of the task's schema; a site that has another one refuses."""
    step: int
    learner: str
    phase: str
    fold: Fold
    reads: tuple[Fold, ...]
    """The folds whose states the learner reads: its own, or several for an evaluation."""
    state_hash: str
    """Of the states that travel with the plan."""
    participants: tuple[str, ...]
    expires: float
    """Unix time after which a site refuses the plan."""
    hyper: Hyper
    seed: int
    """The split seed, and the source of every public random choice (column and row subsampling).
    Never of noise."""
    parts: int
    """The number of hash parts that patients are folded into."""
    transfer: str = "whole"
    """How parameters travel in this run: one of `common.wire.compression.HOWS`."""
    secure: bool = False
    """The answer is masked, with those of all plans of the step together
    (`common.wire.masked_messages`)."""
    privacy: Privacy | None = None
    """The noise that every sum must have, and whether sites share it; None: none is asked for."""
    budget: str = ""
    """The head of the site's budget chain as the coordinator was last told: a station that does not
    know it is an old copy of itself."""

    @cached_property
    def hash(self) -> str:
        """SHA-256 of every field; a repeated plan has the same hash."""
        return hashlib.sha256(
            f"{self.question} {self.expires!r} {self.budget}".encode()
        ).hexdigest()

    @cached_property
    def question(self) -> str:
        """SHA-256 of every field but `expires` and `budget`: a coordinator that resumes asks the
        same again, with more time."""
        folds = [[f.sites, f.parts] for f in (self.fold, *self.reads)]
        privacy = [self.privacy.noise, self.privacy.shared] if self.privacy else [0, 0]
        plain = [getattr(self, f) for f in _PLAIN] + privacy
        text = json.dumps([plain, folds, self.hyper], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def protected(self) -> bool:
        """Noise or masks follow: a patient's values are cut, rounded and added by themselves
        (`common.federated.protected_sums`)."""
        return self.privacy is not None or self.secure

    @property
    def place(self) -> str:
        """Where in its run the plan stands: a site answers one question there."""
        return f"{self.step}\t{self.learner}\t{self.fold.key}"


_PLAIN = tuple(
    f.name
    for f in dataclasses.fields(Plan)
    if f.name not in ("fold", "reads", "hyper", "expires", "privacy", "budget")
)


@dataclass(frozen=True)
class Contribution:
    """A summand: named sums over a site's patients, how many patients, and a tally (sums that are
    watched, not learnt from)."""

    sums: Arrays
    cases: int
    tally: Arrays = field(default_factory=dict)

    def __add__(self, other: Contribution) -> Contribution:
        return _sum([self, other])


def total(contributions: Sequence[Contribution]) -> Contribution:
    """The sum, added in the given order (the callers' is site order): floating-point sums are then
    the same in every engine."""
    return contributions[0] if len(contributions) == 1 else _sum(contributions)


def _sum(contributions: Iterable[Contribution]) -> Contribution:
    """Into one set of arrays, whatever the number of contributions."""
    sums: Arrays | None = None
    tally: Arrays = {}
    cases = 0
    for c in contributions:
        if sums is None:
            # 0-dimensional sums become arrays, which can be added to in place
            sums, tally = (
                {k: np.array(v) for k, v in arrays.items()} for arrays in (c.sums, c.tally)
            )
        else:
            for mine, theirs in ((sums, c.sums), (tally, c.tally)):
                _add(mine, theirs)
        cases += c.cases
    return Contribution(sums or {}, cases, tally)


def _add(mine: Arrays, theirs: Arrays) -> None:
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in theirs.items()}:
        raise RefusedError(
            "P02", f"contributions differ in names or shapes: {sorted(mine)} and {sorted(theirs)}"
        )
    for k, v in theirs.items():
        mine[k] = (
            np.add(mine[k], v, out=mine[k])
            if np.result_type(mine[k], v) == mine[k].dtype
            else mine[k] + v
        )


@dataclass(frozen=True)
class Step:
    """What `apply` returns: the new arrays, and whether the learner is done."""

    arrays: Arrays
    done: bool


@dataclass(frozen=True)
class Phase:
    """One kind of exchange: what leaves a site in it, how often, and what one patient can
    change."""

    sends: str
    """What of a site's patients is summed."""
    exchanges: int
    """The most of one fit."""
    bound: Callable[[Schema], float | Sampled] | None
    """L2 norm by which one patient, added or removed, can change `sums`; None: cannot account.

    `Sampled`: under `plan.privacy` the sums have noise already (`common.networks.dp_sgd`), and are
    given for one case: parameters as they are, by no number of cases.
    """
    fine: bool = False
    """Its sums have cells of few patients, of one too, whatever the fold holds: without noise or
    masks they leave where a site's policy says so and nowhere else."""

    def sensitivity(self, schema: Schema) -> Bound:
        """The bound under one schema."""
        return None if self.bound is None else self.bound(schema)


@dataclass(frozen=True)
class Traits:
    """What else is read of a learner, with what holds of most."""

    trains: bool = False
    """It sees the training rows of its fold and no others: patients of parts that the fold leaves
    out pay nothing for it."""
    unlabelled: bool = False
    """Its cases may be of unknown label."""
    spares: tuple[str, ...] = ()
    """Of `needs`: what is used only where it could be fitted."""
    beyond: tuple[str, ...] = ()
    """What its `explain` gives contributions of beyond the features of the table."""


@runtime_checkable
class Federated(Protocol):
    """What the driver and the station need. `states` holds the folds of `plan.reads`, each with at
    least `needs`, and at the coordinator `plan.fold` with the learner's own arrays.

    A learner that reads one fold begins with `states[plan.fold]`.
    """

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def modality(self) -> frozenset[str]: ...
    @property
    def phases(self) -> Mapping[str, Phase]: ...
    @property
    def traits(self) -> Traits: ...
    def start(self, schema: Schema, seed: int) -> Arrays: ...
    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        """What its arrays must be, where it has any: all that `start` and `apply` make, whatever its
        hyperparameters are, and nothing else. `own`: the arrays, of which nothing is known yet; an
        error while their sizes are read is a refusal. None for what is done in one exchange and
        needed by nobody: it never travels."""
        ...

    def phase(self, arrays: Arrays) -> str:
        """What the next exchange asks for."""
        ...

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        """At a site. `cohort` is the whole site; the learner takes `cohort.train(plan.fold, ...)`
        itself."""
        ...

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        """At the coordinator. Pure: the same states and total give the same arrays."""
        ...


@runtime_checkable
class Head(Federated, Protocol):
    """A learner that predicts the label."""

    def predict(self, state: State, cohort: Cohort) -> Probs:
        """(cases, classes); rows sum to 1. Works for cases with every feature missing, and for
        those without an image."""
        ...


@runtime_checkable
class Averaged(Federated, Protocol):
    """A learner whose contributions are parameters times cases."""

    def parameters(self, arrays: Arrays) -> Arrays: ...


@runtime_checkable
class Validated(Federated, Protocol):
    """A learner whose arrays must fit together, and to those that it needs, in ways that no rule
    for one array says."""

    def validate(self, state: State, schema: Schema) -> None:
        """RefusedError P02 where the arrays of one fold are none that this learner makes, whatever
        its hyperparameters are. `state` holds its `needs`, too."""
        ...


@runtime_checkable
class Explained(Head, Protocol):
    """A head that says what its predictions follow from."""

    def explain(self, state: State, cohort: Cohort) -> Floats:
        """(cases, features and `traits.beyond`, classes - 1 or classes): additive contributions
        (SHAP) to the log-odds."""
        ...


@runtime_checkable
class TableHead(Explained, Protocol):
    """A head on the clinical table."""

    def alone(
        self, cohorts: Sequence[Cohort], fold: Fold, seed: int, parts: int, prepare: Federated = ...
    ) -> State:
        """The same model without federation, from the rows of `cohorts` put together: one
        hospital's own, or pooled.

        `prepare`: the run's preprocessing; the default one where none is given.
        """
        ...


@runtime_checkable
class Stacked(Head, Protocol):
    """A head fitted on the out-of-fold predictions of other heads: it exists for outer training
    sets only."""

    @property
    def clinical(self) -> str:
        """The head that it starts from: the one that is reported as `clinical`."""
        ...

    @property
    def outer(self) -> tuple[str, ...]:
        """Of `needs`: the learners that only the outer training set need have."""
        ...

    def predict_inside(self, outer: State, inner: State, cohort: Cohort, part: int) -> Probs:
        """Cases of `part`, a training part of `outer`, by models that have not seen them: `inner`
        left out that part too."""
        ...


@runtime_checkable
class Grouped(Federated, Protocol):
    """A learner whose model says something of a group of patients, such as those of a leaf."""

    @property
    def smallest_leaf(self) -> int:
        """The fewest patients of a group, over all sites; 0: not limited."""
        ...


def lacks(learner: Federated, state: State, without: Sequence[str] = ()) -> bool:
    """Is something missing in one fold's state that the learner cannot do without? `without`: what
    it need not have there."""
    spared = (*learner.traits.spares, *without)
    return any(not state.get(need) for need in learner.needs if need not in spared)


def validate(state: State, schema: Schema) -> None:
    """RefusedError P02 where one fold's state, as it came from elsewhere, has arrays that its
    learners do not make. Those that no learner is named after are read by nobody.

    What was found to be sound is remembered by its content: a fold's state comes with each of its
    plans, and to each virtual site of one process.
    """
    content = {n: _content(state[n]) for n in sorted(state) if n in names() and state[n]}
    for name, own_content in content.items():
        learner, own = load(name), state[name]
        arrays, whole = (schema.hash, name, own_content), (schema.hash, name, *content.items())
        if not _SOUND.get(arrays):
            demand_arrays(name, partial(learner.arrays, own, schema), own)
            _SOUND[arrays] = bool(own_content)
        if isinstance(learner, Validated) and not _SOUND.get(whole):
            learner.validate(state, schema)
            _SOUND[whole] = all(content.values())


_SOUND: Cache[tuple[object, ...], bool] = Cache(4096)


def _content(arrays: Arrays) -> str:
    """Hash of arrays; '' for such as cannot be packed, which no learner makes."""
    try:
        return digest(arrays)
    except WireError:
        return ""


def load(name: str, hyper: Hyper | None = None) -> Federated:
    """The learner in `common/learners/<name>.py` with `hyper` in place of its defaults; every
    unknown field is named."""
    return _load(name, json.dumps(hyper or {}, sort_keys=True))


@lru_cache(maxsize=256)
def _load(name: str, hyper: str) -> Federated:
    """A site answers the same few plans again and again."""
    if name not in names():
        raise UsageError("C02", f"learner '{name}' is unknown; there are {', '.join(names())}")
    learner = importlib.import_module(f"{learners.__name__}.{name}").LEARNER
    return cast(Federated, configured(learner, json.loads(hyper)))


L = TypeVar("L")


def configured(learner: L, hyper: Hyper) -> L:
    """A copy of `learner` with other hyperparameters; lists become tuples, types must match the
    defaults'."""
    made: Any = learner
    fields, name = _hypers(made), made.name
    faults = []
    values: dict[str, object] = {}
    for key, value in hyper.items():
        value = tuple(value) if isinstance(value, list) else value
        if key not in fields:
            faults.append(
                f"learner '{name}' has no hyperparameter '{key}'; it has "
                f"{', '.join(sorted(fields)) or 'none'}"
            )
        elif type(value) is not type(fields[key]) and not (
            isinstance(fields[key], float) and type(value) is int
        ):
            faults.append(
                f"learner '{name}': {key}={value!r} is a {type(value).__name__}, "
                f"expected {type(fields[key]).__name__} (default {fields[key]!r})"
            )
        elif isinstance(value, dict) and not all(isinstance(v, dict) for v in value.values()):
            faults.append(
                f"learner '{name}': {key}={value!r} must be an object of hyperparameters by learner"
            )
        elif wrong := hyper_limits.fault(value):
            faults.append(f"learner '{name}': {key}={str(value)[:80]} {wrong}")
        else:
            values[key] = float(value) if isinstance(fields[key], float) else value  # type: ignore[arg-type]
    if faults:
        raise UsageError("C01", *faults)
    return cast(L, _replaced(made, values))


def _replaced(record: Any, values: Hyper) -> Any:
    """A copy of a learner, or of hyperparameters that travel together, with other values of its own
    and of those within."""
    own: dict[str, object] = {}
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        if dataclasses.is_dataclass(value):
            own[f.name] = _replaced(value, values)
        elif f.name in values:
            own[f.name] = values[f.name]
    return dataclasses.replace(record, **own)


def demand(name: str, rules: Mapping[str, bool]) -> None:
    """Refuse hyperparameters out of range, all at once (C01). NaN fulfils no rule."""
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise UsageError(
            "C01",
            *(f"learner '{name}' needs {rule}; change that hyperparameter" for rule in broken),
        )


def hyper_names(learner: Any) -> tuple[str, ...]:
    """The fields a plan may set: all but those that say what the learner is."""
    return tuple(_hypers(learner))


def _hypers(record: Any) -> dict[str, object]:
    """Hyperparameters by name. Those that learners share (`common.networks.training.LocalTraining`)
    go by their own names."""
    out: dict[str, object] = {}
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        if dataclasses.is_dataclass(value):
            out |= _hypers(value)
        elif f.name not in ("name", "needs", "modality", "phases", "traits"):
            out[f.name] = value
    return out


def hyper_of(learner: Any) -> dict[str, object]:
    """The hyperparameters of `learner`, as a plan carries them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in _hypers(learner).items()}


def names() -> tuple[str, ...]:
    """All learners: the files of `common/learners/`."""
    return _names(tuple(learners.__path__))


@cache
def _names(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folders)))


def identity(learner: Federated, states: States, schema: Schema, plan: Plan) -> Contribution:
    """Zero of the sum: declares the names, shapes and dtypes that an Update for this plan must
    have.

    Remembered for the states that the plan names: the coordinator, and virtual sites of one process,
    ask for the same one.
    """
    if not plan.state_hash:
        return _zero(learner, states, schema, plan)
    fields = (
        plan.learner,
        plan.phase,
        plan.fold,
        plan.reads,
        plan.seed,
        plan.parts,
        plan.privacy,
        plan.participants,
        plan.secure,
    )
    key = (plan.state_hash, schema.hash, *fields, json.dumps(plan.hyper, sort_keys=True))
    zero = _ZEROS.get(key)
    if zero is None:
        zero = _zero(learner, states, schema, plan)
        _ZEROS[key] = zero
    return zero


def _zero(learner: Federated, states: States, schema: Schema, plan: Plan) -> Contribution:
    zero = learner.contribute(states, empty(schema), plan)
    if plan.privacy is not None:
        zero = dataclasses.replace(zero, tally={})
    if plan.protected and isinstance(learner.phases[plan.phase].sensitivity(schema), float):
        # added as whole numbers of a grid (`common.federated.protected_sums`)
        sums = {k: v.astype(np.float64) for k, v in zero.sums.items()}
        return dataclasses.replace(zero, sums=sums)
    return zero


_ZEROS: Cache[tuple[object, ...], Contribution] = Cache(1024)


def check(contribution: Contribution, zero: Contribution, plan: Plan) -> None:
    """Names, dtypes and shapes are the identity element's, and every number is finite (P02)."""
    faults = []
    for kind, mine, declared in (
        ("sum", contribution.sums, zero.sums),
        ("tally", contribution.tally, zero.tally),
    ):
        if set(mine) != set(declared):
            faults.append(
                f"{plan.learner}: the {kind}s are named {sorted(mine)}, declared are "
                f"{sorted(declared)}"
            )
            continue
        for name, array in mine.items():
            if array.shape != declared[name].shape or array.dtype != declared[name].dtype:
                faults.append(
                    f"{plan.learner}: {kind} '{name}' is {array.dtype} {array.shape}, "
                    f"declared {declared[name].dtype} {declared[name].shape}"
                )
            elif not np.isfinite(array).all():
                faults.append(
                    f"{plan.learner}: {kind} '{name}' has {int((~np.isfinite(array)).sum())} "
                    "non-finite values"
                )
    if faults:
        raise RefusedError("P02", *faults)


def fit(
    learner: Federated,
    state: State,
    cohorts: Sequence[Cohort],
    plan: Plan,
    *,
    inner: States = MappingProxyType({}),
    limit: int = 10_000,
) -> State:
    """Run `learner` to its end in this process over `cohorts`, with the same sums as a federation
    of them: the plan's fold's state, with what has been learnt.

    `inner`: the states of the other folds that the learner reads.
    """
    arrays = learner.start(cohorts[0].schema, plan.seed)
    for step in range(limit):
        states = with_arrays({**inner, plan.fold: state}, plan.fold, learner.name, arrays)
        asked = dataclasses.replace(
            plan,
            learner=learner.name,
            step=step,
            phase=learner.phase(arrays),
            hyper=hyper_of(learner),
        )
        result = learner.apply(
            states, total([learner.contribute(states, c, asked) for c in cohorts]), asked
        )
        arrays = result.arrays
        if result.done:
            return {**state, learner.name: arrays}
    raise UsageError("R04", f"learner '{learner.name}' was not done after {limit} steps")


def local_plan(fold: Fold, seed: int, parts: int) -> Plan:
    """A plan for `fit`: nothing is sent, so nothing expires."""
    return Plan(
        "local", "", "", "", "", 0, "", "", fold, (fold,), "", (), float("inf"), {}, seed, parts
    )
