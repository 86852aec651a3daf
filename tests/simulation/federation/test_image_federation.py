"""The learners on images over the two apps: who trains what on which folds, who takes no part, and
what comes out of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import app as courier
from client.site.site_file import Site
from client.station.station import Station
from common.data.cohort import Cohort, Fold
from common.errors import FederationError
from common.federated.learner import load
from common.study.study import Study, Task
from server import app
from server.config.jobs import build_jobs
from server.config.run_config import Run
from server.ledger.ledger import read
from server.report.content import model_metrics
from server.rounds.driver import Exchange, Progress
from simulation.evaluation.predictions import Comparison, FederatedFit, compare
from simulation.evaluation.sums import Sums
from simulation.federation import site_folders
from simulation.federation.in_process_grid import InProcessGrid
from tests import pictures

PARTS = 3
HYPER = {
    "segmentation": {"grid": [8, 12, 12], "widths": [4, 8], "rounds": 1, "epochs": 1},
    "autoencoder": {"grid": [8, 12, 12], "dimensions": 4, "rounds": 1, "epochs": 1},
    "image": {"grid": [8, 12, 12], "rounds": 3, "epochs": 3, "learning_rate": 0.01},
}


class Holding(Station):
    """The station, over cases made here."""

    def __init__(self, held: Cohort, folder: Path, pinned: str) -> None:
        key, log = folder / held.site / site_folders.STATION_KEY, folder / f"{held.site}.log"
        super().__init__(
            Site(held.site, folder, ("made",), log=log, minimum=5, coordinator=pinned, key=key)
        )
        self.held = held

    def cohort(self, ref: str, task: str) -> Cohort:
        return self.held


def study() -> Study:
    return Study(
        "made",
        "?",
        pictures.schema(),
        {"now": Task("now")},
        ("logistic", "image", "fusion"),
        clinical="logistic",
    )


def run_of(out: Path, **how: Any) -> Run:
    return Run(
        study="made",
        task="now",
        out=str(out),
        parts=PARTS,
        evaluations="within_site",
        hyper=json.dumps(HYPER),
        **how,
    )


def federate(
    those: Sequence[Cohort],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    workers: int = 1,
    tell: Any = None,
    **how: Any,
) -> app.Outcome:
    monkeypatch.setattr(Run, "load_study", lambda self: study())
    out.parent.mkdir(exist_ok=True)
    pinned = site_folders.enrol(
        out.parent / site_folders.COORDINATOR, {c.site: out.parent / c.site for c in those}
    )
    stations = {f"/{c.site}": Holding(c, out.parent, pinned) for c in those}
    monkeypatch.setattr(
        courier, "door", lambda context, seconds: stations[context.node_config["site"]]
    )
    grid = InProcessGrid(
        courier.app, {k + 1: Path(p) for k, p in enumerate(stations)}, workers=workers
    )
    return app.coordinate(
        grid,
        run_of(out, expect=len(those), keys=str(out.parent / site_folders.COORDINATOR), **how),
        tell,
    )


def judged(those: Sequence[Cohort], outcome: app.Outcome) -> Comparison:
    run = run_of(Path())
    jobs = [
        j
        for j in build_jobs(run, study(), (), outcome.heads)
        if j.learner.name not in ("preprocessing", "evaluation", "importance", "gradcam")
    ]
    fit = FederatedFit(jobs, outcome.states, seed=0, parts=PARTS)
    return compare(list(those), fit, clinical="logistic")


def cohorts(n: int = 120) -> list[Cohort]:
    """Two whole sites, one without images, and one whose table is empty."""
    a, b, c, d = pictures.sites(n, 4, noise=4.0, missing=0.0)
    no_images = dataclasses.replace(c, pictures=(), modalities=frozenset({"table"}))
    no_table = dataclasses.replace(
        d, values=np.full_like(d.values, np.nan), modalities=frozenset({"image"})
    )
    return [a, b, no_images, no_table]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    monkeypatch = pytest.MonkeyPatch()
    out = tmp_path_factory.mktemp("federation") / "run"
    those = cohorts()
    outcome = federate(those, out, monkeypatch)
    monkeypatch.undo()
    return those, outcome, read(out / "ledger.jsonl")


def test_what_is_trained_on_which_folds(done: Any) -> None:
    _, outcome, _ = done
    outer, inner = {"all", "part:0", "part:1", "part:2"}, {"part:0+1", "part:0+2", "part:1+2"}
    where = {
        name: {f.key for f, s in outcome.states.items() if s.get(name)}
        for name in ("segmentation", "image", "autoencoder", "fusion")
    }
    assert where["segmentation"] == where["image"] == outer | inner
    assert where["autoencoder"] == where["fusion"] == outer
    assert float(outcome.states[Fold()]["gradcam"]["energy"][5]) > 0


def test_a_site_is_asked_only_for_what_it_can_do(done: Any) -> None:
    those, _, ledger = done
    names = [c.site for c in those]
    contributed: dict[str, set[str]] = {}
    for line in ledger:
        for work in line["work"] if line["kind"] == "exchange" else ():
            contributed.setdefault(work["learner"], set()).update(work["contributed"])
            assert not set(work["refused"].values()) - {"P01", "D06"}
            lacking = (
                {names[2]}
                if work["learner"] in ("image", "fusion")
                else {names[3]}
                if work["learner"] == "logistic"
                else set()
            )
            assert lacking <= {s for s, code in work["refused"].items() if code == "D06"}
    assert contributed["image"] == contributed["fusion"] == {names[0], names[1], names[3]}
    assert contributed["logistic"] == set(names[:3])
    assert contributed["evaluation"] == set(names)
    opened = ledger[0]
    assert opened["modalities"][names[2]] == ["table"]
    assert opened["imaged"][names[2]] == 0 < opened["imaged"][names[0]]


def test_who_is_scored_by_what(done: Any) -> None:
    those, outcome, _ = done
    found = judged(those, outcome)
    images, tables = (
        np.concatenate(masks)
        for masks in (
            [c.imaged for c in those],
            [np.full(len(c), "table" in c.modalities) for c in those],
        )
    )
    seen = {
        m: found.scores[m, "federated", "within_site"][0].seen
        for m in ("clinical", "image", "fusion")
    }
    assert (seen["clinical"] == tables).all()
    assert (seen["image"] == images).all()
    assert (seen["fusion"] == (tables | images)).all()
    clinical, fusion = (
        found.scores[m, "federated", "within_site"][0].probs for m in ("clinical", "fusion")
    )
    assert (fusion[~images] == clinical[~images]).all()
    sums, names = Sums(found, 100, 0), ["clinical", "image", "fusion"]
    rows = model_metrics.results(sums.models(names))
    best = {(r["model"], r["arm"]): r for r in rows if r["metric"] == "auc" and r["site"] == "all"}
    assert best["fusion", "federated"]["value"] > best["clinical", "federated"]["value"] + 0.1
    assert best["image", "federated"]["value"] > 0.7
    assert {a for m, a in best if m == "fusion"} == {"local", "federated", "pooled"}
    assert those[2].site not in found.trainable["image"]
    assert set(found.trainable["fusion"]) == set(found.trainable["image"]) - {those[3].site}
    pairs = {(d["a"], d["b"]) for d in model_metrics.differences(sums.paired(names))}
    assert {
        ("fusion federated", "clinical federated"),
        ("fusion federated", "image federated"),
        ("image federated", "image pooled"),
    } <= pairs


def test_two_workers_and_a_resumed_run_give_the_same_state(
    done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    those, outcome, _ = done

    class Cut(Exception):
        pass

    def cut(exchange: Exchange, progress: Progress, jobs: int) -> None:
        if exchange.step == 3:
            raise Cut

    with pytest.raises(Cut):
        federate(those, tmp_path / "cut" / "run", monkeypatch, workers=2, tell=cut)
    again = federate(those, tmp_path / "cut" / "run", monkeypatch, workers=2, resume=True)
    assert again.state_hash == outcome.state_hash


def test_without_images_of_both_classes_at_a_site_nothing_is_trained_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of one class a site would tell the hospital, not the disease."""
    one_class = [dataclasses.replace(c, pictures=tuple(p if y == k else None for p,
    y in zip(c.pictures, c.labels, strict=True)))
                 for k, c in enumerate(pictures.sites(80, 2))]  # fmt: skip
    outcome = federate(one_class, tmp_path / "run", monkeypatch)
    assert [h.name for h in outcome.heads] == ["logistic"]
    with pytest.raises(FederationError, match="image, fusion: no site holds images") as caught:
        federate(one_class, tmp_path / "asked", monkeypatch, learners="logistic,image,fusion")
    assert caught.value.code == "D06"


