"""The report of a run between hospitals: from its ledger and its last state alone, for nobody has the patients together."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.data.cohort import Fold
from common.errors import RunError
from common.federated.learner import Federated
from common.learners.comparison import FINAL
from common.study.study import Study
from common.types import Arrays
from common.wire.state_transfer import States
from server.config.run_config import Run
from server.export import model_folder
from server.ledger import state_store
from server.ledger.ledger import NAME, Ledger, read
from server.report import write
from server.report.checklists import statements
from server.report.content import federated_sums, model_metrics, subgroup_rows
from server.rounds.resume import WITHHELD, restore
from server.rounds.round_metrics import evaluated

Row = dict[str, Any]


@dataclass(frozen=True)
class Deployed:
    """A run that is done: its report, and what the model's files are made of."""

    report: Row
    study: Study
    task: str
    states: States
    heads: list[Federated]
    run: Run


def publish(folder: Path, stated: str = "") -> Row:
    """Write the report in its three faces and model/ into the run's folder; returns the report. The same run gives the same bytes.

    stated: a file of statements (`server.report.checklists.statements`), which the run's folder keeps from then on. RunError S01 for a
    simulation, whose own report says more.
    """
    if _setting(folder) == "simulation":
        raise RunError("S01", f"'{folder}' is a simulation's; to write its report again: python -m simulation --resume {folder}")
    if stated:
        statements.read(stated)
        state_store.write(folder / statements.NAME, Path(stated).read_bytes())
    done = record(folder)
    final = done.states[Fold().key]
    report = done.report | {
        "model_files": model_folder.write(folder / "model", done.run, done.study, done.task, final, done.heads, done.report)
    }
    files = write.write(folder, report)
    ledger = Ledger(folder / NAME)
    try:
        if not any(line["kind"] == "report" and line.get("files") == files for line in ledger.lines):
            ledger.append("report", time=time.time(), file="report.json", sha256=files["report.json"], files=files)
    finally:
        ledger.close()
    return report


