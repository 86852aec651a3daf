"""What a hospital allows: the table `[privacy]` of its site.toml. The station alone enforces it; no coordinator can loosen it."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast, get_args

from common.errors import RefusedError
from common.federated.learner import Plan, hyper_of, load, names
from common.wire.signing import PUBLIC

Require = Literal["none", "dp", "secagg"]


@dataclass(frozen=True)
class Policy:
    """Without a table, none: sums leave as they are, over at least `minimum` patients."""

    epsilon: float = math.inf
    """What may ever be learnt of one patient from all that leaves, whatever the study, run or round; finite: every sum needs noise."""
    delta: float = 0.0
    """The chance that the epsilon does not hold; below 1 / (the site's patients)."""
    require: Require = "none"
    """Under what protection alone sums leave; a finite epsilon means `dp`."""
    participants: tuple[str, ...] = ()
    """Names of all sites with which this one lets itself be summed up; empty: any."""
    expires: datetime.date | None = None
    """The last day on which a plan is answered."""
    peers: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Site -> identity key (64 hex digits) of those with which this one masks its sums, as these, not the coordinator, told it."""
    fewest_sites: int = 3
    """The fewest sites in a masked sum."""
    learners: tuple[str, ...] = ()
    """Those that a plan may ask for; empty: any."""
    hyper: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    """`learner.hyperparameter` -> the least and the most that a plan may ask for; what is not named: what the learner itself takes."""
    noise_seed: int | None = None
    """Noise is drawn from it, so that a simulation can be repeated: it then hides nobody, and goes with no epsilon."""

    @property
    def noised(self) -> bool:
        return self.require == "dp" or math.isfinite(self.epsilon)

    def admit(self, plan: Plan, today: datetime.date) -> None:
        """RefusedError P07 where the site does not allow the plan, whatever its budget."""
        faults = []
        if self.expires is not None and today > self.expires:
            faults.append(f"this site answers no plan after {self.expires}; set privacy.expires in its site file")
        strange = sorted(set(plan.participants) - set(self.participants)) if self.participants else []
        if strange:
            faults.append(f"the plan sums this site up with {', '.join(strange)}, whom privacy.participants does not name")
        if self.noised and plan.privacy is None:
            faults.append("this site's sums need noise, and the plan has none; the coordinator sets `noise` for the run")
        if self.require == "secagg" and not plan.secure:
            faults.append("this site's sums leave under secure aggregation alone; the coordinator sets `secure` for the run")
        if plan.secure and (plan.fold.sites or any(f.sites for f in plan.reads)):
            faults.append("the plan leaves out a whole site: beside the sum over all it would show that site's")
        if self.learners and plan.learner not in self.learners:
            faults.append(f"learner '{plan.learner}' is not among privacy.learners ({', '.join(self.learners)})")
        for key, (low, high) in self.hyper.items():
            learner, _, name = key.partition(".")
            if learner != plan.learner:
                continue
            # what a plan leaves out, the learner fills in
            value = plan.hyper.get(name, hyper_of(load(learner))[name])
            if not (type(value) in (int, float) and low <= cast(float, value) <= high):
                faults.append(f"{key}={value!r} lies outside of what privacy.hyper allows, {low:g} to {high:g}")
        if faults:
            raise RefusedError("P07", *faults)


def parse(raw: Mapping[str, Any]) -> tuple[Policy, list[str]]:
    """The table, and everything that is wrong with it; nothing that is wrong falls back to less privacy."""
    known = {f.name for f in fields(Policy)}
    faults = []
    for key in sorted(set(raw) - known):
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(sorted(known))}"
        faults.append(f"unknown key 'privacy.{key}'; {hint}")
    epsilon, delta, require = raw.get("epsilon", math.inf), raw.get("delta", 0.0), raw.get("require", "none")
    participants, expires = raw.get("participants", []), raw.get("expires")
    real = {k: type(v) in (int, float) and not math.isnan(v) for k, v in (("epsilon", epsilon), ("delta", delta))}
    if not real["epsilon"] or not epsilon > 0:
        faults.append(f"privacy.epsilon = {epsilon!r} must be a number above 0 (inf: no limit)")
    elif epsilon > 100 and math.isfinite(epsilon):
        faults.append(f"privacy.epsilon = {epsilon!r} protects nobody; 1 to 10 are usual, inf says openly that there is no limit")
    if not real["delta"] or not 0 <= delta < 1:
        faults.append(f"privacy.delta = {delta!r} must be a number from 0 to below 1")
    elif real["epsilon"] and math.isfinite(epsilon) and not delta > 0:
        faults.append("privacy.delta is missing: with an epsilon it must be above 0, and below 1 / (number of patients), such as 1e-5")
    if require not in get_args(Require):
        faults.append(f"privacy.require = {require!r} must be one of {', '.join(get_args(Require))}")
    elif require == "dp" and real["epsilon"] and not math.isfinite(epsilon):
        faults.append('privacy.require = "dp" needs privacy.epsilon and privacy.delta')
    if not isinstance(participants, list) or not all(isinstance(p, str) for p in participants):
        faults.append(f"privacy.participants = {participants!r} must be a list of names of sites")
    if expires is not None and type(expires) is not datetime.date:
        faults.append(f"privacy.expires = {expires!r} must be a date, such as 2027-12-31")
    seed = raw.get("noise_seed")
    if seed is not None and type(seed) is not int:
        faults.append(f"privacy.noise_seed = {seed!r} must be a whole number")
    elif seed is not None and (raw.keys() & {"epsilon", "delta", "require"}):
        faults.append(
            "privacy.noise_seed makes noise that can be made again, and hides nobody: leave it out, or epsilon, delta and require"
        )
    peers, fewest = raw.get("peers", {}), raw.get("fewest_sites", 3)
    if not isinstance(peers, dict) or not all(isinstance(k, str) and PUBLIC.fullmatch(str(k)) for k in peers.values()):
        faults.append(f"privacy.peers = {peers!r} must be a table of sites and their public keys of 64 hex digits")
    elif require == "secagg" and len(peers) < 2:
        faults.append('privacy.require = "secagg" needs [privacy.peers]: public keys of at least two other sites, as these told you')
    if type(fewest) is not int or fewest < 3:
        faults.append(f"privacy.fewest_sites = {fewest!r} must be a whole number of at least 3: of two, each could take its own part off")
    allowed, hyper = raw.get("learners", []), raw.get("hyper", {})
    if not isinstance(allowed, list) or not all(isinstance(n, str) and n in names() for n in allowed):
        faults.append(f"privacy.learners = {allowed!r} must be a list of learners; there are {', '.join(names())}")
    faults += _ranges(hyper)
    if faults:
        return Policy(), faults
    limits = {k: (float(v[0]), float(v[1])) for k, v in hyper.items()}
    return Policy(
        float(epsilon), float(delta), require, tuple(participants), expires, dict(peers), fewest, tuple(allowed), limits, seed
    ), []


def _ranges(hyper: Any) -> list[str]:
    """What is wrong with the table `[privacy.hyper]`."""
    if not isinstance(hyper, dict):
        return [f'privacy.hyper = {hyper!r} must be a table, such as "image.rounds" = [1, 20]']
    out = []
    for key, value in hyper.items():
        learner, _, name = key.partition(".")
        if learner not in names() or type(hyper_of(load(learner)).get(name)) not in (int, float):
            out.append(f"privacy.hyper: '{key}' is no hyperparameter of a learner that is a number; write it as \"image.rounds\"")
        if not isinstance(value, list) or len(value) != 2 or any(type(v) not in (int, float) for v in value) or not value[0] <= value[1]:
            out.append(f"privacy.hyper: {key} = {value!r} must be the least and the most, such as [1, 20]")
    return out
