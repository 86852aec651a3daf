"""One question, one set of sites: whatever a coordinator that the sites have pinned asks, in
whatever order, its sums tell no fewer sites' than their policies say.

Each site's part is a vector with a one in its own place, so that a sum that is unmasked says whose
parts are in it. `World` is the coordinator's hands, and the stations with what they have on disk.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from client.site.privacy_policy import Policy
from client.station import masked_runs
from client.station.secure_aggregation import Secure
from client.station.site_sets import NAME, SiteSets
from common.data.cohort import Cohort, Fold
from common.errors import FederationError, FedmetsError, RefusedError, RunError
from common.federated.learner import Contribution, Plan, local_plan
from common.secure_aggregation import fixed_point
from common.secure_aggregation import group as secagg_group
from common.secure_aggregation.fixed_point import Words
from common.wire import masked_messages
from common.wire.masked_messages import Ask, Told, Vouch
from tests import ring
from tests.synthetic import cohort

SITES = ("A", "B", "C", "D", "E")
ZERO = Contribution({"parts": np.zeros(len(SITES))}, 0)
PATIENTS = {
    "first": tuple(f"p{i:02}" for i in range(10)),
    "follow-up": tuple(f"p{i:02}" for i in range(9, 19)),  # one patient is in both
    "elsewhere": tuple(f"q{i:02}" for i in range(10)),
}
MEMORY = "/dev/shm"
"""Files that outlive a station are wanted here, not a disk that is slow to write them."""
LOOSE = {"dropouts": "continue", "fewest_sites": 3}
FAMILIES = (("first", "follow-up"), ("elsewhere",))
"""Studies that share patients."""
COHORTS: dict[str, Cohort] = {
    study: replace(cohort(10, seed=3), ids=ids) for study, ids in PATIENTS.items()
}


def part(site: str) -> Contribution:
    return Contribution({"parts": np.eye(len(SITES))[SITES.index(site)]}, 1)


@dataclass
class World:
    folder: Path
    policies: Mapping[str, Policy]
    sites: dict[str, Secure] = field(default_factory=dict)
    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    """Run -> what its sites have vouched for, as all of them took it last."""
    vectors: dict[str, dict[str, Words]] = field(default_factory=dict)
    """Place -> site -> what left."""
    sealed: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    signed: dict[tuple[str, tuple[str, ...]], dict[str, str]] = field(default_factory=dict)
    """Place and online sites -> site -> its signature."""
    shares: dict[tuple[str, tuple[str, ...]], dict[str, Mapping[str, Mapping[str, bytes]]]] = field(
        default_factory=dict
    )
    sums: list[tuple[str, str, int, tuple[str, ...]]] = field(default_factory=list)
    """Study, run, step and the sites whose parts are in a sum that was unmasked, in order."""

    def __post_init__(self) -> None:
        for site in SITES:
            self.restart(site)

    def restart(self, site: str) -> None:
        signer = partial(ring.signer, site)
        self.sites[site] = Secure(site, signer, self.policies[site], self.folder / site)

    def ask(self, run: str, site: str, stage: masked_messages.Stage, **more: object) -> Told:
        ask = Ask(run, site, stage, time.time() + 60)
        return self.sites[site].answer(replace(ask, **more))  # type: ignore[arg-type]

    def exchange(self, run: str, names: Sequence[str]) -> None:
        told = {s: self.ask(run, s, "key") for s in names}
        keys = {s: Vouch(t.public, t.fewest, t.signature) for s, t in told.items()}
        with suppress(FederationError):
            for site in names:
                self.ask(run, site, "group", keys=keys)
            self.groups[run] = {s: v.fewest for s, v in keys.items()}

    def plan(self, run: str, step: int, study: str, participants: Sequence[str], seed: int) -> Plan:
        plan = local_plan(Fold(), seed, 5)
        told = {"run": run, "step": step, "study": study, "participants": tuple(participants)}
        return replace(plan, secure=True, **told)

    def place(self, plan: Plan) -> str:
        return masked_messages.place([plan], secagg_group.group(self.groups[plan.run]))

    def mask(self, site: str, plan: Plan, zeros: bool = False) -> None:
        plan = replace(plan, site=site)
        contribution = ZERO if zeros else part(site)
        absent = {0: "P01"} if zeros else {}
        cohort = COHORTS[plan.study]
        vector, sealed = self.sites[site].mask([plan], cohort, [ZERO], [contribution], absent)
        left = self.vectors.setdefault(self.place(plan), {})
        assert np.array_equal(left.setdefault(site, vector), vector), "another vector has left"
        self.sealed.setdefault(self.place(plan), {})[site] = sealed

    def sign(self, site: str, plan: Plan, online: tuple[str, ...]) -> None:
        place = self.place(plan)
        told = self.ask(plan.run, site, "online", step=plan.step, place=place, online=online)
        self.signed.setdefault((place, online), {})[site] = told.signature

    def reveal(self, site: str, plan: Plan, online: tuple[str, ...]) -> None:
        place = self.place(plan)
        sealed = {s: of[site] for s, of in self.sealed.get(place, {}).items() if site in of}
        signed = self.signed.get((place, online), {})
        told = self.ask(
            plan.run, site, "reveal", step=plan.step, place=place, online=online,
            signed=signed, sealed=sealed,
        )  # fmt: skip
        self.shares.setdefault((place, online), {})[site] = told.shares

    def unmask(self, plan: Plan, online: tuple[str, ...]) -> None:
        place, group = self.place(plan), secagg_group.group(self.groups[plan.run])
        vectors = self.vectors.get(place, {})
        if not set(online) <= set(vectors):
            return
        total = np.sum([vectors[s] for s in online], axis=0, dtype=np.uint64)
        secagg_group.unmask(group, online, self.shares.get((place, online), {}), total)
        like = masked_messages.joined([ZERO])
        decoded = dict(fixed_point.decode(total, like, masked_messages.scale(group), len(online)))
        inside = tuple(s for s, n in zip(SITES, decoded["0\tsums\tparts"], strict=True) if n > 0.5)
        self.sums.append((plan.study, plan.run, plan.step, inside))

    def ask_for(self, plan: Plan, online: Sequence[str]) -> None:
        """All that a coordinator can do to have the sum over `online`."""
        told = tuple(sorted(online))
        for site in SITES:
            with suppress(FederationError):
                self.mask(site, plan)
        for work in (self.sign, self.reveal):
            for site in SITES:
                with suppress(FederationError):
                    work(site, plan, told)
        with suppress(FederationError):
            self.unmask(plan, told)


def policy(site: str, **more: object) -> Policy:
    peers = {s: ring.signer(s).public for s in SITES if s != site}
    return replace(Policy(require="secagg", peers=peers), **more)  # type: ignore[arg-type]


def isolated(sets: Sequence[Sequence[str]]) -> int:
    """The fewest sites whose parts some linear combination of the sums consists of."""
    rows = np.zeros((len(sets), len(SITES)))
    for row, sites in zip(rows, sets, strict=True):
        row[[SITES.index(s) for s in sites]] = 1
    rank = np.linalg.matrix_rank(rows) if sets else 0
    for n in range(1, len(SITES) + 1):
        for few in itertools.combinations(range(len(SITES)), n):
            rest = [i for i in range(len(SITES)) if i not in few]
            if rank > (np.linalg.matrix_rank(rows[:, rest]) if rest and rank else 0):
                return n
    return len(SITES)


def test_what_a_difference_isolates() -> None:
    assert isolated([SITES]) == 5
    assert isolated([SITES, SITES[:4]]) == 1
    assert isolated([SITES[:3], SITES[2:]]) == 3
    pairs = [[s for s in SITES if s != left_out] for left_out in SITES]
    assert isolated(pairs) == 1, "the sums of all but one add up to four times the whole"


subsets = st.sampled_from([SITES, SITES, SITES, *itertools.combinations(SITES, 4)])
runs, backs, seeds = st.sampled_from(["one", "two"]), st.integers(0, 2), st.integers(0, 1)
studies, names = st.sampled_from(sorted(PATIENTS)), st.sampled_from(SITES)
losses = st.sampled_from(["A", "A", "D", "E"])
policies = st.sampled_from([(), SITES[1:], SITES, SITES])
"""The sites that let a run go on without one: none, all but one, or all."""


class Coordinator(RuleBasedStateMachine):
    """Chooses steps, participants, online sites, repeated and altered plans, and when a station is
    started again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if Path(MEMORY).is_dir() else None))
        self.latest = {"one": 0, "two": 0}

    @initialize(continuing=policies, first=subsets, second=subsets)
    def begin(
        self, continuing: tuple[str, ...], first: tuple[str, ...], second: tuple[str, ...]
    ) -> None:
        self.continuing = set(continuing)
        self.world = World(
            self.folder, {s: policy(s, **(LOOSE if s in continuing else {})) for s in SITES}
        )
        self.world.exchange("one", first)
        self.world.exchange("two", second)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def plan(self, run: str, back: int, study: str, seed: int) -> Plan:
        """Of the run's next step, or of one or two before."""
        step = max(self.latest[run] - back, 0)
        self.latest[run] = max(self.latest[run], step + 1)
        return self.world.plan(run, step, study, tuple(self.world.groups[run]), seed)

    @rule(run=runs, sites=subsets)
    def keys(self, run: str, sites: tuple[str, ...]) -> None:
        self.world.exchange(run, sites)

    @rule(site=names)
    def started_again(self, site: str) -> None:
        self.world.restart(site)

    @rule(run=runs, back=backs, study=studies, seed=seeds)
    def whole_step(self, run: str, back: int, study: str, seed: int) -> None:
        plan = self.plan(run, back, study, seed)
        self.world.ask_for(plan, plan.participants)

    @rule(run=runs, back=backs, study=studies, lost=losses)
    def step_without_a_site(self, run: str, back: int, study: str, lost: str) -> None:
        plan = self.plan(run, back, study, 0)
        self.world.ask_for(plan, set(plan.participants) - {lost})

    @rule(run=runs, study=studies, lost=losses)
    def lost_and_back(self, run: str, study: str, lost: str) -> None:
        for online in (set(SITES) - {lost}, set(SITES)):
            plan = self.plan(run, 0, study, 0)
            self.world.ask_for(plan, online & set(plan.participants))

    @rule(run=runs, study=studies, named=subsets)
    def other_participants(self, run: str, study: str, named: tuple[str, ...]) -> None:
        self.world.ask_for(replace(self.plan(run, 0, study, 0), participants=named), named)

    @rule(run=runs, back=backs, study=studies, site=names, seed=seeds, zeros=st.booleans())
    def one_vector(
        self, run: str, back: int, study: str, site: str, seed: int, zeros: bool
    ) -> None:
        with suppress(FederationError):
            self.world.mask(site, self.plan(run, back, study, seed), zeros)

    @rule(run=runs, back=backs, study=studies, site=names, online=subsets)
    def one_signature(
        self, run: str, back: int, study: str, site: str, online: tuple[str, ...]
    ) -> None:
        with suppress(FederationError):
            self.world.sign(site, self.plan(run, back, study, 0), online)

    @invariant()
    def no_sums_tell_of_fewer_sites_than_all(self) -> None:
        """Unless every site of a run has allowed that: then of no fewer than three, and of nobody
        again who was lost."""
        for family in FAMILIES:
            of_family = [s for s in self.world.sums if s[0] in family]
            stopping = [s for s in of_family if not self._may_shrink(s[1])]
            assert isolated([s[3] for s in stopping]) >= min([len(s[3]) for s in stopping] or [4])
            for run in {s[1] for s in of_family}:
                told = [set(s[3]) for s in of_family if s[1] == run]
                if not self._may_shrink(run):
                    assert all(sites == set(self.world.groups[run]) for sites in told)
                assert all(later <= before for before, later in itertools.pairwise(told))
                assert all(len(sites) >= 3 for sites in told)

    @invariant()
    def a_site_signs_one_set_at_a_place(self) -> None:
        for (place, online), signatures in self.world.signed.items():
            for other in [o for p, o in self.world.signed if p == place and o != online]:
                assert not set(signatures) & set(self.world.signed[place, other])

    def _may_shrink(self, run: str) -> bool:
        return set(self.world.groups[run]) <= self.continuing


