"""What `report.json` holds beside the rows: what was asked, who took part, what the coordinator knows, what must be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from common.data.cohort import ESTIMABLE, UNKNOWN, Cohort, Flow, Fold
from server.app import Outcome
from server.report.checklists import statements
from server.report.content import federated_sums, model_metrics
from server.rounds.round_metrics import evaluated
from simulation.attack import membership
from simulation.evaluation import image_rows, metric_rows
from simulation.evaluation.predictions import Comparison
from simulation.evaluation.site_probe import site_probe
from simulation.evaluation.subgroups import subgroups
from simulation.federation import malicious_site, synthetic_cohorts
from simulation.federation.setting import Setting
from simulation.report import terminal

_VIRTUAL = {
    "even": "The sites are virtual: patients were assigned to them by a hash of their ids.",
    "scanner": "The sites are the makers of the scanners, not hospitals.",
    "skewed": "The sites are virtual: patients were assigned to them at random, with a share of each class that differs between sites.",
}


def record(
    setting: Setting, outcome: Outcome, comparison: Comparison, rows: Mapping[str, Any], sites: Sequence[Cohort], models: Sequence[str]
) -> dict[str, Any]:
    """The whole report as docs/report.md describes it; `rows`: `results`, `differences`, `utility`, `privacy`, `audit`, `canary`."""
    unbounded = rows["unbounded"]
    args, run = setting.args, setting.run
    heads = [m for m in models if m != "clinical"]
    report = {
        **_asked(setting),
        **_patients(setting, outcome, comparison, sites),
        **_traced(setting, outcome),
        "bootstraps": args.bootstraps,
        "interval": "95 % percentile interval; patients resampled within site and class, models fixed",
        **{k: v for k, v in rows.items() if k != "unbounded"},
        "between_sites": [
            row
            for model in ("clinical", "fusion")
            if model in models
            for row in metric_rows.between_sites(
                comparison, model, pooled_site=setting.parted.pooled_site, repeats=args.bootstraps, seed=run.seed
            )
        ],
        "chosen": [{"arm": a, "evaluation": e, "predictions": dict(c)} for (a, e), c in comparison.chosen.items()],
        "pairs": pairs(comparison),
        "images": image_rows.images(
            outcome, comparison, sites, rows["differences"], seed=run.seed, parts=run.parts, repeats=args.bootstraps
        ),
        "subgroups": subgroups(comparison, sites, repeats=args.bootstraps, seed=run.seed),
        "curves": metric_rows.curves(comparison, models),
        "final_model": model_metrics.final(outcome.states[Fold().key].get("comparison", {}), sorted(c.site for c in sites), run.seed),
        "importance": federated_sums.importance(outcome.states, outcome.heads, setting.study.schema_at(setting.task).features),
        "federated_tallies": evaluated(outcome.states, heads),
        "survival": federated_sums.survival(outcome.states, setting.study, setting.task),
        "site_probe": _probe(comparison, sites, run.seed),
        "unknown_labels": metric_rows.unknown_labels(comparison, "clinical") if args.unknown_label == "sensitivity" else None,
        "permuted_labels": args.permute_labels,
        "not_run": not_run(setting, outcome) + not_noised(unbounded, args.epsilon) + not_audited(rows, args.audit),
        "configuration": asdict(run),
    }
    return {
        **report,
        "alarms": alarms(setting, outcome, report)
        + terminal.too_small(setting)
        + poisoned(setting)
        + federated_sums.unconverged(outcome.states)
        + spoken(comparison, setting)
        + broken(report["canary"]),
    }


def _asked(setting: Setting) -> dict[str, Any]:
    """The question, and what must stand beside the answer."""
    return {
        **federated_sums.asked(setting.study, setting.task, setting.run.seed, setting.reading.cohort.flow.label_source),
        "virtual": setting.study.virtual or _VIRTUAL.get(setting.parted.kind, ""),
        "synthetic": setting.phantom,
        "setting": "simulation",
        "statements": statements.read(setting.args.statements),
    }


def _patients(setting: Setting, outcome: Outcome, comparison: Comparison, sites: Sequence[Cohort]) -> dict[str, Any]:
    """Who was read, left out and kept, and how they became sites."""
    flow, parted = setting.reading.cohort.flow, setting.parted
    return {
        "flow": {
            **_counts(flow),
            "label_source": flow.label_source,
            "notes": [*flow.notes, *terminal.held_out(setting)],
            "sites": [{"name": c.site, **_counts(c.flow)} for c in sites],
        },
        "sites": terminal.site_rows(setting),
        "partition": parted.kind,
        "small_sites": {
            "minimum": parted.minimum,
            "pooled_site": parted.pooled_site,
            "pooled": dict(parted.pooled),
            "held_out": dict(parted.held_out),
        },
        "groups": [list(g) for g in outcome.groups],
        "trainable_sites": [s for s in dict.fromkeys(comparison.sites.tolist()) if any(s in t for t in comparison.trainable.values())],
        "trainable": {head: list(t) for head, t in comparison.trainable.items()},
    }


def _counts(flow: Flow) -> dict[str, Any]:
    excluded = [{"reason": r, "n": n} for r, n in flow.excluded]
    return {"read": flow.read, "excluded": excluded, "kept": flow.kept, "unknown_label": flow.unknown_label}


def _traced(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    """What the ledger says, and what the reading of the table overrode."""
    told = federated_sums.trace(setting.folder, outcome.state_hash, outcome.ledger_head)
    return {**told, "overrides": {**told["overrides"], "L02": dict(setting.reading.overrides)}}


def _probe(comparison: Comparison, sites: Sequence[Cohort], seed: int) -> dict[str, Any] | None:
    """Guard L07."""
    if len(sites) < 2:
        return None
    known = comparison.labels != UNKNOWN
    probe = site_probe(np.concatenate([c.design for c in sites])[known], comparison.sites[known], seed)
    return None if probe is None else probe._asdict()


def not_noised(unbounded: Sequence[str], asked: str) -> list[str]:
    """Heads that no noise hides a patient in."""
    if not asked:
        return ["privacy: not measured, --epsilon 1,3,10,inf asks for it"]
    return [f"{', '.join(unbounded)}: not run at any epsilon, no bound on what one patient adds"] if unbounded else []


def broken(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Learners that a canary was seen through the noise of."""
    return [
        f"{r['learner']}: canaries show an epsilon of at least {r['lower']:.2f}, accounted are {r['epsilon']:.2f}: noise or bound is wrong"
        for r in found
        if r["lower"] > r["epsilon"]
    ]


