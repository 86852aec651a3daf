"""The documentation as a site: it builds without a warning, needs nothing from a network, and its
reference has all that the code has."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.site import privacy_policy, site_file
from client.table import mapping_file
from common.errors import CODES
from common.federated import learner
from common.metrics.definitions import METRICS
from common.study import load as studies
from deploy import federation
from docs import build, reference
from server.config import run_config
from tests.paths import ROOT

pytestmark = pytest.mark.slow
bs4 = pytest.importorskip("bs4", reason="the extra [docs] is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "docs.build", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def page(built: Path, name: str) -> Any:
    return bs4.BeautifulSoup((built / f"{name}.html").read_text(), "html.parser")


def rows(found: Any) -> Iterator[list[str]]:
    """Cells of every row of the tables below `found`, without their heads."""
    for row in found.select("article table tbody tr") or found.select("table tbody tr"):
        yield [" ".join(cell.get_text(" ").split()) for cell in row.select("td")]


def declared(built: Path, name: str, expected: list[str]) -> None:
    """The first column is exactly these, each once, and nobody is without a meaning (the last
    column)."""
    found = list(rows(page(built, name)))
    assert Counter(r[0] for r in found) == Counter(expected)
    assert [r[0] for r in found if not r[-1]] == [], "without a description"


def test_every_page_is_in_the_menu(built: Path) -> None:
    listed = {a["href"].split("#")[0] for a in page(built, "index").select(".sidebar-tree a")} - {
        ""
    }
    pages = {Path(p).with_suffix(".html").as_posix() for p in build.pages().values()}
    there = {p for p in pages if not p.startswith("decisions/0")} - {"index.html"}
    assert there <= listed
    assert len(list((built / "decisions").glob("0*.html"))) == len(
        list((ROOT / "docs/decisions").glob("0*.md"))
    )


def test_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    loaded = []
    for path in built.rglob("*.html"):
        soup = bs4.BeautifulSoup(path.read_text(), "html.parser")
        loaded += [t.get("src") for t in soup.select("[src]")] + [
            t.get("href") for t in soup.select("link[href]")
        ]
    assert [x for x in loaded if re.match(r"(https?:)?//", x or "")] == []
    for path in built.rglob("*.css"):
        assert (
            re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"]*", path.read_text()) == []
        ), path


def test_it_is_searched_without_a_server(built: Path) -> None:
    """The index is a script, which a browser loads from a file, too."""
    assert "norm_bound" in (built / "searchindex.js").read_text()
    assert "searchindex.js" in (built / "search.html").read_text()


def test_a_link_that_leads_nowhere_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "pages", lambda: {"README.md": "index.md"})
    monkeypatch.setattr(
        build, "laid_out", lambda path, text, known: "# A page\n\n[there](#nowhere)\n"
    )
    with pytest.raises(subprocess.CalledProcessError):
        build.build(tmp_path / "site")


def test_runs(built: Path) -> None:
    declared(built, "reference/run", [k.name for k in reference.keys(run_config.Run)])


def test_sites(built: Path) -> None:
    expected = [
        k.name for cls in (site_file.Site, privacy_policy.Policy) for k in reference.keys(cls)
    ]
    declared(built, "reference/site", expected)


def test_federations(built: Path) -> None:
    declared(built, "reference/federation", [k.name for k in reference.keys(federation.Federation)])


def test_source_mappings(built: Path) -> None:
    declared(
        built,
        "reference/mapping",
        [k.name for cls in reference.MAPPING.values() for k in reference.section(cls)],
    )


def test_study_files(built: Path) -> None:
    declared(
        built,
        "reference/study-file",
        [k.name for cls in reference.STUDY.values() for k in reference.section(cls)],
    )


def test_every_shipped_mapping_is_read() -> None:
    for path in sorted(mapping_file.SOURCES.glob("*.toml")):
        assert mapping_file.named(path.stem).name == path.stem


def test_own_studies(built: Path) -> None:
    """Every key of a study file stands on its page, in a table, an example or the text."""
    text = " ".join(page(built, "own-study").get_text(" ").split())
    keys = {k.name for cls in reference.STUDY.values() for k in reference.section(cls)}
    assert [k for k in keys if not re.search(rf"(?<![\w]){k}(?![\w])", text)] == []


def test_metrics(built: Path) -> None:
    declared(built, "reference/metrics", [m.name for m in METRICS])


def test_errors(built: Path) -> None:
    declared(built, "errors", list(CODES))


def test_environment(built: Path) -> None:
    declared(built, "reference/environment", list(reference.ENVIRONMENT))
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    code = [
        p
        for p in tracked
        if p.startswith(("common/", "client/", "server/", "simulation/", "deploy/"))
        or p == ".ci/run"
    ]
    named = {
        n
        for p in code
        for n in re.findall(r"\bFEDMETS_[A-Z_]+\b", (ROOT / p).read_text(errors="replace"))
    }
    assert named <= reference.ENVIRONMENT.keys()


@pytest.mark.parametrize("module", reference.PARSERS)
def test_options(built: Path, module: str) -> None:
    sections = {
        h.get_text(" ", strip=True).removesuffix("¶").strip(): h
        for h in page(built, "reference/commands").select("h2, h3")
    }
    for command in reference.commands(module):
        title = next(t for t in sections if t.rstrip("#¶ ") == command.words)
        found = list(rows(_after(sections[title])))
        assert [r[0] for r in found] == [o for o, _ in command.options], command.words
        assert [r[0] for r in found if not r[-1]] == [], f"{command.words}: without a description"


def _after(heading: Any) -> Any:
    """The first table below a heading."""
    return heading.find_next("div", class_="table-wrapper")


def test_learners(built: Path) -> None:
    soup = page(built, "reference/learners")
    sections = {
        s.find(["h1", "h2"]).find("code").get_text(): s
        for s in soup.select("section")
        if s.find(["h1", "h2"]).find("code")
    }
    assert set(sections) == set(learner.names())
    for name, section in sections.items():
        one = learner.load(name)
        found = list(rows(section))
        assert Counter(r[0] for r in found) == Counter([*one.phases, *learner.hyper_names(one)]), (
            name
        )
        assert [r[0] for r in found if not r[-1]] == [], f"{name}: without a description"


def test_studies(built: Path) -> None:
    soup = page(built, "reference/studies")
    for name in studies.names():
        section = next(
            s for s in soup.select("section") if s.find(["h1", "h2"]).get_text().startswith(name)
        )
        found = list(rows(section))
        features = studies.load(name).schema.features
        for f in features:
            mine = [r for r in found if r[0] == f.name and len(r) == 5]
            assert len(mine) == 1, f.name
            assert all(mine[0]), f.name
