"""The error tree: a code, the sentences that stay where they were written, and the exit status of
the command.

Only the code may cross the wall between a hospital and the coordinator (`exchange` sends nothing
else). `CODES` is the one table of them: the pages and the coordinator's views are made from it, and
an error with an undeclared code cannot be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple


class Code(NamedTuple):
    """What an error code says to whom."""

    meaning: str
    way_out: str
    """What whoever runs a federation does about it: the coordinator sees no more of a site's error
    than that."""


CODES: dict[str, Code] = {
    "C01": Code(
        "an option or a configuration key is unknown, or its value is not allowed",
        "correct the option or the key; the message beside the code names it",
    ),
    "C02": Code(
        "a study, a source mapping or a learner could not be found or read",
        "check the name or the path; fedmets simulate --help lists the studies",
    ),
    "C03": Code(
        "a study contradicts itself (unknown time, empty vocabulary, bounds the wrong way round)",
        "correct the study's file; the message beside the code names the place",
    ),
    "C04": Code(
        "a key or a list of keys is missing, unsafe or not of the right kind",
        "enrol the site, or put the key back where it was; a lost key is replaced as the runbook "
        "says",
    ),
    "C05": Code(
        "a station may not start here: it has a network, its socket is not its own, or another "
        "station is at work",
        "the site stops the other station, or starts this one without a network and with a socket "
        "of its own; its log says which",
    ),
    "D00": Code(
        "a file is missing, empty, truncated or not what its name says",
        "the site puts the file back as it was exported; its log names it",
    ),
    "D01": Code(
        "a value is neither valid nor a declared null token",
        "the site corrects the value or declares it as a null token in its mapping; its log names "
        "column and value",
    ),
    "D02": Code(
        "a patient has several rows where one is declared, or rows that contradict each other",
        "the site removes the double rows, or says in its mapping which one counts; its log names "
        "them",
    ),
    "D03": Code(
        "the label cannot be read: its column or its declared values are missing",
        "the site's mapping must name the label's column and its values",
    ),
    "D05": Code(
        "a keyed join fails: the key column is missing or no id matches",
        "the site checks the key column by which its tables are joined",
    ),
    "D06": Code(
        "a site lacks the modality that a learner needs",
        "nothing to do where the site has no such data; else it says in site.toml where they lie",
    ),
    "D07": Code(
        "a unit, a range, a vocabulary or the schema differs from what the study declares",
        "the site converts the unit, or both sides install the same version of fedmets and of the "
        "study",
    ),
    "D08": Code(
        "a declared column is missing from the table",
        "the site adds the column, or names in its mapping where it is",
    ),
    "D09": Code(
        "a site holds no usable case",
        "the site checks its data and its mapping: nobody is left after the exclusions in its log",
    ),
    "L01": Code(
        "a feature becomes available after the task's prediction time; or nothing places a "
        "patient's examination before it",
        "leave the feature out of this task, or choose a later prediction time; name a column of "
        "dates or a rule in [images], as the site's log says patient by patient",
    ),
    "L02": Code(
        "a feature is an outcome, or encodes the label",
        "leave the feature out; it tells the outcome",
    ),
    "L03": Code(
        "a single feature predicts the label almost perfectly on the training rows",
        "leave the feature out, or start a new run that names it in accept_leak once it is known "
        "to be harmless",
    ),
    "L04": Code(
        "a patient stands on both sides of a split, or at two sites",
        "find the patient who stands twice, and give each one id",
    ),
    "M01": Code(
        "too few sites for a secure sum, or the same site twice",
        "bring back sites that dropped out and resume; all sites of the run must take part, or as "
        "many as each site's policy says, never under three",
    ),
    "M02": Code(
        "a mask, share or key of a secure sum is not what it should be",
        "compare the keys in [privacy.peers] with those that the sites have enrolled; if they "
        "agree, ask the site named",
    ),
    "M03": Code(
        "a secure sum is as large as one site's part may be, and a part may have been cut",
        "scale the feature, clip it in the study, or run with fewer sites",
    ),
    "M04": Code(
        "a site cannot compute its part of a masked step, and will give no other answer there",
        "ask the site: its log says why; once that is mended, or left out, start a new run. Where it "
        "has too few patients for the run's folds: fewer parts, or a run without it",
    ),
    "M05": Code(
        "the site's patients are already in masked sums over other sites: the two sums would tell "
        "that of the sites between them",
        "name the same sites again; or the site's IT allows another set, knowing what that shows: "
        'its log names both, and `sets = "any"` in [privacy] lets it pass',
    ),
    "P01": Code(
        "a sum covers fewer patients than the site's minimum",
        "nothing to do while others take part; larger sites, fewer parts or a lower minimum at "
        "the site would bring it in",
    ),
    "P02": Code(
        "a contribution is not finite, or not of the declared names and shapes; or a state is "
        "malformed",
        "ask the site: its log names the array; where the learning rate is too high, lower it in "
        "a new run",
    ),
    "P03": Code(
        "a plan asks for something that the site does not do (unknown learner, phase, fold or "
        "hyperparameter)",
        "leave the learner or the hyperparameter out, or ask the site to install this version and "
        "allow it",
    ),
    "P04": Code(
        "a plan has expired, or names another run, site or state than the one it came with",
        "set the clocks, and install the same version of fedmets on both sides; then resume",
    ),
    "P05": Code(
        "a message or a model folder is not signed by the key that was enrolled",
        "check by telephone that the fingerprints agree; a site that has new keys enrols again; a "
        "model of another coordinator's is named by its key",
    ),
    "P06": Code(
        "another plan for a place that has been answered already",
        "the run folder is an older copy: restore the newest one, or start a new run",
    ),
    "P07": Code(
        "the site's policy does not allow the plan: its participants, its date, or that it asks "
        "for sums without noise",
        "read the site's policy with its IT: participants, date, or a run with noise (fedmets "
        "server noise)",
    ),
    "P08": Code(
        "a learner whose sums one patient can change without bound, asked of a site with a finite "
        "epsilon",
        "leave the learner out, or clip it: fedmets server noise says which have no bound",
    ),
    "P09": Code(
        "a plan would cost more of the site's privacy budget than is left",
        "the site's privacy budget is used up: go on without the site, or its IT raises the "
        "epsilon, knowing what that means",
    ),
    "P10": Code(
        "the site's budget or cohort is not the one that was last answered from",
        "the site's IT restores the newest state of its station, or its tables; where the "
        "coordinator has lost its budgets.json, it restores that",
    ),
    "P11": Code(
        "a plan's trees would tell of fewer patients than the site speaks about: grown without "
        "noise or masks, or with leaves that are too small",
        "run with secure=true or noise, and with smallest_leaf at the largest of the sites' "
        "minimums; or the site's IT allows it (open_trees, smallest_leaf in [privacy]), knowing "
        "what that shows",
    ),
    "P12": Code(
        "the site has refused as many plans for what its patients' sums came to as it does in a day",
        "wait until the next day; its log says which plans those were, and its IT looks whether "
        "somebody asks in order to be refused",
    ),
    "R01": Code(
        "a round ended without its quorum",
        "mend what the sites named say, and resume; or start a new run with a lower quorum",
    ),
    "R02": Code(
        "a site did not answer before the deadline",
        "the site looks whether courier and station are up (fedmets deploy doctor); resume, or "
        "give a longer deadline in a new run",
    ),
    "R03": Code(
        "too few sites registered before the deadline",
        "start the couriers that are missing, and resume; or expect fewer sites in a new run",
    ),
    "R04": Code(
        "the learners stopped making progress within the allowed number of exchanges",
        "raise the number of rounds of the learner named",
    ),
    "R05": Code(
        "a courier cannot reach its site's station",
        "the site starts its station, and checks that the courier sees the socket",
    ),
    "R06": Code(
        "the coordinator's SuperLink does not do what it is asked",
        "look whether the coordinator is up; its log says why not",
    ),
    "R07": Code(
        "a run ended without a result",
        "read the coordinator's log, mend what it says, and resume",
    ),
    "R08": Code(
        "a certificate has expired, or is not by the federation's authority",
        "fedmets deploy renew makes a new certificate; the site checks its ca.pem",
    ),
    "R09": Code(
        "a site is still at work on a plan",
        "wait: the site is at work; a longer deadline asks it less often",
    ),
    "R10": Code(
        "the coordinator does not let a courier in: it does not know its key, or holds it for online",
        "fedmets deploy site list at the coordinator says who is enrolled; the site enrols again, "
        "sets its clock, or stops the other courier of its kit",
    ),
    "R11": Code(
        "a courier and its coordinator do not speak the same version of Flower's protocol",
        "install the same version of fedmets on both sides",
    ),
    "R12": Code(
        "a SuperLink handed out a run that nobody asked the signer for",
        "start runs by fedmets server run, where the signer's state lies; where nobody did, look "
        "at who can reach the SuperLink",
    ),
    "S01": Code(
        "a run folder already exists, or belongs to another configuration",
        "choose another folder, or resume the run that is there",
    ),
    "S02": Code(
        "a ledger or a state file is broken",
        "restore the run's folder from a backup, or start a new run",
    ),
    "S03": Code(
        "a run folder cannot be written (disk full, no permission)",
        "free space or mend permissions, then resume",
    ),
    "S04": Code(
        "a site's clock is behind its own records",
        "the site sets its clock",
    ),
    "S05": Code(
        "a part of a station's state is missing or older than another, or its budget was never "
        "begun",
        "the site's IT restores the newest copy of the station's whole state; a site that is new "
        "says so: fedmets client budget --new",
    ),
    "S06": Code(
        "a site's privacy account holds what has no bound, or comes to less than it did",
        "no epsilon can be promised for these patients any more: the site sets epsilon = inf, or "
        "begins anew with other patients; its log names the line",
    ),
    "W01": Code(
        "an array of a kind that may not be sent",
        "install the same version of fedmets on both sides",
    ),
    "W02": Code(
        "a message is truncated, altered or not in the declared form",
        "install the same version of fedmets on both sides; where it comes again, look for what "
        "alters messages on the way",
    ),
    "W03": Code(
        "a state is told from one that the station does not hold; it is sent whole",
        "nothing to do: the state is sent whole the next time",
    ),
    "X01": Code(
        "a site failed in a way that has no code of its own; the reason is in the site's log",
        "the site's log has the reason: ask its IT for it",
    ),
    "X03": Code(
        "an update is too far from the parameters it started from or from the others', or claims "
        "more cases than its site has told of",
        "ask the site what it has trained on; resume without it, or raise norm_bound or outliers "
        "if it is honest",
    ),
}


class FedmetsError(Exception):
    """An error with a documented code. `faults` are sentences for whoever may see the data; they
    never cross the wire."""

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, *faults: str) -> None:
        if code not in CODES:
            raise AssertionError(f"error code {code} is not declared in common.errors.CODES")
        self.code = code
        self.faults = faults or (CODES[code].meaning,)
        super().__init__(code, *self.faults)

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return f"[{self.code}] {self.faults[0]}"
        lines = [f"{len(self.faults)} faults", *(f"  - {f}" for f in self.faults)]
        return f"[{self.code}] " + "\n".join(lines)


class UsageError(FedmetsError):
    """An option, a configuration key or a study definition is wrong. Exit status 2."""

    exit_code = 2


class DataError(FedmetsError):
    """A site's files are not what the study declares. Exit status 3."""

    exit_code = 3


