"""Guard of a hospital's two doors: what may be asked (`admit`), and what may leave (`release`)."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.site.public_counts import by_class, demand_fold, most
from client.site.site_file import Site
from client.station.charge import Charge
from client.station.gaussian_noise import demand_steps, noised, within_masks
from client.station.privacy_budget import Budget
from common.data.cohort import UNKNOWN, Cohort
from common.data.schema import Schema
from common.errors import FedmetsError, RefusedError
from common.federated.coverage import Covering, enough
from common.federated.learner import (
    Averaged,
    Contribution,
    Federated,
    Grouped,
    Plan,
    check,
    identity,
    load,
    validate,
)
from common.federated.protected_sums import bounded, protected
from common.federated.states import States
from common.privacy.limits import BOUND, SPLIT
from common.privacy.mechanism import Sampled
from common.runtime import time_limit
from common.types import Arrays
from common.wire.masked_messages import Ask
from common.wire.messages import Greeting, Request


def timely(message: Greeting | Ask | Request | Plan) -> None:
    """RefusedError P04 where what comes in has expired; a plan that has come in time may wait its
    turn."""
    late = time.time() - message.expires
    if late > 0:
        raise RefusedError(
            "P04",
            f"the {type(message).__name__.lower()} expired {late:.0f} s ago; check the clocks",
        )


def admit(plan: Plan, site: Site, cohort: Cohort, budget: Budget | None = None) -> Federated:
    """The learner that the plan asks for, configured; RefusedError when the site does not do
    that."""
    if budget is not None:
        _remembered(plan, budget)
    if plan.site != site.name:
        raise RefusedError("P04", f"the plan is for site '{plan.site}', this is '{site.name}'")
    if plan.schema != cohort.schema.hash:
        raise RefusedError(
            "D07",
            f"the plan's schema {plan.schema[:12]} is not this site's "
            f"({cohort.schema.hash[:12]}); use the same fedmets and study version",
        )
    if not SPLIT.holds(plan.parts) or any(
        p < 0 or p >= plan.parts for f in (plan.fold, *plan.reads) for p in f.parts
    ):
        raise RefusedError(
            "P03", f"fold '{plan.fold.key}' is not one of {plan.parts} parts; {SPLIT.rule}"
        )
    try:
        learner = load(plan.learner, plan.hyper)
    except FedmetsError as error:
        raise RefusedError("P03", *error.faults) from error
    if plan.phase not in learner.phases:
        raise RefusedError(
            "P03",
            f"learner '{plan.learner}' has no phase '{plan.phase}'; it has "
            f"{', '.join(sorted(learner.phases))}",
        )
    if not learner.modality <= modalities(site, cohort) and not shares_noise(plan, learner, cohort):
        raise RefusedError(
            "D06",
            f"learner '{plan.learner}' needs {sorted(learner.modality)}, this site offers "
            f"{sorted(modalities(site, cohort))}; with an epsilon or masks it offers what "
            "privacy.modalities declares",
        )
    site.privacy.admit(plan, datetime.date.today())
    _coarse(plan, learner, site)
    if plan.privacy is not None:
        _bound(plan, learner, cohort)
    demand_fold(plan, learner, site, cohort, budget.counts if budget else None)
    if budget is not None:
        _affordable(plan, learner, cohort, budget, most(site, cohort, budget.counts))
    return learner


def _coarse(plan: Plan, learner: Federated, site: Site) -> None:
    """RefusedError P11 where the sums, or the model that they make, tell of fewer patients than the
    site speaks about: before any work, so that it says nothing of a patient."""
    policy, faults = site.privacy, []
    if learner.phases[plan.phase].fine and not plan.protected and not policy.open_trees:
        faults.append(
            f"learner '{plan.learner}' without noise or masks shows single patients in its sums; "
            "the coordinator sets `secure` or `noise` for the run, or this site privacy.open_trees"
        )
    least = site.minimum if policy.smallest_leaf is None else policy.smallest_leaf
    # a sum over one patient may leave where the minimum is 1
    if isinstance(learner, Grouped) and least > 1 and learner.smallest_leaf < least:
        faults.append(
            f"{plan.learner}.smallest_leaf={learner.smallest_leaf} publishes leaves of fewer than "
            f"{least} patients; the coordinator sets smallest_leaf of the run to {least} or more"
        )
    if faults:
        raise RefusedError("P11", *faults)


def modalities(site: Site, cohort: Cohort) -> frozenset[str]:
    """What a site offers: as its file declares it, else as it is. Under an epsilon or masks a table
    alone where nothing is declared: to offer images would tell that somebody has one."""
    if site.privacy.modalities:
        return frozenset(site.privacy.modalities)
    return frozenset({"table"}) if site.privacy.protected else cohort.modalities


def _remembered(plan: Plan, budget: Budget) -> None:
    """RefusedError P10 where coordinator and site do not remember the same account: before
    anything else is looked at, for the head goes out with every other refusal."""
    if budget.knows(plan.budget):
        return
    if not plan.budget:
        raise RefusedError(
            "P10",
            "the plan names no budget head, and this site's account has told one: the coordinator "
            "has lost its budgets.json. It restores that file, or writes the head that `fedmets "
            "client budget` shows here into it, once both have looked why it was lost",
        )
    raise RefusedError(
        "P10",
        f"the coordinator was told the budget head {plan.budget[:12]}, which this site's "
        "account does not have: it was restored from "
        "an old backup, or lost. Restore the newest one",
    )


def _affordable(
    plan: Plan, learner: Federated, cohort: Cohort, budget: Budget, patients: int
) -> None:
    """RefusedError where the site cannot tell what the plan would cost, or cannot pay for it:
    before any work. `patients`: how many are told."""
    bound = _bound(plan, learner, cohort)
    if not 0 < budget.policy.delta < 1 / patients:
        raise RefusedError(
            "P07",
            f"privacy.delta = {budget.policy.delta:g} must be below 1 / {patients} cases: "
            "lower it in the site file",
        )
    budget.affordable(_charge(plan, learner, bound, budget))


def _bound(plan: Plan, learner: Federated, cohort: Cohort) -> float | Sampled:
    """What noise is to hide. RefusedError P08 where no noise would do."""
    bound = learner.phases[plan.phase].sensitivity(cohort.schema)
    if bound is None:
        raise RefusedError(
            "P08",
            f"learner '{plan.learner}' has no bound on what one patient adds, so that no noise "
            "hides a patient",
        )
    if not isinstance(bound, Sampled) and bound != 0 and not BOUND.holds(float(bound)):
        raise RefusedError(
            "P08",
            f"learner '{plan.learner}' bounds what one patient adds by {bound:g}; noise hides a "
            f"patient where {BOUND.rule}",
        )
    if plan.privacy is not None and plan.privacy.shared and not isinstance(bound, Sampled):
        demand_steps(plan, bound)
    return bound


def shares_noise(plan: Plan, learner: Federated, cohort: Cohort) -> bool:
    """Is this site's part of the noise in the sum, whatever it has to add to it?"""
    if plan.privacy is None or not plan.privacy.shared:
        return False
    return not isinstance(learner.phases[plan.phase].sensitivity(cohort.schema), Sampled)


