"""Answers of a report to the items of a checklist. Each returns None where its keys are not in the
report: the item is then MISSING."""

from __future__ import annotations

from collections.abc import Mapping

from server.report.content import wording
from server.report.content.index import Index
from server.report.content.rows import Report, rows
from server.report.content.totals import totals
from server.report.content.wording import finite, number, whole


def question(r: Report) -> str | None:
    return str(r["question"]) if r.get("question") else None


def title(r: Report) -> str | None:
    asked, label = question(r), _label(r)
    return (
        f"{asked} A prediction model, developed and evaluated across hospitals; outcome: {label}."
        if asked and label
        else None
    )


def aims(r: Report) -> str | None:
    asked = question(r)
    return f"{asked} To develop models and to evaluate them{_ways(r)}." if asked else None


def goal(r: Report) -> str | None:
    return (
        f"Model creation and evaluation{_ways(r)}; {_lower(r['research_use_only'])}"
        if r.get("research_use_only")
        else None
    )


def _ways(r: Report) -> str:
    ways = [
        wording.evaluation(e).lower()
        for e in dict.fromkeys(x.get("evaluation") for x in rows(r, "results"))
    ]
    return f" ({' and '.join(ways)})" if ways else ""


def summary(r: Report) -> str | None:
    """The headline in a sentence."""
    index = Index(r)
    for e in wording.EVALUATIONS:
        lead = index.lead(e)
        if (row := index.get(lead, "federated", e, "auc")) is not None:
            return (
                f"{wording.model(lead)}, federated, {wording.evaluation(e).lower()}: AUC "
                f"{wording.estimate(row)}."
            )
    return None


def use(r: Report) -> str | None:
    if not r.get("research_use_only"):
        return None
    said = [str(r["research_use_only"]), str(r.get("caution") or "")]
    return " ".join(
        s for s in [*said, f"Prediction time: {r['task']}." if r.get("task") else ""] if s
    )


def source(r: Report) -> str | None:
    label, places = r.get("label"), rows(r, "sites")
    if not isinstance(label, Mapping) or not label.get("source") or not places:
        return None
    kind = "A synthetic cohort; " if r.get("synthetic") else ""
    return f"{kind}{wording.count(len(places), 'site')}, label from {label['source']}."


def centres(r: Report) -> str | None:
    names = [wording.name(s.get("name")) for s in rows(r, "sites")]
    if not names:
        return None
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (
        f"{wording.count(len(names), 'site')}: {', '.join(names[:12])}{more}. "
        f"{r.get('virtual') or ''}"
    ).strip()


def eligibility(r: Report) -> str | None:
    flow = r.get("flow")
    if not isinstance(flow, Mapping) or flow.get("excluded") is None:
        return None
    left = [f"{whole(e.get('n'))} {wording.name(e.get('reason'))}" for e in rows(flow, "excluded")]
    return f"Left out: {'; '.join(left)}." if left else "Nobody was left out."


def flow(r: Report) -> str | None:
    told = r.get("flow")
    if not isinstance(told, Mapping) or finite(told.get("read")) is None:
        return None
    n, events = _totals(r)
    return (
        f"{whole(told.get('read'))} read, {whole(told.get('kept'))} kept, {n} labelled, "
        f"{events} with the event."
    )


def _totals(r: Report) -> tuple[str, str]:
    found = totals(r)
    return whole(found.labelled), whole(found.events)


def preparation(r: Report) -> str | None:
    told = r.get("flow")
    notes = told.get("notes") if isinstance(told, Mapping) else None
    if notes is None:
        return None
    return (
        "The same code at each site: units, ranges, vocabularies and joins checked, faults "
        f"set aside and counted ({len(notes)} notes)."
    )


def outcome(r: Report) -> str | None:
    label = _label(r)
    return (
        f"{label}, from {(r.get('label') or {}).get('source') or wording.NOT_RECORDED}."
        if label
        else None
    )


