"""The metrics: what Prometheus reads, what the documentation lists, what a view holds are the
same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.monitor.run_watcher import RunWatcher
from server.monitor.web.prometheus import NAMES, Collected
from tests.paths import ROOT
from tests.server.monitor import ledgers

HOSTILE = 'North "\n\\ Zürich'


@pytest.fixture
def read(tmp_path: Path) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    names = [HOSTILE, "South"]
    done = RunWatcher(ledgers.run(tmp_path / "done", 5, names=names)).look()
    bodies = [
        ledgers.opened(names, config={"noise": 3.0, "secure": True}),
        ledgers.exchange(0, names, refused={"South": "P01"}, metrics=[]),
    ]
    bodies[1]["spent"] = {"South": {"epsilon": 0.25, "learners": {}}}
    other = RunWatcher(ledgers.written(tmp_path / "other", bodies)).look()
    text = generate_latest(Collected([("done", done), ("other", other)])).decode()  # type: ignore[arg-type]
    families = list(text_string_to_metric_families(text))
    assert {f.name for f in families} == set(NAMES)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_prometheus_reads_what_a_view_holds(
    read: dict[tuple[str, tuple[tuple[str, str], ...]], float],
) -> None:
    def of(name: str, **labels: str) -> float:
        return read[name, tuple(sorted(labels.items()))]

    assert of("fedmets_run_state", run="done", state="finished") == 1
    assert of("fedmets_run_state", run="done", state="running") == 0
    assert of("fedmets_run_exchanges_total", run="done") == 5
    assert of("fedmets_run_sent_bytes_total", run="done") == 10000
    assert of("fedmets_site_contributions_total", run="done", site=HOSTILE) == 5
    assert of("fedmets_site_refusals_total", run="other", site="South", code="P01") == 1
    assert of("fedmets_site_epsilon", run="other", site="South") == 0.25
    assert (
        of("fedmets_evaluation", run="done", model="mlp", evaluation="within_site", metric="auc")
        == 0.81
    )
    assert of("fedmets_learner_metric", run="done", learner="mlp", metric="loss", site="") > 0
    assert of("fedmets_run_ledger_lines", run="done", verified="yes") == 7
    assert not [k for k in read if k[0] == "fedmets_site_cases" and ("run", "other") in k[1]], (
        "what is withheld is not there"
    )


def test_the_documentation_lists_them_all() -> None:
    rows = dict(
        re.findall(
            r"^\| `(fedmets_\w+)` \| (.+) \|$",
            (ROOT / "docs/monitoring.md").read_text(),
            re.MULTILINE,
        )
    )
    assert rows == dict(NAMES)
