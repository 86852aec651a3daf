"""Record of a simulation, what only it knows of a report: its patients, who was read and left out,
how they became sites, what was tried on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.data.cohort import ESTIMABLE, UNKNOWN, Cohort, Flow, Fold
from server.app import Outcome
from server.report import record as assembled
from server.report.checklists import statements
from server.report.content import comparison_sums, model_metrics
from server.report.record import Evaluation, Finished
from simulation.attack import membership
from simulation.evaluation import image_rows
from simulation.evaluation.predictions import Comparison
from simulation.evaluation.site_probe import site_probe
from simulation.evaluation.subgroups import subgroups
from simulation.evaluation.sums import Sums
from simulation.federation import malicious_site, synthetic_cohorts
from simulation.federation.setting import Setting
from simulation.report import terminal

_VIRTUAL = {
    "even": "The sites are virtual: patients were assigned to them by a hash of their ids.",
    "scanner": "The sites are the makers of the scanners, not hospitals.",
    "skewed": "The sites are virtual: patients were assigned to them at random, with a share of "
    "each class that differs between sites.",
}


def record(
    setting: Setting,
    outcome: Outcome,
    sums: Sums,
    rows: Mapping[str, Any],
    sites: Sequence[Cohort],
    models: Sequence[str],
) -> dict[str, Any]:
    """The report as docs/report.md describes it; `rows`: `utility`, `privacy`, `audit`, `canary`,
    `one_run`, and heads without a bound."""
    run, unbounded = setting.run, rows["unbounded"]
    told_by = outcome.groups, outcome.state_hash, outcome.ledger_head
    done = Finished(
        run, setting.study, setting.task, setting.folder, outcome.states, outcome.heads, *told_by
    )
    compared = outcome.states[Fold()].get("comparison", {})
    evaluation = Evaluation(
        sums.models(models),
        sums.paired(models),
        final=comparison_sums.models(compared, sorted(c.site for c in sites), run.seed),
        resamples=sums.repeats,
        interval="95 % percentile interval; patients resampled within site and class, models fixed",
        pooled_site=setting.parted.pooled_site,
    )
    limit, limit_of = believable(setting, outcome)
    asked = {k: v for k, v in rows.items() if k != "unbounded"}
    return assembled.record(
        done,
        evaluation,
        assembled.Setting(
            {**_patients(setting, sums, sites), **_keys(setting, outcome, sums, sites), **asked},
            label_source=setting.reading.cohort.flow.label_source,
            imaged=bool(setting.reading.cohort.imaged.any()),
            not_run=not_left_out(done)
            + not_noised(unbounded, setting.args.epsilon)
            + not_audited(rows, setting.args.audit),
            alarms=alarms(setting)
            + terminal.too_small(setting)
            + spoken(sums, setting)
            + broken(rows["canary"])
            + broken(rows["one_run"]),
            limit=limit,
            limit_of=limit_of,
            overrides={"L02": dict(setting.reading.overrides)},
        ),
    )


def _keys(
    setting: Setting, outcome: Outcome, sums: Sums, sites: Sequence[Cohort]
) -> dict[str, Any]:
    """What takes the patients, and what was asked of a simulation alone."""
    args, comparison = setting.args, sums.comparison
    return {
        "virtual": setting.study.virtual or _VIRTUAL.get(setting.parted.kind, ""),
        "synthetic": setting.phantom,
        "setting": "simulation",
        "statements": statements.read(args.statements),
        "chosen": [
            {"arm": a, "evaluation": e, "predictions": dict(c)}
            for (a, e), c in comparison.chosen.items()
        ],
        "pairs": model_metrics.pairs(sums.sites, sums.counts),
        "images": image_rows.images(outcome, sums, sites, setting.run.parts),
        "subgroups": subgroups(sums, sites),
        "site_probe": _probe(comparison, sites, setting.run.seed),
        "unknown_labels": sums.unknown_labels("clinical")
        if args.unknown_label == "sensitivity"
        else None,
        "permuted_labels": args.permute_labels,
    }


def _patients(setting: Setting, sums: Sums, sites: Sequence[Cohort]) -> dict[str, Any]:
    """Who was read, left out and kept, and how they became sites."""
    flow, parted, trainable = setting.reading.cohort.flow, setting.parted, sums.comparison.trainable
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
        "trainable_sites": [s for s in sums.sites if any(s in t for t in trainable.values())],
        "trainable": {head: list(t) for head, t in trainable.items()},
    }


def _counts(flow: Flow) -> dict[str, Any]:
    excluded = [{"reason": r, "n": n} for r, n in flow.excluded]
    return {
        "read": flow.read,
        "excluded": excluded,
        "kept": flow.kept,
        "unknown_label": flow.unknown_label,
    }


def _probe(comparison: Comparison, sites: Sequence[Cohort], seed: int) -> dict[str, Any] | None:
    """Guard L07."""
    if len(sites) < 2:
        return None
    known = comparison.labels != UNKNOWN
    probe = site_probe(
        np.concatenate([c.design for c in sites])[known], comparison.sites[known], seed
    )
    return None if probe is None else probe._asdict()


def not_left_out(done: Finished) -> list[str]:
    """Networks, whose training on each group's left-out sites takes long."""
    pictured = [h.name for h in done.heads if "image" in h.modality]
    if (
        pictured
        and done.groups
        and "leave_one_site_out" in done.run.evaluations
        and not done.run.full
    ):
        return [f"{', '.join(pictured)}: leave_one_site_out not run, --full asks for it"]
    return []


