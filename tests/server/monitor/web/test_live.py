"""The page while a run goes on: events, reconnecting, many watchers, a large run; and as a browser
shows it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest

from server.ledger import ledger
from tests import browser
from tests.server.monitor import ledgers
from tests.server.monitor.web.place import events, monitor

NAMES = ["North", "<script>document.title='owned'</script>", "West"]


def half(folder: Path, steps: int = 8) -> tuple[Path, list[bytes]]:
    """A run of which the first lines are written, and the rest of them."""
    lines = (
        (ledgers.run(folder, steps, names=NAMES) / ledger.NAME)
        .read_bytes()
        .splitlines(keepends=True)
    )
    (folder / ledger.NAME).write_bytes(b"".join(lines[:4]))
    return folder / ledger.NAME, lines[4:]


def grow(path: Path, line: bytes) -> None:
    with open(path, "ab") as file:
        file.write(line)


def test_events_bring_all_and_then_what_changes_and_a_browser_that_comes_back_gets_what_it_lacks(
    tmp_path: Path,
) -> None:
    path, rest = half(tmp_path / "r")
    with monitor(tmp_path) as (at, _):
        with events(at, "r") as told:
            first, kind, seen = next(told)
            assert (kind, seen["run"]["state"], seen["run"]["step"]) == ("full", "stalled", 3)
            assert set(seen) == {
                "now",
                "run",
                "sites",
                "curves",
                "round_times",
                "lines",
                "refusals",
                "evaluation",
                "configuration",
            }
            grow(path, rest[0])
            second, kind, seen = next(told)
            assert (kind, seen["run"]["step"]) == ("patch", 4)
            assert "configuration" not in seen
        # nothing has happened since: nothing comes until something does
        with events(at, "r", last=second) as told:
            threading.Timer(1.0, grow, (path, rest[1])).start()
            third, kind, seen = next(told)
            assert (kind, seen["run"]["step"]) == ("patch", 5)
        grow(path, rest[2])
        time.sleep(1)
        for last in (first, third, "of-another-process"):
            with events(at, "r", last=last) as told:
                newest, kind, seen = next(told)
                assert (kind, seen["run"]["step"]) == ("full", 6)
                assert newest != last


def test_a_page_that_was_open_when_the_monitor_was_started_again_goes_on_from_the_ledger_alone(
    tmp_path: Path,
) -> None:
    half(tmp_path / "r")
    with monitor(tmp_path) as (at, _), events(at, "r") as told:
        before, _, seen = next(told)
    with monitor(tmp_path) as (at, _), events(at, "r", last=before) as told:
        after, kind, again = next(told)
    assert (kind, after != before) == ("full", True)
    assert again["sites"] == seen["sites"]
    assert again["run"]["head"] == seen["run"]["head"]


def memory(pid: int) -> int:
    """Resident, in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


def test_a_large_run_is_on_the_page_and_many_watchers_take_no_more_memory(tmp_path: Path) -> None:
    folder = ledgers.run(tmp_path / "large", 1000, 200, close=False)
    lines = (folder / ledger.NAME).read_bytes().splitlines(keepends=True)
    (folder / ledger.NAME).write_bytes(b"".join(lines[:-20]))
    with (
        monitor(tmp_path) as (at, process),
        httpx.Client(base_url=at, trust_env=False, timeout=30) as client,
    ):
        client.get("/api/runs/large")
        assert client.get("/runs/large").status_code == 200
        whole = client.get("/api/runs/large")
        assert len(whole.content) < 1_000_000
        before, got = memory(process.pid), list[int]()

        def look() -> None:
            with events(at, "large") as told:
                for _, _, seen in told:
                    got.append(seen["run"]["step"])
                    if seen["run"]["step"] == 1000:
                        return

        watchers = [threading.Thread(target=look) for _ in range(40)]
        for w in watchers:
            w.start()
        for line in lines[-20:]:
            grow(folder / ledger.NAME, line)
            time.sleep(0.05)
        for w in watchers:
            w.join(40)
        assert got.count(1000) == 40
        assert memory(process.pid) - before < 40_000