def not_audited(rows: Mapping[str, Any], asked: bool) -> list[str]:
    """What no attack was tried on."""
    if not asked:
        return ["audit of privacy: not run, --audit asks for it"]
    few = sorted({r["learner"] for r in rows["audit"] if not r["estimable"]})
    return (
        [f"attack on {', '.join(few)}: not estimable, fewer than {membership.LEAST_NONMEMBERS} patients who were not trained on"]
        if few
        else []
    )


def not_run(setting: Setting, outcome: Outcome) -> list[str]:
    """What a reader might look for and will not find."""
    out = []
    asked = setting.run.heads(setting.study)
    lost = [h.name for h in asked if h not in outcome.heads]
    if setting.study.schema.imaging is None:
        out.append("image models and fusion: not run, this study looks at tables only")
    elif lost:
        why = f"no site holds images of {ESTIMABLE} labelled patients of each of two classes"
        out.append(f"{', '.join(lost)}: not run, {why if setting.reading.cohort.imaged.any() else 'no site holds images'}")
    elif not any("image" in h.modality for h in asked):
        out.append("image models and fusion: not run, not asked for")
    pictured = [h.name for h in outcome.heads if "image" in h.modality]
    if pictured and outcome.groups and "leave_one_site_out" in setting.run.evaluations and not setting.run.full:
        out.append(f"{', '.join(pictured)}: leave_one_site_out not run, --full asks for it")
    for evaluation in metric_rows.EVALUATIONS:
        if evaluation not in setting.run.evaluations:
            out.append(f"{evaluation}: not run, not asked for")
    if "leave_one_site_out" in setting.run.evaluations and not outcome.groups:
        out.append(f"leave_one_site_out: not run, it needs two sites or more, and one with {ESTIMABLE} cases of each of two classes")
    for group in outcome.groups:
        if len(group) > 1:
            out.append(f"leave_one_site_out one by one for {', '.join(group)}: not run, these {len(group)} sites were left out together")
    return out


