"""`python -m docs.build OUT`: the documentation as a site, strictly (a warning is an error), and
without anything from a network.

The pages stay where they are read on disk: README.md, docs/, deploy/README.md. They are laid out in
a temporary folder as the site has them, links between them follow, and `docs.reference` fills in
what is made from the code.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from docs import reference, schemas

HERE = Path(__file__).parent
NOTEBOOK = "tutorial.ipynb"
"""Executed while the site is built; it is kept without output."""
ROOT = HERE.parent

OUTSIDE = {
    "README.md": "index.md",
    "deploy/README.md": "runbook.md",
    "bench/README.md": "benches.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that lie outside of docs/ -> where the site has them."""

NAV: dict[str, tuple[str, ...]] = {
    "Start": ("index.md", "tutorial.ipynb"),
    "Concepts": ("concepts.md", "judged.md", "architecture.md"),
    "How-to: data": ("howto/colorectal-table.md", "howto/colorectal-images.md", "howto/liver.md",
    "howto/yale.md", "howto/openbtai.md", "howto/examinations.md"),
    "How-to: study": ("own-study.md", "howto/study-in-code.md", "howto/learner.md",
    "howto/network.md"),
    "How-to: federation": ("runbook.md", "howto/gpu.md", "howto/privacy.md"),
    "How-to: results": ("howto/read-report.md", "monitoring.md", "model.md", "*"),
    "Reference": (
        "reference/commands.md", "reference/run.md", "reference/site.md", "reference/federation.md",
        "reference/mapping.md",
        "reference/study-file.md", "reference/editors.md", "reference/studies.md",
        "reference/learners.md", "reference/metrics.md", "report.md", "reference/report-keys.md",
        "errors.md", "reference/environment.md",
    ),
    "Security": ("security.md",),
    "The project": ("decisions/README.md", "changelog.md", "contributing.md", "benches.md",
    "status.md"),
}  # fmt: skip
"""Sections of the site's menu. `*`: pages of docs/ that no section names; a page that is not there
is left out."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^()\s#]*)(#[^()\s]*)?\)")
_MADE = re.compile(r"^<!-- made: ([a-z]+) -->$", re.MULTILINE)


def pages() -> dict[str, str]:
    """Every page of the site: its path in the repository -> its path in the site."""
    own = [p.relative_to(HERE).as_posix() for p in (*sorted(HERE.rglob("*.md")), HERE / NOTEBOOK)]
    inside = {f"docs/{page}": page for page in own}
    return OUTSIDE | inside


def menu(known: Mapping[str, str]) -> dict[str, list[str]]:
    """The sections with the pages that are there."""
    there = set(known.values())
    named = {page for section in NAV.values() for page in section}
    # a decision hangs below the list of decisions
    others = sorted(p for p in there - named if not p.startswith("decisions/"))
    out = {}
    for title, section in NAV.items():
        out[title] = [
            p for page in section for p in (others if page == "*" else [page]) if p in there
        ]
    return out


def _toctree(entries: list[str], caption: str = "") -> str:
    told = f":caption: {caption}\n" if caption else ""
    return (
        f"\n```{{toctree}}\n:hidden:\n{told}\n"
        + "\n".join(e.removesuffix(".md").removesuffix(".ipynb") for e in entries)
        + "\n```\n"
    )


def laid_out(path: str, text: str, known: Mapping[str, str]) -> str:
    """A page as the site has it: links lead to the site's pages, what is no page is named only;
    tables are filled in."""

    def link(found: re.Match[str]) -> str:
        picture, words, target, anchor = found[1], found[2], found[3], found[4] or ""
        if picture or target.startswith(("http:", "https:", "mailto:")) or not target:
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if there in known:
            return f"[{words}]({posixpath.relpath(known[there], posixpath.dirname(known[path]) or '.')}{anchor})"
        if there.startswith("docs/") and there.endswith(".json"):
            return f"[{words}]({posixpath.relpath(there.removeprefix('docs/'), posixpath.dirname(known[path]) or '.')})"
        return words

    # nothing inside a code block is a link
    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.DOTALL | re.MULTILINE)
    text = "".join(p if p.lstrip().startswith("```") else _LINK.sub(link, p) for p in parts)
    text = _MADE.sub(lambda m: reference.made(m[1]), text)
    if known[path] == "index.md":
        text += "".join(
            _toctree(["Sixty seconds <self>" if p == "index.md" else p for p in entries], title)
            for title, entries in menu(known).items()
        )
    if known[path] == "decisions/README.md":
        text += _toctree(
            sorted(posixpath.basename(p) for p in known.values() if re.match(r"decisions/\d", p))
        )
    return text


def lay_out(source: Path) -> None:
    """All that Sphinx reads, in `source`."""
    known = pages()
    for path, there in known.items():
        target = source / there
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / path).read_text(encoding="utf-8")
        target.write_text(
            text if path.endswith(".ipynb") else laid_out(path, text, known), encoding="utf-8"
        )
    for schema in HERE.glob("*.json"):
        shutil.copy(schema, source)
    schemas.write(source / "schemas")
    shutil.copy(HERE / "conf.py", source)
    shutil.copytree(HERE / "_static", source / "_static")


def build(out: Path) -> None:
    """Raises CalledProcessError where Sphinx finds anything to complain about."""
    with tempfile.TemporaryDirectory(prefix="fedmets-docs-") as folder:
        source = Path(folder) / "source"
        source.mkdir()
        lay_out(source)
        words = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-n"]
        env = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
        subprocess.run(
            [*words, "-d", f"{folder}/doctrees", str(source), f"{folder}/site"], check=True, env=env
        )
        shutil.rmtree(Path(folder) / "site" / ".doctrees", ignore_errors=True)
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(Path(folder) / "site", out)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docs.build", description="build the documentation as a site"
    )
    parser.add_argument("out", type=Path, help="folder of the site; what was there is replaced")
    out = parser.parse_args().out
    if out.exists() and any(out.iterdir()) and not (out / "index.html").exists():
        parser.error(f"'{out}' holds something else than a site; give another folder")
    try:
        build(out)
    except subprocess.CalledProcessError as error:
        return error.returncode
    print(out / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
