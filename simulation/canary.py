"""Canaries: a lower bound on epsilon by experiment. Where it exceeds the accounted one, noise, bound or account is wrong.

A canary is a patient made to stand out, and so is the state that the learner is asked at, for a coordinator may send any: of some states
and patients the pair whose share of the sums is largest. The learner's own `contribute` answers for a few patients with and without the
canary, one answer of each of its phases, and `client.noise` adds the noise; what DP-SGD releases has its noise already. Again and again
an adversary who knows all but whether the canary was there looks how far what was released lies along the canary's share. Half of the
trials choose the threshold, the other half bounds both error rates (Clopper & Pearson 1934); (epsilon, delta)-privacy allows none below
FPR * e^epsilon + FNR = 1 - delta, nor with the two exchanged (Kairouz et al. 2015, arXiv 1311.0776, theorem 2.1; audits so: Jagielski
et al. 2020, arXiv 2006.07709; Nasr et al. 2021, arXiv 2101.04535).

The bound holds with `CONFIDENCE` for each audit. It is far from tight: so many trials cannot show more than `log(trials / 15)` or so,
whatever the noise, and one release of each phase is audited, not the fit that a site is charged for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import betaincinv

from client.noise import noised
from common.accounting import Accountable, least_noise
from common.cohort import Cohort, Fold, empty, pooled
from common.errors import FedmetsError
from common.learner import Contribution, Federated, Plan, fit, hyper_of, load, local_plan
from common.noise import repeatable
from common.privacy import ORDERS, Privacy, Sampled, epsilon, release
from common.schema import Choice, Floats, Schema
from common.types import Arrays, State

TRIALS = 1000
"""With the canary, and as many without."""
CONFIDENCE = 0.999
DEFAULT = 3.0
"""The epsilon that is audited where none is asked for."""
OTHERS = 30
"""Patients beside the canary, of random values; DP-SGD goes through the network patient by patient, and has fewer."""
_FILLS = (0.0, 1e-6, -30.0, 30.0)
_FAINT = Privacy(1e-6)
"""Noise beside which a share of DP-SGD is seen as it is."""

Row = dict[str, Any]
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Moment:
    """One question that a site is asked: the state that came with it, and how much one patient may change the answer."""

    state: State
    plan: Plan
    bound: float | Sampled


def canaries(
    learners: Sequence[Federated],
    schema: Schema,
    epsilons: Sequence[float],
    delta: float,
    *,
    seed: int,
    noise_seed: int | None = None,
    tell: Tell = lambda what, done, of: None,
) -> list[Row]:
    """`canary[]` of `report.json`: each learner on the table at the noise by which one answer of each phase costs each epsilon."""
    rows = []
    asked = [(learner, most) for learner in learners for most in epsilons]
    for n, (learner, most) in enumerate(asked):
        tell(learner.name, n, len(asked))
        with repeatable(noise_seed, f"canary {learner.name} {most:g}"):
            others, candidates = patients(schema, OTHERS, seed), patients(schema, 16, seed + 1)
            trial = arranged(learner, others, candidates)
            noise = least_noise(lambda x, m=trial.moments: charged(m, x), most, delta)  # type: ignore[misc]
            found = lower_bound(*played(trial, Privacy(noise), TRIALS), delta)
        accounted = epsilon(charged(trial.moments, noise), delta)
        rows.append(
            {"learner": learner.name, "epsilon": accounted, "lower": found, "confidence": CONFIDENCE}
            | {"releases": 2 * TRIALS * len(trial.moments), "delta": delta}
        )
    return rows


@dataclass(frozen=True)
class Trial:
    """Who is asked what: `without` and `with_` differ by the canaries alone, one for each moment."""

    learner: Federated
    moments: tuple[Moment, ...]
    canaries: tuple[Cohort, ...]
    others: Cohort


def arranged(learner: Federated, others: Cohort, candidates: Cohort) -> Trial:
    """The worst of the candidates for each of the learner's phases, at the worst state that is found for it."""
    private = any(isinstance(m.bound, Sampled) for m in moments(learner, others))
    few = others.where(np.arange(len(others)) < 4) if private else others
    worst = [_worst(learner, m, candidates) for m in moments(learner, few)]
    return Trial(learner, tuple(m for m, _ in worst), tuple(c for _, c in worst), few)