def pairs(comparison: Comparison) -> list[dict[str, Any]]:
    """How much each site counts in the headline: its share of all pairs of patients of one site and different classes."""
    known = comparison.labels != UNKNOWN
    counts = {}
    for site in dict.fromkeys(comparison.sites.tolist()):
        per_class = np.bincount(comparison.labels[known & (comparison.sites == site)])
        counts[site] = int((per_class.sum() ** 2 - (per_class**2).sum()) // 2)
    whole = sum(counts.values())
    return [{"site": s, "share": round(n / whole, 4) if whole else 0.0} for s, n in counts.items()]


def spoken(comparison: Comparison, setting: Setting) -> list[str]:
    """What the headline does not show by itself: classes that are in no mean, a pooled site that carries it, permuted labels."""
    out = []
    classes = setting.study.schema.label.classes
    counts = np.bincount(comparison.labels[comparison.labels != UNKNOWN], minlength=len(classes))
    few = [f"{c} ({n})" for c, n in zip(classes, counts.tolist(), strict=True) if n < ESTIMABLE]
    if len(classes) > 2 and few:
        kept = [c for c, n in zip(classes, counts.tolist(), strict=True) if n >= ESTIMABLE]
        out.append(
            f"AUC, sensitivity, F1 and balanced accuracy are means over {len(kept)} of {len(classes)} classes ({', '.join(kept)}); "
            f"fewer than {ESTIMABLE} cases and in no mean: {', '.join(few)}"
        )
    for row in pairs(comparison):
        if row["site"] == setting.parted.pooled_site and row["share"] > 0.5:
            out.append(
                f"{row['share']:.0%} of the patient pairs behind the headline are of '{row['site']}', which pools "
                f"{len(setting.parted.pooled)} small institutions: it compares patients of different hospitals"
            )
    if setting.run.secure:
        out.append(
            "the sites masked their sums: a coordinator has what is over all sites alone; counts and figures by site are the simulation's"
        )
    if setting.args.noise_seed is not None:
        out.append(
            f"the noise was drawn from a seed (--noise-seed {setting.args.noise_seed}) and can be made again: the run is not private"
        )
    if setting.args.permute_labels is not None:
        out.append(
            "the labels were permuted within institutions: every AUC should lie near 0.5; cross-fitted ones a little below it, because a "
            "part with more events is scored by models that saw fewer"
        )
    return out


def poisoned(setting: Setting) -> list[str]:
    """An attack that was asked for; and what a robust strategy does not cover."""
    out = []
    if setting.attacker:
        what = malicious_site.DESCRIPTIONS[setting.args.attack]
        out.append(
            f"site '{setting.attacker}' was made to attack ({setting.args.attack}): {what}; the figures are those of an attacked run"
        )
    out += federated_sums.undefended(setting.run, setting.study)
    return out


def alarms(setting: Setting, outcome: Outcome, report: dict[str, Any]) -> list[str]:
    """Guard E11 on real collections, the generator's ceiling on synthetic ones, and overrides that a reader must know of."""
    out = [f"guard L03 was overridden for feature '{f}'" for f in report["overrides"]["L03"]]
    out += [f"guard L02 was overridden for feature '{f}': {why}" for f, why in report["overrides"]["L02"].items()]
    limit, kind = setting.study.tasks[setting.task].alarm, "the plausible limit of this study"
    limits: Mapping[str, float | None] = {}
    if setting.phantom:
        limits, limit = synthetic_cohorts.ceilings(setting.study.name, setting.folder / "data", setting.task, outcome.heads), None
        kind = "the generator's own ceiling"
    out += federated_sums.implausible(report["results"], lambda model: limits.get(model, limit), kind)
    return out
