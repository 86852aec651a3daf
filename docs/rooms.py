"""The rooms of the code and the route of a patient's data through them: drawn and listed from the
files' own imports."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("common", "client", "server", "simulation", "deploy")
STAGE: Mapping[str, tuple[int, int, int]] = {
    "simulation": (0, 0, 5), "deploy": (5, 0, 1), "client": (0, 1, 3), "server": (3, 1, 3),
    "common": (0, 2, 6),
}  # fmt: skip
"""Package -> column, floor from the top, and width, in tiles: whoever stands above imports from
those below."""
ROUTE: tuple[tuple[str, str], ...] = (
    ("client/table", "a hospital's tables are read, every cell or none"),
    ("client/imaging/selection", "of its images the series is chosen that the study asks for"),
    ("client/imaging/pipeline", "and prepared, once"),
    ("client/cohort", "both become a frozen Cohort, and the account of who was left out"),
    ("client/station", "the station admits a signed Plan, or refuses it"),
    ("common/learners", "the learner contributes a sum over the patients"),
    ("client/station", "the station releases it: enough patients, noise, charge, signature"),
    ("common/wire", "an Update crosses the wall, and nothing else does"),
    ("server/rounds", "the coordinator adds the sites' updates, applies the total, asks again"),
    ("server/ledger", "a line in the ledger, and the State beside it"),
    ("server/report/content", "from both the report"),
    ("server/export", "and the model that leaves"),
)
"""The one way from a hospital's files to a report: room, and what happens there."""
TILE, HIGH, GAP, HEAD = 150, 46, 8, 26


@dataclass(frozen=True)
class Room:
    """A folder of modules inside a package."""

    path: str
    files: int
    subject: str
    """The first sentence of its `__init__.py`."""
    floor: int
    """0: imports no other room of its package."""