def _setting(folder: Path) -> object:
    """Of the report that lies there; None without one, or where it cannot be read."""
    try:
        return json.loads((folder / "report.json").read_text())["setting"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record(folder: Path) -> Deployed:
    """RunError S01 where the run is not closed."""
    lines = read(folder / NAME)
    closed = next((line for line in lines if line["kind"] == "close"), None)
    if closed is None:
        raise RunError(
            "S01", f"the run in '{folder}' is not done, so there is nothing to report; resume it: python -m server resume {folder}"
        )
    begun = lines[0]
    run = replace(Run.parse(begun["config"]), out=str(folder))
    study = run.load_study()
    task = run.task_of(study)
    states = restore(lines, folder).states
    # a run that holds a part out has no model of everybody: the one that it has is the one that leaves
    states = {Fold().key: states[run.folds(())[0].key], **states}
    heads = [h for h in run.heads(study) if h.name in begun["heads"]]
    arrays, sites = states[Fold().key].get("comparison", {}), begun["sites"]
    found = {
        "results": model_metrics.results(arrays, sites, run.seed),
        "differences": model_metrics.differences(arrays),
        "final_model": model_metrics.final(arrays, sites, run.seed),
    }
    last = max(i for i, line in enumerate(lines) if line["kind"] in ("exchange", "close", "resume", "guard"))
    report = {
        "setting": "deployment",
        **federated_sums.asked(study, task, run.seed, "each site's own table, by its mapping"),
        "flow": _flow(begun),
        "sites": _sites(begun, arrays),
        "totals": _totals(arrays),
        "partition": "natural",
        "small_sites": None,
        "groups": begun["groups"],
        **_trainable(arrays, sites),
        **federated_sums.trace(folder, closed["state_hash"], lines[last]["hash"]),
        "bootstraps": model_metrics.REPEATS,
        "interval": model_metrics.INTERVAL,
        **found,
        "utility": [],
        "privacy": [],
        "audit": [],
        "canary": [],
        "noisy_scores": [{"model": name, **auc} for name, auc in closed.get("scores", {}).items()],
        "between_sites": [row for name in ("clinical", "fusion") for row in model_metrics.between_sites(arrays, sites, name)],
        "chosen": [],
        "subgroups": subgroup_rows.in_subgroups(arrays, study.schema_at(task), states[Fold().key].get("preprocessing", {})),
        "pairs": model_metrics.pairs(arrays, sites, "clinical"),
        "images": _images(begun, states, found["differences"]),
        "curves": model_metrics.curves(arrays),
        "importance": federated_sums.importance(states, heads, study.schema_at(task).features),
        "federated_tallies": evaluated(states, [h.name for h in heads]),
        "survival": federated_sums.survival(states, study, task),
        "site_probe": None,
        "unknown_labels": None,
        "permuted_labels": None,
        "not_run": _not_run(run, study, begun, heads, arrays),
        "statements": statements.read(str(kept) if (kept := folder / statements.NAME).is_file() else ""),
        "configuration": asdict(run),
        "seconds": round(closed["time"] - begun["time"], 1),
    }
    alarm = study.tasks[task].alarm
    report["alarms"] = [
        *(f"guard L03 was overridden for feature '{f}'" for f in report["overrides"]["L03"]),
        *federated_sums.implausible(report["results"], lambda _: alarm, "the plausible limit of this study"),
        *federated_sums.undefended(run, study),
        *federated_sums.unconverged(states),
        *_absent(lines),
    ]
    return Deployed(report, study, task, states, heads, run)


def _flow(begun: Mapping[str, Any]) -> Row | None:
    """Each site's account, as far as it tells it; the sum where every site does; None where none does."""
    told = _accounts(begun)
    known = [row for row in told.values() if row]
    if not known:
        return None
    every = [sum(row[k] for row in known) for k in range(3)] if len(known) == len(told) else None
    return {
        **_account(every),
        "label_source": "each site's own table, by its mapping",
        "notes": [f"{len(told) - len(known)} of {len(told)} sites keep their account to themselves"] if len(known) < len(told) else [],
        "sites": [{"name": s, **_account(row)} for s, row in told.items()],
    }


def _accounts(begun: Mapping[str, Any]) -> dict[str, list[int] | None]:
    """Site -> patients read, left out, without a known label; None where it keeps them, as sites of earlier versions do."""
    told = {s: begun.get("flow", {}).get(s, WITHHELD) for s in begun["sites"]}
    return {s: None if row == WITHHELD else row for s, row in told.items()}


def _account(told: Sequence[int] | None) -> Row:
    if told is None:
        return {"read": None, "excluded": None, "kept": None, "unknown_label": None}
    read, left_out, unknown = told
    excluded = [{"reason": "by the site's own mapping", "n": left_out}] if left_out else []
    return {"read": read, "excluded": excluded, "kept": read - left_out, "unknown_label": unknown}


def _sites(begun: Mapping[str, Any], arrays: Arrays) -> list[Row]:
    """Labelled cases as each site told them, events by the comparison; None where it keeps a number to itself, or masks hide it."""
    names, accounts = begun["sites"], _accounts(begun)
    counts = _counts(arrays)
    apart = counts is not None and len(counts) == len(names) and not begun["config"]["secure"]
    out = []
    for i, name in enumerate(names):
        told = begun["cases"].get(name)
        mine = counts[i] if apart and counts is not None else None
        out.append(
            {
                "name": name,
                "patients": account[0] - account[1] if (account := accounts[name]) else None,
                "n": int(mine.sum()) if mine is not None else None if told in (WITHHELD, 0) else told,
                "events": int(mine[1:].sum()) if mine is not None else None,
            }
        )
    return out


def _counts(arrays: Arrays) -> Any:
    """(sites, classes): of the model that scored most patients; None without a comparison."""
    found = [m.arrays["counts"] for m in model_metrics.models(arrays) if m.evaluation == FINAL]
    return max(found, key=lambda c: float(c.sum()), default=None)


def _totals(arrays: Arrays) -> Row | None:
    """Over all sites, which masks do not hide."""
    counts = _counts(arrays)
    return None if counts is None else {"labelled": int(counts.sum()), "events": int(counts[:, 1:].sum())}


def _trainable(arrays: Arrays, sites: Sequence[str]) -> Row:
    local = [m for m in model_metrics.models(arrays) if m.arm == "local" and len(m.arrays["counts"]) == len(sites)]
    by_head = {m.name: [s for s, c in zip(sites, m.arrays["counts"], strict=True) if c.any()] for m in local if m.name != "clinical"}
    return {"trainable_sites": [s for s in sites if any(s in mine for mine in by_head.values())], "trainable": by_head}


def _images(begun: Mapping[str, Any], states: States, differences: Sequence[Row]) -> Row | None:
    """What is known of the images without seeing one; None where no site holds any."""
    if not any("image" in m for m in begun["modalities"].values()):
        return None
    return {
        "sites": [],
        "roi_source": [],
        "adds": federated_sums.adds(differences),
        "fusion": federated_sums.fusion_weights(states),
        "explanation": federated_sums.energy(states),
    }


def _not_run(run: Run, study: Study, begun: Mapping[str, Any], heads: Sequence[Federated], arrays: Arrays) -> list[str]:
    """What a reader might look for and will not find."""
    out = ["pooled models: not run, they need all rows in one place, which only a simulation has"]
    if not any(_accounts(begun).values()):
        out.append("who was read and left out: kept by each site, in its own log")
    lost = [h.name for h in run.heads(study) if h not in heads]
    if lost:
        out.append(f"{', '.join(lost)}: not run, no site holds images of enough labelled patients of each of two classes")
    if not arrays:
        why = "with noise every look at the models costs privacy" if run.noise else "the run's configuration leaves it out"
        out.append(f"comparison of the models on the sites' patients: not run, {why}")
    if run.secure:
        out.append("figures by site: not run, the sites masked their sums")
    apart = [name for name in arrays if name.startswith("subgroups/") and name.endswith("/counts") and arrays[name].any()]
    if arrays and not apart and "within_site" in run.evaluations:
        out.append("subgroups: not told, no site holds 10 patients of each class in any")
    local = {m.name for m in model_metrics.models(arrays) if m.arm == "local"}
    if arrays and not local:
        out.append("local models: not run, no site has enough cases of two classes in each training set")
    for evaluation in model_metrics.EVALUATIONS.values():
        if evaluation not in run.evaluations:
            out.append(f"{evaluation}: not run, not asked for")
    if "leave_one_site_out" in run.evaluations and not begun["groups"]:
        out.append("leave_one_site_out: not run, it needs two sites or more, and one with enough cases of each of two classes")
    return out


def _absent(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sites that did not do all that they were asked, sites that came late, updates that were not believed."""
    exchanges = [line for line in lines if line["kind"] == "exchange"]
    out = []
    for row in federated_sums.participation(exchanges):
        if row["not"]:
            told = ", ".join(f"{code} {n} times" for code, n in row["not"].items())
            out.append(f"site '{row['site']}' did not take part in everything: {told} (contributed to {row['contributed']} exchanges)")
    later: list[str] = next((line["joined_later"] for line in lines if line["kind"] == "close"), [])
    if later:
        out.append(f"joined after the run had begun, and took no part: {', '.join(later)}")
    doubted = [said for e in exchanges for w in e["work"] for said in w.get("doubted", [])]
    return out + ([f"{len(doubted)} updates were not believed (X03); the first: {doubted[0]}"] if doubted else [])
