"""Privacy policy of a hospital, what it allows: the table `[privacy]` of its site.toml. The station
alone enforces it; no coordinator can loosen it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field, Strict

from common.errors import RefusedError
from common.federated.learner import Plan, hyper_of, load, names
from common.runtime.settings import Form, Listed, Settings, Whole
from common.wire.signing import PUBLIC

Require = Literal["none", "dp", "secagg"]
Dropouts = Literal["stop", "continue"]
Modality = Literal["table", "image"]
AllowedSets = Literal["one", "any"]
PublicKey = Annotated[str, Form(PUBLIC, "a public key of 64 hex digits")]


def _protecting(epsilon: float) -> float:
    if 100 < epsilon < math.inf:
        raise ValueError(
            "protects nobody; 1 to 10 are usual, inf says openly that there is no limit"
        )
    return epsilon


def _learner(name: str) -> str:
    if name not in names():
        raise ValueError(f"is no learner; there are {', '.join(names())}")
    return name


def _hyperparameter(key: str) -> str:
    learner, _, name = key.partition(".")
    if learner not in names() or type(hyper_of(load(learner)).get(name)) not in (int, float):
        raise ValueError(
            'is no hyperparameter of a learner that is a number; write it as "image.rounds"'
        )
    return key


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] <= ends[1]:
        raise ValueError(f"= {list(ends)} must be the least and the most, such as [1, 20]")
    return ends


Range = Annotated[tuple[float, float], Strict(False), AfterValidator(_ordered)]
Patients = Annotated[tuple[Whole, Whole], Strict(False), AfterValidator(_ordered)]


@dataclass(frozen=True)
class Policy(Settings):
    """Without a table, none: sums leave as they are, over at least `minimum` patients."""

    epsilon: Annotated[float, Field(gt=0), AfterValidator(_protecting)] = math.inf
    """What may ever be learnt of one patient from all that leaves, whatever the study, run or
    round; finite: every sum needs noise."""
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The chance that the epsilon does not hold; below 1 / (the site's patients)."""
    require: Require = "none"
    """Under what protection alone sums leave; a finite epsilon means `dp`."""
    participants: Listed[str] = ()
    """Names of all sites with which this one lets itself be summed up; empty: any. Under masks
    these and no fewer, this one among them."""
    expires: datetime.date | None = None
    """The last day on which a plan is answered."""
    peers: Mapping[str, PublicKey] = field(default_factory=dict, hash=False)
    """Site -> identity key (64 hex digits) of those with which this one masks its sums, as these,
    not the coordinator, told it."""
    fewest_sites: Annotated[int, Field(ge=3)] | None = None
    """The fewest sites in a masked sum, this one and `peers` that you hold to be honest; left out:
    all of the run's, three at least. Of two, each could take its own part off. In a run of 100 sites
    or more also the fewest that share masks with this one, itself among them."""
    dropouts: Dropouts = "stop"
    """What a run does without a site: `stop`, it waits for it; `continue`, it goes on with fewer,
    down to `fewest_sites`, if all sites say so, and the coordinator can tell a site's sums by saying
    that it has dropped out."""
    sets: AllowedSets = "one"
    """With how many sets of sites a patient is ever summed up under masks: `one`, or `any`, and
    then two sums can tell that of the sites between the sets."""
    small_folds: bool = False
    """Whether a part that a fold leaves out may be expected to hold fewer patients than `minimum`:
    the difference of two sums is then a sum over so few."""
    open_trees: bool = False
    """Whether trees are grown without noise or masks: the coordinator can then tell single patients'
    rows and labels from the site's sums, whatever `minimum` is."""
    smallest_leaf: Annotated[int, Field(ge=0)] | None = None
    """The fewest patients, over all sites, of a leaf of the published trees; left out: the site's
    `minimum`; 0: of one, too."""
    colluders: Annotated[int, Field(ge=0)] | None = None
    """How many of the sites in a masked sum may be in league with the coordinator, where the sites
    share one noise; left out: this site adds all of its own, and trusts nobody for it."""
    learners: Listed[Annotated[str, AfterValidator(_learner)]] = ()
    """Those that a plan may ask for; empty: any."""
    hyper: Mapping[Annotated[str, AfterValidator(_hyperparameter)], Range] = field(
        default_factory=dict, hash=False
    )
    """`learner.hyperparameter` -> the least and the most that a plan may ask for; what is not
    named: what the learner itself takes."""
    patients: Patients | None = None
    """The least and the most patients of a cohort, which are public: what is judged by a number of
    patients is judged by these. Left out: by the number that the greeting tells; with masks, which
    tells none, folds are not judged by it."""
    modalities: Listed[Modality] = ()
    """What the site says that it holds, and is asked for: `table`, `image`. Left out: what it has of
    any patient; with an epsilon or masks, `table` alone, for that would tell whether anybody has an
    image."""
    refusals: Whole = 50
    """The most plans of a day that are refused for what the sums of patients came to, and not for
    what was asked: each such refusal is an answer, too. Then no plan is answered until the next
    day (UTC)."""
    answer_margin: Annotated[float, Field(ge=0, le=1000)] = 3.0
    """With an epsilon or masks an answer leaves after so many times what its plan takes on as many
    made-up patients as `patients` has at most, and not when the work is done: how long it took says
    nothing of the patients. Whose part is not done by then adds nothing. 0: when the work is done."""
    patient_seconds: Mapping[
        Annotated[str, AfterValidator(_learner)], Annotated[float, Field(gt=0)]
    ] = field(default_factory=dict, hash=False)
    """Learner -> seconds that a plan of it may take for each patient, in place of what is measured
    on made-up ones."""
    noise_seed: int | None = None
    """Noise is drawn from it, so that a simulation can be repeated: it then hides nobody, and goes
    with no epsilon."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Nothing that is wrong falls back to less privacy."""
        limited = math.isfinite(self.epsilon)
        if limited and not self.delta:
            yield (
                "delta",
                "must be above 0 with an epsilon, and below 1 / (number of patients), such as 1e-5",
            )
        if self.require == "dp" and not limited:
            yield "require", "needs privacy.epsilon and privacy.delta"
        if self.require == "secagg" and len(self.peers) < 2:
            yield (
                "require",
                "needs [privacy.peers]: public keys of at least two other sites, as these told you",
            )
        if self.dropouts == "continue" and self.fewest_sites is None:
            yield (
                "dropouts",
                'continues down to privacy.fewest_sites sites: set it, or leave "stop"',
            )
        if self.colluders is not None:
            sites = len(self.peers) + 1
            if self.dropouts == "continue":
                sites = min(sites, self.fewest_sites or sites)
            if sites - 1 - self.colluders < 1:
                yield (
                    "colluders",
                    f"leaves none of the {sites - 1} other sites that are sure to be in a sum to "
                    "share noise with: a smaller number, more [privacy.peers] or fewest_sites, or "
                    "leave it out",
                )

    def faults_beside(self, written: frozenset[str]) -> Iterator[tuple[str, str]]:
        """An epsilon without a limit is none that noise which can be made again would keep."""
        limits = [key for key in ("epsilon", "delta", "require") if key in written]
        if self.noise_seed is not None and limits:
            yield (
                "noise_seed",
                "makes noise that can be made again, and hides nobody: leave it out, or "
                + " and ".join(limits),
            )

    @property
    def noised(self) -> bool:
        return self.require == "dp" or math.isfinite(self.epsilon)

    @property
    def shares(self) -> tuple[int, ...]:
        """What a coordinator must know to share noise: the fewest sites that are sure to be in a sum
        (0: all of a run's), and how many may be in league with it; empty: this site shares none."""
        if self.colluders is None:
            return ()
        return (self.fewest_sites or 0) if self.dropouts == "continue" else 0, self.colluders

    def sure_sites(self, plan: Plan, fewest: int | None = None) -> int:
        """How many sites are in a masked sum whatever happens, this one among them: of those that
        the plan names, with keys that this site knows. `fewest`: what the run's sites have signed.

        They are all of the run's, and with `dropouts = "continue"` the fewest that are allowed.
        """
        known = (set(plan.participants) & set(self.peers)) - {plan.site}
        sites = 1 + len(known)
        if self.dropouts == "continue":
            sites = min(sites, self.fewest_sites or 1)
        return sites if fewest is None else min(sites, fewest)

    def honest_peers(self, plan: Plan, fewest: int | None = None) -> int:
        """How many of them, beside this one, are in league with nobody: as many shares of noise that
        is shared are unknown to the coordinator and those in league with it, and to each other site
        that reads what comes of the sums. 0: this site shares none."""
        if self.colluders is None:
            return 0
        return max(self.sure_sites(plan, fewest) - 1 - self.colluders, 0)

    def demand_shares(self, plan: Plan, fewest: int | None = None) -> None:
        """RefusedError P07 where the plan makes a site's share of the noise smaller than this site's
        own view of its peers allows."""
        if plan.privacy is None or not plan.privacy.shared:
            return
        if not plan.secure:
            raise RefusedError(
                "P07", "the plan shares noise between sites whose sums are not masked"
            )
        honest = self.honest_peers(plan, fewest)
        if plan.privacy.shared > honest:
            raise RefusedError(
                "P07",
                f"the plan counts on {plan.privacy.shared} honest sites beside this one to share "
                f"its noise with, this site on {honest}; see privacy.colluders, fewest_sites and "
                "[privacy.peers]",
            )

    @property
    def protected(self) -> bool:
        """Nothing exact leaves: sums have noise or masks."""
        return self.noised or self.require == "secagg"

    def admit(self, plan: Plan, today: datetime.date) -> None:
        """RefusedError P07 where the site does not allow the plan, whatever its budget."""
        faults = []
        if self.expires is not None and today > self.expires:
            faults.append(
                f"this site answers no plan after {self.expires}; set privacy.expires in its site "
                "file"
            )
        strange = (
            sorted(set(plan.participants) - set(self.participants)) if self.participants else []
        )
        if strange:
            faults.append(
                f"the plan sums this site up with {', '.join(strange)}, whom privacy.participants "
                "does not name"
            )
        missing = sorted(set(self.participants) - set(plan.participants))
        if missing and plan.secure and self.sets == "one":
            faults.append(
                f"the plan masks a sum without {', '.join(missing)}, whom privacy.participants "
                "names: another sum with them would show theirs"
            )
        if self.noised and plan.privacy is None:
            faults.append(
                "this site's sums need noise, and the plan has none; the coordinator sets `noise` "
                "for the run"
            )
        if self.require == "secagg" and not plan.secure:
            faults.append(
                "this site's sums leave under secure aggregation alone; the coordinator sets "
                "`secure` for the run"
            )
        if plan.secure and (plan.fold.sites or any(f.sites for f in plan.reads)):
            faults.append(
                "the plan leaves out a whole site: beside the sum over all it would show that "
                "site's"
            )
        if self.learners and plan.learner not in self.learners:
            faults.append(
                f"learner '{plan.learner}' is not among privacy.learners "
                f"({', '.join(self.learners)})"
            )
        for key, (low, high) in self.hyper.items():
            learner, _, name = key.partition(".")
            if learner != plan.learner:
                continue
            # what a plan leaves out, the learner fills in
            value = plan.hyper.get(name, hyper_of(load(learner))[name])
            if not (type(value) in (int, float) and low <= cast(float, value) <= high):
                faults.append(
                    f"{key}={value!r} lies outside of what privacy.hyper allows, {low:g} to "
                    f"{high:g}"
                )
        if faults:
            raise RefusedError("P07", *faults)
        self.demand_shares(plan)
