"""Charge, what one release costs, as a line of a site's account holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from client.site.privacy_policy import Policy
from common.errors import RunError
from common.federated.learner import Plan
from common.privacy.by_part import Share
from common.privacy.limits import NOISE, SHARES
from common.privacy.mechanism import Cost, Privacy, Sampled, release, shared


@dataclass(frozen=True)
class Charge:
    """What one release costs."""

    run: str
    step: int
    learner: str
    fold: str
    question: str
    noise: float
    split: tuple[int, int]
    """Seed and number of parts."""
    spared: tuple[int, ...]
    """Parts none of whose patients are in the sum."""
    sampled: Sampled | None = None
    """Steps of DP-SGD, beside which a count leaves; None: one sum."""
    shares: int = 0
    """Of noise that sites share: how many shares a reader lacks who is in league with as many sites
    as the policy allows for; 0: the site has added all of it."""
    sites: int = 0
    """How many sites are sure to have added a share: what the coordinator by itself lacks."""

    @staticmethod
    def of(plan: Plan, spared: tuple[int, ...], bound: float | Sampled, policy: Policy) -> Charge:
        assert plan.privacy is not None
        charge = Charge(
            plan.run,
            plan.step,
            plan.learner,
            plan.fold.key,
            plan.question,
            plan.privacy.noise,
            (plan.seed, plan.parts),
            spared,
            bound if isinstance(bound, Sampled) else None,
        )
        if charge.sampled or not plan.privacy.shared:
            return charge
        return replace(charge, shares=plan.privacy.shared, sites=policy.sure_sites(plan))

    def __post_init__(self) -> None:
        """ValueError for what is outside of its limits (`common.privacy.limits`)."""
        NOISE.demand(self.noise)
        if self.shares != 0 or type(self.shares) is not int:
            SHARES.demand(self.shares)
            SHARES.demand(self.sites)
            if self.sites <= self.shares or self.sampled:
                raise ValueError(f"{self.shares} shares of noise of {self.sites} sites")
        Share(Cost(), self.split, frozenset(self.spared))

    @property
    def cost(self) -> Cost:
        """To a patient who is in the sum."""
        return release(Privacy(self.noise, self.shares), self.sampled or 0.0)

    @property
    def share(self) -> Share:
        return Share(self.cost, self.split, frozenset(self.spared))

    @property
    def share_alone(self) -> Share:
        """The same, as the coordinator by itself can tell."""
        if not self.shares:
            return self.share
        noise = min(self.noise * math.sqrt(self.sites / self.shares), NOISE.most)
        return Share(shared(noise, self.sites), self.split, frozenset(self.spared))


def read_charge(row: Any, where: str) -> Charge:
    """ValueError for a value outside of its limits, RunError S02 for another form."""
    try:
        sampled = Sampled(**row["sampled"]) if row.get("sampled") else None
        read = {"split": tuple(row["split"]), "spared": tuple(row["spared"]), "sampled": sampled}
        return Charge(**{**row, **read})
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise RunError(
            "S02",
            f"{where} was written by another version ({error}); use the version that wrote it",
        ) from error