TestCoordinator = Coordinator.TestCase
TestCoordinator.settings = settings(
    max_examples=30,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# ---- the same, one by one ------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, {s: policy(s) for s in SITES})
    world.exchange("one", SITES)
    return world


def test_an_honest_run_gets_the_sum_over_all_its_sites_in_every_step(world: World) -> None:
    for step in range(3):
        world.ask_for(world.plan("one", step, "first", SITES, 0), SITES)
    assert [s[3] for s in world.sums] == [SITES] * 3


def test_the_same_question_in_two_steps_is_never_asked_of_two_sets(world: World) -> None:
    world.ask_for(world.plan("one", 0, "first", SITES, 0), SITES)
    world.ask_for(world.plan("one", 1, "first", SITES, 0), SITES[:4])
    assert [s[3] for s in world.sums] == [SITES]


def test_a_run_over_another_set_is_refused_for_patients_that_are_in_sums_already(
    world: World,
) -> None:
    world.ask_for(world.plan("one", 0, "first", SITES, 0), SITES)
    world.exchange("two", SITES[:4])
    for site in SITES:
        world.restart(site)
    plan = world.plan("two", 0, "follow-up", SITES[:4], 0)
    with pytest.raises(RefusedError, match=r"over A, B, C, D, and .* over A, B, C, D, E") as caught:
        world.mask("A", plan)
    assert caught.value.code == "M05"
    assert 'sets = "any"' in str(caught.value)
    world.ask_for(plan, SITES[:4])
    assert len(world.sums) == 1
    world.ask_for(world.plan("two", 1, "elsewhere", SITES[:4], 0), SITES[:4])
    assert world.sums[-1][3] == SITES[:4], "nobody's patients are in both"


def test_a_site_that_allows_any_set_says_so_and_is_held_to_the_latest(world: World) -> None:
    world.ask_for(world.plan("one", 0, "first", SITES, 0), SITES)
    world.policies = {s: policy(s, sets="any") for s in SITES}
    for site in SITES:
        world.restart(site)
    world.exchange("two", SITES[:4])
    world.ask_for(world.plan("two", 0, "first", SITES[:4], 0), SITES[:4])
    assert world.sums[-1][3] == SITES[:4]
    world.policies = {s: policy(s) for s in SITES}
    for site in SITES:
        world.restart(site)
    world.ask_for(world.plan("two", 1, "first", SITES[:4], 0), SITES[:4])
    world.ask_for(world.plan("one", 1, "first", SITES, 0), SITES)
    assert [s[3] for s in world.sums] == [SITES, SITES[:4], SITES[:4]]


def test_a_site_that_has_tightened_its_policy_signs_no_smaller_set(tmp_path: Path) -> None:
    world = World(tmp_path, {s: policy(s, **LOOSE) for s in SITES})
    world.exchange("one", SITES)
    world.policies = {s: policy(s) for s in SITES}
    for site in SITES:
        world.restart(site)
    world.ask_for(world.plan("one", 0, "first", SITES, 0), SITES[:4])
    assert not world.sums


@pytest.mark.parametrize("zeros_first", [True, False])
def test_what_a_site_put_in_is_settled_by_its_first_vector(world: World, zeros_first: bool) -> None:
    plan = world.plan("one", 0, "first", SITES, 0)
    world.mask("A", plan, zeros=zeros_first)
    world.restart("A")
    world.mask("A", plan, zeros=zeros_first)
    with pytest.raises(RefusedError, match="other sums have left there") as caught:
        world.mask("A", plan, zeros=not zeros_first)
    assert caught.value.code == "P06"
    absent = world.sites["A"].admit([replace(plan, site="A")], COHORTS["first"])
    assert absent == ({0: "P01"} if zeros_first else {})


def test_a_step_that_failed_is_never_answered_and_one_that_was_never_fails(world: World) -> None:
    plan, secure = world.plan("one", 0, "first", SITES, 0), world.sites["A"]
    secure.fail([plan], COHORTS["first"])
    world.restart("A")
    with pytest.raises(RefusedError) as caught:
        world.mask("A", plan)
    assert caught.value.code == "M04"
    with pytest.raises(RefusedError) as caught:
        world.sign("A", plan, SITES)
    assert caught.value.code == "M01"
    world.mask("B", plan)
    with pytest.raises(RefusedError, match="has left") as caught:
        world.sites["B"].fail([plan], COHORTS["first"])
    assert caught.value.code == "P06"


def test_a_run_of_an_older_version_is_refused_by_code(world: World) -> None:
    runs = [p for p in (world.folder / "A").glob("*.json") if p.name != NAME]
    (path,) = runs
    old = json.loads(path.read_text())
    del old["format"]
    path.write_text(json.dumps(old))
    world.restart("A")
    with pytest.raises(RunError, match="an older version") as caught:
        world.ask("one", "A", "key")
    assert caught.value.code == "S02"
    path.write_text(json.dumps({"format": masked_runs.FORMAT, "key": "no"}))
    world.restart("A")
    with pytest.raises(RunError, match="is damaged"):
        world.ask("one", "A", "key")


def test_a_book_of_sets_that_is_damaged_is_no_empty_one(world: World) -> None:
    world.mask("A", world.plan("one", 0, "first", SITES, 0))
    for text in ("{", '{"sets": [], "patients": {"a": 0}}', "[]"):
        (world.folder / "A" / NAME).write_text(text)
        with pytest.raises(FedmetsError) as caught:
            SiteSets(world.folder / "A", one=True).admit(COHORTS["first"], SITES)
        assert caught.value.code == "S02"


@pytest.mark.parametrize("stopping", SITES)
def test_one_site_that_stops_is_enough_to_hold_all_to_the_whole_set(
    tmp_path: Path, stopping: str
) -> None:
    """Also where it is the one that is said to have dropped out, and the others could do without
    it."""
    world = World(tmp_path, {s: policy(s, **({} if s == stopping else LOOSE)) for s in SITES})
    world.exchange("one", SITES)
    for step, lost in enumerate(SITES):
        world.ask_for(world.plan("one", step, "first", SITES, 0), set(SITES) - {lost})
    assert not world.sums
    world.ask_for(world.plan("one", 9, "first", SITES, 0), SITES)
    assert [s[3] for s in world.sums] == [SITES]


def test_whoever_has_dropped_out_of_a_run_is_in_none_of_its_later_sums(tmp_path: Path) -> None:
    world = World(tmp_path, {s: policy(s, **LOOSE) for s in SITES})
    world.exchange("one", SITES)
    for step, online in enumerate((SITES, SITES[:4], SITES, SITES[1:], SITES[:4])):
        for site in SITES:
            world.restart(site)
        world.ask_for(world.plan("one", step, "first", SITES, 0), online)
    assert [s[3] for s in world.sums] == [SITES, SITES[:4], SITES[:4]]
    world.ask_for(world.plan("one", 4, "first", SITES, 0), SITES[:3])
    assert len(world.sums) == 3, "step 4 was unmasked for four"
