"""The picture of the rooms is the code's: every room once, and a route through rooms that are
there."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from docs import rooms
from tests.paths import ROOT
from tests.test_imports import ROOMS


def test_every_room_is_drawn_once_and_listed_with_its_subject() -> None:
    expected = {
        f"{package}/{room}"
        for package, names in ROOMS.items()
        for room in names
        if room not in (".", "containers")
    }
    assert set(rooms.rooms()) == expected
    assert all(room.subject for room in rooms.rooms().values())
    tree = ElementTree.fromstring(rooms.picture())
    assert len(tree.findall(".//rect[@class='room']")) == len(expected)
    assert set(re.findall(r"^\| `([^`]+)` \|", rooms.table(), re.MULTILINE)) == expected


def test_the_order_that_imports_are_held_to_is_the_one_that_is_drawn() -> None:
    """A room stands on those that it imports, in the picture as in the test of imports."""
    for package, order in ROOMS.items():
        floors = {
            r.path: r.floor for r in rooms.rooms().values() if r.path.startswith(f"{package}/")
        }
        for room in floors:
            assert room.removeprefix(f"{package}/") in order


def test_the_route_stops_at_rooms_that_are_there() -> None:
    for room, what in rooms.ROUTE:
        assert (ROOT / room / "__init__.py").is_file(), room
        assert what
