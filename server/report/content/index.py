"""Index of a report's rows: what was measured, by evaluation, model and metric."""

from __future__ import annotations

from server.report.content.rows import Report, rows
from server.report.content.wording import Row

LEADS = ("fusion", "clinical")
"""The model that answers the study's question: what uses all that the sites hold, where it was
run."""


class Index:
    """The report's result rows by what they are about."""

    def __init__(self, report: Report) -> None:
        keys = ("model", "arm", "evaluation", "site", "metric")
        named = [r for r in rows(report, "results") if all(isinstance(r.get(k), str) for k in keys)]
        self.rows = {tuple(r[k] for k in keys): r for r in named}
        self.models = list(dict.fromkeys(k[0] for k in self.rows))
        self.sites = [s for s in dict.fromkeys(k[3] for k in self.rows) if s != "all"]

    def get(
        self, model: str, arm: str, evaluation: str, metric: str, site: str = "all"
    ) -> Row | None:
        return self.rows.get((model, arm, evaluation, site, metric))

    def has(self, evaluation: str) -> bool:
        return any(k[2] == evaluation for k in self.rows)

    def lead(self, evaluation: str) -> str:
        """The model of the headline in this evaluation."""
        ran = [m for m in self.models if self.get(m, "federated", evaluation, "auc") is not None]
        return next((m for m in (*LEADS, *ran) if m in ran), LEADS[-1])
