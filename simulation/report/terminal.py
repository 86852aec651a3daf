"""Terminal output, what a run says: the flow account and the sites before it starts, the comparison
when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from common.data.cohort import UNKNOWN
from common.runtime.console import Console

if TYPE_CHECKING:
    from simulation.federation.setting import Setting


def opening(console: Console, setting: Setting) -> None:
    """Study, flow account, sites."""
    study, cohort = setting.study, setting.reading.cohort
    task = study.tasks[setting.task]
    console.print(f"[bold]{study.question}[/bold]", highlight=False)
    console.print(
        f"study {study.name}, task {setting.task}, source {setting.reading.source}, seed "
        f"{setting.run.seed}",
        highlight=False,
    )
    if task.caution:
        console.print(f"[yellow]{task.caution}[/yellow]", highlight=False)
    if setting.phantom:
        console.print(
            "[yellow]The cohort is synthetic: figures say how the software works, not how "
            "patients fare.[/yellow]",
            highlight=False,
        )
    if study.virtual:
        console.print(f"[yellow]{study.virtual}[/yellow]", highlight=False)
    flow = cohort.flow
    console.print(f"flow: {flow.read} patients read", highlight=False)
    for reason, n in flow.excluded:
        console.print(f"  - {n} excluded: {reason}", highlight=False)
    console.print(
        f"  = {flow.kept} kept, {flow.unknown_label} of them without a known label "
        f"({flow.label_source})",
        highlight=False,
    )
    for note in [*flow.notes, *held_out(setting)]:
        console.print(f"  note: {note}", highlight=False)
    table = Table("site", "patients", "labelled", "events", title="sites", title_justify="left")
    for row in site_rows(setting):
        table.add_row(row["name"], *(str(row[k]) for k in ("patients", "n", "events")))
    console.print(table)
    for line in too_small(setting):
        console.print(f"[yellow]{line}[/yellow]", highlight=False)
    parted = setting.parted
    for what, group in (
        ("pooled into 'other'", parted.pooled),
        ("held out, taking no part", parted.held_out),
    ):
        if group:
            names = ", ".join(f"{k} ({v})" for k, v in group.items())
            console.print(
                f"{len(group)} institutions under {parted.minimum} labelled cases {what}: {names}",
                highlight=False,
            )


def held_out(setting: Setting) -> list[str]:
    """The step of the flow by which small institutions leave it."""
    parted = setting.parted
    if not parted.held_out:
        return []
    inside = sum(len(ids) for ids in parted.sites.values())
    patients, labelled = len(setting.reading.cohort) - inside, sum(parted.held_out.values())
    return [
        f"{patients} patients ({labelled} labelled) of {len(parted.held_out)} institutions under "
        f"{parted.minimum} labelled cases "
        f"are held out: neither trained on nor scored; {inside} patients stay"
    ]


def too_small(setting: Setting) -> list[str]:
    """Sites that take no part in training because no sum may cover so few patients; they are scored
    all the same."""
    least = setting.args.minimum_patients
    return [
        f"site '{row['name']}' has {row['n']} labelled cases, fewer than the {least} that a sum "
        "must cover (--minimum-patients): "
        "it takes no part in training, its patients are scored"
        for row in site_rows(setting)
        if row["n"] < least
    ]


def site_rows(setting: Setting) -> list[dict[str, Any]]:
    """Name, patients, labelled cases and events of each site; then of those held out."""
    cohort = setting.reading.cohort
    label = dict(zip(cohort.ids, cohort.labels.tolist(), strict=True))
    rows = []
    for name, ids in setting.parted.sites.items():
        known = [label[i] for i in ids if label[i] != UNKNOWN]
        rows.append(
            {
                "name": name,
                "patients": len(ids),
                "n": len(known),
                "events": sum(k > 0 for k in known),
            }
        )
    return rows


def closing(console: Console, report: Mapping[str, Any]) -> None:
    """The comparison: headline AUC of each model, local, federated and pooled; then differences and
    what must be said."""
    for evaluation, title in (
        (
            "within_site",
            f"within site (each patient scored once, {report['configuration']['parts']}-fold)",
        ),
        ("leave_one_site_out", "leave one site out"),
    ):
        _evaluation(console, report, evaluation, title)
    for d in report["differences"]:
        if d["a"].split()[0] == d["b"].split()[0] in ("clinical", "fusion") and d["estimable"]:
            console.print(
                f"{d['evaluation']}: {d['a']} minus {d['b']}: {d['difference']:+.3f} "
                f"({d['low']:+.3f} to {d['high']:+.3f}), "
                f"same {d['n']} patients of {d['sites']} sites",
                highlight=False,
            )
    for said in (report["images"] or {}).get("adds", []):
        console.print(f"[bold]{said['told']}[/bold]", highlight=False)
    if report["utility"]:
        console.print(_utility(report["utility"]))
    if report["audit"]:
        console.print(_audit(report["audit"]))
    for line in (*_canaries(report["canary"]), *_one_run(report["one_run"])):
        console.print(line, highlight=False)
    share = max(report["pairs"], key=lambda p: float(p["share"]))
    console.print(
        f"pairs behind the headline: {share['share']:.0%} are of {share['site']}", highlight=False
    )
    for line in report["not_run"]:
        console.print(line, highlight=False)
    for alarm in report["alarms"]:
        console.print(f"[red]{alarm}[/red]", highlight=False)
    console.print(
        f"state {report['state_hash'][:16]}, ledger {report['ledger_head'][:16]}, "
        f"{report['exchanges']} exchanges, "
        f"{report['seconds']:.0f} s",
        highlight=False,
    )


def _evaluation(console: Console, report: Mapping[str, Any], evaluation: str, title: str) -> None:
    """Each model over all sites, then the leading one by site."""
    rows = [r for r in report["results"] if r["evaluation"] == evaluation and r["metric"] == "auc"]
    if not rows:
        return
    table = Table(
        "model",
        "local",
        "federated",
        "pooled",
        title=f"AUC of patient pairs within sites, {title}",
        title_justify="left",
    )
    for model in dict.fromkeys(r["model"] for r in rows):
        table.add_row(model, *(_cell(rows, model, arm) for arm in ("local", "federated", "pooled")))
    console.print(table)
    lead = next(
        m for m in ("fusion", "clinical", rows[0]["model"]) if any(r["model"] == m for r in rows)
    )
    sites = Table(
        "site",
        "n",
        "events",
        "local",
        "federated",
        "pooled",
        title=f"{lead} model by site, {title}",
        title_justify="left",
    )
    for site in dict.fromkeys(r["site"] for r in rows if r["site"] != "all"):
        one = next(
            r for r in rows if r["site"] == site and r["model"] == lead and r["arm"] == "federated"
        )
        sites.add_row(
            site,
            str(one["n"]),
            str(one["events"]),
            *(_cell(rows, lead, arm, site) for arm in ("local", "federated", "pooled")),
        )
    console.print(sites)


def _utility(points: Sequence[Mapping[str, Any]]) -> Table:
    """AUC by epsilon of one fit."""
    asked = list(dict.fromkeys(p["epsilon"] for p in points))
    names = ["without noise" if e is None else f"epsilon {e:g}" for e in asked]
    title = (
        "what privacy costs: AUC within sites by epsilon of one fit at delta "
        f"{points[0]['delta']:g}"
    )
    table = Table("model", *names, title=title, title_justify="left")
    for model in dict.fromkeys(p["model"] for p in points):
        mine = {p["epsilon"]: p for p in points if p["model"] == model}
        table.add_row(model, *(_point(mine[e]) for e in asked))
    return table


def _audit(found: Sequence[Mapping[str, Any]]) -> Table:
    """Who was trained on: 0.5 and 0.01 are chance."""
    title = (
        "attack on membership: members above non-members of the same model, and found at a "
        "false alarm of 1 % or less"
    )
    table = Table(
        "model",
        "epsilon",
        "attack",
        "AUC",
        "found at 1 %",
        "non-members",
        title=title,
        title_justify="left",
    )
    for r in found:
        auc, tpr = ("not estimable",) * 2
        if r["estimable"]:
            auc, tpr = (
                f"{r[k]:.3f} ({r[a]:.3f}-{r[b]:.3f})"
                for k, a, b in (("auc", "low", "high"), ("tpr", "tpr_low", "tpr_high"))
            )
        noise = "no noise" if r["epsilon"] is None else f"{r['epsilon']:g}"
        table.add_row(r["learner"], noise, r["attack"], auc, tpr, str(r["nonmembers"]))
    return table


def _canaries(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What experiment says of the noise, beside what was accounted for."""
    return [
        f"canary, {r['learner']}: epsilon at least {r['lower']:.2f} by {r['releases']} releases "
        f"({100 * r['confidence']:g} % sure), "
        f"{r['epsilon']:.2f} accounted"
        for r in found
    ]


def _one_run(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a whole fit shows of the coins of its canaries, beside what the account says."""
    return [
        f"canaries in one whole fit, {r['learner']}: epsilon {r['lower']:.2f} (shown, "
        f"{100 * r['confidence']:g} % sure) to {r['epsilon']:.2f} (accounted) at delta "
        f"{r['delta']:g} for {r['unit']}; {r['canaries']} canaries, {r['right']} of "
        f"{r['guesses']} guesses right, {r['releases']} releases"
        for r in found
    ]


def _point(p: Mapping[str, Any]) -> str:
    return (
        f"{p['value']:.3f} ({p['low']:.3f}-{p['high']:.3f})" if p["estimable"] else "not estimable"
    )


def _cell(rows: Sequence[Mapping[str, Any]], model: str, arm: str, site: str = "all") -> str:
    for r in rows:
        if (r["model"], r["arm"], r["site"]) == (model, arm, site):
            return (
                f"{r['value']:.3f} ({r['low']:.3f}-{r['high']:.3f})"
                if r["estimable"]
                else "not estimable"
                if r["n"]
                else "no model"
            )
    return "-"
