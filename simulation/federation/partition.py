"""Partition of patients into virtual sites: the real institutions of a table, the small ones pooled
or held out, none silently dropped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from client.cohort.reader import Reading
from common.data.cohort import UNKNOWN, part_of
from common.errors import DataError

OTHER = "other"
NO_SCANNER = "no scanner named"


@dataclass(frozen=True)
class Partition:
    """Site -> its patients, and what was done with institutions under the minimum."""

    sites: Mapping[str, tuple[str, ...]]
    pooled: Mapping[str, int]
    """Institution -> labelled cases, pooled into the site `pooled_site`."""
    held_out: Mapping[str, int]
    """Institution -> labelled cases, taking no part."""
    minimum: int
    pooled_site: str = ""
    kind: str = "natural"
    """natural | even | skewed | scanner"""


def natural(reading: Reading, minimum: int, small: str) -> Partition:
    """A site an institution. Those with fewer than `minimum` labelled cases: `small` = pool |
    hold-out.

    D09 when no institution reaches the minimum: there would be nothing to federate.
    """
    ids, labels = reading.cohort.ids, reading.cohort.labels
    # `all` stands for every site in a report
    names = np.array(
        [f"{n} (institution)" if n == "all" else n for n in reading.institutions], dtype=object
    )
    counts = {str(n): int(((names == n) & (labels != UNKNOWN)).sum()) for n in sorted(set(names))}
    little = {n: c for n, c in counts.items() if c < minimum}
    sites = {
        n: tuple(i for i, m in zip(ids, names, strict=True) if m == n)
        for n in counts
        if n not in little
    }
    if not sites:
        raise DataError(
            "D09",
            f"none of {len(counts)} institutions has {minimum} labelled cases ({_list(counts)}); "
            "lower --minimum-site, "
            "or split the table into virtual sites with --partition even",
        )
    name = ""
    if small == "pool" and little:
        name = OTHER if OTHER not in sites else f"{OTHER} (pooled)"
        sites[name] = tuple(i for i, m in zip(ids, names, strict=True) if m in little)
    pooled, held_out = (little, {}) if small == "pool" else ({}, little)
    return Partition(dict(sorted(sites.items())), pooled, held_out, minimum, name)


def even(reading: Reading, count: int, seed: int, minimum: int) -> Partition:
    """`count` virtual sites of about equal size, by a hash of the patient id."""
    return _virtual(
        reading,
        [part_of(seed + 7919, i, count) for i in reading.cohort.ids],
        count,
        minimum,
        "even",
    )


def skewed(
    reading: Reading, count: int, seed: int, minimum: int, concentration: float = 1.0
) -> Partition:
    """`count` virtual sites whose share of each class is drawn from a Dirichlet (Hsu et al. 2019,
    arXiv 1909.06335)."""
    rng = np.random.default_rng(seed)
    labels = reading.cohort.labels
    shares = {k: rng.dirichlet(np.full(count, concentration)) for k in sorted(set(labels.tolist()))}
    return _virtual(
        reading,
        [int(rng.choice(count, p=shares[k])) for k in labels.tolist()],
        count,
        minimum,
        "skewed",
    )


MAKER_PATTERNS = (
    ("GE", r"\bge\b|general electric"),
    ("Siemens", r"siemens"),
    ("Philips", r"philips|picker|marconi"),
    ("Canon", r"canon|toshiba"),
    ("Fujifilm", r"fuji|hitachi"),
    ("United Imaging", r"united imaging|\buih\b"),
)
"""A maker and how files write its name; firms that took over another one's scanners stand for
both."""


def maker(declared: str) -> str:
    """One name for a maker, however a file writes it; '' where it says nothing."""
    return next(
        (name for name, pattern in MAKER_PATTERNS if re.search(pattern, declared, re.IGNORECASE)),
        " ".join(declared.split()),
    )


def by_scanner(reading: Reading, minimum: int, small: str) -> Partition:
    """A site a scanner's maker, as the images' own headers name it; makers under the minimum as in
    `natural`.

    Cases without an image, and those whose image names no maker, are a site of their own,
    `NO_SCANNER`. D06 when no image names one.
    """
    names = tuple(maker(s) or NO_SCANNER for s in reading.scanners)
    if set(names) <= {NO_SCANNER}:
        raise DataError(
            "D06",
            "no image names the maker of its scanner (NIfTI files never do); split the table by "
            "its institutions with "
            "--partition natural, or into virtual sites with --partition even",
        )
    return replace(natural(replace(reading, institutions=names), minimum, small), kind="scanner")


def _virtual(
    reading: Reading, member: Sequence[int], count: int, minimum: int, kind: str
) -> Partition:
    width = len(str(count))
    sites = {}
    for k in range(count):
        sites[f"virtual {k + 1:0{width}d}"] = tuple(
            i for i, m in zip(reading.cohort.ids, member, strict=True) if m == k
        )
    empty = [name for name, ids in sites.items() if not ids]
    if empty:
        raise DataError(
            "D09",
            f"{len(empty)} of {count} virtual sites would be empty ({', '.join(empty[:5])}); ask "
            "for fewer --virtual-sites",
        )
    return Partition(sites, {}, {}, minimum, kind=kind)


def _list(counts: Mapping[str, int]) -> str:
    shown = [f"{n} {c}" for n, c in list(counts.items())[:8]]
    return ", ".join(shown) + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")