def _label(r: Report) -> str:
    label = r.get("label")
    if not isinstance(label, Mapping) or not (label.get("title") or label.get("name")):
        return ""
    return (
        f"{label.get('title') or label.get('name')} "
        f"({', '.join(map(wording.name, label.get('classes') or []))})"
    )


def predictors(r: Report) -> str | None:
    found = rows(r, "features")
    shown = [
        f"{wording.name(f.get('title') or f.get('name'))} ({wording.name(f.get('unit'))})"
        for f in found
    ]
    return f"{wording.count(len(found), 'feature')}: {', '.join(shown)}." if found else None


def selection(r: Report) -> str | None:
    found = rows(r, "features")
    return (
        f"All {len(found)} that the study declares for the task; none was chosen by the data."
        if found
        else None
    )


def size(r: Report) -> str | None:
    if not rows(r, "sites"):
        return None
    n, events = _totals(r)
    return (
        f"All labelled patients at hand: {n}, {events} with the event. No sample size was "
        "calculated."
    )


def missing_values(r: Report) -> str | None:
    told = r.get("flow")
    if not isinstance(told, Mapping) or finite(told.get("unknown_label")) is None:
        return None
    return (
        "Values: the training mean in linear models and networks, a learnt direction in trees. "
        f"Labels are never filled in: {whole(told.get('unknown_label'))} unknown, neither trained "
        "on nor scored."
    )


def partitions(r: Report) -> str | None:
    parts = (r.get("configuration") or {}).get("parts")
    if finite(parts) is None:
        return None
    groups = len(r.get("groups") or [])
    left = f" {wording.count(groups, 'group')} of sites left out in turn." if groups else ""
    return (
        f"By patient, into {whole(parts)} parts by a hash of seed and id; every patient is "
        f"predicted by models without that part.{left}"
    )


def disjoint(r: Report) -> str | None:
    said = partitions(r)
    return (
        f"{'Patient, and site' if r.get('groups') else 'Patient'}; checked again in what was "
        "written."
        if said
        else None
    )


def transforms(r: Report) -> str | None:
    if not rows(r, "features"):
        return None
    return (
        "Numbers clipped to declared bounds and standardised by federated training means, "
        "logarithm where declared; choices as 0/1 columns."
    )


def models(r: Report) -> str | None:
    names = [wording.model(m) for m in Index(r).models]
    return (
        f"{', '.join(names)}; hyperparameters in the configuration and in model/, thresholds from "
        "training rows."
        if names
        else None
    )


def clusters(r: Report) -> str | None:
    return (
        "Each site apart, a random-effects mean and its prediction interval."
        if rows(r, "between_sites")
        else None
    )


def clusters_found(r: Report) -> str | None:
    lead = Index(r).lead("within_site")
    for row in rows(r, "between_sites"):
        if (row.get("model"), row.get("arm"), row.get("evaluation")) == (
            lead,
            "federated",
            "within_site",
        ):
            s = row.get("random_effects")
            if not isinstance(s, Mapping):
                return "Fewer than 3 sites can be summarised: no summary across sites."
            return (
                f"Mean {number(s.get('mean'))} ({wording.interval(s.get('low'), s.get('high'))}), "
                "new site "
                + (f"{wording.interval(s.get('predicted_low'), s.get('predicted_high'))}.")
            )
    return None


def measures(r: Report) -> str | None:
    found = {x.get("metric") for x in rows(r, "results")}
    named = [m.title for m in wording.METRICS if m.name in found]
    return (
        f"{', '.join(named)}; ROC, precision-recall, calibration and decision curves."
        if named
        else None
    )


def uncertainty(r: Report) -> str | None:
    return (
        f"{r['interval']}, {whole(r.get('bootstraps'))} resamples; differences paired."
        if r.get("interval")
        else None
    )


def updating(r: Report) -> str | None:
    return (
        "No model was recalibrated or changed after it was judged." if rows(r, "results") else None
    )


def calculated(r: Report) -> str | None:
    return (
        "Probabilities by the models of the run, which model/ holds as files."
        if r.get("state_hash")
        else None
    )