# ---- in a browser --------------------------------------------------------------------------------

why = "Chromium is not installed: apt-get install chromium" if browser.CHROMIUM is None else ""
in_browser = pytest.mark.skipif(bool(why), reason=why)


@in_browser
def test_a_browser_shows_the_run_live_asks_nobody_else_and_obeys_no_name(tmp_path: Path) -> None:
    path, rest = half(tmp_path / "r")
    with monitor(tmp_path) as (at, _), browser.browser() as page:
        page.shape(1200, 900)
        page.open(f"{at}/")
        page.until("document.querySelectorAll('#runs tbody tr').length === 1")
        page.open(f"{at}/runs/r")
        page.until("document.querySelectorAll('#sites tbody tr').length === 3")
        assert page.run("document.querySelector('#sites tbody th').textContent") == NAMES[1]
        assert page.run("document.title") == "stalled: r"
        assert page.run("document.querySelectorAll('script').length") == 1
        assert page.run(
            "[...document.querySelectorAll('svg[role=img]')].every(s => s.querySelector('title') "
            "&& s.querySelector('desc'))"
        )
        assert page.run("[...document.querySelectorAll('th')].every(h => h.scope)")
        assert page.run("document.querySelectorAll('main, header, footer, nav').length") == 4
        assert page.run("document.querySelector('#state').getAttribute('aria-live')") == "polite"
        # a chart's numbers are to be had as a table, which stays open when news come
        page.run("document.querySelector('#curves summary').click()")
        page.until("document.querySelectorAll('#curves details tbody tr').length === 3")
        for line in rest:
            grow(path, line)
        page.until("document.title === 'finished: r'")
        page.until("document.querySelectorAll('#curves details tbody tr').length === 8")
        assert page.run("document.querySelector('#evaluation').textContent.includes('0.810')")
        assert page.said == []
        assert {address.split("/")[2] for address in page.asked if address.startswith("http")} == {
            at.split("/")[2]
        }


@in_browser
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_telephone(dark: bool, tmp_path: Path) -> None:
    folder = ledgers.run(
        tmp_path / "r",
        5,
        names=[*NAMES, "A hospital with a very long name in a small town by the sea"],
    )
    raw = bytearray((folder / ledger.NAME).read_bytes())
    raw[-40] ^= 1
    (folder / ledger.NAME).write_bytes(raw)
    with monitor(tmp_path) as (at, _), browser.browser() as page:
        page.shape(390, 800, dark)
        page.open(f"{at}/runs/r")
        page.until("document.querySelector('#state').textContent.includes('line 7')")
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.run("document.querySelectorAll('tr.unverified').length") == 1
        back = page.run("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(18, 23, 29)") == dark


@in_browser
def test_it_can_be_used_by_the_keyboard(tmp_path: Path) -> None:
    ledgers.run(tmp_path / "r", 60, names=NAMES)
    with monitor(tmp_path) as (at, _), browser.browser() as page:
        page.open(f"{at}/runs/r")
        page.until("document.querySelectorAll('#ledger tbody tr').length > 5")
        page.run("document.querySelector('.skip').focus()")
        assert page.run("document.activeElement.getBoundingClientRect().left >= 0"), (
            "the way past the navigation shows itself"
        )
        shown = page.run("document.querySelectorAll('#ledger tbody tr').length")
        page.run("document.querySelector('#ledger button').focus(); document.activeElement.click()")
        page.until(f"document.querySelectorAll('#ledger tbody tr').length > {shown}")
        assert page.run("document.activeElement.closest('#ledger') !== null"), (
            "whoever pressed a button is still there"
        )
        assert page.run(
            "[...document.querySelectorAll('.scroll')].every(s => s.tabIndex === 0 && "
            "s.getAttribute('aria-label'))"
        )
