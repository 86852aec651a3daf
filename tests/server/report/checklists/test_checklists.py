"""TRIPOD+AI and CLAIM: every item once, MISSING where nothing answers it, and no statement for an
item that is none."""

import re

import pytest

from common.errors import UsageError
from server.report.checklists import checklist, claim, statements, tripod
from server.report.page import page
from tests.server.report.made_report import make
from tests.server.report.page.test_page import read, text_of

LISTS = {"tripod": tripod.ITEMS, "claim": claim.ITEMS}
IMAGES = {
    "sites": [{"name": "Alster", "expert_outlines": 3, "scanners": {"GE": 5}}],
    "roi_source": [{"model": "image", "roi_source": "expert", "n": 40, "events": 20,
    "estimable": False}],
    "adds": [], "fusion": None, "explanation": None, "pictures": [],
}  # fmt: skip


def test_all_items_are_there_once():
    assert [i.number for i in claim.ITEMS] == [str(n) for n in range(1, 45)]
    numbers = [i.number for i in tripod.ITEMS]
    assert len(numbers) == len(set(numbers)) == 52
    assert list(dict.fromkeys(int(re.match(r"\d+", n)[0]) for n in numbers)) == list(range(1, 28))
    assert {i.place for items in LISTS.values() for i in items} - {""} <= set(page.SECTIONS)


@pytest.mark.parametrize("name", LISTS)
def test_every_item_stands_on_the_page_once(name):
    found = read(page.render(make() | {"images": IMAGES}))
    title = {"tripod": "TRIPOD+AI", "claim": "CLAIM"}[name]
    (table,) = [e for e in found if e["tag"] == "table" and e["text"].strip().startswith(title)]
    heads = [
        c["text"].strip()
        for part in table["children"]
        if part["tag"] == "tbody"
        for r in part["children"]
        for c in r["children"][:1]
    ]
    assert heads == [i.number for i in LISTS[name]]


def test_claim_is_there_only_with_images():
    assert "CLAIM" not in page.render(make())


@pytest.mark.parametrize(
    ("number", "key"),
    [("1", "question"), ("5a", "sites"), ("6b", "flow"), ("9b", "features"), ("12a",
    "configuration"), ("12d", "between_sites"),
     ("12e", "results"), ("14", "subgroups"), ("18f", "fedmets"), ("20c", "site_probe"), ("22",
     "state_hash"), ("26", "alarms")],
)  # fmt: skip
def test_an_item_whose_key_is_gone_is_missing(number, key):
    def line(report):
        return next(x for x in checklist.lines(tripod.ITEMS, report, {}) if x.number == number)

    whole = make()
    assert not line(whole).missing
    assert line({k: v for k, v in whole.items() if k != key}).missing
    assert line({**whole, key: None}).missing


def test_nothing_is_answered_by_an_empty_report():
    for items in LISTS.values():
        assert all(x.missing for x in checklist.lines(items, {}, {}))
    assert f"52 {checklist.MISSING}, of 52 items" in text_of(page.render({}))


def test_what_people_know_is_missing_until_they_say_it():
    report = make()
    text = text_of(page.render(report))
    assert "Stated: Nobody funded it." in text
    humans = {x.number for x in checklist.lines(tripod.ITEMS, report, {}) if x.missing}
    assert {"3a", "3c", "17", "18a", "18b", "18d", "19", "25", "27a"} <= humans


def test_statements_are_read_and_checked(tmp_path):
    path = tmp_path / "s.toml"
    assert statements.read("") == {}
    path.write_text('[tripod]\n17 = "Approved."\n18a = "Funded."\n[claim]\n44 = "Funded."\n')
    assert statements.read(str(path)) == {
        "tripod": {"17": "Approved.", "18a": "Funded."},
        "claim": {"44": "Funded."},
    }
    path.write_text('[tripod]\n99 = "x"\n17 = ""\n[strobe]\n1 = "y"\n')
    with pytest.raises(UsageError) as caught:
        statements.read(str(path))
    said = str(caught.value)
    assert caught.value.code == "C01"
    assert "tripod.99 is no item of the checklist" in said
    assert "tripod.17 = '' must be a text" in said
    assert "unknown key 'strobe'; allowed: claim, tripod" in said
    with pytest.raises(UsageError):
        statements.read(str(tmp_path / "none.toml"))
