"""Local copy of a federation's report, with the site's own pictures in it. It shows patients, and
stays where they are.

The report comes from the coordinator, whom the site does not trust with pictures: a policy before
its first byte forbids the copy to run anything, or to load or send anything, whatever the report
holds.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from client.local_model.explain import Panel, figures, legend
from client.local_model.model_folder import Networks
from common.data.cohort import Cohort
from common.errors import UsageError
from common.runtime.report_marker import PICTURES

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def own_copy(report: Path, cohort: Cohort, networks: Networks, panels: list[Panel]) -> str:
    """The report as HTML, headed as showing patients, with `panels` at its marked place. C01 where
    `report` has none."""
    try:
        text = report.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(
            "C01", f"--report {report} cannot be read ({error}); give the report.html of a run"
        ) from error
    if text.count(PICTURES) != 1:
        raise UsageError(
            "C01",
            f"--report {report} has no place for pictures; give the report.html of a run, as this "
            "version writes it",
        )
    site = escape(cohort.site)
    warned = (
        f'<section class="box alarm"><h2>{site}: this copy shows patients and names them</h2>'
        "<p>It belongs to the site and must not leave it. What left the site is the report "
        "without this box and without the pictures "
        f"under &ldquo;{site}: its own pictures&rdquo;.</p></section>"
    )
    pictures = (
        f"<h3>{site}: its own pictures</h3><p><strong>They show patients: in this copy "
        f"alone.</strong> {legend(cohort, networks)}</p>"
        f'<div class="pictures">{figures(panels)}</div>'
    )
    text = text.replace(PICTURES, pictures)
    head, page, rest = text.partition('<div class="page">')
    return (
        '<!DOCTYPE html>\n<meta http-equiv="Content-Security-Policy" '
        f'content="{POLICY}">\n{head}{page}{warned}{rest}'
    )
