"""The error tree: a code, the sentences that stay where they were written, and the exit status of the command.

Only the code may cross the wall between a hospital and the coordinator (`exchange` sends nothing else). `CODES` is the
documentation: `docs/errors.md` is checked against it by a test, and an error with an undeclared code cannot be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

CODES: dict[str, str] = {
    "C01": "an option or a configuration key is unknown, or its value is not allowed",
    "C02": "a study, a source mapping or a learner could not be found or read",
    "C03": "a study contradicts itself (unknown time, empty vocabulary, bounds the wrong way round)",
    "C04": "a key or a list of keys is missing, unsafe or not of the right kind",
    "C05": "a station may not start here: it has a network, its socket is not its own, or another station is at work",
    "D00": "a file is missing, empty, truncated or not what its name says",
    "D01": "a value is neither valid nor a declared null token",
    "D02": "a patient has several rows where one is declared, or rows that contradict each other",
    "D03": "the label cannot be read: its column or its declared values are missing",
    "D05": "a keyed join fails: the key column is missing or no id matches",
    "D06": "a site lacks the modality that a learner needs",
    "D07": "a unit, a range, a vocabulary or the schema differs from what the study declares",
    "D08": "a declared column is missing from the table",
    "D09": "a site holds no usable case",
    "L01": "a feature becomes available after the task's prediction time",
    "L02": "a feature is an outcome, or encodes the label",
    "L03": "a single feature predicts the label almost perfectly on the training rows",
    "L04": "a patient stands on both sides of a split, or at two sites",
    "M01": "too few sites for a secure sum, or the same site twice",
    "M02": "a mask, share or key of a secure sum is not what it should be",
    "M03": "a value is too large for the fixed point of a secure sum",
    "P01": "a sum covers fewer patients than the site's minimum",
    "P02": "a contribution is not finite, or not of the declared names and shapes; or a state is malformed",
    "P03": "a plan asks for something that the site does not do (unknown learner, phase, fold or hyperparameter)",
    "P04": "a plan has expired, or names another run, site or state than the one it came with",
    "P05": "a message is not signed by the key that was enrolled",
    "P06": "another plan for a place that has been answered already",
    "P07": "the site's policy does not allow the plan: its participants, its date, or that it asks for sums without noise",
    "P08": "a learner whose sums one patient can change without bound, asked of a site with a finite epsilon",
    "P09": "a plan would cost more of the site's privacy budget than is left",
    "P10": "the site's budget or cohort is not the one that was last answered from",
    "R01": "a round ended without its quorum",
    "R02": "a site did not answer before the deadline",
    "R03": "too few sites registered before the deadline",
    "R04": "the learners stopped making progress within the allowed number of exchanges",
    "R05": "a courier cannot reach its site's station",
    "R06": "the coordinator's SuperLink does not do what it is asked",
    "R07": "a run ended without a result",
    "R08": "a certificate has expired, or is not by the federation's authority",
    "R09": "a site is still at work on a plan",
    "S01": "a run folder already exists, or belongs to another configuration",
    "S02": "a ledger or a state file is broken",
    "S03": "a run folder cannot be written (disk full, no permission)",
    "S04": "a site's clock is behind its own records",
    "W01": "an array of a kind that may not be sent",
    "W02": "a message is truncated, altered or not in the declared form",
    "W03": "a state is told from one that the station does not hold; it is sent whole",
    "X01": "a site failed in a way that has no code of its own; the reason is in the site's log",
    "X03": "an update is too far from the parameters it started from or from the others', or claims more cases than its site has told of",
}


WAYS_OUT: dict[str, str] = {
    "C01": "correct the option or the key; the message beside the code names it",
    "C02": "check the name or the path; python -m simulation --help lists the studies",
    "C03": "correct the study's file; the message beside the code names the place",
    "C04": "enrol the site, or put the key back where it was; a lost key is replaced as the runbook says",
    "C05": "the site stops the other station, or starts this one without a network and with a socket of its own; its log says which",
    "D00": "the site puts the file back as it was exported; its log names it",
    "D01": "the site corrects the value or declares it as a null token in its mapping; its log names column and value",
    "D02": "the site removes the double rows, or says in its mapping which one counts; its log names them",
    "D03": "the site's mapping must name the label's column and its values",
    "D05": "the site checks the key column by which its tables are joined",
    "D06": "nothing to do where the site has no such data; else it says in site.toml where they lie",
    "D07": "the site converts the unit, or both sides install the same version of fedmets and of the study",
    "D08": "the site adds the column, or names in its mapping where it is",
    "D09": "the site checks its data and its mapping: nobody is left after the exclusions in its log",
    "L01": "leave the feature out of this task, or choose a later prediction time",
    "L02": "leave the feature out; it tells the outcome",
    "L03": "leave the feature out, or start a new run that names it in accept_leak once it is known to be harmless",
    "L04": "find the patient who stands twice, and give each one id",
    "M01": "bring back sites that dropped out and resume; three sites at least must take part, more where a site says so",
    "M02": "compare the keys in [privacy.peers] with those that the sites have enrolled; if they agree, ask the site named",
    "M03": "scale the feature, or clip it in the study: the site's log names the value",
    "P01": "nothing to do while others take part; larger sites, fewer parts or a lower minimum at the site would bring it in",
    "P02": "ask the site: its log names the array; where the learning rate is too high, lower it in a new run",
    "P03": "leave the learner or the hyperparameter out, or ask the site to install this version and allow it",
    "P04": "set the clocks, and install the same version of fedmets on both sides; then resume",
    "P05": "check by telephone that the fingerprints agree; a site that has new keys enrols again",
    "P06": "the run folder is an older copy: restore the newest one, or start a new run",
    "P07": "read the site's policy with its IT: participants, date, or a run with noise (python -m server noise)",
    "P08": "leave the learner out, or clip it: python -m server noise says which have no bound",
    "P09": "the site's privacy budget is used up: go on without the site, or its IT raises the epsilon, knowing what that means",
    "P10": "the site's IT restores the newest state of its station; nothing else helps",
    "R01": "mend what the sites named say, and resume; or start a new run with a lower quorum",
    "R02": "the site looks whether courier and station are up (python -m deploy doctor); resume, or give a longer deadline in a new run",
    "R03": "start the couriers that are missing, and resume; or expect fewer sites in a new run",
    "R04": "raise the number of rounds of the learner named",
    "R05": "the site starts its station, and checks that the courier sees the socket",
    "R06": "look whether the coordinator is up; its log says why not",
    "R07": "read the coordinator's log, mend what it says, and resume",
    "R08": "python -m deploy renew makes a new certificate; the site checks its ca.pem",
    "R09": "wait: the site is at work; a longer deadline asks it less often",
    "S01": "choose another folder, or resume the run that is there",
    "S02": "restore the run's folder from a backup, or start a new run",
    "S03": "free space or mend permissions, then resume",
    "S04": "the site sets its clock",
    "W01": "install the same version of fedmets on both sides",
    "W02": "install the same version of fedmets on both sides; where it comes again, look for what alters messages on the way",
    "W03": "nothing to do: the state is sent whole the next time",
    "X01": "the site's log has the reason: ask its IT for it",
    "X03": "ask the site what it has trained on; resume without it, or raise norm_bound or outliers if it is honest",
}
"""What whoever runs a federation does about a code: the coordinator sees no more of a site's error than that."""


class FedmetsError(Exception):
    """An error with a documented code. `faults` are sentences for whoever may see the data; they never cross the wire."""

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, *faults: str) -> None:
        if code not in CODES:
            raise AssertionError(f"error code {code} is not declared in common.errors.CODES")
        self.code = code
        self.faults = faults or (CODES[code],)
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

    A LeakError when all of them are guards against leakage, else a DataError; its code is the first one's of that kind.
    """
    if faults:
        data = [fault for fault in faults if not fault.code.startswith("L")]
        kind, first = (DataError, data[0]) if data else (LeakError, faults[0])
        raise kind(first.code, *(str(fault) for fault in faults))