@cache
def rooms() -> dict[str, Room]:
    """Every room below the packages' own floors, by path. ValueError where rooms import each other
    in a circle."""
    files = {p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    held: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(files):
        if (
            path.name != "__init__.py"
            and len(path.parts) > 2
            and path.parent / "__init__.py" in files
        ):
            held[path.parent.as_posix()].append(path)
    below = {
        room: {b for p in paths for b in _imported(p, files)} & set(held) - {room}
        for room, paths in held.items()
    }
    floors = _floors(
        {room: {b for b in those if _package(b) == _package(room)} for room, those in below.items()}
    )
    return {
        room: Room(room, len(paths), _subject(room), floors[room])
        for room, paths in sorted(held.items())
    }


def _imported(path: Path, files: set[Path]) -> Iterator[str]:
    """The rooms that a file imports from."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            target = Path(*node.module.split("."))
            yield (target.parent if target.with_suffix(".py") in files else target).as_posix()


def _floors(below: Mapping[str, set[str]]) -> dict[str, int]:
    floors: dict[str, int] = {}
    while len(floors) < len(below):
        ready = [
            room for room, those in below.items() if room not in floors and those <= set(floors)
        ]
        if not ready:
            raise ValueError(
                "rooms import each other in a circle: "
                f"{', '.join(sorted(set(below) - set(floors)))}"
            )
        for room in ready:
            floors[room] = 1 + max((floors[b] for b in below[room]), default=-1)
    return floors


def _package(room: str) -> str:
    return room.partition("/")[0]


def _subject(room: str) -> str:
    text = (
        ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")))
        or ""
    )
    return text.split("\n\n")[0].replace("\n", " ")


def table() -> str:
    """Markdown: every room with what it holds, a package a table."""
    parts = []
    for package in PACKAGES:
        rows = [r for r in rooms().values() if _package(r.path) == package]
        if rows:
            lines = [
                f"| `{r.path}` | {r.files} | {r.subject} |"
                for r in sorted(rows, key=lambda r: (r.floor, r.path))
            ]
            parts.append(
                "\n".join(
                    [
                        f"**{package}**, from the ground up",
                        "",
                        "| room | files | what it holds |",
                        "|---|---|---|",
                        *lines,
                    ]
                )
            )
    return "\n\n".join(parts)


def route() -> str:
    """Markdown: the stops of the way, numbered as in the picture."""
    return "\n".join(f"{number}. `{room}`: {what}" for number, (room, what) in enumerate(ROUTE, 1))


def picture() -> str:
    """An SVG: packages as boxes, rooms as tiles on their floors, the route as a numbered line.
    Colours follow the page's."""
    known = rooms()
    by_package = {
        package: sorted((r for r in known.values() if _package(r.path) == package), key=_from_above)
        for package in PACKAGES
    }
    heights = [0, 0, 0]
    for package, (_, floor, width) in STAGE.items():
        heights[floor] = max(
            heights[floor],
            HEAD + -(-max(len(by_package[package]), 1) // width) * (HIGH + GAP) + GAP,
        )
    tops = [sum(heights[:floor]) + floor * 2 * GAP for floor in range(3)]
    shapes, centres = [], {}
    for package, (column, floor, width) in STAGE.items():
        left, top = column * (TILE + GAP) + (GAP if column else 0), tops[floor]
        wide = width * (TILE + GAP) + (0 if column else GAP)
        shapes.append(
            f'<rect class="package" x="{left}" y="{top}" width="{wide}" height="{heights[floor]}" '
            'rx="6"/>'
        )
        shapes.append(f'<text class="name" x="{left + GAP}" y="{top + 18}">{package}</text>')
        for place, room in enumerate(by_package[package]):
            x = left + GAP + place % width * (TILE + GAP)
            y = top + HEAD + place // width * (HIGH + GAP)
            centres[room.path] = (x, y)
            shapes += _tile(room, x, y)
    return _framed([*shapes, *_line(centres)], 6 * (TILE + GAP) + 2 * GAP, tops[2] + heights[2])


def _from_above(room: Room) -> tuple[int, str]:
    return -room.floor, room.path


def _tile(room: Room, x: int, y: int) -> list[str]:
    name = escape(room.path.partition("/")[2])
    files = f"{room.files} file{'s' if room.files > 1 else ''}"
    return [
        f'<g><title>{escape(room.subject)}</title><rect class="room" x="{x}" y="{y}" '
        f'width="{TILE - GAP}" height="{HIGH}" rx="4"/>',
        f'<text class="room-name" x="{x + 7}" y="{y + 18}">{name}</text>',
        f'<text class="files" x="{x + 7}" y="{y + 35}">{files}</text></g>',
    ]


def _line(centres: Mapping[str, tuple[int, int]]) -> list[str]:
    """The route: a stop for each number, side by side where it comes to one room twice."""
    seen: dict[str, int] = defaultdict(int)
    stops = []
    for room, _ in ROUTE:
        x, y = centres[room]
        stops.append((x + TILE - GAP - 14 - 24 * seen[room], y + HIGH - 13))
        seen[room] += 1
    path = " ".join(f"{x},{y}" for x, y in stops)
    out = [f'<polyline class="route" points="{path}"/>']
    for number, (x, y) in enumerate(stops, 1):
        out.append(
            f'<circle class="stop" cx="{x}" cy="{y}" r="10"/><text class="number" x="{x}" '
            f'y="{y + 4}">{number}</text>'
        )
    return out


def _framed(shapes: list[str], width: int, height: int) -> str:
    style = (
        ".package{fill:none;stroke:currentColor;stroke-opacity:.45}.room{fill:currentColor;fill-opacity:.07}"
        ".name{font-weight:600;font-size:14px}.room-name{font-size:12px}.files{font-size:11px;fill-opacity:.6}"
        "text{fill:currentColor;font-family:sans-serif}.route{fill:none;stroke:#c2410c;stroke-width:2;stroke-opacity:.75}"
        ".stop{fill:#c2410c}.number{fill:#fff;font-size:11px;text-anchor:middle}"
    )
    label = (
        "The rooms of the code, package by package, and the route of a patient's data through "
        "them; the list below says the same"
    )
    # a blank line would end the HTML block of a Markdown page
    return "\n".join(
        [
            f'<svg class="rooms" viewBox="-2 -2 {width + 4} {height + 4}" role="img" '
            f'aria-label="{escape(label)}" style="width:100%">',
            f"<style>{style}</style>", *shapes, "</svg>",
        ]
    )  # fmt: skip
