"""Canaries: a lower bound on epsilon by experiment. Where it exceeds the accounted one, noise,
bound or account is wrong.

A canary is a patient made to stand out, and so is the state that the learner is asked at, for a
coordinator may send any: of some states and patients the pair whose share of the sums is largest.
The learner's own `contribute` answers for a few patients with and without the canary, one answer of
each of its phases, and `client.station.gaussian_noise` adds the noise; what DP-SGD releases has its
noise already. Again and again an adversary who knows all but whether the canary was there looks how
far what was released lies along the canary's share, and `simulation.attack.lower_bound` says what
epsilon that takes.

The bound holds with `CONFIDENCE` for each audit. It is far from tight: so many trials cannot show
more than log(trials / 15) or so, whatever the noise, and one release of each phase is audited, not
the fit that a site is charged for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from client.station.gaussian_noise import noised
from common.data.cohort import Cohort, Fold, empty, pooled
from common.data.schema import Choice, Floats, Schema
from common.errors import FedmetsError
from common.federated.accounting import least_noise
from common.federated.learner import Contribution, Federated, Plan, fit, hyper_of, local_plan
from common.privacy.mechanism import Cost, Privacy, Sampled, epsilon, release
from common.privacy.patient_sums import grid_of
from common.privacy.random import repeatable
from common.types import Arrays, State
from simulation.attack.lower_bound import CONFIDENCE, lower_bound

TRIALS = 1000, 10_000
"""With the canary, and as many without: the least, and the most, where sums are of few numbers."""
DEFAULT_EPSILON = 3.0
"""The epsilon that is audited where none is asked for."""
OTHERS, CANDIDATES = 8, 6
"""Patients beside the canary, and those of whom it is chosen."""
_NOISE_VALUES = 20_000_000
"""Of noise, about, that are drawn for one side of a trial."""
_FILLS = (0.0, 1e-6, -30.0, 30.0)
_FAINT, _COPIES = Privacy(1e-6), 8
"""Noise beside which a share of DP-SGD is seen as it is, and of how many it is the mean: by chance
one is in none of the steps."""

Row = dict[str, Any]
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Moment:
    """One question that a site is asked: the state that came with it, and how much one patient may
    change the answer."""

    state: State
    plan: Plan
    bound: float | Sampled


def canaries(
    chains: Sequence[Sequence[Federated]],
    schema: Schema,
    epsilons: Sequence[float],
    delta: float,
    *,
    seed: int,
    noise_seed: int | None = None,
    tell: Tell = lambda what, done, of: None,
) -> list[Row]:
    """`canary[]` of `report.json`: the last of each chain at the noise by which one answer of each
    of its phases costs each epsilon.

    The others of a chain are what the last one needs, in order. `noise_seed`: as for a run's own
    noise.
    """
    others, candidates = patients(schema, OTHERS, seed), patients(schema, CANDIDATES, seed + 1)
    audits = [(chain, most) for chain in chains for most in epsilons]
    rows = []
    for n, (chain, most) in enumerate(audits):
        name = chain[-1].name
        tell(f"{name} at epsilon {most:g}", n, len(audits))
        with repeatable(noise_seed, f"canary {name} {most:g}"):
            drill = arranged(chain, others, candidates)
            noise = least_noise(drill.charged, most, delta)
            without, with_canary = played(drill, Privacy(noise))
        row = {
            "learner": name,
            "epsilon": epsilon(drill.charged(noise), delta),
            "lower": lower_bound(without, with_canary, delta),
        }
        releases = (len(without) + len(with_canary)) * len(drill.moments)
        rows.append({**row, "confidence": CONFIDENCE, "releases": releases, "delta": delta})
    return rows


@dataclass(frozen=True)
class Drill:
    """Who is asked what: the two sides differ by the canaries alone, one for each moment."""

    learner: Federated
    moments: tuple[Moment, ...]
    canaries: tuple[Cohort, ...]
    others: Cohort

    def charged(self, noise: float) -> Cost:
        """Of one answer to each question."""
        return sum((release(Privacy(noise), m.bound) for m in self.moments), Cost())


def arranged(chain: Sequence[Federated], others: Cohort, candidates: Cohort) -> Drill:
    """The worst of the candidates for each phase of the chain's last learner, at the worst state
    that is found for it.

    In DP-SGD nobody stands beside: by chance others are in a step or not, and that would hide the
    canary without being accounted for.
    """
    worst = [_worst(chain[-1], m, candidates) for m in moments(chain, others)]
    sampled = any(isinstance(m.bound, Sampled) for m, _ in worst)
    bystanders = empty(others.schema) if sampled else others
    return Drill(chain[-1], tuple(m for m, _ in worst), tuple(c for _, c in worst), bystanders)


def patients(schema: Schema, count: int, seed: int) -> Cohort:
    """Random corners of the schema, of all classes; the first three have each value at its highest,
    at its lowest, and none."""
    rng = np.random.default_rng(seed)
    ends = np.array(
        [
            (0, len(f.values) - 1) if isinstance(f, Choice) else (f.low, f.high)
            for f in schema.features
        ],
        float,
    )
    values = ends[np.arange(len(ends)), rng.integers(0, 2, (count, len(ends)))]
    values[0], values[1], values[2] = ends[:, 1], ends[:, 0], np.nan
    labels = np.arange(count) % len(schema.label.classes)
    return Cohort("others", schema, tuple(f"p{i:04d}" for i in range(count)), values, labels)


def moments(chain: Sequence[Federated], cohort: Cohort) -> Iterator[Moment]:
    """The first question of each phase in a fit of the chain's last learner on `cohort`."""
    plan, learner = local_plan(Fold(), 0, 2), chain[-1]
    fitted: State = {}
    for need in chain[:-1]:
        fitted = fit(need, fitted, [cohort], plan)
    arrays, phases_left = (
        learner.start(cohort.schema, 0),
        {name for name, phase in learner.phases.items() if phase.exchanges},
    )
    while phases_left:
        plan_asked = replace(
            plan, learner=learner.name, phase=learner.phase(arrays), hyper=hyper_of(learner)
        )
        state = {**fitted, learner.name: arrays}
        if plan_asked.phase in phases_left:
            bound = learner.phases[plan_asked.phase].sensitivity(cohort.schema)
            assert bound is not None
            yield Moment(state, plan_asked, bound)
        phases_left -= {plan_asked.phase}
        states = {plan.fold: state}
        arrays = learner.apply(
            states, learner.contribute(states, cohort, plan_asked), plan_asked
        ).arrays


