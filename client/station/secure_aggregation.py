"""Secure aggregation at a station: its key for each run, the one vector that it masks a step, the
one set of sites it unmasks for.

On disk before anything leaves: the run's key, and for its latest steps what was masked and who was
said to be online (`masked_runs`), and with which sites each patient was summed up (`site_sets`). A
station that is started again goes on. One that is told of other sites refuses, in the same step, in
a later one and in another run, for two sums that differ by a site show that site's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from client.site.privacy_policy import Policy
from client.station.masked_runs import KEPT, MaskedRun, MaskedRuns, MaskedStep
from client.station.site_sets import SiteSets
from common.data.cohort import Cohort
from common.errors import FedmetsError, RefusedError
from common.federated.learner import Contribution, Plan, load
from common.secure_aggregation import fixed_point, graph, masking, pairwise_keys
from common.secure_aggregation import group as secagg_group
from common.secure_aggregation.fixed_point import Words
from common.secure_aggregation.group import ALL, FEWEST, Group
from common.secure_aggregation.pairwise_keys import Pair
from common.types import Arrays
from common.wire import masked_messages, signing
from common.wire.masked_messages import Ask, Told
from common.wire.signing import Signer


class Secure:
    """Of one station. `policy.peers`: site -> identity key, as the site itself has got it from
    them; `folder` None: in memory only."""

    def __init__(
        self, site: str, signer: Callable[[], Signer], policy: Policy, folder: Path | None
    ) -> None:
        self._site, self._signer, self._policy, self._peers = site, signer, policy, policy.peers
        self._written: dict[str, str] = {}
        self._runs = MaskedRuns(folder, self._written)
        self._sets = SiteSets(folder, policy.sets == "one", self._written)

    def written(self) -> dict[str, str]:
        """File -> SHA-256 of what was written into it since this was last asked."""
        since = dict(self._written)
        self._written.clear()
        return since

    def answer(self, ask: Ask) -> Told:
        """RefusedError or WireError where the site does not do that."""
        if ask.site != self._site:
            raise RefusedError(
                "P04", f"the message is for site '{ask.site}', this is '{self._site}'"
            )
        run = self._run(ask.run)
        if ask.stage == "key":
            self._runs.save(ask.run, run)
            public = run.key.public
            text = masked_messages.vouched(ask.run, self._site, public, run.fewest)
            return Told(public=public, fewest=run.fewest, signature=self._signer().sign(text))
        if ask.stage == "group":
            return self._joined(run, ask)
        return self._agreed(run, ask) if ask.stage == "online" else self._revealed(run, ask)

    def admit(self, plans: Sequence[Plan], cohort: Cohort) -> Mapping[int, str]:
        """Before any work. Number of a plan -> the code of why zeros stand for it, where this step
        has left before.

        RefusedError M01, M02, M05 or P06 where the plans are not of the run's one set of sites, or
        not of the one question of their step; M04 where this site has said that it cannot.
        """
        first = plans[0]
        run = self._run(first.run)
        group = self._group(first.run, run)
        of_one = ("run", "step", "study", "task", "participants")
        if any(getattr(p, k) != getattr(first, k) for p in plans for k in of_one) or (
            tuple(sorted(first.participants)) != group.sites
        ):
            raise RefusedError(
                "M01",
                f"the plans are not all of one step for the sites {', '.join(group.sites)}, which "
                "exchanged keys",
            )
        for plan in plans:
            self._policy.demand_shares(plan, group.minimum)
        self._sets.admit(cohort, group.sites)
        masked = run.steps.get(first.step)
        place = masked_messages.place(plans, group)
        if (masked and masked.place != place) or first.step <= max(run.steps, default=-1) - KEPT:
            raise RefusedError(
                "P06",
                f"step {first.step} of run {first.run}: one vector leaves in each step, and "
                "another one has",
            )
        if masked and not masked.digest:
            raise RefusedError(
                "M04",
                f"step {first.step} of run {first.run}: this site has said that it cannot compute "
                "its part, and says nothing else; start a new run",
            )
        return masked.absent if masked else {}

    def demand_even(self, plans: Sequence[Plan], absent: Mapping[int, str]) -> None:
        """RefusedError M04 where this site has too few patients in a fold of a learner for which it
        has enough on the whole. Zeros there would leave the sum to fewer sites, and whoever chooses
        folds would choose these, down to one."""
        if self._policy.noised or self._policy.noise_seed is not None:
            # the count that falls short is noisy and paid for, and what leaves has the site's noise
            return
        few = [plans[i] for i, code in absent.items() if code == "P01"]
        settled = self._run(plans[0].run).few | {_whose(p) for p in few if _whole(p)}
        for plan in few:
            names = (plan.learner, *load(plan.learner).needs)
            if settled.isdisjoint(_whose(replace(plan, learner=name)) for name in names):
                raise RefusedError(
                    "M04",
                    f"{plan.learner}, fold '{plan.fold.key}': fewer patients than the site's minimum, "
                    "and not so without folds. Under masks a site is in the sums of all folds or of "
                    "none: fewer folds, a lower minimum, or a run without this site",
                )

    def mask(
        self,
        plans: Sequence[Plan],
        cohort: Cohort,
        zeros: Sequence[Contribution],
        contributions: Sequence[Contribution],
        absent: Mapping[int, str],
    ) -> tuple[Words, dict[str, bytes]]:
        """The step's vector with masks on it, and the seeds' shares, sealed for each site.

        absent: the plans for which zeros stand, and why. Asked again, the same vector leaves, or
        RefusedError P06.
        """
        self.admit(plans, cohort)
        name, step = plans[0].run, plans[0].step
        run = self._run(name)
        group = self._group(name, run)
        like: Arrays = masked_messages.joined(zeros)
        vector = fixed_point.encode(
            masked_messages.joined(contributions), like, masked_messages.scale(group)
        )
        digest = hashlib.sha256(vector.data).hexdigest()
        place = masked_messages.place(plans, group)
        fresh = MaskedStep(place, digest, secagg_group.own_seed().hex(), absent)
        masked = run.steps.get(step, fresh)
        if masked.digest != digest:
            raise RefusedError(
                "P06",
                f"step {step} of run {name}: other sums have left there than this site has now; "
                "start a new run",
            )
        pairs, place_bytes = self._pairs(name, run), bytes.fromhex(place)
        own = bytes.fromhex(masked.seed)
        seeds = secagg_group.seeds(group, self._site, pairs, place_bytes, own)
        sealed = secagg_group.seal(group, self._site, seeds, pairs, place_bytes)
        masking.mask(vector, self._site, seeds)
        self._sets.keep(cohort, group.sites)
        few = [plans[i] for i, code in masked.absent.items() if code == "P01"]
        run.few |= {_whose(p) for p in few if _whole(p)}
        self._keep(name, run, step, masked)
        return vector, sealed

    def fail(self, plans: Sequence[Plan], cohort: Cohort) -> None:
        """This site cannot compute a step's part, for reasons that may lie in its rows: it says so
        once and for all. RefusedError P06 where a vector has left there."""
        self.admit(plans, cohort)
        name, step = plans[0].run, plans[0].step
        run = self._run(name)
        if step in run.steps:
            raise RefusedError("P06", f"step {step} of run {name}: a vector of it has left")
        self._keep(
            name, run, step, MaskedStep(masked_messages.place(plans, self._group(name, run)))
        )

    def _keep(self, name: str, run: MaskedRun, step: int, masked: MaskedStep) -> None:
        run.steps = {s: v for s, v in run.steps.items() if s > step - KEPT} | {step: masked}
        self._runs.save(name, run)

    def _joined(self, run: MaskedRun, ask: Ask) -> Told:
        """Take the keys, if each is signed by the site that it is said to be of."""
        vouched = {site: vouch.fewest for site, vouch in ask.keys.items()}
        publics = {site: vouch.public for site, vouch in ask.keys.items()}
        group = secagg_group.group(vouched, graph.declared(ask.run, publics))
        fewest = self._policy.fewest_sites or FEWEST
        if len(ask.keys) < fewest:
            raise RefusedError(
                "M01",
                f"the run is of {len(ask.keys)} sites, privacy.fewest_sites is {fewest}",
            )
        own = ask.keys.get(self._site)
        if own is None or (own.public, own.fewest) != (run.key.public, run.fewest):
            raise RefusedError(
                "M02",
                "the keys of the run do not hold this site's own: it was begun anew, or its state "
                "was lost",
            )
        near = len(group.near(self._site))
        if near < fewest:
            raise RefusedError(
                "M01",
                f"of {len(ask.keys)} sites this one shares its masks with {near}, itself among "
                f"them, privacy.fewest_sites is {fewest}",
            )
        league, colluders = graph.league(len(ask.keys)), self._policy.colluders or 0
        if group.graph and colluders > league:
            raise RefusedError(
                "M01",
                f"the graph of {len(ask.keys)} sites stands against {league} in league, "
                f"privacy.colluders is {colluders}",
            )
        strange = sorted(set(ask.keys) - set(self._peers) - {self._site})
        if strange:
            raise RefusedError(
                "P07",
                f"this site has no key of {', '.join(strange)} by which to know them; name it in "
                "[privacy.peers]",
            )
        for site, vouch in ask.keys.items():
            if site != self._site:
                text = masked_messages.vouched(ask.run, site, vouch.public, vouch.fewest)
                try:
                    signing.verify(self._peers[site], text, vouch.signature)
                except FedmetsError as error:
                    raise RefusedError(
                        "M02",
                        f"what came as the key of '{site}' is not signed by it; ask that site for "
                        "its key",
                    ) from error
        if run.publics and (run.publics, run.vouched) != (publics, vouched):
            raise RefusedError(
                "M02", "the run has other sites or keys now than when it was begun; start a new run"
            )
        run.publics, run.vouched = publics, vouched
        self._runs.save(ask.run, run)
        return Told()

    def _agreed(self, run: MaskedRun, ask: Ask) -> Told:
        """Sign who is online: all sites of the run; or, where each has vouched for fewer, those of
        the run's sum before this one, or fewer of them. Once a step."""
        group, online = self._group(ask.run, run), tuple(sorted(ask.online))
        group.demand(online)
        masked = run.steps.get(ask.step, MaskedStep(""))
        if masked.place != ask.place or not masked.digest or self._site not in online:
            raise RefusedError(
                "M01", f"step {ask.step}: this site sent no vector there that could be in the sum"
            )
        if masked.online and masked.online != online:
            raise RefusedError(
                "M01",
                f"step {ask.step} was unmasked for {', '.join(masked.online)}; never again for "
                "other sites",
            )
        if self._policy.dropouts == "stop" and online != group.sites:
            raise RefusedError(
                "M01", f'a sum over {", ".join(online)}: privacy.dropouts is "stop" by now'
            )
        if not masked.online and not set(online) <= set(run.online or group.sites):
            raise RefusedError(
                "M01",
                f"the run's latest sum was over {', '.join(run.online)}: whoever has dropped out "
                "is never in a later one",
            )
        run.online = run.online if masked.online else online
        run.steps[ask.step] = replace(masked, online=online)
        self._runs.save(ask.run, run)
        text = masked_messages.agreed(ask.run, masked.place, online)
        return Told(signature=self._signer().sign(text))

    def _revealed(self, run: MaskedRun, ask: Ask) -> Told:
        """Shares of the seeds that do not cancel, where enough sites have signed the same online
        ones."""
        group, online = self._group(ask.run, run), tuple(sorted(ask.online))
        masked = run.steps.get(ask.step, MaskedStep(""))
        place = masked.place
        if place != ask.place or not online or masked.online != online:
            raise RefusedError(
                "M01",
                f"step {ask.step}: this site has signed other sites as online than those that are "
                "named now",
            )
        signers = [
            s
            for s in online
            if self._signs(s, masked_messages.agreed(ask.run, place, online), ask.signed.get(s, ""))
        ]
        if len(signers) < group.threshold:
            raise RefusedError(
                "M01",
                f"step {ask.step}: {len(signers)} sites signed who is online, {group.threshold} "
                "must",
            )
        pairs, place_bytes = self._pairs(ask.run, run), bytes.fromhex(place)
        unsealed = {
            s: secagg_group.unseal(group, self._site, s, blob, pairs[s], place_bytes)
            for s, blob in ask.sealed.items()
            if s in online and s in pairs
        }
        return Told(shares=secagg_group.reveal(group, self._site, online, unsealed))

    def _signs(self, site: str, text: bytes, signature: str) -> bool:
        try:
            signing.verify(
                self._signer().public if site == self._site else self._peers.get(site, ""),
                text,
                signature,
            )
        except FedmetsError:
            return False
        return True

    def _run(self, name: str) -> MaskedRun:
        allowed = self._policy.fewest_sites if self._policy.dropouts == "continue" else None
        return self._runs.of(name, allowed or ALL)

    def _group(self, name: str, run: MaskedRun) -> Group:
        if not run.publics:
            raise RefusedError("M02", "the sites of this run have exchanged no keys")
        return secagg_group.group(run.vouched, graph.declared(name, run.publics))

    def _pairs(self, name: str, run: MaskedRun) -> dict[str, Pair]:
        return {
            s: pairwise_keys.agree(run.key, run.publics[s], self._site, s, name)
            for s in self._group(name, run).near(self._site)
        }


def _whose(plan: Plan) -> str:
    """Of all folds of a learner."""
    return "\t".join((plan.study, plan.task, plan.learner))


def _whole(plan: Plan) -> bool:
    """Is it over all patients: no fold is left out, nor read alone?"""
    read = {f.parts for f in plan.reads}
    return not plan.fold.parts and (
        read <= {()} or all((part,) in read for part in range(plan.parts))
    )