def test_too_few_images_for_any_inner_training_set_leave_the_fusion_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every site refuses the smallest training sets (P01): the run goes on without what needs
    them."""
    few = [
        dataclasses.replace(
            c, pictures=tuple(p if i < 24 else None for i, p in enumerate(c.pictures))
        )
        for c in pictures.sites(120, 2)
    ]
    monkeypatch.setattr("client.station.guard.release", _release(16))
    outcome = federate(few, tmp_path / "run", monkeypatch)
    refused = [
        w
        for line in read(tmp_path / "run" / "ledger.jsonl")
        if line["kind"] == "exchange"
        for w in line["work"]
        if w["refused"]
    ]
    assert {w["learner"] for w in refused} >= {"image"}
    assert outcome.states[Fold()]["image"]
    assert not any(s.get("image") for f, s in outcome.states.items() if len(f.parts) == 2)
    assert not any(s.get("fusion") for f, s in outcome.states.items() if f != Fold())


def _release(least: int) -> Any:
    from client.station import guard

    inner = guard.release
    return lambda c, learner, state, plan, cohort, minimum, budget: inner(
        c, learner, state, plan, cohort, least, budget
    )


def test_leave_one_site_out_of_images_only_when_asked(tmp_path: Path) -> None:
    heads = tuple(run_of(tmp_path).learner(n, study()) for n in ("logistic", "image", "fusion"))
    run = dataclasses.replace(run_of(tmp_path), evaluations="within_site,leave_one_site_out")
    for full in (False, True):
        jobs = build_jobs(dataclasses.replace(run, full=full), study(), (("A",), ("B",)), heads)
        out = {j.fold for j in jobs if j.learner.name == "image" and j.fold.sites}
        assert bool(out) == full
        assert any(j.learner.name == "logistic" and j.fold.sites for j in jobs)
    fusion = {j.fold: j.reads for j in jobs if j.learner.name == "fusion"}
    assert fusion[Fold(("A",))] == (Fold(("A",)), *(Fold(("A",), (p,)) for p in range(PARTS)))
    assert fusion[Fold(parts=(1,))] == (Fold(parts=(1,)), Fold(parts=(0, 1)), Fold(parts=(1, 2)))
    assert all(len(f.parts) + bool(f.sites) < 2 for f in fusion)


def test_an_encoder_that_starts_from_the_autoencoder_has_one_on_every_fold(tmp_path: Path) -> None:
    run = dataclasses.replace(
        run_of(tmp_path),
        hyper=json.dumps({**HYPER, "image": {**HYPER["image"], "initial": "autoencoder"}}),
    )
    heads = tuple(run.learner(n, study()) for n in ("logistic", "image", "fusion"))
    jobs = build_jobs(run, study(), (), heads)
    assert {j.fold for j in jobs if j.learner.name == "autoencoder"} == {
        j.fold for j in jobs if j.learner.name == "image"
    }
    order = [j.learner.name for j in jobs if j.fold == Fold(parts=(0, 1))]
    assert order.index("autoencoder") < order.index("image")


def test_the_fusion_hands_the_runs_settings_on() -> None:
    fusion: Any = run_of(Path()).learner("fusion", study())
    assert fusion.learners["image"] == HYPER["image"]
    assert fusion.clinical == "logistic"
    assert (
        load("evaluation", {"heads": ["fusion"], "learners": fusion.learners}).needs[-1] == "fusion"
    )