def _worst(learner: Federated, first: Moment, candidates: Cohort) -> tuple[Moment, Cohort]:
    """One array of the state after another is filled with whatever makes some candidate's share
    largest."""
    single = [candidates.where(np.arange(len(candidates)) == i) for i in range(len(candidates))]

    def largest(moment: Moment) -> tuple[float, int]:
        sizes = [_size(_share(learner, moment, patient)) for patient in single]
        return max(sizes), int(np.argmax(sizes))

    best, (size, position) = first, largest(first)
    for name, key in (
        (n, k)
        for n, arrays in first.state.items()
        for k, a in arrays.items()
        if a.dtype.kind == "f" and a.size
    ):
        for fill in _FILLS:
            arrays: Arrays = {**best.state[name], key: np.full_like(best.state[name][key], fill)}
            other = replace(best, state={**best.state, name: arrays})
            if (larger := largest(other))[0] > size:
                best, (size, position) = other, larger
    return best, single[position]


def _share(learner: Federated, moment: Moment, patient: Cohort) -> Arrays:
    """What a patient adds to the sums; nothing where the site would refuse the answer."""
    nobody = empty(patient.schema)
    try:
        if isinstance(moment.bound, Sampled):
            faint_moment = replace(moment, plan=replace(moment.plan, privacy=_FAINT))
            copies = _difference(
                *(
                    _answer(learner, faint_moment, c).sums
                    for c in (pooled([patient] * _COPIES, patient.site), nobody)
                )
            )
            return {k: v / _COPIES for k, v in copies.items()}
        return _difference(*(_answer(learner, moment, c).sums for c in (patient, nobody)))
    except FedmetsError:
        return {}


def _answer(learner: Federated, moment: Moment, cohort: Cohort) -> Contribution:
    with np.errstate(all="ignore"):  # a state that nobody would send may divide by 0
        return learner.contribute({moment.plan.fold: moment.state}, cohort, moment.plan)


def _difference(a: Arrays, b: Arrays) -> Arrays:
    return {k: np.asarray(a[k], float) - b[k] for k in a}


def _size(share: Arrays) -> float:
    norm = float(np.sqrt(sum(np.square(v).sum() for v in share.values())))
    return norm if np.isfinite(norm) else 0.0


def played(drill: Drill, privacy: Privacy) -> tuple[Floats, Floats]:
    """(trials,) each, without the canaries and with them: how much what was released looks as if
    they were there."""
    numbers = sum(
        a.size
        for moment in drill.moments
        for a in _answer(drill.learner, moment, drill.others).sums.values()
    )
    trials = (
        int(np.clip(_NOISE_VALUES / numbers, *TRIALS))
        if not any(isinstance(m.bound, Sampled) for m in drill.moments)
        else TRIALS[0]
    )
    without, with_canary = np.zeros(trials), np.zeros(trials)
    for moment, canary in zip(drill.moments, drill.canaries, strict=True):
        share = _share(drill.learner, moment, canary)
        without += _scores(drill.learner, moment, drill.others, share, privacy, trials)
        with_canary += _scores(
            drill.learner,
            moment,
            pooled([drill.others, canary], drill.others.site),
            share,
            privacy,
            trials,
        )
    return without, with_canary


def _scores(
    learner: Federated, moment: Moment, cohort: Cohort, share: Arrays, privacy: Privacy, trials: int
) -> Floats:
    """(trials,): the log likelihood ratio of what was released, but for a constant and a factor."""
    places = {k: np.flatnonzero(v) for k, v in share.items()}
    direction = {k: v.ravel()[places[k]] for k, v in share.items()}

    def projection(sums: Arrays) -> float:
        return float(
            sum(direction[k] @ sums[k].ravel()[places[k]].astype(np.float64) for k in direction)
        )

    private = replace(moment, plan=replace(moment.plan, privacy=privacy))
    if isinstance(moment.bound, Sampled):
        # what is sent is this times a noisy number of cases, which tells less
        return np.array([projection(_answer(learner, private, cohort).sums) for _ in range(trials)])
    answer, bound = _answer(learner, private, cohort), moment.bound
    on = grid_of(bound, privacy)
    # in the grid's steps, and cut by the learner alone: it is the learner's bound that is on trial
    whole = replace(answer, sums={k: on.rounded(v) for k, v in answer.sums.items()})
    sent = (noised(whole, bound, privacy) for _ in range(trials))
    return np.array([projection(s.sums) / bound**2 + s.cases for s in sent])