def charged(asked: Sequence[Moment], noise: float) -> Floats:
    """Renyi divergences of one answer to each."""
    return np.asarray(sum((release(noise, m.bound) for m in asked), np.zeros(len(ORDERS))))


def patients(schema: Schema, count: int, seed: int) -> Cohort:
    """Random corners of the schema, of all classes; the first three have each value at its highest, at its lowest, and none."""
    rng = np.random.default_rng(seed)
    ends = np.array([(0, len(f.values) - 1) if isinstance(f, Choice) else (f.low, f.high) for f in schema.features], float)
    values = ends[np.arange(len(ends)), rng.integers(0, 2, (count, len(ends)))]
    values[0], values[1], values[2] = ends[:, 1], ends[:, 0], np.nan
    labels = np.arange(count) % len(schema.label.classes)
    return Cohort("others", schema, tuple(f"p{i:04d}" for i in range(count)), values, labels)


def moments(learner: Federated, cohort: Cohort) -> Iterator[Moment]:
    """The first question of each phase in a fit on `cohort`."""
    plan = local_plan(Fold(), 0, 2)
    fitted: State = {}
    for need in learner.needs:
        fitted = _fitted(load(need), fitted, cohort)
    arrays, seen = learner.start(cohort.schema, 0), set[str]()
    wanted = {phase for phase, times in learner.takes.items() if times} if isinstance(learner, Accountable) else set()
    while True:
        asked = replace(plan, learner=learner.name, phase=learner.phase(arrays), hyper=hyper_of(learner))
        state = {**fitted, learner.name: arrays}
        if asked.phase not in seen:
            bound = learner.sensitivity(cohort.schema, asked)
            assert bound is not None
            yield Moment(state, asked, bound)
            seen.add(asked.phase)
        if seen >= wanted:
            return
        arrays = learner.apply(state, learner.contribute(_read(state), cohort, asked), asked).arrays


def _fitted(learner: Federated, state: State, cohort: Cohort) -> State:
    for need in learner.needs:
        state = state if need in state else _fitted(load(need), state, cohort)
    return state if learner.name in state else fit(learner, state, [cohort], local_plan(Fold(), 0, 2))


def _read(state: State) -> State:
    """One fold's state, also as it is named for who reads several."""
    return {**state, **{f"{Fold().key}\t{name}": arrays for name, arrays in state.items()}}


def _worst(learner: Federated, at: Moment, candidates: Cohort) -> tuple[Moment, Cohort]:
    """One array of the state after another is filled with whatever makes some candidate's share largest."""
    each = [candidates.where(np.arange(len(candidates)) == i) for i in range(len(candidates))]

    def largest(moment: Moment) -> tuple[float, int]:
        sizes = [_size(_share(learner, moment, one)) for one in each]
        return max(sizes), int(np.argmax(sizes))

    best, (size, who) = at, largest(at)
    for name, key in ((n, k) for n, arrays in at.state.items() for k, a in arrays.items() if a.dtype.kind == "f" and a.size):
        if isinstance(at.bound, Sampled):
            break  # whose share is cut to the same norm at any state
        for fill in _FILLS:
            arrays: Arrays = {**best.state[name], key: np.full_like(best.state[name][key], fill)}
            other = replace(best, state={**best.state, name: arrays})
            if (found := largest(other))[0] > size:
                best, (size, who) = other, found
    return best, each[who]