class LeakError(FedmetsError):
    """A guard against leakage refused to go on. Exit status 4."""

    exit_code = 4


class FederationError(FedmetsError):
    """A round could not be completed. Exit status 5."""

    exit_code = 5


class RefusedError(FederationError):
    """A site's guard refused a plan or an update. Exit status 5."""


class WireError(FederationError):
    """Bytes that are not in the declared form. Exit status 5."""


class RunError(FedmetsError):
    """A run folder, a ledger or a state file is broken or in the way. Exit status 6."""

    exit_code = 6


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a table, in the words of whoever has to mend it."""

    code: str
    where: str
    """File, and column where there is one."""
    what: str
    """The value, how many rows it stands in, and what was expected."""
    way_out: str

    def __str__(self) -> str:
        return f"{self.code} {self.where}: {self.what}. {self.way_out}"


def raise_faults(faults: Sequence[Fault]) -> None:
    """Raise one error that carries all faults, or return when there are none.

    A LeakError when all of them are guards against leakage, else a DataError; its code is the first
    one's of that kind.
    """
    if faults:
        data = [fault for fault in faults if not fault.code.startswith("L")]
        kind, first = (DataError, data[0]) if data else (LeakError, faults[0])
        raise kind(first.code, *(str(fault) for fault in faults))
