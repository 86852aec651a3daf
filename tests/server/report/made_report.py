"""The report of a run that never was, key by key as `simulation.report.finish` writes it."""

import math
import random

METRICS = (
    "auc", "auc_pooled", "macro_auc", "average_precision", "accuracy", "balanced_accuracy", "f1",
    "sensitivity", "specificity",
    "brier", "log_loss", "calibration_slope", "calibration_intercept", "no_information_rate",
)  # fmt: skip
ARMS = ("local", "federated", "pooled")
EVALUATIONS = ("within_site", "leave_one_site_out")
RESEARCH = "Research use only. Not a medical device; not for decisions about patients."
FEATURES = (
    ("age", "Age at diagnosis", "years"),
    ("cea", "Carcinoembryonic antigen", "ng/mL"),
    ("t", "", "choice"),
)


def make(
    site_names=("Alster", "Birkdale", "Corvin", "Dunmore"),
    estimable=None,
    classes=("M0", "M1"),
    evaluations=EVALUATIONS,
    models=("clinical", "logistic", "boosting"),
    survival=True,
):
    """`estimable`: how many of the sites, the first ones, have 10 patients of each class (default:
    all but the last)."""
    estimable = len(site_names) - 1 if estimable is None else estimable
    places = [
        {"name": s, "patients": 130 + 7 * k, "n": 120 + 7 * k, "events": 21 + k}
        if k < estimable
        else {"name": s, "patients": 24, "n": 22, "events": 3}
        for k, s in enumerate(site_names)
    ]
    n = sum(p["n"] for p in places)
    heads = models[1:]
    return {
        "schema_version": "1.3",
        "setting": "simulation",
        "date": "2026-11-22T18:34:44Z",
        "statements": {"tripod": {"18a": "Nobody funded it."}},
        "model_files": {"coefficients.csv": "ef" * 32},
        "fedmets": "0.1.0",
        "study": "colorectal_metastasis",
        "question": "Has the cancer spread?",
        "task": "postresection",
        "caution": "A method benchmark, not a decision aid.",
        "virtual": "",
        "synthetic": False,
        "research_use_only": RESEARCH,
        "seed": 0,
        "label": {"name": "metastasis", "classes": list(classes), "title": "Distant metastasis",
        "source": "clinical.tsv: m"},
        "features": [{"name": f, "title": t, "unit": u, "available_at": "preop"} for f, t,
        u in FEATURES],
        "flow": _flow(places, n),
        "sites": places,
        "small_sites": {"minimum": 20, "pooled_site": "other", "pooled": {"AH": 5, "AU": 2},
        "held_out": {}},
        "groups": [[s] for s in site_names[:estimable]],
        "trainable_sites": list(site_names[:estimable]),
        "ledger_head": "ab" * 32,
        "state_hash": "cd" * 32,
        "exchanges": 183,
        "bytes": {"sent": 5_447_705, "received": 995},
        "participation": [{"site": s, "contributed": 180, "not": {"P01": 2,
        "refused": 1}} for s in site_names],
        "guards": {"L03": {"guard": "L03", "auc": {"age": 0.589211, "cea": 0.879803, "t": 0.97},
        "accepted": ["t"], "refused": []}},
        "bootstraps": 1000,
        "interval": "95 % percentile interval; patients resampled within site and class, models "
                    "fixed",
        "results": [r for e in evaluations for m in models for a in ARMS for r in _results(m, a, e,
        places, estimable, len(classes))],
        **_private(heads[:1], n),
        "differences": [_difference(m, e, *d, places,
        estimable) for e in evaluations for m in models for d in DIFFERENCES],
        "between_sites": [
            _between(a, e, site_names,
            estimable) for e in evaluations
            for a in ARMS if not (a == "local" and e == "leave_one_site_out")
        ],
        "chosen": [{"arm": a, "evaluation": e, "predictions": {"logistic": 40,
        "boosting": 1}} for a in ARMS for e in evaluations],
        "subgroups": _subgroups() if estimable else [],
        "curves": [
            _curves(m, a, e, len(classes))
            for m in models
            for a in ARMS
            for e in evaluations
            if estimable and not (a == "local" and e != "within_site")
        ],
        "importance": [
            {"model": m, "feature": f, "title": t or f, "mean_absolute_shap": 0.9 / (k + 1)}
            for m in heads
            for k, (f, t, _) in enumerate(FEATURES)
        ],
        "federated_tallies": [
            {"model": m, "evaluation": e, "n": n, "auc": 0.88, "auc_pooled": 0.87, "bound": 0.0004,
            "brier": 0.08, "log_loss": 0.28}
            for m in heads
            for e in evaluations
        ],
        "survival": _survival(classes) if survival else None,
        "site_probe": {
            "features": 0.4, "features_limit": 0.3, "missingness": 0.2, "missingness_limit": 0.3,
            "chance": 0.25, "sites": 4, "cases": n
        },
        "unknown_labels": [{"model": "clinical", "arm": "federated", "unknown": 40, "excluded": 0.8,
        "negative": 0.77, "positive": None}],
        "permuted_labels": None,
        "overrides": {"L03": ["t"], "L02": {"stage_x": "staged before <M>"}},
        "not_run": ["image models and fusion: not run, this study's sites brought tables only"],
        "alarms": ["guard L03 was overridden for feature 't'"],
        "configuration": {"study": "colorectal_metastasis", "parts": 5, "quorum": 1.0, "hyper": "",
        "resume": False},
        "seconds": 93.1,
    }  # fmt: skip