def imbalance(r: Report) -> str | None:
    _, n, events = totals(r)
    if not n or events is None:
        return None
    networks = {"image", "fusion", "fusion_mlp"} & set(Index(r).models)
    weighted = (
        " Networks on images weight classes in training, and what they say is corrected for the "
        "prior."
        if networks
        else ""
    )
    return (
        f"{wording.percent(events / n, 1)} with the event. Models on tables neither weight nor "
        f"resample classes.{weighted}"
    )


def fairness(r: Report) -> str | None:
    found = list(dict.fromkeys(wording.name(s.get("title")) for s in rows(r, "subgroups")))
    return f"Nothing was adjusted; performance apart by {', '.join(found)}." if found else None


def output(r: Report) -> str | None:
    classes = (r.get("label") or {}).get("classes") or []
    if len(classes) < 2:
        return None
    if len(classes) == 2:
        return (
            f"The probability of {wording.name(classes[1])}; called at Youden's threshold, set "
            "on out-of-fold predictions of training rows."
        )
    return f"The probability of each of {len(classes)} classes; the most probable one is called."


def differing(r: Report) -> str | None:
    if r.get("groups") is None:
        return None
    return (
        "Within sites they do not: the same cohort, cross-fitted. A left-out site may differ "
        "in any way that hospitals do."
    )


def code(r: Report) -> str | None:
    return (
        f"fedmets {r['fedmets']}, versions and hashes in the report." if r.get("fedmets") else None
    )


def software(r: Report) -> str | None:
    versions = r.get("versions")
    if not isinstance(versions, Mapping) or not versions:
        return None
    return ", ".join(f"{k} {v}" for k, v in versions.items()) + "."


def characteristics(r: Report) -> str | None:
    return "Patients, labelled and events of each site." if rows(r, "sites") else None


def probe(r: Report) -> str | None:
    p = r.get("site_probe")
    if not isinstance(p, Mapping) or finite(p.get("features")) is None:
        return None
    return (
        "A probe tells the sites apart by the features with a balanced accuracy of "
        f"{wording.percent(p.get('features'))}."
    )


def analysed(r: Report) -> str | None:
    found = [
        f"{wording.name(s.get('name'))} {whole(s.get('n'))} ({whole(s.get('events'))})"
        for s in rows(r, "sites")
    ]
    if not found:
        return None
    n, events = _totals(r)
    shown = f": {', '.join(found)}" if len(found) <= 12 else ""
    return f"{n} labelled, {events} events, of {wording.count(len(found), 'site')}{shown}."


def specification(r: Report) -> str | None:
    if not r.get("state_hash"):
        return None
    files = r.get("model_files")
    named = f" ({', '.join(files)})" if isinstance(files, Mapping) and files else ""
    return f"model/ holds what was learnt, with units{named}; state {str(r['state_hash'])[:12]}."


def performance(r: Report) -> str | None:
    said = summary(r)
    return f"{said} {'Subgroups apart.' if rows(r, 'subgroups') else ''}".strip() if said else None


def limits(r: Report) -> str | None:
    if r.get("alarms") is None or r.get("not_run") is None:
        return None
    said = [str(r[k]) for k in ("virtual", "caution") if r.get(k)]
    said += ["The patients are synthetic."] if r.get("synthetic") else []
    return " ".join(
        [
            *said,
            f"{wording.count(len(r['alarms']), 'alarm')}; "
            f"{wording.count(len(r['not_run']), 'thing')} not run, each named.",
        ]
    )


# ---- images --------------------------------------------------------------------------------------


def internal(r: Report) -> str | None:
    index = Index(r)
    row = index.get(index.lead("within_site"), "federated", "within_site", "auc")
    return None if row is None else f"Cross-fitted within sites: AUC {wording.estimate(row)}."


def external(r: Report) -> str | None:
    index = Index(r)
    row = index.get(index.lead("leave_one_site_out"), "federated", "leave_one_site_out", "auc")
    return (
        None
        if row is None
        else f"Sites left out in turn, of the same collection: AUC {wording.estimate(row)}."
    )


def _lower(text: object) -> str:
    said = str(text)
    return said[:1].lower() + said[1:]