def privately_trained(plan: Plan, learner: Federated, schema: Schema) -> bool:
    """Has the sum noise of its own, and its patients one by one?"""
    bound = learner.phases[plan.phase].sensitivity(schema)
    return plan.privacy is not None and isinstance(bound, Sampled)


def _charge(plan: Plan, learner: Federated, bound: float | Sampled, budget: Budget) -> Charge:
    # only a learner that says so looks at none but its training rows
    spared = plan.fold.parts if learner.traits.trains else ()
    return Charge.of(plan, spared, bound, budget.policy)


def sound(plan: Plan, states: States, schema: Schema) -> None:
    """RefusedError P02 where a state that the plan reads is none that its learners make: a
    signature says whose it is, not that it is one."""
    for fold in plan.reads:
        validate(states.get(fold, {}), schema)


def states_for(plan: Plan, states: States) -> States:
    """Of the states that came with a request those that the plan reads."""
    missing = [f.key for f in plan.reads if f not in states]
    if missing:
        raise RefusedError(
            "P04", f"the state of fold(s) {', '.join(missing)} did not come with the plan"
        )
    return {f: states[f] for f in plan.reads}


def contributed(
    learner: Federated,
    states: States,
    cohort: Cohort,
    plan: Plan,
    note: Callable[[str], None],
    minimum: int = 1,
    one_by_one: bool = False,
) -> Contribution:
    """The site's contribution.

    Under noise or masks what cannot be computed is judged patient by patient, each by itself: that
    patient adds nothing, and the sum of the others leaves. That a sum did not come about would
    answer a question about a patient, and a coordinator chooses states. `cases` are those whom the
    plan looks at, whoever its states fail for: by a count of the others a site would fall below its
    minimum, or not, as its patients are. Otherwise RefusedError P02 says that there is none, and
    `note` why, at the site; P01 of fewer patients than `minimum`, as without the failure, which
    would else tell of one among a few.

    Whose own is not done when the work's time has passed (`common.runtime.time_limit`) adds nothing
    either. `one_by_one`: as where something fails, which takes the longest.
    """

    def of(rows: Cohort) -> Contribution:
        out = learner.contribute(states, rows, plan)
        if not all(np.isfinite(v).all() for v in (*out.sums.values(), *out.tally.values())):
            raise FloatingPointError("a value is not finite")
        return out

    # what fails on nobody is the plan's own fault, and is said
    zero = identity(learner, states, cohort.schema, plan)
    if not learner.modality <= cohort.modalities:
        return zero
    if (bound := bounded(learner, plan, cohort)) is not None:
        return protected(learner, states, cohort, plan, bound, note, one_by_one)
    private = privately_trained(plan, learner, cohort.schema)
    if one_by_one and not private:
        return _apart(of, learner, states, cohort, plan, note)
    try:
        out = of(cohort)
    except Exception as error:
        if not plan.protected:
            _, cases = _judged(of, learner, cohort)
            raise RefusedError(
                "P02" if cases >= minimum else "P01",
                f"{plan.learner}, fold '{plan.fold.key}': no sum over {cases} patients, the "
                f"site's minimum is {minimum} ({error})",
            ) from error
        note(f"{plan.learner}, fold '{plan.fold.key}': {error}; judged patient by patient")
        return _apart(of, learner, states, cohort, plan, note)
    if private or not time_limit.passed():
        return out
    return _counting(zero, out.cases, _parameters(learner, states, plan))


