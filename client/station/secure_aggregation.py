"""Secure aggregation at a station: its key for each run, the one vector that it masks a step, the
one set of sites it unmasks for.

On disk before anything leaves: the run's key, and for its latest steps what was masked and who was
said to be online. A station that is started again goes on; one that is told of other sites for the
same step refuses, for two sums that differ by a site show that site's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import FedmetsError, RefusedError, RunError
from common.federated.learner import Contribution, Plan
from common.runtime.atomic_files import durable
from common.secure_aggregation import fixed_point, masking, pairwise_keys
from common.secure_aggregation import group as secagg_group
from common.secure_aggregation.fixed_point import Words
from common.secure_aggregation.group import FEWEST, Group
from common.secure_aggregation.pairwise_keys import Agreer, Pair
from common.types import Arrays
from common.wire import masked_messages, signing
from common.wire.masked_messages import Ask, Told
from common.wire.signing import Signer

KEPT = 2
"""Steps of a run that are remembered; older ones are refused, as their plans are."""


@dataclass
class _Run:
    key: Agreer
    publics: dict[str, str] = field(default_factory=dict)
    """Site -> its key, once the group is known."""
    steps: dict[int, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Step -> its place, and who is online: nobody as long as nobody was told."""


class Secure:
    """Of one station. `peers`: site -> identity key, as the site itself has got it from them;
    `folder` None: in memory only."""

    def __init__(
        self,
        site: str,
        signer: Callable[[], Signer],
        peers: Mapping[str, str],
        fewest: int,
        folder: Path | None,
    ) -> None:
        self._site, self._signer, self._peers, self._fewest, self._folder = (
            site,
            signer,
            peers,
            max(fewest, FEWEST),
            folder,
        )
        self._runs: dict[str, _Run] = {}

    def answer(self, ask: Ask) -> Told:
        """RefusedError or WireError where the site does not do that."""
        if ask.site != self._site:
            raise RefusedError(
                "P04", f"the message is for site '{ask.site}', this is '{self._site}'"
            )
        run = self._run(ask.run)
        if ask.stage == "key":
            self._save(ask.run, run)
            public = run.key.public
            return Told(
                public=public,
                signature=self._signer().sign(masked_messages.vouched(ask.run, self._site, public)),
            )
        if ask.stage == "group":
            return self._joined(run, ask)
        return self._agreed(run, ask) if ask.stage == "online" else self._revealed(run, ask)

    def mask(
        self,
        plans: Sequence[Plan],
        zeros: Sequence[Contribution],
        contributions: Sequence[Contribution],
    ) -> tuple[Words, dict[str, bytes]]:
        """The step's vector with masks on it, and the seeds' shares, sealed for each site."""
        name, step = plans[0].run, plans[0].step
        run = self._run(name)
        group = self._group(run)
        if any(
            p.run != name or p.step != step or tuple(sorted(p.participants)) != group.sites
            for p in plans
        ):
            raise RefusedError(
                "M01",
                f"the plans are not all of one step for the sites {', '.join(group.sites)}, which "
                "exchanged keys",
            )
        place = masked_messages.place(plans, group)
        if (
            run.steps.get(step, (place, ()))[0] != place
            or step <= max(run.steps, default=-1) - KEPT
        ):
            raise RefusedError(
                "P06",
                f"step {step} of run {name}: one vector leaves in each step, and another one has",
            )
        run.steps = {s: v for s, v in run.steps.items() if s > step - KEPT} | {
            step: run.steps.get(step, (place, ()))
        }
        like: Arrays = masked_messages.joined(zeros)
        vector = fixed_point.encode(
            masked_messages.joined(contributions), like, masked_messages.scale(group)
        )
        pairs, place_bytes = self._pairs(name, run), bytes.fromhex(place)
        seeds = secagg_group.seeds(group, self._site, pairs, place_bytes)
        sealed = secagg_group.seal(group, self._site, seeds, pairs, place_bytes)
        masking.mask(vector, self._site, seeds)
        self._save(name, run)
        return vector, sealed

    def _joined(self, run: _Run, ask: Ask) -> Told:
        """Take the keys, if each is signed by the site that it is said to be of."""
        secagg_group.group(ask.keys, self._fewest)
        if ask.keys.get(self._site, ("", ""))[0] != run.key.public:
            raise RefusedError(
                "M02",
                "the keys of the run do not hold this site's own: it was begun anew, or its state "
                "was lost",
            )
        strange = sorted(set(ask.keys) - set(self._peers) - {self._site})
        if strange:
            raise RefusedError(
                "P07",
                f"this site has no key of {', '.join(strange)} by which to know them; name it in "
                "[privacy.peers]",
            )
        for site, (public, signature) in ask.keys.items():
            if site != self._site:
                try:
                    signing.verify(
                        self._peers[site], masked_messages.vouched(ask.run, site, public), signature
                    )
                except FedmetsError as error:
                    raise RefusedError(
                        "M02",
                        f"what came as the key of '{site}' is not signed by it; ask that site for "
                        "its key",
                    ) from error
        publics = {site: public for site, (public, _) in ask.keys.items()}
        if run.publics and run.publics != publics:
            raise RefusedError(
                "M02", "the run has other sites or keys now than when it was begun; start a new run"
            )
        run.publics = publics
        self._save(ask.run, run)
        return Told()

    def _agreed(self, run: _Run, ask: Ask) -> Told:
        """Sign who is online, once a step."""
        group, online = self._group(run), tuple(sorted(ask.online))
        group.demand(online)
        place, signed = run.steps.get(ask.step, ("", ()))
        if place != ask.place or self._site not in online:
            raise RefusedError(
                "M01", f"step {ask.step}: this site sent no vector there that could be in the sum"
            )
        if signed and signed != online:
            raise RefusedError(
                "M01",
                f"step {ask.step} was unmasked for {', '.join(signed)}; never again for other "
                "sites",
            )
        run.steps[ask.step] = place, online
        self._save(ask.run, run)
        return Told(signature=self._signer().sign(masked_messages.agreed(ask.run, place, online)))

    def _revealed(self, run: _Run, ask: Ask) -> Told:
        """Shares of the seeds that do not cancel, where enough sites have signed the same online
        ones."""
        group, online = self._group(run), tuple(sorted(ask.online))
        place, signed = run.steps.get(ask.step, ("", ()))
        if place != ask.place or not online or signed != online:
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
            if s in online
        }
        return Told(shares=secagg_group.reveal(group, online, unsealed))

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

    def _group(self, run: _Run) -> Group:
        if not run.publics:
            raise RefusedError("M02", "the sites of this run have exchanged no keys")
        return secagg_group.group(run.publics, self._fewest)

    def _pairs(self, name: str, run: _Run) -> dict[str, Pair]:
        return {
            s: pairwise_keys.agree(run.key, public, self._site, s, name)
            for s, public in run.publics.items()
        }

    # ---- on disk ---------------------------------------------------------------------------------

    def _path(self, name: str) -> Path | None:
        # a run's name comes from outside: it must not be a path
        return (
            self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
            if self._folder
            else None
        )

    def _run(self, name: str) -> _Run:
        if name not in self._runs:
            path = self._path(name)
            self._runs[name] = _read(path) if path and path.exists() else _Run(pairwise_keys.new())
        return self._runs[name]

    def _save(self, name: str, run: _Run) -> None:
        if path := self._path(name):
            text = json.dumps(
                {
                    "key": run.key.key.private_bytes_raw().hex(),
                    "publics": run.publics,
                    "steps": list(run.steps.items()),
                }
            )
            durable(
                path, text.encode(), "free space at the site; nothing leaves until it is on disk"
            )


def _read(path: Path) -> _Run:
    try:
        row = json.loads(path.read_text())
        steps = {int(step): (str(place), tuple(online)) for step, (place, online) in row["steps"]}
        return _Run(
            Agreer(X25519PrivateKey.from_private_bytes(bytes.fromhex(row["key"]))),
            dict(row["publics"]),
            steps,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            "S02", f"'{path}' is damaged ({error}); start a new run: the keys of this one are lost"
        ) from error
