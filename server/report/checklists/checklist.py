"""Reporting checklist as a table: each item with where it is answered, what the report itself says,
or MISSING.

What only people know (funding, ethics approval, registration) is MISSING unless a file of
statements supplies it. `tripod` and `claim` hold the items; their topics are in our own words, the
checklists' full texts are in the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from server.report.content.wording import Row

Report = Mapping[str, Any]
Answer = Callable[[Report], str | None]
MISSING = "MISSING"


class Item(NamedTuple):
    number: str
    section: str
    topic: str
    place: str = ""
    """The report's section that answers it, by its id."""
    answer: Answer | None = None
    """None: nothing that a run leaves behind can answer it."""
    lacks: str = ""
    """What of the item a person must still say."""


class Line(NamedTuple):
    number: str
    section: str
    topic: str
    place: str
    said: str
    lacks: str
    stated: str
    """From the file of statements."""

    @property
    def missing(self) -> bool:
        return not self.said and not self.stated


def lines(items: Sequence[Item], report: Report, statements: Mapping[str, Any]) -> list[Line]:
    """One a item, in order."""
    out = []
    for i in items:
        said = (i.answer(report) if i.answer else None) or ""
        stated = str(statements.get(i.number) or "")
        out.append(
            Line(
                i.number,
                i.section,
                i.topic,
                i.place if said else "",
                said,
                i.lacks if said and not stated else "",
                stated,
            )
        )
    return out


def counted(found: Sequence[Line]) -> str:
    """12 answered, 20 in part, 20 MISSING."""
    missing = sum(line.missing for line in found)
    part = sum(bool(line.lacks) for line in found)
    return (
        f"{len(found) - missing - part} answered, {part} in part, {missing} {MISSING}, of "
        f"{len(found)} items"
    )


def stated(report: Report, name: str) -> Row:
    """The statements for one checklist."""
    every = report.get("statements")
    mine = every.get(name) if isinstance(every, Mapping) else None
    return mine if isinstance(mine, Mapping) else {}
