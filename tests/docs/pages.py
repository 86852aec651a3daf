"""The code blocks of the documentation: where each stands, and the commands in those for a
shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

PAGES = (
    [ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    + [ROOT / "deploy" / "README.md", ROOT / "bench" / "README.md"]
    + sorted((ROOT / "docs").rglob("*.md"))
)
SHELL = ("", "sh", "bash")
OTHER = ("text", "toml", "python", "json", "yaml")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    heading: str
    language: str
    body: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command line, its comment taken off."""

    block: Block
    line: str


def blocks(page: Path) -> Iterator[Block]:
    """Fences may be indented (in a list); one that is not closed is an error."""
    name, heading, lines = str(page.relative_to(ROOT)), "", page.read_text().splitlines()
    at = 0
    while at < len(lines):
        if found := re.match(r"^#+ (.*)", lines[at]):
            heading = found[1]
        if found := re.match(r"^( *)```(\S*)$", lines[at]):
            indent, start = len(found[1]), at + 1
            end = next((i for i in range(start, len(lines)) if lines[i].strip() == "```"), None)
            assert end is not None, f"{name}:{start}: a code block without an end"
            yield Block(
                name,
                start,
                heading,
                found[2],
                "\n".join(text[indent:] for text in lines[start:end]),
            )
            at = end
        at += 1


def every_block() -> list[Block]:
    return [b for page in PAGES for b in blocks(page)]


def commands() -> list[Command]:
    """Every command of every block for a shell."""
    out = []
    for block in every_block():
        if block.language in SHELL:
            for line in re.sub(r"\\\n\s*", " ", block.body).splitlines():
                plain = re.sub(r"(^|\s+)# .*", "", line).strip()
                if plain:
                    out.append(Command(block, plain))
    return out
