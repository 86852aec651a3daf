"""A federation's model moved to a site's own patients: what each head becomes, who may not be
looked at, what is said and written."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy.optimize import minimize

from client.local_model import adaptation_value, finetune
from client.local_model.adaptation import FineTuning, adapted
from client.local_model.folder_files import UNSIGNED, Files
from client.local_model.model_folder import Model
from common.data.cohort import Cohort, Fold
from common.errors import DataError, UsageError
from common.federated.learner import Federated, Head, configured, fit, hyper_of, local_plan
from common.federated.model_state import opened
from common.learners.boosting import Boosting
from common.learners.fusion import Fusion
from common.learners.image import Image
from common.learners.logistic import Logistic
from common.learners.mlp import Perceptron
from common.learners.preprocessing import LEARNER as PREPARE
from common.learners.preprocessing import standardise
from common.study.study import Study, Task
from common.types import State
from tests import pictures, synthetic

HOW = FineTuning()
TABLE: tuple[Any, ...] = (Logistic(), Boosting(trees=6), configured(Perceptron(), {"rounds": 3}))


def silent(what: str, at: int, of: int) -> None: ...


def trained(cohorts: list[Cohort], heads: tuple[Any, ...], state: State | None = None) -> State:
    state = dict(state or {})
    for learner in (PREPARE, *heads):
        state = fit(cast(Federated, learner), state, cohorts, local_plan(Fold(), 0, 5))
    return state


def nobodys(folder: Path) -> Files:
    """A folder that was never written."""
    return Files(folder, {}, "0" * 64, UNSIGNED)


def model_of(
    cohort: Cohort, heads: tuple[Any, ...], state: State, folder: Path, **told: Any
) -> Model:
    time = cohort.schema.times[-1]
    study = Study("t", "?", cohort.schema, {time: Task(time)})
    said = {
        "format": 1, "fedmets": "0", "study": "t", "study_file": "", "task": time,
        "schema": cohort.schema.hash, "seed": 0, "parts": 5,
        "learners": {h.name: hyper_of(h) for h in heads}, "heads": [h.name for h in heads],
        "clinical": "", "thresholds": {},
        "sites": ["A"], "state_hash": "x", **told,
    }  # fmt: skip
    return Model(
        study, time, state, tuple(cast(Head, h) for h in heads), "", {}, said, nobodys(folder)
    )


@pytest.fixture(scope="module", params=[2, 3])
def federation(request: pytest.FixtureRequest) -> tuple[Cohort, State]:
    """A site that took no part, and the state of those that did."""
    *others, mine = synthetic.sites(400, 4, classes=request.param)
    return dataclasses.replace(mine, site="mine"), trained(others, TABLE)


def test_logistic_is_the_ridge_at_the_federations_coefficients(
    federation: tuple[Cohort, State],
) -> None:
    mine, state = federation
    new = adapted(TABLE, state, mine, Fold(), 0, 5, HOW)["logistic"]["coefficients"]
    old, known = state["logistic"]["coefficients"], mine.labels >= 0
    x = np.concatenate(
        [np.ones((known.sum(), 1)), standardise(state["preprocessing"], mine)[known]], axis=1
    )
    y = mine.labels[known]

    def loss(beta: np.ndarray) -> float:  # type: ignore[type-arg]
        b = beta.reshape(old.shape)
        eta = np.concatenate([np.zeros((len(x), 1)), x @ b.T], axis=1)
        likelihood = eta[np.arange(len(x)), y] - np.log(np.exp(eta).sum(axis=1))
        penalty = 10 * ((b - old)[:, 1:] ** 2).sum() + 0.1 * ((b - old)[:, 0] ** 2).sum()
        return float(penalty / 2 - likelihood.sum())

    found = minimize(loss, old.ravel(), tol=1e-14, options={"gtol": 1e-8}).x.reshape(old.shape)
    assert new == pytest.approx(found, abs=1e-4)
    assert loss(new.ravel()) <= loss(found.ravel()) + 1e-9
    # held firmly it stays, held loosely it is the site's own fit
    firm = adapted(TABLE, state, mine, Fold(), 0, 5, FineTuning(ridge=1e9))["logistic"][
        "coefficients"
    ]
    assert firm[:, 1:] == pytest.approx(old[:, 1:], abs=1e-5)


def test_boosting_s_log_odds_are_moved_in_its_own_arrays(federation: tuple[Cohort, State]) -> None:
    from client.local_model.centred_ridge import recalibrated

    mine, state = federation
    head = TABLE[1]
    known = mine.where(mine.labels >= 0)
    before, after = (
        head.predict(state, known),
        head.predict(adapted(TABLE, state, mine, Fold(), 0, 5, HOW), known),
    )
    z = np.log(before[:, 1:]) - np.log(before[:, :1])
    a, b = recalibrated(z, known.labels)
    assert np.log(after[:, 1:]) - np.log(after[:, :1]) == pytest.approx(a + b * z, abs=1e-4)
    from common.learners.boosting import booster

    assert (
        booster(
            {**state, "boosting": adapted(TABLE, state, mine, Fold(), 0, 5, HOW)["boosting"]},
            mine.schema,
        ).num_boosted_rounds()
        == 6
    )


def test_a_network_goes_on_from_the_federations_parameters(
    federation: tuple[Cohort, State],
) -> None:
    mine, state = federation
    one = adapted(TABLE, state, mine, Fold(), 0, 5, HOW)
    again = adapted(TABLE, state, mine, Fold(), 0, 5, HOW)
    far = adapted(TABLE, state, mine, Fold(), 0, 5, FineTuning(epochs=40, learning_rate=0.05))
    w = "w/0.weight"
    near = np.abs(one["mlp"][w] - state["mlp"][w]).max()
    assert 0 < near < np.abs(far["mlp"][w] - state["mlp"][w]).max()
    assert all((one["mlp"][k] == again["mlp"][k]).all() for k in one["mlp"])
    assert one["mlp"]["round"] == state["mlp"]["round"]
    assert one["preprocessing"] is state["preprocessing"]


def test_nobody_is_scored_by_a_model_that_was_tuned_on_them(
    federation: tuple[Cohort, State],
) -> None:
    mine, state = federation
    part = mine.parts(0, 5)
    poisoned = dataclasses.replace(
        mine,
        labels=np.where(part == 2, (mine.labels + 1) % len(mine.schema.label.classes), mine.labels),
        values=np.where((part == 2)[:, None], np.nan, mine.values),
    )
    clean, other = (adapted(TABLE, state, c, Fold(parts=(2,)), 0, 5, HOW) for c in (mine, poisoned))
    for head in TABLE:
        assert all(
            np.array_equal(clean[head.name][k], other[head.name][k], equal_nan=True)
            for k in clean[head.name]
        )


def test_images_and_the_fusion_that_follows() -> None:
    mine, other = pictures.sites(80, 2)
    mine = dataclasses.replace(mine, site="mine", pictures=(None, *mine.pictures[1:]))
    image = configured(
        Image(), {"grid": (8, 12, 12), "rounds": 2, "epochs": 2, "segmentation": False}
    )
    fusion = Fusion(latent=False, learners={"image": {"segmentation": False, "grid": [8, 12, 12]}})
    state = trained([other], (Logistic(), image))
    state["fusion"] = {
        "coefficients": np.array([[[0.1, 0.8]]]),
        "mean": np.zeros(0),
        "scale": np.ones(0),
        "image_mean": np.zeros(1),
    }
    heads: tuple[Any, ...] = (Logistic(), image, fusion)
    new = adapted(heads, state, mine, Fold(), 0, 5, HOW)
    assert any(
        (new["image"][k] != state["image"][k]).any() for k in state["image"] if k.startswith("w/")
    )
    rows = mine.where(mine.imaged & (mine.labels >= 0))
    z = image.logits(new, rows)
    assert new["image"]["mean"] == pytest.approx(z.mean(0), abs=1e-6)
    assert new["image"]["spread"] == pytest.approx(z.std(0), abs=1e-6)
    assert new["fusion"] is state["fusion"]
    eta = (
        np.log(Logistic().predict(new, rows)) @ [-1, 1]
        + 0.1
        + 0.8 * ((z - z.mean(0)) / z.std(0))[:, 0]
    )
    assert fusion.predict(new, rows)[:, 1] == pytest.approx(1 / (1 + np.exp(-eta)), abs=1e-9)
    # who has no image gets the clinical prediction as it is now
    assert (fusion.predict(new, mine)[0] == Logistic().predict(new, mine)[0]).all()


def test_the_comparison_is_of_the_same_patients(
    federation: tuple[Cohort, State], tmp_path: Path
) -> None:
    from sklearn.metrics import roc_auc_score

    mine, state = federation
    told = finetune.finetune(
        model_of(mine, TABLE, state, tmp_path), mine, tmp_path / "own", HOW, silent
    )
    rows = {r["head"]: r for r in told["heads"]}
    assert set(rows) == {"logistic", "boosting", "mlp"}
    known = mine.where(mine.labels >= 0)
    for row in rows.values():
        assert row["n"] == len(known) == sum(row["counts"].values())
        assert set(row["models"]) == {
            adaptation_value.GLOBAL,
            adaptation_value.TUNED,
            adaptation_value.LOCAL,
        }
        for m in row["models"].values():
            assert m["low"] < m["auc"] < m["high"]
        for d in row["differences"]:
            assert d["difference"] == pytest.approx(
                row["models"][d["a"]]["auc"] - row["models"][d["b"]]["auc"], abs=1e-12
            )
    if len(mine.schema.label.classes) == 2:
        p = Logistic().predict(state, known)[:, 1]
        assert rows["logistic"]["models"][adaptation_value.GLOBAL]["auc"] == pytest.approx(
            roc_auc_score(known.labels, p)
        )
        # a recalibration moves nobody past another within a part
        assert rows["boosting"]["models"][adaptation_value.TUNED]["slope"] is not None
    assert told["seen"] == finetune.UNSEEN
    files = {f.name: f for f in (tmp_path / "own").iterdir()}
    assert {stat.S_IMODE(f.stat().st_mode) for f in files.values()} == {0o600}
    said = json.loads(files["model.json"].read_text())
    assert said["site_local"] is True
    assert said["base"] == {"state_hash": "x", "sha256": "0" * 64}
    assert "not to be sent" in said["use"]
    written = opened(files["model.state"].read_bytes())
    whole = adapted(TABLE, state, mine, Fold(), 0, 5, HOW)
    assert (written["logistic"]["coefficients"] == whole["logistic"]["coefficients"]).all()
    assert json.loads(files["comparison.json"].read_text()) == json.loads(json.dumps(told))


def test_what_must_be_said(federation: tuple[Cohort, State], tmp_path: Path) -> None:
    mine, state = federation
    few = mine.where((mine.labels >= 0) & (np.arange(len(mine)) < 24))
    heads = TABLE[:1]
    took_part = model_of(mine, heads, state, tmp_path, sites=["mine"])
    told = finetune.finetune(took_part, few, tmp_path / "few", HOW, silent, local=False)
    assert told["seen"] == finetune.SEEN
    assert "flattered" in told["seen"]
    older = model_of(mine, heads, state, tmp_path)
    older = dataclasses.replace(
        older,
        declared={k: v for k, v in older.declared.items() if k not in ("sites", "seed", "parts")},
    )
    assert (
        finetune.finetune(older, mine, tmp_path / "old", HOW, silent, local=False)["seen"]
        == finetune.UNTOLD
    )


def test_under_ten_of_a_class_nothing_is_estimated(tmp_path: Path) -> None:
    whole = synthetic.cohort(120, missing=0.0)
    state = trained([whole], TABLE[:1])
    at = np.concatenate(
        [np.flatnonzero(whole.labels == 0)[:30], np.flatnonzero(whole.labels == 1)[:9]]
    )
    few = whole.where(np.isin(np.arange(120), at))
    told = finetune.finetune(
        model_of(whole, TABLE[:1], state, tmp_path), few, tmp_path / "own", HOW, silent
    )
    assert told["heads"][0]["estimable"] is False
    assert {m["auc"] for m in told["heads"][0]["models"].values()} == {None}
    assert any("not estimable" in n for n in finetune.notes(told))


def test_what_cannot_be_done_is_refused_before_anything_is_written(
    federation: tuple[Cohort, State], tmp_path: Path
) -> None:
    mine, state = federation
    model = model_of(mine, TABLE, state, tmp_path)
    four = mine.where(np.isin(np.arange(len(mine)), np.flatnonzero(mine.labels == 0)))
    with pytest.raises(DataError, match="needs 5 labelled patients of each of two classes") as few:
        finetune.finetune(model, four, tmp_path / "own", HOW, silent)
    assert few.value.code == "D09"
    for bad in (FineTuning(epochs=0), FineTuning(learning_rate=-1.0), FineTuning(ridge=0.0)):
        with pytest.raises(UsageError):
            finetune.finetune(model, mine, tmp_path / "own", bad, silent)
    foreign = dataclasses.replace(mine, schema=synthetic.schema(numbers=3))
    with pytest.raises(DataError, match="schema"):
        finetune.finetune(model, foreign, tmp_path / "own", HOW, silent)
    assert not (tmp_path / "own").exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.json").write_text("{}")
    with pytest.raises(UsageError, match="not a site's own"):
        finetune.finetune(model, mine, tmp_path / "theirs", HOW, silent)


def test_an_interruption_leaves_no_model(federation: tuple[Cohort, State], tmp_path: Path) -> None:
    mine, state = federation

    def stop(what: str, at: int, of: int) -> None:
        if at == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.finetune(model_of(mine, TABLE, state, tmp_path), mine, tmp_path / "own", HOW, stop)
    assert not (tmp_path / "own").exists()


def test_a_class_that_nobody_at_the_site_has_stays_possible() -> None:
    whole = synthetic.cohort(300, classes=3, missing=0.0)
    state = trained([whole], TABLE[:2])
    two = whole.where(whole.labels < 2)
    new = adapted(TABLE[:2], state, two, Fold(), 0, 5, HOW)
    for head in TABLE[:2]:
        rare = head.predict(new, two)[:, 2].mean()
        assert 1e-4 < rare < head.predict(state, two)[:, 2].mean()


def test_a_head_for_which_patients_are_too_few_stays_and_says_so(tmp_path: Path) -> None:
    mine, other = pictures.sites(80, 2)
    image = configured(
        Image(), {"grid": (8, 12, 12), "rounds": 1, "epochs": 1, "segmentation": False}
    )
    state = trained([other], (Logistic(), image))
    few = dataclasses.replace(
        mine, site="mine", pictures=(*mine.pictures[:4], *[None] * (len(mine) - 4))
    )
    assert adapted((image,), state, few, Fold(), 0, 5, HOW)["image"] is state["image"]
    told = finetune.finetune(
        model_of(few, (Logistic(), image), state, tmp_path),
        few,
        tmp_path / "own",
        HOW,
        silent,
        local=False,
    )
    said = {r["head"]: (r["fine_tuning"], r["estimable"]) for r in told["heads"]}
    assert said["image"] == ("as it was: too few labelled patients", False)
    assert said["logistic"][1]


def test_a_study_of_ones_own_is_found_as_the_site_names_it(
    federation: tuple[Cohort, State], tmp_path: Path
) -> None:
    from client.site.site_file import Site

    mine, state = federation
    model = model_of(mine, TABLE[:1], state, tmp_path, study="Kidneys")
    (tmp_path / "own.py").write_text(
        "from common.study.study import Study, Task\nfrom tests import synthetic\n"
        "STUDY = Study('Kidneys', '?', synthetic.schema(), {'now': Task('now')})\n"
    )
    path = str(tmp_path / "own.py")
    assert finetune.named(model, Site("a", tmp_path, ("liver_recurrence", path))) == path
    assert finetune.named(model, Site("a", tmp_path, ("liver_recurrence",))) == "Kidneys"
