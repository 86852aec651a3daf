"""Statements that only people can make of a study (funding, ethics approval, registration, ...),
from a TOML file: item number -> text.

[tripod]
18a = "Funded by ..."
[claim]
44 = "Funded by ..."
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from common.runtime import settings
from common.runtime.settings import Form, Settings
from server.report.checklists import claim, tripod
from server.report.checklists.checklist import Item

NAME = "statements.toml"
"""In the folder of a run between hospitals."""
Text = Annotated[str, Form(re.compile(r"(?s).*\S.*"), "a text that is not empty")]


def _among(items: tuple[Item, ...]) -> Callable[[str], str]:
    known = [item.number for item in items]

    def check(number: str) -> str:
        if number not in known:
            raise ValueError(f"is no item of the checklist; it has {', '.join(known)}")
        return number

    return check


@dataclass(frozen=True)
class Statements(Settings):
    """Each table: number of an item -> text."""

    tripod: Mapping[Annotated[str, AfterValidator(_among(tripod.ITEMS))], Text] = field(
        default_factory=dict
    )
    """Items of TRIPOD+AI."""
    claim: Mapping[Annotated[str, AfterValidator(_among(claim.ITEMS))], Text] = field(
        default_factory=dict
    )
    """Items of CLAIM."""


def read(path: str) -> dict[str, dict[str, str]]:
    """The file's statements; none without a file. C01 for all that is wrong with it, at once."""
    if not path:
        return {}
    stated = settings.load(
        Statements, Path(path), "statements", "C01", "give a TOML file with [tripod] and [claim]"
    )
    return {name: dict(items) for name, items in asdict(stated).items() if items}