DIFFERENCES = (
    ("federated", "local", 0.03),
    ("federated", "pooled", -0.001),
    ("pooled", "local", 0.06),
)


def _flow(places, n):
    own = [
        {"name": p["name"], "read": p["patients"] + 1, "excluded": [{"reason": "age above 120",
        "n": 1}], "kept": p["patients"],
         "unknown_label": p["patients"] - p["n"]}
        for p in places
    ]  # fmt: skip
    return {
        "read": n + 45, "excluded": [{"reason": "no row of a primary tumour", "n": 5}],
        "kept": n + 40, "unknown_label": 40,
        "label_source": "clinical.tsv: m", "notes": ["D05: table 'pathology': 2 cases without a "
                                                     "row"], "sites": own,
    }  # fmt: skip


def _results(model, arm, evaluation, places, estimable, classes):
    rng = random.Random(f"{model} {arm} {evaluation}")
    every = {
        "name": "all",
        "n": sum(p["n"] for p in places),
        "events": sum(p["events"] for p in places),
    }
    for k, p in enumerate((every, *places)):
        can = k - 1 < estimable and estimable > 0
        counts = (
            {"n": p["n"], "events": p["events"]}
            if can or k == 0 or arm != "local"
            else {"n": 0, "events": 0}
        )
        for metric in METRICS:
            value = low = high = None
            if metric == "no_information_rate" and counts["n"]:
                value = low = high = 1 - p["events"] / p["n"]
            elif can and not (metric == "calibration_intercept" and classes > 2):
                value = round(rng.uniform(0.6, 0.9), 6)
                low, high = value - 0.05, min(1.0, value + 0.04)
            yield {
                "model": model, "arm": arm, "evaluation": evaluation, "site": p["name"],
                "metric": metric,
                "value": value, "low": low, "high": high, **counts,
                "estimable": can and value is not None,
            }  # fmt: skip


def _difference(model, evaluation, a, b, value, places, estimable):
    limits = (
        {"difference": value, "low": value - 0.04, "high": value + 0.04}
        if estimable
        else dict.fromkeys(("difference", "low", "high"))
    )
    n, events = sum(p["n"] for p in places), sum(p["events"] for p in places)
    return {
        "a": f"{model} {a}", "b": f"{model} {b}", "evaluation": evaluation, "metric": "auc",
        **limits, "n": n, "events": events,
        "sites": len(places), "estimable": estimable > 0,
    }  # fmt: skip


def _between(arm, evaluation, site_names, estimable):
    summary = {
        "mean": 0.81,
        "low": 0.75,
        "high": 0.86,
        "predicted_low": 0.55,
        "predicted_high": 0.94,
        "tau": 0.2,
        "sites": estimable,
    }
    return {
        "model": "clinical", "arm": arm, "evaluation": evaluation, "estimable_sites": estimable,
        "worst_site": site_names[0] if estimable else None,
        "worst_auc": 0.71 if estimable else None,
        "random_effects": summary if estimable >= 3 else None,
    }  # fmt: skip


