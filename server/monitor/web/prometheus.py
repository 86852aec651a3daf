"""Prometheus metrics of a run's view. `NAMES` is what docs/monitoring.md lists; a test holds the
three against one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from server.monitor.view import RUN_STATES, SiteView, View

NEWEST_RUNS = 20
"""Runs that are exported."""
NAMES: Mapping[str, str] = {
    "fedmets_run": "1 for each run, with study, task and fedmets version as labels",
    "fedmets_run_state": "1 for the state the run is in, 0 for the others",
    "fedmets_run_jobs": "jobs of the run: a learner on a training set",
    "fedmets_run_jobs_done": "jobs that are done",
    "fedmets_run_exchanges": "exchanges with the sites",
    "fedmets_run_sent_bytes": "bytes sent to all sites",
    "fedmets_run_received_bytes": "bytes received from all sites",
    "fedmets_run_exchange_seconds": "seconds spent in exchanges, all together",
    "fedmets_run_last_exchange_seconds": "seconds of the last exchange",
    "fedmets_run_last_sign_timestamp_seconds": "Unix time of the run's last sign of life",
    "fedmets_run_ledger_lines": "lines of the ledger, by verified: yes or no",
    "fedmets_site_state": "1 for the state the site is in: registered, ready, working, "
    "contributed, late, refused, or a code",
    "fedmets_site_last_sign_timestamp_seconds": "Unix time of the site's last sign of life",
    "fedmets_site_contributions": "exchanges that the site contributed to",
    "fedmets_site_late_answers": "answers that came after their step had gone on",
    "fedmets_site_refusals": "exchanges in which the site was not in, or not in all of it, by code",
    "fedmets_site_cases": "labelled cases, where the site tells them",
    "fedmets_site_epsilon": "at the most, what the run has cost one of the site's patients; runs "
    "with noise only",
    "fedmets_learner_metric": "newest mean per case, by learner and metric; site is empty for all "
    "sites together",
    "fedmets_evaluation": "metric of a finished evaluation, by model and evaluation",
}
_COUNTED = (
    "fedmets_run_exchanges", "fedmets_run_sent_bytes", "fedmets_run_received_bytes",
    "fedmets_run_exchange_seconds",
    "fedmets_site_contributions", "fedmets_site_late_answers", "fedmets_site_refusals",
)  # fmt: skip
_LABELS: Mapping[str, Sequence[str]] = {
    "fedmets_run": ("study", "task", "version"),
    "fedmets_run_state": ("state",),
    "fedmets_run_ledger_lines": ("verified",),
    "fedmets_site_state": ("site", "state"),
    "fedmets_site_refusals": ("site", "code"),
    "fedmets_learner_metric": ("learner", "metric", "site"),
    "fedmets_evaluation": ("model", "evaluation", "metric"),
}


@dataclass(frozen=True)
class Collected:
    """A collector as `prometheus_client.generate_latest` takes it."""

    views: Sequence[tuple[str, View]]
    """Name of the run's folder, view."""

    def collect(self) -> Iterator[Metric]:
        families = {name: _family(name) for name in NAMES}
        for run, view in self.views:
            for name, labels, value in _samples(view):
                families[name].add_metric([run, *labels], value)
        yield from families.values()


def _family(name: str) -> GaugeMetricFamily | CounterMetricFamily:
    labels = ["run", *_LABELS.get(name, ("site",) if name.startswith("fedmets_site") else ())]
    return (CounterMetricFamily if name in _COUNTED else GaugeMetricFamily)(
        name, NAMES[name], labels=labels
    )


Sample = tuple[str, Sequence[str], float]
"""Metric, the values of its labels but the run, value."""


def _samples(v: View) -> Iterator[Sample]:
    yield from _run_samples(v)
    for site in v.sites:
        yield from _site_samples(site)
    for r in v.refusals:
        yield "fedmets_site_refusals", (r.site, r.code), r.times
    yield from _learner_samples(v)


def _run_samples(v: View) -> Iterator[Sample]:
    yield "fedmets_run", (v.study, v.task, v.versions.get("fedmets", "")), 1
    for state in RUN_STATES:
        yield "fedmets_run_state", (state,), float(v.state == state)
    yield "fedmets_run_jobs", (), v.jobs
    yield "fedmets_run_jobs_done", (), v.done
    yield "fedmets_run_exchanges", (), v.step
    yield "fedmets_run_sent_bytes", (), v.sent
    yield "fedmets_run_received_bytes", (), v.received
    yield "fedmets_run_exchange_seconds", (), v.seconds["all"] or 0.0
    if v.seconds["last"] is not None:
        yield "fedmets_run_last_exchange_seconds", (), v.seconds["last"]
    if v.latest is not None:
        yield "fedmets_run_last_sign_timestamp_seconds", (), v.latest
    yield "fedmets_run_ledger_lines", ("yes",), v.verified
    yield "fedmets_run_ledger_lines", ("no",), v.line_count - v.verified


def _site_samples(s: SiteView) -> Iterator[Sample]:
    yield "fedmets_site_state", (s.name, s.state), 1
    yield "fedmets_site_contributions", (s.name,), s.contributed
    yield "fedmets_site_late_answers", (s.name,), s.late
    if s.seen is not None:
        yield "fedmets_site_last_sign_timestamp_seconds", (s.name,), s.seen
    if isinstance(s.cases, int):
        yield "fedmets_site_cases", (s.name,), s.cases
    if s.epsilon is not None:
        yield "fedmets_site_epsilon", (s.name,), s.epsilon


def _learner_samples(v: View) -> Iterator[Sample]:
    for c in v.curves:
        for site, points in (("", c.all), *c.sites.items()):
            if points:
                yield "fedmets_learner_metric", (c.learner, c.metric, site), points[-1][1]
    for row in v.evaluation:
        for metric in ("auc", "auc_pooled", "brier", "log_loss"):
            value = row.get(metric)
            if isinstance(value, int | float):
                yield (
                    "fedmets_evaluation",
                    (str(row.get("model")), str(row.get("evaluation")), metric),
                    float(value),
                )
    for model, score in v.scores.items():
        if isinstance(score, dict) and isinstance(score.get("value"), int | float):
            yield "fedmets_evaluation", (str(model), "holdout", "auc_pooled"), float(score["value"])