def not_noised(unbounded: Sequence[str], asked: str) -> list[str]:
    """Heads that no noise hides a patient in."""
    if not asked:
        return ["privacy: not measured, --epsilon 1,3,10,inf asks for it"]
    return (
        [f"{', '.join(unbounded)}: not run at any epsilon, no bound on what one patient adds"]
        if unbounded
        else []
    )


def broken(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Learners that a canary was seen through the noise of."""
    return [
        f"{r['learner']}: canaries show an epsilon of at least {r['lower']:.2f}, accounted are "
        f"{r['epsilon']:.2f}: noise or bound is wrong"
        for r in found
        if r["lower"] > r["epsilon"]
    ]


def not_audited(rows: Mapping[str, Any], asked: bool) -> list[str]:
    """What no attack was tried on."""
    if not asked:
        return ["audit of privacy: not run, --audit asks for it"]
    few = sorted({r["learner"] for r in rows["audit"] if not r["estimable"]})
    return (
        [
            f"attack on {', '.join(few)}: not estimable, fewer than {membership.LEAST_NONMEMBERS} "
            "patients who were not trained on"
        ]
        if few
        else []
    )


def spoken(sums: Sums, setting: Setting) -> list[str]:
    """What the headline does not show by itself: classes that are in no mean, a pooled site that
    carries it, permuted labels."""
    out = []
    classes = setting.study.schema.label.classes
    counts = sums.counts.sum(0).astype(int)
    few = [f"{c} ({n})" for c, n in zip(classes, counts.tolist(), strict=True) if n < ESTIMABLE]
    if len(classes) > 2 and few:
        kept = [c for c, n in zip(classes, counts.tolist(), strict=True) if n >= ESTIMABLE]
        out.append(
            f"AUC, sensitivity, F1 and balanced accuracy are means over {len(kept)} of "
            f"{len(classes)} classes ({', '.join(kept)}); "
            f"fewer than {ESTIMABLE} cases and in no mean: {', '.join(few)}"
        )
    for row in model_metrics.pairs(sums.sites, sums.counts):
        if row["site"] == setting.parted.pooled_site and row["share"] > 0.5:
            out.append(
                f"{row['share']:.0%} of the patient pairs behind the headline are of "
                f"'{row['site']}', which pools "
                f"{len(setting.parted.pooled)} small institutions: it compares patients of "
                "different hospitals"
            )
    if setting.run.secure:
        out.append(
            "the sites mask their sums: a coordinator has no site's own; counts and figures by "
            "site are the simulation's"
        )
    if setting.args.noise_seed is not None:
        out.append(
            f"the noise was drawn from a seed (--noise-seed {setting.args.noise_seed}) and can be "
            "made again: the run is not private"
        )
    if setting.args.permute_labels is not None:
        out.append(
            "the labels were permuted within institutions: every AUC should lie near 0.5; "
            "cross-fitted ones a little below it, because a "
            "part with more events is scored by models that saw fewer"
        )
    return out


def alarms(setting: Setting) -> list[str]:
    """Overrides that a reader must know of, and an attack that was asked for."""
    out = [
        f"guard L02 was overridden for feature '{f}': {why}"
        for f, why in setting.reading.overrides.items()
    ]
    if setting.attacker:
        what = malicious_site.DESCRIPTIONS[setting.args.attack]
        out.append(
            f"site '{setting.attacker}' was made to attack ({setting.args.attack}): {what}; the "
            "figures are those of an attacked run"
        )
    return out


def believable(setting: Setting, outcome: Outcome) -> tuple[Callable[[str], float | None], str]:
    """Guard E11: the largest AUC of a model that can be believed, and what sets it: of a synthetic
    cohort, its generator."""
    limit = setting.study.tasks[setting.task].alarm
    if not setting.phantom:
        return lambda _: limit, "the plausible limit of this study"
    limits = synthetic_cohorts.ceilings(
        setting.study.name, setting.folder / "data", setting.task, outcome.heads
    )
    return limits.get, "the generator's own ceiling"