def _share(learner: Federated, at: Moment, one: Cohort) -> Arrays:
    """What a patient adds to the sums; nothing where the site would refuse the answer."""
    nobody = empty(one.schema)
    try:
        if isinstance(at.bound, Sampled):
            return _difference(*(_often(learner, at, c) for c in (one, nobody)))
        with np.errstate(all="ignore"):
            return _difference(*(learner.contribute(_read(at.state), c, at.plan).sums for c in (one, nobody)))
    except FedmetsError:
        return {}


def _often(learner: Federated, at: Moment, cohort: Cohort) -> Arrays:
    """The mean of some trainings: by chance a patient is in none of the steps."""
    plan = replace(at.plan, privacy=_FAINT)
    drawn = [learner.contribute(at.state, cohort, plan).sums for _ in range(5 if len(cohort) else 1)]
    return {k: np.mean([d[k] for d in drawn], axis=0) for k in drawn[0]}


def _difference(a: Arrays, b: Arrays) -> Arrays:
    return {k: np.asarray(a[k], float) - b[k] for k in a}


def _size(share: Arrays) -> float:
    norm = float(np.sqrt(sum(np.square(v).sum() for v in share.values())))
    return norm if np.isfinite(norm) else 0.0


def played(trial: Trial, privacy: Privacy, trials: int) -> tuple[Floats, Floats]:
    """(trials,) each, without the canary and with it: how much what was released looks like it was there."""
    without, with_ = np.zeros(trials), np.zeros(trials)
    for at, canary in zip(trial.moments, trial.canaries, strict=True):
        there = pooled([trial.others, canary], trial.others.site)
        share = _share(trial.learner, at, canary)
        asked = replace(at, plan=replace(at.plan, privacy=privacy))
        for cohort, scores in ((trial.others, without), (there, with_)):
            scores += _scores(trial.learner, asked, cohort, share, trials, privacy)
    return without, with_


def _scores(learner: Federated, at: Moment, cohort: Cohort, share: Arrays, trials: int, privacy: Privacy) -> Floats:
    """(trials,): the log likelihood ratio, but for a constant and a factor."""
    places = {k: np.flatnonzero(v) for k, v in share.items()}
    along = {k: v.ravel()[places[k]] for k, v in share.items()}

    def seen(sums: Arrays) -> float:
        return float(sum(along[k] @ sums[k].ravel()[places[k]].astype(np.float64) for k in along))

    if isinstance(at.bound, Sampled):
        # what is sent is this times a noisy number of cases, which tells less
        return np.array([seen(learner.contribute(at.state, cohort, at.plan).sums) for _ in range(trials)])
    sums: Contribution = learner.contribute(_read(at.state), cohort, at.plan)
    sent = (noised(sums, at.bound, privacy) for _ in range(trials))
    return np.array([seen(s.sums) / at.bound**2 + s.cases for s in sent])


def lower_bound(without: Floats, with_: Floats, delta: float) -> float:
    """The epsilon below which nothing that is private at `delta` could be told apart so well, with `CONFIDENCE`; 0 where nothing is shown."""
    half = len(without) // 2
    thresholds = np.unique(np.concatenate([without[:half], with_[:half]]))
    found = [_epsilon(without[:half], with_[:half], t, delta) for t in thresholds]
    return max(_epsilon(without[half:], with_[half:], float(thresholds[int(np.argmax(found))]), delta), 0.0)


def _epsilon(without: Floats, with_: Floats, threshold: float, delta: float) -> float:
    false, missed = _upper(int((without > threshold).sum()), len(without)), _upper(int((with_ <= threshold).sum()), len(with_))
    return float(np.log(max((1 - delta - missed) / false, (1 - delta - false) / missed, 1e-9)))


def _upper(found: int, of: int) -> float:
    """Clopper-Pearson's upper limit; both rates' together hold with `CONFIDENCE`."""
    return 1.0 if found == of else float(betaincinv(found + 1, of - found, 1 - (1 - CONFIDENCE) / 2))
