"""The driver against sites that refuse, vanish, lie or answer late: each ends in a named error or
is told in the ledger."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

import common
from client.site.privacy_policy import Policy
from client.site.site_file import Site
from client.station.durable_state import Memory
from client.station.station import Station
from common.data.cohort import Cohort, Fold
from common.data.schema import Schema
from common.errors import FederationError
from common.federated.array_rules import ArrayRules
from common.federated.learner import Contribution, Federated, Phase, Plan, Step, Traits, load
from common.federated.states import States, named_arrays
from common.types import Arrays, digest
from common.wire.envelope import Packet
from common.wire.flower_records import HELLO, content, packet
from common.wire.messages import Hello, Update, pack_hello, pack_updates, refusal, unpack_request
from server.config.jobs import Job
from server.config.run_config import Run
from server.rounds.driver import Exchange, Federation, Progress, drive
from server.rounds.registration import Invitation, Roster, register
from tests import ring
from tests.courier import MemoryGrid, Node
from tests.synthetic import schema, sites

RUN = Run(study="synthetic", task="now", seed=3, parts=3, deadline=5.0, retries=1, expect=3)
COUNT = itertools.count()
FOLDS = (Fold(), Fold(parts=(0,)), Fold(parts=(1,)), Fold(("S1",)))
Change = Callable[[list[Update], int], Any]


class Local(Station):
    """The real station over a cohort that the test holds; counts how often it worked for a plan."""

    def __init__(
        self,
        cohort: Cohort,
        folder: Path,
        minimum: int,
        memory: Memory | None = None,
        at_work: Executor | None = None,
        policy: Policy | None = None,
    ) -> None:
        pinned, key = ring.COORDINATOR.public, ring.key_file(folder, cohort.site)
        log = folder / "station.log"
        policy = policy or (memory.budget.policy if memory and memory.budget else Policy())
        site = Site(
            cohort.site,
            folder,
            ("synthetic",),
            minimum=minimum,
            log=log,
            coordinator=pinned,
            key=key,
            # when an answer leaves has tests of its own
            privacy=dataclasses.replace(policy, answer_margin=0.0),
        )
        super().__init__(site, memory, at_work)
        self.held, self.worked = cohort, Counter[str]()

    def cohort(self, ref: str, task: str) -> Cohort:
        return self.held

    def _work(self, plan: Plan, states: Any) -> Contribution:
        self.worked[plan.hash] += 1
        return super()._work(plan, states)


def node(
    station: Local, change: Change = lambda updates, turn: updates, hello: Hello | None = None
) -> Node:
    """The courier of one site. `change` sees the updates and the number of the request; it may
    return other updates, a whole packet or record, an Error, or None: the reply is lost."""
    turn = 0

    def answer(m: Message) -> Message | None:
        nonlocal turn
        if m.metadata.message_type == HELLO:
            asked = packet(m, "greeting")
            if hello is None:
                return Message(content(station.answer(asked)), reply_to=m)
            return Message(content(pack_hello(hello, ring.signer(hello.site), asked)), reply_to=m)
        turn += 1
        asked = packet(m, "request")
        out = change(station.handle(unpack_request(asked, ring.COORDINATOR.public)), turn)
        if out is None:
            return None
        if isinstance(out, list):
            out = pack_updates(out, ring.signer(station.site.name), asked)
        return Message(content(out) if isinstance(out, Packet) else out, reply_to=m)

    return answer


@pytest.fixture
def stations(tmp_path: Path) -> list[Local]:
    return [Local(c, tmp_path, 1) for c in sites(90, 3, seed=2)]


def federation(
    stations: Sequence[Local], changes: dict[str, Change] | None = None, **how: Any
) -> MemoryGrid:
    changes = changes or {}
    return MemoryGrid(
        {
            10 * (k + 1): node(
                s, **({"change": changes[s.site.name]} if s.site.name in changes else {})
            )
            for k, s in enumerate(stations)
        },
        **how,
    )


def tasks(folds: Sequence[Fold] = FOLDS, heads: Sequence[str] = ("logistic",)) -> list[Job]:
    return [Job(load(name), fold, (fold,)) for fold in folds for name in ("preprocessing", *heads)]


def registered(grid: MemoryGrid, run: Run = RUN) -> Roster:
    return register(
        grid, Invitation(run, "run", ring.enrolled(["S0", "S1", "S2"]), "now", schema())
    )


def driven(
    grid: MemoryGrid, run: Run = RUN, jobs: Sequence[Job] | None = None
) -> tuple[Progress, list[Exchange]]:
    roster = registered(grid, run)
    progress, told = Progress(), list[Exchange]()
    drive(
        Federation(grid, run, f"run{next(COUNT)}", roster, jobs or tasks(), schema()),
        progress,
        lambda e, _: told.append(e),
    )
    return progress, told


def bits(progress: Progress) -> str:
    return digest(named_arrays(progress.states))


def failure(grid: MemoryGrid, run: Run = RUN) -> FederationError:
    with pytest.raises(FederationError) as caught:
        driven(grid, run)
    return caught.value


# ---- a run in which all goes well ----------------------------------------------------------------


def test_all_jobs_that_can_go_on_share_one_message(stations: list[Local]) -> None:
    grid = federation(stations)
    progress, told = driven(grid)
    assert progress.done == {j.key for j in tasks()}
    work = [m for m in grid.asked if m.metadata.message_type != HELLO]
    # two passes of preprocessing, then the Newton rounds of the slowest fold, for four folds
    # together
    newton = max(int(s["logistic"]["rounds"]) for s in progress.states.values())
    assert len(told) == 2 + newton
    assert len(work) == 3 * len(told)
    assert [sum(len(w["folds"]) for w in e.work) for e in told[:3]] == [4, 4, 4]  # type: ignore[arg-type,misc]
    assert all(
        e.sites == {"S0": "contributed", "S1": "contributed", "S2": "contributed"} for e in told
    )
    assert all(e.sent > 0 and e.received > 0 and e.seconds > 0 for e in told)


def test_a_left_out_site_is_not_asked_for_that_fold(stations: list[Local]) -> None:
    plans: list[Plan] = []
    grid = federation(stations)
    inner = grid.nodes[20]

    def listening(m: Message) -> Message | None:
        if m.metadata.message_type != HELLO:
            plans.extend(unpack_request(packet(m, "request"), ring.COORDINATOR.public).plans)
        return inner(m)

    grid.nodes[20] = listening
    _, told = driven(grid)
    assert {p.fold for p in plans} == set(FOLDS) - {Fold(("S1",))}
    assert {tuple(w["contributed"]) for e in told for w in e.work if w["folds"] == ["site:S1"]} == {
        ("S0", "S2")
    }  # type: ignore[arg-type]


def test_replies_in_any_order_and_late_give_the_same_bits(stations: list[Local]) -> None:
    want = bits(driven(federation(stations))[0])
    for order in (
        lambda r: r[::-1],
        lambda r: sorted(r, key=lambda m: (m.metadata.src_node_id + 20) % 30),
    ):
        assert bits(driven(federation(stations, order=order, late=3))[0]) == want


def test_the_order_of_nodes_does_not_matter_but_the_names_of_sites(stations: list[Local]) -> None:
    want = bits(driven(federation(stations))[0])
    assert bits(driven(federation(stations[::-1]))[0]) == want


def test_going_on_from_half_way_gives_the_same_bits(stations: list[Local]) -> None:
    grid = federation(stations)
    roster = registered(grid)
    whole, _ = driven(federation(stations))

    class Stop(Exception):
        pass

    progress = Progress()

    def until_4(_: Exchange, now: Progress) -> None:
        if now.step == 4:
            raise Stop

    with pytest.raises(Stop):
        drive(Federation(grid, RUN, "run", roster, tasks(), schema()), progress, until_4)
    drive(Federation(grid, RUN, "run", roster, tasks(), schema()), progress, lambda *_: None)
    assert bits(progress) == bits(whole)


# ---- quorum --------------------------------------------------------------------------------------


def coded(code: str) -> Change:
    return lambda updates, turn: [Update(u.plan_hash, None, code) for u in updates]


def test_a_failing_site_breaks_the_quorum_by_name(stations: list[Local]) -> None:
    error = failure(federation(stations, {"S1": coded("X01")}))
    assert error.code == "R01"
    for word in ("preprocessing", "fold 'all'", "S1: X01", "2 of 3 sites"):
        assert word in str(error)


def test_a_lower_quorum_goes_on_and_the_ledger_tells(stations: list[Local]) -> None:
    run = dataclasses.replace(RUN, quorum=0.6)
    _, told = driven(federation(stations, {"S1": coded("X01")}), run)
    assert all(
        w["refused"] == ({"S1": "X01"} if w["folds"] != ["site:S1"] else {})
        for e in told
        for w in e.work
    )
    assert all(e.sites["S1"] == "refused" for e in told)
    assert (
        failure(federation(stations, {"S1": coded("X01"), "S2": coded("X01")}), run).code == "R01"
    )


def test_a_quorum_of_cases_is_not_met_by_small_sites_alone(
    stations: list[Local], tmp_path: Path
) -> None:
    large = Local(sites(600, 3, seed=2)[2], tmp_path, 1)
    run = dataclasses.replace(RUN, quorum=0.5, quorum_cases=0.5)
    driven(federation([stations[0], stations[1], large], {"S1": coded("X01")}), run)
    error = failure(federation([stations[0], stations[1], large], {"S2": coded("X01")}), run)
    assert error.code == "R01"
    for word in ("2 of 3 sites", f"60 of {60 + len(large.held)} cases", "0.5 of their cases"):
        assert word in str(error)


def test_a_site_below_its_minimum_is_told_but_does_not_count(
    stations: list[Local], tmp_path: Path
) -> None:
    few = Local(stations[2].held.where(np.arange(30) < 8), tmp_path, 10)
    progress, told = driven(federation([*stations[:2], few]))
    assert all(w["refused"] == {"S2": "P01"} for e in told for w in e.work)
    assert progress.states[Fold()]["preprocessing"]["count"].max() <= 60
    alone = [Local(s.held, tmp_path, 1000) for s in stations]
    error = failure(federation(alone))
    assert error.code == "R01"  # nobody at all is no result
    assert "S0, S1, S2: P01" in str(error)


# ---- silence -------------------------------------------------------------------------------------


def test_a_lost_reply_is_asked_for_again_and_answered_from_memory(stations: list[Local]) -> None:
    want = bits(driven(federation(stations))[0])
    stations[1].worked.clear()
    lost: Change = lambda updates, turn: None if turn % 2 else updates  # noqa: E731
    grid = federation(stations, {"S1": lost})
    progress, told = driven(grid, dataclasses.replace(RUN, deadline=0.05))
    assert bits(progress) == want
    assert set(stations[1].worked.values()) == {1}  # the same plan, the stored answer
    assert len([m for m in grid.asked if m.metadata.message_type != HELLO]) == 4 * len(told)


def test_a_site_that_never_answers_ends_the_run_at_the_deadline(stations: list[Local]) -> None:
    started = time.monotonic()
    error = failure(
        federation(stations, {"S2": lambda updates, turn: None}),
        dataclasses.replace(RUN, deadline=0.2),
    )
    assert error.code == "R01"
    assert "S2: R02" in str(error)
    assert time.monotonic() - started < 2


def test_without_it_in_the_quorum_the_run_goes_on(stations: list[Local]) -> None:
    run = dataclasses.replace(RUN, deadline=0.05, quorum=0.6, retries=0)
    _, told = driven(
        federation(stations, {"S2": lambda updates, turn: None}), run, tasks((Fold(),), ())
    )
    assert [e.sites["S2"] for e in told] == ["R02", "R02"]


def test_a_node_that_crashes_is_named(stations: list[Local]) -> None:
    error = failure(
        federation(stations, {"S0": lambda updates, turn: Error(2, "Traceback: Jane Doe")})
    )
    assert "S0: R02" in str(error)
    assert "Jane" not in str(error)


# ---- lies ----------------------------------------------------------------------------------------


def first_sum(updates: list[Update], change: Callable[[Any], Any]) -> list[Update]:
    out = []
    for u in updates:
        assert u.contribution is not None
        key = next(iter(u.contribution.sums))
        sums = {**u.contribution.sums, key: change(u.contribution.sums[key])}
        out.append(Update(u.plan_hash, Contribution(sums, u.contribution.cases)))
    return out


LIES: dict[str, tuple[Change, str]] = {
    "not a number": (
        lambda updates, turn: first_sum(updates, lambda a: np.full_like(a, np.nan)),
        "P02",
    ),
    "infinite": (
        lambda updates, turn: first_sum(updates, lambda a: np.full_like(a, np.inf)),
        "P02",
    ),
    "another shape": (lambda updates, turn: first_sum(updates, lambda a: a[:1]), "P02"),
    "another dtype": (
        lambda updates, turn: first_sum(updates, lambda a: a.astype(np.float32)),
        "P02",
    ),
    "no sums": (
        lambda updates, turn: [Update(u.plan_hash, Contribution({}, 30)) for u in updates],
        "P02",
    ),
    "another plan": (
        lambda updates, turn: [Update("f" * 64, u.contribution) for u in updates],
        "P04",
    ),
    "a plan too few": (lambda updates, turn: updates[1:], "P04"),
    "a plan twice": (lambda updates, turn: [*updates, updates[0]], "P04"),
    "a request it could not read": (lambda updates, turn: [Update("0" * 64, None, "W02")], "W02"),
    "an empty record": (lambda updates, turn: RecordDict(), "W02"),
    "garbage": (lambda updates, turn: Packet("updates", b"{]", "00", b"\xff" * 99), "W02"),
    "without a key": (
        lambda updates, turn: pack_updates(updates, None, Packet("request", b"")),
        "P05",
    ),
    "with another site's key": (
        lambda updates, turn: pack_updates(updates, ring.signer("S0"), Packet("request", b"")),
        "P05",
    ),
    "in answer to another request": (
        lambda updates, turn: pack_updates(updates, ring.signer("S1"), Packet("request", b"")),
        "P05",
    ),
    "a courier without its station": (
        lambda updates, turn: refusal(Packet("request", b""), "R05"),
        "R05",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_and_its_site_named(lie: str, stations: list[Local]) -> None:
    change, code = LIES[lie]
    error = failure(federation(stations, {"S1": change}))
    assert error.code == "R01"
    assert f"S1: {code}" in str(error)
    assert "S0:" not in str(error)


def test_updates_belong_to_plans_by_hash_not_by_position(stations: list[Local]) -> None:
    want = bits(driven(federation(stations))[0])
    assert (
        bits(driven(federation(stations, {"S1": lambda updates, turn: updates[::-1]}))[0]) == want
    )


# ---- registration --------------------------------------------------------------------------------


def test_two_sites_of_one_name_are_refused(stations: list[Local]) -> None:
    error = failure(federation([*stations, stations[1]]))
    assert error.code == "R03"
    assert "2 nodes call themselves 'S1'" in str(error)


def test_too_few_sites_at_the_deadline(stations: list[Local]) -> None:
    started = time.monotonic()
    error = failure(federation(stations), dataclasses.replace(RUN, expect=4, deadline=0.3))
    assert error.code == "R03"
    assert "3 of 4 sites" in str(error)
    assert time.monotonic() - started < 3


def test_a_node_that_does_not_greet_is_not_waited_for_for_ever(stations: list[Local]) -> None:
    grid = federation(stations)
    grid.nodes[40] = lambda m: None
    assert failure(grid, dataclasses.replace(RUN, expect=4, deadline=0.3)).code == "R03"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"code": "D08"}, "D08"), ({"version": "0.0"}, "P04"), ({"schema": "f" * 64}, "D07")],
)
def test_a_site_that_cannot_take_part_is_named_with_its_reason(
    change: dict[str, str], code: str, stations: list[Local]
) -> None:
    grid = federation(stations)
    said = Hello("S1", common.__version__, schema().hash, ("table",), (), 30)
    grid.nodes[20] = node(stations[1], hello=dataclasses.replace(said, **change))
    error = failure(grid)
    assert error.code == "R03"
    assert f"site 'S1' cannot take part: {code}" in str(error)


def test_a_greeting_that_cannot_be_read_names_the_node(stations: list[Local]) -> None:
    grid = federation(stations)
    grid.nodes[20] = lambda m: Message(RecordDict(), reply_to=m)
    assert "node 20" in str(failure(grid))


def test_sites_are_asked_in_the_order_of_their_names(stations: list[Local]) -> None:
    roster = registered(federation(stations[::-1]))
    assert roster.ready == ("S0", "S1", "S2")
    assert roster.nodes == {"S0": 30, "S1": 20, "S2": 10}


@pytest.mark.parametrize(
    ("able", "groups"),
    [
        ("abc", (("a",), ("b",), ("c",))),
        ("ab", (("a",), ("b",), ("c", "d"))),
        ("a", (("a",), ("b", "c", "d"))),
        ("", ()),
    ],
)
def test_leave_one_site_out_leaves_estimable_sites_out_alone(
    able: str, groups: tuple[tuple[str, ...], ...]
) -> None:
    every = "abcd" if len(able) < 3 else "abc"
    hellos = {s: Hello(s, "", "", (), (), 9, estimable=s in able) for s in every}
    assert Roster(hellos, {}, ring.enrolled(every)).groups() == groups


def test_a_single_site_has_nothing_to_leave_out() -> None:
    assert (
        Roster(
            {"a": Hello("a", "", "", (), (), 9, estimable=True)}, {}, ring.enrolled("a")
        ).groups()
        == ()
    )


# ---- learners ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A learner that needs another one, and counts rows."""

    name: str
    needs: tuple[str, ...]
    modality: frozenset[str] = frozenset({"table"})
    phases: ClassVar[Mapping[str, Phase]] = {"count": Phase("rows", 1, lambda _: 1.0)}
    traits: ClassVar[Traits] = Traits()

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        return {}

    def phase(self, arrays: Arrays) -> str:
        return "count"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        return Contribution({"n": np.array(float(len(cohort)))}, len(cohort))

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        return Step(dict(total.sums), True)


def test_learners_that_wait_for_one_another_are_named(stations: list[Local]) -> None:
    both: list[Federated] = [Waiting("hen", ("egg",)), Waiting("egg", ("hen",))]
    jobs = [Job(learner, Fold(), (Fold(),)) for learner in both]
    with pytest.raises(FederationError, match="egg, hen") as caught:
        driven(federation(stations), jobs=jobs)
    assert caught.value.code == "R04"
