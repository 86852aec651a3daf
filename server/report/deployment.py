"""Report of a run between hospitals: from its ledger and its last state alone, for nobody has the
patients together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.data.cohort import Fold
from common.data.schema import Floats
from common.errors import RunError
from common.types import Arrays
from server.config.run_config import Run
from server.export import model_folder
from server.ledger import state_store
from server.ledger.ledger import NAME, read
from server.report import record as assembled
from server.report import write
from server.report.checklists import statements
from server.report.content import comparison_sums, federated_sums, model_metrics, subgroup_rows
from server.report.content.model_metrics import Model
from server.report.record import Evaluation, Finished, Setting
from server.rounds.resume import WITHHELD, restore

Row = dict[str, Any]
LABELS = "each site's own table, by its mapping"


def publish(folder: Path, stated: str = "") -> Row:
    """Write the report in its three faces and model/ into the run's folder; returns the report. The
    same run gives the same bytes.

    stated: a file of statements (`server.report.checklists.statements`), which the run's folder
    keeps from then on. RunError S01 for a simulation, whose own report says more.
    """
    if _setting(folder) == "simulation":
        raise RunError(
            "S01",
            f"'{folder}' is a simulation's; to write its report again: fedmets simulate --resume "
            f"{folder}",
        )
    if stated:
        statements.read(stated)
        state_store.write(folder / statements.NAME, Path(stated).read_bytes())
    done, report = record(folder)
    final = done.states[Fold()]
    files = model_folder.write(
        folder / "model", done.run, done.study, done.task, final, done.heads, report
    )
    report = report | {"model_files": files}
    write.publish(folder, report)
    return report


def _setting(folder: Path) -> object:
    """Of the report that lies there; None without one, or where it cannot be read."""
    try:
        return json.loads((folder / "report.json").read_text())["setting"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record(folder: Path) -> tuple[Finished, Row]:
    """The run, and its report but for `model_files`. RunError S01 where the run is not closed."""
    lines = read(folder / NAME)
    closed = next((line for line in lines if line["kind"] == "close"), None)
    if closed is None:
        raise RunError(
            "S01",
            f"the run in '{folder}' is not done, so there is nothing to report; resume it: "
            f"fedmets server resume {folder}",
        )
    begun = lines[0]
    run = replace(Run.parse(begun["config"]), out=str(folder))
    study = run.load_study()
    task = run.task_of(study)
    states = restore(lines, folder).states
    # a run that holds a part out has no model of everybody: the one that it has is the one that
    # leaves
    states = {Fold(): states[run.folds(())[0]], **states}
    heads = [h for h in run.heads(study) if h.name in begun["heads"]]
    last = max(
        i
        for i, line in enumerate(lines)
        if line["kind"] in ("exchange", "close", "resume", "guard")
    )
    done = Finished(
        run,
        study,
        task,
        folder,
        states,
        heads,
        begun["groups"],
        closed["state_hash"],
        lines[last]["hash"],
    )
    arrays: Arrays = states[Fold()].get("comparison", {})
    models = comparison_sums.models(arrays, begun["sites"], run.seed)
    evaluation = Evaluation(
        models,
        comparison_sums.paired(arrays),
        models,
        comparison_sums.REPEATS,
        comparison_sums.INTERVAL,
    )
    alarm = study.tasks[task].alarm
    return done, assembled.record(
        done,
        evaluation,
        Setting(
            _keys(done, models, arrays, lines, closed),
            label_source=LABELS,
            imaged=_imaged(begun),
            not_run=_not_run(run, begun, arrays, models),
            alarms=_absent(lines),
            limit=lambda _: alarm,
            limit_of="the plausible limit of this study",
        ),
    )


def _keys(
    done: Finished,
    models: Sequence[Model],
    arrays: Arrays,
    lines: Sequence[Mapping[str, Any]],
    closed: Mapping[str, Any],
) -> Row:
    """What is known between hospitals alone: accounts as far as sites tell them, and scores with
    noise."""
    begun, kept, final = lines[0], done.folder / statements.NAME, done.states[Fold()]
    headline = next(
        (
            m
            for m in models
            if (m.evaluation, m.arm, m.name) == ("within_site", "federated", "clinical")
        ),
        None,
    )
    counts = _counts(models)
    return {
        "setting": "deployment",
        "flow": _flow(begun),
        "sites": _sites(begun, counts),
        "totals": None
        if counts is None
        else {"labelled": int(counts.sum()), "events": int(counts[:, 1:].sum())},
        "partition": "natural",
        **_trainable(models, begun["sites"]),
        "noisy_scores": [{"model": name, **auc} for name, auc in closed.get("scores", {}).items()],
        "subgroups": subgroup_rows.in_subgroups(
            arrays, models, done.study.schema_at(done.task), final.get("preprocessing", {})
        ),
        "pairs": model_metrics.pairs(headline.sites, headline.sums.of_sites)
        if headline and headline.sites
        else [],
        "images": {"sites": [], "roi_source": []} if _imaged(begun) else None,
        "statements": statements.read(str(kept) if kept.is_file() else ""),
        "seconds": round(closed["time"] - begun["time"], 1),
    }


def _flow(begun: Mapping[str, Any]) -> Row | None:
    """Each site's account, as far as it tells it; the sum where every site does; None where none
    does."""
    told = _accounts(begun)
    known = [row for row in told.values() if row]
    if not known:
        return None
    every = [sum(row[k] for row in known) for k in range(3)] if len(known) == len(told) else None
    return {
        **_account(every),
        "label_source": LABELS,
        "notes": [f"{len(told) - len(known)} of {len(told)} sites keep their account to themselves"]
        if len(known) < len(told)
        else [],
        "sites": [{"name": s, **_account(row)} for s, row in told.items()],
    }


def _accounts(begun: Mapping[str, Any]) -> dict[str, list[int] | None]:
    """Site -> patients read, left out, without a known label; None where it keeps them, as sites of
    earlier versions do."""
    told = {s: begun.get("flow", {}).get(s, WITHHELD) for s in begun["sites"]}
    return {s: None if row == WITHHELD else row for s, row in told.items()}


def _account(told: Sequence[int] | None) -> Row:
    if told is None:
        return {"read": None, "excluded": None, "kept": None, "unknown_label": None}
    read, left_out, unknown = told
    excluded = [{"reason": "by the site's own mapping", "n": left_out}] if left_out else []
    return {"read": read, "excluded": excluded, "kept": read - left_out, "unknown_label": unknown}


def _sites(begun: Mapping[str, Any], counts: Floats | None) -> list[Row]:
    """Labelled cases as each site told them, events by the comparison; None where it keeps a number
    to itself, or masks hide it."""
    names, accounts = begun["sites"], _accounts(begun)
    apart = counts is not None and len(counts) == len(names) and not begun["config"]["secure"]
    out = []
    for i, name in enumerate(names):
        told = begun["cases"].get(name)
        mine = counts[i] if apart and counts is not None else None
        out.append(
            {
                "name": name,
                "patients": account[0] - account[1] if (account := accounts[name]) else None,
                "n": int(mine.sum())
                if mine is not None
                else None
                if told in (WITHHELD, 0)
                else told,
                "events": int(mine[1:].sum()) if mine is not None else None,
            }
        )
    return out


def _counts(models: Sequence[Model]) -> Floats | None:
    """(sites, classes), or (1, classes) over all: of the final model that scored most patients;
    None without a comparison."""
    found = [m.sums.of_sites for m in models if m.evaluation == model_metrics.FINAL]
    return max(found, key=lambda c: float(c.sum()), default=None)


def _trainable(models: Sequence[Model], sites: Sequence[str]) -> Row:
    local = [(m.name, m.sums.of_sites) for m in models if m.arm == "local" and m.name != "clinical"]
    by_head = {
        name: [s for s, c in zip(sites, counts, strict=True) if c.any()]
        for name, counts in local
        if len(counts) == len(sites)
    }
    return {
        "trainable_sites": [s for s in sites if any(s in mine for mine in by_head.values())],
        "trainable": by_head,
    }


def _imaged(begun: Mapping[str, Any]) -> bool:
    return any("image" in m for m in begun["modalities"].values())


def _not_run(
    run: Run, begun: Mapping[str, Any], arrays: Arrays, models: Sequence[Model]
) -> list[str]:
    """What a simulation's reader would find, and none between hospitals."""
    out = ["pooled models: not run, they need all rows in one place, which only a simulation has"]
    if not any(_accounts(begun).values()):
        out.append("who was read and left out: kept by each site, in its own log")
    if not arrays:
        why = (
            "with noise every look at the models costs privacy"
            if run.noise
            else "the run's configuration leaves it out"
        )
        out.append(f"comparison of the models on the sites' patients: not run, {why}")
    if run.secure:
        out.append("figures by site: not run, the sites masked their sums")
    apart = [
        name
        for name in arrays
        if name.startswith("subgroups/") and name.endswith("/counts") and arrays[name].any()
    ]
    if arrays and not apart and "within_site" in run.evaluations:
        out.append("subgroups: not told, no site holds 10 patients of each class in any")
    if arrays and not any(m.arm == "local" for m in models):
        out.append(
            "local models: not run, no site has enough cases of two classes in each training set"
        )
    return out


def _absent(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sites that did not do all that they were asked, sites that came late, updates that were not
    believed."""
    exchanges = [line for line in lines if line["kind"] == "exchange"]
    out = []
    for row in federated_sums.participation(exchanges):
        if row["not"]:
            told = ", ".join(f"{code} {n} times" for code, n in row["not"].items())
            out.append(
                f"site '{row['site']}' did not take part in everything: {told} (contributed to "
                f"{row['contributed']} exchanges)"
            )
    later: list[str] = next((line["joined_later"] for line in lines if line["kind"] == "close"), [])
    if later:
        out.append(f"joined after the run had begun, and took no part: {', '.join(later)}")
    doubted = [said for e in exchanges for w in e["work"] for said in w.get("doubted", [])]
    return out + (
        [f"{len(doubted)} updates were not believed (X03); the first: {doubted[0]}"]
        if doubted
        else []
    )
