"""Malicious site (data and model poisoning): a virtual site that attacks the run, and what the
defences make of it.

`label_flip` is in the site's table, and everything that the site computes is honest. The others are
in what it answers: a hostile station around the site's own, which signs with the site's key, for
the site itself is the attacker.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.cohort.reader import Reading
from client.station.station import Station, open_station
from common.data.cohort import UNKNOWN
from common.errors import FedmetsError, UsageError
from common.federated.learner import Averaged, Contribution, Plan, load
from common.federated.states import States
from common.types import Arrays, pack, unpack
from common.wire import signing
from common.wire.compression import CODE, SCALE
from common.wire.envelope import Packet
from common.wire.flower_records import HELLO, NUDGE, content, packet
from common.wire.messages import Update, pack_updates, refusal, unpack_request
from common.wire.state_transfer import held_states
from server.ledger import state_store
from simulation.federation import label_permutation
from simulation.federation.partition import Partition

IN_DATA = "label_flip"
IN_ANSWERS = ("scale", "nan", "stale")
ATTACKS = (IN_DATA, *IN_ANSWERS)
FACTOR = 20.0
"""By how much `scale` multiplies the change of the parameters."""
DESCRIPTIONS = {
    "label_flip": "its labels are flipped (each class for the next one), in training and in every "
    "figure that counts its patients",
    "scale": f"it sends {FACTOR:g} times the change of every learner's parameters",
    "nan": "it sends no numbers for every learner's parameters",
    "stale": "it sends for every learner's parameters what it sent first",
}


def chosen(args: argparse.Namespace, parted: Partition) -> str:
    """The site that attacks: the N-th, or the one with the most patients; '' for none. UsageError
    C01 where there is no N-th."""
    names, nth = list(parted.sites), args.attacker
    if not args.attack:
        return ""
    if nth is None:
        return max(names, key=lambda name: len(parted.sites[name]))
    if not 1 <= nth <= len(names):
        raise UsageError(
            "C01", f"--attacker {nth}: there are {len(names)} sites ({', '.join(names)})"
        )
    return names[int(nth) - 1]


def flipped(folder: Path, reading: Reading, ids: Collection[str]) -> tuple[Path, Path]:
    """The table with each of these patients' label replaced by the next class, the last one's by
    the first; and its source mapping."""
    classes, flipped_ids = len(reading.cohort.schema.label.classes), set(ids)
    labels = [
        (k + 1) % classes if k != UNKNOWN and i in flipped_ids else k
        for i, k in zip(reading.cohort.ids, reading.cohort.labels, strict=True)
    ]
    return label_permutation.write_table(folder, reading, np.array(labels, np.int64))


class AttackedApp(ClientApp):
    """A courier for all sites but one, whose messages go to a hostile station."""

    def __init__(self, honest: ClientApp, site: Path, kind: str) -> None:
        super().__init__()
        self._honest, self._site, self._hostile = (
            honest,
            str(site),
            HostileStation(open_station(str(site)), kind),
        )

    def __call__(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if context.node_config["site"] != self._site or kind == NUDGE:
            return self._honest(message, context)
        return Message(
            content(
                self._hostile.answer(packet(message, "greeting" if kind == HELLO else "request"))
            ),
            reply_to=message,
        )


class HostileStation:
    """A station that lies about parameters, and is honest in all else."""

    def __init__(self, station: Station, kind: str) -> None:
        self._station, self._kind, self._held = station, kind, held_states()
        assert station.site.key is not None
        self._signer = signing.load(station.site.key)
        self._first = station.site.key.parent / "first"
        """Where `stale` keeps its first answers: a run that is resumed is lied to in the same
        bits."""

    def answer(self, request_packet: Packet) -> Packet:
        if request_packet.kind == "greeting":
            return self._station.answer(request_packet)
        try:
            request = unpack_request(request_packet, self._station.site.coordinator, self._held)
            updates = self._station.handle(request)
            lies = [
                self._lie(p, u, request.states) for p, u in zip(request.plans, updates, strict=True)
            ]
        except FedmetsError as error:
            return refusal(request_packet, error.code)
        return pack_updates(lies, self._signer, request_packet)

    def _lie(self, plan: Plan, update: Update, states: States) -> Update:
        learner, truth = load(plan.learner, plan.hyper), update.contribution
        if truth is None or not isinstance(learner, Averaged):
            return update
        current = learner.parameters(states[plan.fold][learner.name])
        if set(truth.sums) == {CODE, SCALE}:
            sums = self._changed(plan, truth.sums)
        elif set(truth.sums) == set(current):
            sums = self._summed(plan, truth, current)
        else:
            return update  # plain sums of another phase
        return Update(
            update.plan_hash, Contribution(sums, truth.cases, truth.tally), "", update.budget
        )

    def _summed(self, plan: Plan, truth: Contribution, current: Arrays) -> Arrays:
        """Parameters times cases."""
        if self._kind == "scale":
            return {
                k: v + (FACTOR - 1) * (v - current[k] * np.float64(truth.cases))
                for k, v in truth.sums.items()
            }
        return (
            self._sent_first(plan, truth.sums)
            if self._kind == "stale"
            else {k: np.full_like(v, np.nan) for k, v in truth.sums.items()}
        )

    def _changed(self, plan: Plan, sums: Arrays) -> Arrays:
        """A rounded change."""
        factor = np.float32(FACTOR if self._kind == "scale" else np.nan)
        return (
            self._sent_first(plan, sums)
            if self._kind == "stale"
            else {**sums, SCALE: sums[SCALE] * factor}
        )

    def _sent_first(self, plan: Plan, sums: Arrays) -> Arrays:
        path = (
            self._first
            / hashlib.sha256(f"{plan.run}\t{plan.learner}\t{plan.fold.key}".encode()).hexdigest()[
                :32
            ]
        )
        if not path.exists():
            state_store.write(path, pack(sums))
        return dict(unpack(path.read_bytes()))