def _apart(
    of: Callable[[Cohort], Contribution],
    learner: Federated,
    states: States,
    cohort: Cohort,
    plan: Plan,
    note: Callable[[str], None],
) -> Contribution:
    """The sum over those for whom there is one, each by itself."""
    able, cases = _judged(of, learner, cohort)
    note(f"{plan.learner}, fold '{plan.fold.key}': {int((~able).sum())} patients add nothing")
    total = identity(learner, states, cohort.schema, plan)
    try:
        able_total = of(cohort.where(able))
        total = total if time_limit.passed() else able_total
    except Exception as error:
        note(f"{plan.learner}, fold '{plan.fold.key}': {error}; the site adds nothing")
    return _counting(total, cases, _parameters(learner, states, plan))


def _judged(
    of: Callable[[Cohort], Contribution], learner: Federated, cohort: Cohort
) -> tuple[NDArray[np.bool_], int]:
    """(cases,): of which patients alone there is a sum; and how many the learner looks at. Who fails
    alone, or is not begun with in time, is one of them, if such patients count at all."""
    able, cases = np.ones(len(cohort), np.bool_), 0
    for i in range(len(cohort)):
        try:
            if time_limit.passed():
                raise TimeoutError
            cases += of(cohort.only(i)).cases
        except Exception:
            able[i] = False
            cases += bool(cohort.labels[i] != UNKNOWN or learner.traits.unlabelled)
    return able, cases


def _parameters(learner: Federated, states: States, plan: Plan) -> Arrays:
    """Those that the site was sent, where the learner sends new ones times cases."""
    arrays = states.get(plan.fold, {}).get(learner.name, {})
    return learner.parameters(arrays) if isinstance(learner, Averaged) else {}


def _counting(total: Contribution, cases: int, parameters: Arrays) -> Contribution:
    """The same sums for more cases. New parameters weigh as much more; where nobody could be learnt
    from they are those that came."""
    if set(total.sums) != set(parameters):
        return replace(total, cases=cases)
    if not total.cases:
        sums = {k: v.astype(np.float64) * cases for k, v in parameters.items()}
        return replace(total, sums=sums, cases=cases)
    more = cases / total.cases
    sums, tally = ({k: v * more for k, v in of.items()} for of in (total.sums, total.tally))
    return Contribution(sums, cases, tally)


def release(
    contribution: Contribution,
    learner: Federated,
    states: States,
    plan: Plan,
    cohort: Cohort,
    minimum: int,
    budget: Budget | None = None,
) -> Contribution:
    """The contribution, if it covers enough patients and is of the declared shapes; otherwise
    RefusedError. A row of its sums that covers fewer is zeros (`common.federated.coverage`).

    Where the plan asks for noise it is added here, and what that costs is taken from the budget, in
    memory: nothing leaves before `Budget.settle` has written it. The minimum is then held against
    the noisy count, for a refusal by the exact one would tell of it. A share of a noise hides
    nobody, and is never left out: the minimum is then held against the noisy count of the cohort
    that a greeting tells, and a site below it adds its share to nothing.
    """
    together = shares_noise(plan, learner, cohort)
    if plan.privacy is not None and budget is not None:
        budget.reserve(_charge(plan, learner, _bound(plan, learner, cohort), budget))
    if together and sum(by_class(cohort, budget.counts if budget else None)[0]) < minimum:
        contribution = identity(learner, states, cohort.schema, plan)
    contribution = noisy(contribution, learner, plan, cohort)
    if contribution.cases < minimum and not together:
        raise RefusedError(
            "P01",
            f"{plan.learner}, fold '{plan.fold.key}': {contribution.cases} patients, the site's "
            f"minimum is {minimum}",
        )
    check(contribution, identity(learner, states, cohort.schema, plan), plan)
    if plan.privacy is None and isinstance(learner, Covering):
        covers = learner.covers(states, cohort, plan)
        parameters = _parameters(learner, states, plan)
        return enough(contribution, covers, minimum, plan, parameters)
    return contribution


def noisy(
    contribution: Contribution, learner: Federated, plan: Plan, cohort: Cohort
) -> Contribution:
    """With the noise that the plan asks for, or the site's share of it."""
    if plan.privacy is None:
        return contribution
    bound = _bound(plan, learner, cohort)
    if shares_noise(plan, learner, cohort) and not isinstance(bound, Sampled):
        contribution = within_masks(contribution, bound, plan)
    return noised(contribution, bound, plan.privacy)