def _subgroups():
    head = {"model": "clinical", "by": "sex", "title": "Sex", "note": ""}
    told = {"auc": 0.81, "low": 0.7, "high": 0.9, "estimable": True, "suppressed": False}
    hidden = {
        **dict.fromkeys(("auc", "low", "high", "events")),
        "estimable": False,
        "suppressed": True,
    }
    return [
        {**head, "group": "female", "n": 250, "events": 40, **told},
        {**head, "group": "male", "n": 200, **hidden},
        {**head, "group": "not known", "n": None, **hidden},
    ]


def _curves(model, arm, evaluation, classes):
    counts = [[60 + i + j for j in range(classes)] for i in range(classes)]
    row = {"model": model, "arm": arm, "evaluation": evaluation, "confusion": counts}
    if classes == 2:
        x, t = [k / 20 for k in range(21)], [k / 100 for k in range(1, 100)]
        row["roc"] = [x, [v**0.3 for v in x]]
        row["precision_recall"] = [x[1:], [1 - 0.8 * v for v in x[1:]]]
        benefit = {
            "model": [0.14 - 0.15 * v for v in t],
            "treat_all": [0.16 - 0.84 * v / (1 - v) for v in t],
            "treat_none": [0.0] * 99,
        }
        row["decision"] = {"thresholds": t, **benefit}
        row["calibration"] = [
            {"predicted": 0.05 * k, "observed": 0.045 * k, "n": 60} for k in range(1, 9)
        ]
    return row


def _survival(classes):
    times = [30.0 * k for k in range(1, 61)]
    curves = []
    for k, name in enumerate(classes):
        alive = [math.exp(-(k + 1) * t / 3000) for t in times]
        limits = {
            "low": [None, *(v - 0.03 for v in alive[1:])],
            "high": [None, *(v + 0.03 for v in alive[1:])],
        }
        curves.append(
            {
                "class": name,
                "times": times,
                "survival": alive,
                "at_risk": [200 - 3 * i for i in range(60)],
                **limits,
            }
        )
    return {"name": "overall_survival", "unit": "days", "curves": curves}


def _private(heads, n):
    """What `--epsilon 3,inf --audit` adds, of each head."""
    out = {"utility": [], "privacy": [], "audit": [], "canary": [], "one_run": []}
    limits = {"low": 0.6, "high": 0.8}
    for h in heads:
        for e in (None, 3.0):
            told = (
                {"value": 0.7, "low": 0.5, "high": 0.9, "cases": n, "positives": 40} if e else None
            )
            point = {
                "delta": 1e-5,
                "noise": 4.0 if e else 0.0,
                "metric": "auc",
                "value": 0.7,
                "n": n,
                "events": 40,
                "estimable": True,
            }
            out["utility"].append({"model": h, "epsilon": e, **point, **limits, "told": told})
            spent = {"epsilon": e and 2.97, "delta": 1e-5, "accountant": "pld", "allowed": e}
            out["privacy"].append({"site": "Alster", "learner": h, **spent})
            found = {
                "auc": 0.531,
                "low": 0.512,
                "high": 0.553,
                "tpr": 0.021,
                "tpr_low": 0.008,
                "tpr_high": 0.043,
                "fpr": 0.01,
            }
            row = {
                "learner": h,
                "epsilon": e,
                "attack": "loss",
                **found,
                "members": n,
                "nonmembers": n,
                "estimable": True,
            }
            out["audit"] += [
                row,
                {
                    **row,
                    "attack": "calibrated",
                    **dict.fromkeys(list(found)[:6]),
                    "estimable": False,
                },
            ]
        out["canary"].append(
            {
                "learner": h,
                "epsilon": 2.98,
                "lower": 0.87,
                "confidence": 0.999,
                "releases": 20000,
                "delta": 1e-5,
            }
        )
        out["one_run"].append(
            {
                "learner": h,
                "epsilon": 2.99,
                "lower": 0.41,
                "confidence": 0.95,
                "canaries": 1000,
                "guesses": 250,
                "right": 169,
                "releases": 167,
                "unit": "one patient, added or removed",
                "delta": 1e-5,
            }
        )
    return out
