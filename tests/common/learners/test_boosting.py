"""Federated boosting against XGBoost itself: same trees as pooled `hist` on the bin indices,
whatever the sites."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.cohort import Cohort, Fold, empty
from common.data.schema import Choice, Label, Number, Schema
from common.errors import UsageError
from common.federated.learner import Head, Plan, fit, hyper_of, identity, local_plan, total
from common.learners import boosting
from common.learners.boosting import Boosting
from common.learners.preprocessing import Preprocessing
from common.trees import model as trees_model
from common.trees.binning import bin_indices
from common.types import State, pack, unpack

PLAN = local_plan(Fold(), 7, 5)
TREES = ("column", "bin", "left", "value", "gain", "hess")


def schema(classes: int = 2, numbers: int = 4) -> Schema:
    """Numbers, a skewed marker, and a choice with three values (two columns)."""
    features = [Number(f"x{j}", "u", -8, 8, "now") for j in range(numbers)]
    features.append(Number("marker", "ng/mL", 0, 1e5, "now", "log"))
    label = Label("y", tuple(f"class {k}" for k in range(classes)))
    return Schema(
        "test", (*features, Choice("place", ("left", "right", "middle"), "now")), label, ("now",)
    )


def table(
    n: int, classes: int = 2, seed: int = 0, missing: float = 0.15, levels: int = 0
) -> tuple[Schema, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Values and labels with main effects and an interaction; `levels` > 0: numbers take only so
    many values."""
    s = schema(classes)
    r = np.random.default_rng(seed)
    x = np.clip(r.normal(size=(n, 6)), -3, 3)
    if levels:
        x = np.clip(np.round(x * levels / 6), -levels / 3, levels / 3)
    x[:, 4] = np.round(np.exp(x[:, 4] + 2), 0 if levels else 1)
    x[:, 5] = r.integers(0, 3, n)
    z = (
        x[:, 0]
        + x[:, 1] * x[:, 2]
        + 0.5 * (x[:, 5] == 1)
        + 0.2 * np.log(x[:, 4])
        + 0.7 * r.normal(size=n)
    )
    y = np.digitize(z, np.quantile(z, np.arange(1, classes) / classes)).astype(np.int64)
    x[r.random(x.shape) < missing] = np.nan
    return s, x, y


def cohorts(
    s: Schema, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], site: np.ndarray[Any, Any]
) -> list[Cohort]:
    """One cohort for each number in `site`; patients keep their ids wherever they are."""
    out = []
    for k in range(int(site.max()) + 1):
        here = np.flatnonzero(site == k)
        out.append(Cohort(f"S{k}", s, tuple(f"p{i:05d}" for i in here), x[here], y[here]))
    return out


def pooled(n: int, classes: int = 2, sites: int = 3, **how: Any) -> list[Cohort]:
    s, x, y = table(n, classes, **how)
    return cohorts(s, x, y, np.arange(n) % sites)


def fitted(learner: Boosting, those: list[Cohort], plan: Plan = PLAN) -> State:
    return fit(learner, fit(Preprocessing(), {}, those, plan), those, plan)


def asked(learner: Boosting, state: State, **changes: Any) -> Plan:
    phase = learner.phase(state["boosting"])
    return dataclasses.replace(
        PLAN, learner="boosting", phase=phase, hyper=hyper_of(learner), **changes
    )


def binned(state: State, those: list[Cohort]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x = np.concatenate([bin_indices(state["preprocessing"], c) for c in those]).astype(np.float64)
    return np.where(x < 0, np.nan, x), np.concatenate([c.labels for c in those])


def design(those: list[Cohort]) -> np.ndarray[Any, Any]:
    return np.concatenate([c.design for c in those])


def json_trees(model: Any) -> list[dict[str, Any]]:
    learner = json.loads(model.save_raw("json"))["learner"]
    out: list[dict[str, Any]] = learner["gradient_booster"]["model"]["trees"]
    return out


def compared(state: State, model: Any) -> int:
    """How many trees of a model trained on bin indices are those of `state`, up to the first gain
    tie within 1e-6."""
    arrays, offsets = state["boosting"], state["preprocessing"]["offsets"]
    groups = arrays["column"].shape[1]
    theirs = json_trees(model)
    assert len(theirs) == int(arrays["finished"]) * groups
    for number, tree in enumerate(theirs):
        t, k = divmod(number, groups)
        heap = {0: 0}
        for i, left in enumerate(tree["left_children"]):
            mine = heap[i]
            column, cut, gain = (arrays[name][t, k, mine] for name in ("column", "bin", "gain"))
            if left < 0:
                assert column == -1, (number, i)
                assert arrays["value"][t, k, mine] == pytest.approx(
                    tree["split_conditions"][i], abs=1e-6
                )
            else:
                split = tree["split_indices"][i]
                bins = int(offsets[split + 1] - offsets[split])
                at = min(int(np.ceil(tree["split_conditions"][i])) - 1, bins)
                if (column, cut, bool(arrays["left"][t, k, mine])) != (
                    split,
                    at,
                    bool(tree["default_left"][i]),
                ):
                    assert gain == pytest.approx(tree["loss_changes"][i], rel=1e-6, abs=1e-6), (
                        number,
                        i,
                    )
                    return number
                assert gain == pytest.approx(tree["loss_changes"][i], rel=1e-5, abs=1e-6)
                heap[left], heap[tree["right_children"][i]] = 2 * mine + 1, 2 * mine + 2
            assert arrays["hess"][t, k, mine] == pytest.approx(
                tree["sum_hessian"][i], rel=1e-6, abs=1e-6
            )
    return len(theirs)


SETTINGS = [
    {},
    {"alpha": 0.7, "lambda_": 0.3},
    {"gamma": 1.5, "depth": 4},
    {"min_child_weight": 6.0, "eta": 0.3},
    {"min_child_weight": 0.0, "depth": 5, "eta": 0.5},
    {"min_child_weight": 0.5, "lambda_": 0.0},
    {"depth": 1, "base_score": 0.2},
]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_same_splits_as_pooled_hist_on_the_bin_indices(
    classes: int, setting: dict[str, Any]
) -> None:
    import xgboost

    learner = Boosting(trees=25, **setting)
    those = pooled(400, classes, seed=len(setting))
    state = fitted(learner, those)
    x, y = binned(state, those)
    model = xgboost.train(
        learner._parameters(those[0].schema, 0), xgboost.DMatrix(x, y, nthread=1), learner.trees
    )
    # a tie may be broken the other way once; on continuous data it is not to be expected early
    assert compared(state, model) >= 20 * (1 if classes == 2 else 3)


def test_same_splits_without_missing_values_and_with_columns_that_are_missing_throughout_or_constant() -> (
    None
):
    import xgboost

    s, x, y = table(300, missing=0)
    x[:, 1], x[:, 2] = np.nan, 1.0
    those = cohorts(s, x, y, np.arange(300) % 4)
    state = fitted(Boosting(), those)
    bins, labels = binned(state, those)
    model = xgboost.train(
        Boosting()._parameters(s, 0), xgboost.DMatrix(bins, labels, nthread=1), 60
    )
    assert compared(state, model) >= 50


@settings(max_examples=12, deadline=None)
@given(
    site=st.lists(st.integers(0, 3), min_size=90, max_size=90),
    classes=st.sampled_from([2, 3]),
    setting=st.sampled_from(
        [{}, {"subsample": 0.6, "colsample_bytree": 0.5}, {"early_stopping": 3, "subsample": 0.8}]
    ),
)
def test_the_trees_are_the_same_bit_for_bit_whatever_the_partition_into_sites(
    site: list[int], classes: int, setting: dict[str, Any]
) -> None:
    s, x, y = table(90, classes, seed=3)
    learner = Boosting(trees=6, eta=0.4, **setting)
    one = fitted(learner, cohorts(s, x, y, np.zeros(90, int)))
    many = fitted(learner, cohorts(s, x, y, np.array(site)))
    assert pack(one["boosting"]) == pack(many["boosting"])


def test_row_sampling_depends_on_seed_tree_and_patient_alone_and_has_the_asked_share() -> None:
    s, x, y = table(3000)
    whole = cohorts(s, x, y, np.zeros(3000, int))[0]
    order = np.random.default_rng(1).permutation(3000)
    other = Cohort(
        "elsewhere", s, tuple(whole.ids[i] for i in order), whole.values[order], whole.labels[order]
    )
    u = boosting._hashed(whole, 7, 2)
    assert np.array_equal(u[order], boosting._hashed(other, 7, 2))
    assert not np.array_equal(u, boosting._hashed(whole, 7, 3))
    assert not np.array_equal(u, boosting._hashed(whole, 8, 2))
    assert (u < 0.3).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 3000))
    # two trees draw independently
    assert np.corrcoef(u, boosting._hashed(whole, 7, 3))[0, 1] == pytest.approx(
        0, abs=4 / np.sqrt(3000)
    )


def test_columns_are_drawn_anew_each_round_and_only_they_are_sent_and_split() -> None:
    learner = Boosting(trees=12, colsample_bytree=0.5)
    those = pooled(200)
    state = fitted(learner, those)
    drawn = [set(learner._cells(state["preprocessing"], PLAN.seed, t).columns) for t in range(12)]
    assert {len(d) for d in drawn} == {3}
    assert set.union(*drawn) == set(range(7))
    for t, columns in enumerate(drawn):
        used = state["boosting"]["column"][t]
        assert set(used[used >= 0]) <= columns


@pytest.mark.parametrize("classes", [2, 3])
def test_the_booster_loads_and_predicts_the_same(classes: int, tmp_path: Path) -> None:
    import xgboost

    learner = Boosting(trees=15, depth=4, eta=0.4)
    those = pooled(300, classes)
    state = fitted(learner, those)
    model = boosting.booster(state, those[0].schema)
    path = tmp_path / "model.json"
    model.save_model(path)
    again = xgboost.Booster(model_file=path)
    names = [c.name for c in those[0].schema.columns]
    assert again.feature_names == names
    # a stranger's rows, some beyond the bounds and some without any value
    strange = np.vstack(
        [design(those), np.full((1, 7), np.nan), np.full((1, 7), 1e6), np.full((1, 7), -1e6)]
    )
    theirs = again.predict(xgboost.DMatrix(strange, feature_names=names)).reshape(len(strange), -1)
    values = np.vstack([c.values for c in those] + [np.full((1, 6), np.nan)])
    mine = learner.predict(
        state,
        Cohort(
            "new", those[0].schema, tuple(map(str, range(301))), values, np.zeros(301, np.int64)
        ),
    )
    assert mine.shape == (301, classes)
    assert np.allclose(mine.sum(axis=1), 1)
    assert np.abs(mine[:, -theirs.shape[1] :] - theirs[:301]).max() < 1e-6
    assert np.isfinite(theirs).all()
    covers = [t["sum_hessian"][0] for t in json_trees(again)[:classes]]
    # the cover is that of all sites: h = 1/4 a patient before the first tree, or 2 p (1 - p)
    assert covers[0] == pytest.approx(300 / 4 if classes == 2 else 300 * 2 * 2 / 9)


def test_a_split_between_known_and_missing_values_survives_the_booster() -> None:
    import xgboost

    s, x, y = table(200, seed=5)
    x[:, 0] = np.where(y == 1, np.nan, x[:, 0])
    those = cohorts(s, x, y, np.arange(200) % 2)
    learner = Boosting(trees=3)
    state = fitted(learner, those)
    arrays, offsets = state["boosting"], state["preprocessing"]["offsets"]
    assert arrays["column"][0, 0, 0] == 0
    edges = offsets[1] - offsets[0]
    assert arrays["bin"][0, 0, 0] == edges
    names = [c.name for c in s.columns]
    theirs = boosting.booster(state, s).predict(xgboost.DMatrix(design(those), feature_names=names))
    assert (
        np.abs(np.concatenate([learner.predict(state, c) for c in those])[:, 1] - theirs).max()
        < 1e-6
    )
    assert ((theirs > 0.5) == (np.concatenate([c.labels for c in those]) == 1)).mean() > 0.9


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning"
)
@pytest.mark.parametrize("classes", [2, 3])
def test_tree_explainer_adds_up_and_explain_sums_the_columns_of_a_choice(classes: int) -> None:
    import shap
    import xgboost

    learner = Boosting(trees=12, depth=3, eta=0.3)
    those = pooled(200, classes)
    state = fitted(learner, those)
    model = boosting.booster(state, those[0].schema)
    x = design(those)
    matrix = xgboost.DMatrix(x, feature_names=model.feature_names)
    margin = model.predict(matrix, output_margin=True)
    explainer = shap.TreeExplainer(model)
    values = explainer.shap_values(x)
    assert np.allclose(values.sum(axis=1) + explainer.expected_value, margin, atol=1e-4)
    explained = np.concatenate([learner.explain(state, c) for c in those])
    assert explained.shape == (200, 6, 1 if classes == 2 else 3)
    by_column = values.reshape(200, 7, -1)
    assert np.allclose(explained[:, :5], by_column[:, :5], atol=1e-4)
    assert np.allclose(explained[:, 5], by_column[:, 5:].sum(axis=1), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_early_stopping_keeps_the_rounds_that_pooled_early_stopping_keeps(classes: int) -> None:
    import xgboost

    learner = Boosting(trees=80, depth=4, eta=0.5, early_stopping=4, validation=0.3)
    # few values a column, so that every bin is held by some training row and cuts are the same
    those = pooled(500, classes, levels=5, seed=2)
    state = fitted(learner, those)
    x, y = binned(state, those)
    held = np.concatenate([boosting._hashed(c, PLAN.seed, -1) < 0.3 for c in those])
    assert [len(np.unique(c)) for c in x[~held].T] == [len(np.unique(c)) for c in x.T]
    watched = xgboost.DMatrix(x[held], y[held], nthread=1)
    log: dict[str, Any] = {}
    model = xgboost.train(
        learner._parameters(those[0].schema, 0),
        xgboost.DMatrix(x[~held], y[~held], nthread=1),
        80,
        evals=[(watched, "v")],
        early_stopping_rounds=4,
        evals_result=log,
        verbose_eval=False,
    )
    losses = next(iter(log["v"].values()))
    assert 1 <= model.best_iteration < 75
    assert (
        int(state["boosting"]["finished"])
        == model.best_iteration + 1
        == len(state["boosting"]["column"])
    )
    assert np.allclose(state["boosting"]["losses"], losses, atol=1e-5)
    assert compared(state, model[: model.best_iteration + 1]) == (model.best_iteration + 1) * (
        1 if classes == 2 else 3
    )


@pytest.mark.parametrize(
    ("setting", "most"),
    [({}, 10 * 3), ({"early_stopping": 10}, 10 * 3 + 1), ({"depth": 2}, 20), ({"gamma": 1e6}, 10)],
)
@pytest.mark.parametrize("classes", [2, 3])
def test_exchanges_are_rounds_times_depth_and_one_to_measure_the_last_round(
    setting: dict[str, Any], most: int, classes: int
) -> None:
    learner = Boosting(trees=10, **setting)
    those = pooled(250, classes)
    state = fit(Preprocessing(), {}, those, PLAN)
    fit(learner, state, those, PLAN, limit=most)
    with pytest.raises(UsageError, match="R04"):
        fit(learner, state, those, PLAN, limit=most - 1)


def test_resuming_from_packed_arrays_on_other_machines_gives_the_same_model() -> None:
    learner = Boosting(trees=8, early_stopping=5, subsample=0.7)
    those = pooled(150, 3)
    whole = fitted(learner, those)
    state = fit(Preprocessing(), {}, those, PLAN)
    state["boosting"] = learner.start(those[0].schema, PLAN.seed)
    for _ in range(200):
        those = [dataclasses.replace(c) for c in those]  # nothing remembered
        plan = asked(learner, state)
        sums = total([learner.contribute({Fold(): state}, c, plan) for c in those])
        step = learner.apply({Fold(): state}, sums, plan)
        again = learner.apply({Fold(): state}, sums, plan)
        assert pack(step.arrays) == pack(again.arrays)
        assert step.done == again.done
        state = {**state, "boosting": unpack(pack(step.arrays))}
        if step.done:
            break
    assert step.done
    assert pack(state["boosting"]) == pack(whole["boosting"])


def test_what_a_site_remembers_of_one_run_never_answers_another() -> None:
    those = pooled(150)
    first, second = Boosting(trees=5), Boosting(trees=5, eta=0.7, base_score=0.3)
    fresh = fitted(second, [dataclasses.replace(c) for c in those])
    a = fit(Preprocessing(), {}, those, PLAN)
    wide = fit(Preprocessing(bins=4), {}, those, PLAN)
    fit(first, wide, those, PLAN)
    kept = fit(first, a, those, PLAN)
    assert pack(fit(second, a, those, PLAN)["boosting"]) == pack(fresh["boosting"])
    # going back to an earlier and to a changed state of the same length
    for rounds in (5, 2, 4):
        arrays = {**kept["boosting"], **trees_model.between(kept["boosting"], 0, rounds - 1)}
        arrays = {
            **arrays,
            **{k: np.concatenate([arrays[k], v]) for k, v in trees_model.blank(1, 3).items()},
            "finished": np.array(rounds - 1),
        }
        for value in (arrays["value"], arrays["value"] * 2):
            state = {**a, "boosting": {**arrays, "value": value}}
            mine = first.contribute({Fold(): state}, those[0], asked(first, state))
            clean = first.contribute(
                {Fold(): state}, dataclasses.replace(those[0]), asked(first, state)
            )
            assert pack(mine.sums) == pack(clean.sums)


@pytest.mark.parametrize("classes", [2, 3])
def test_nobody_contributes_zeros_of_the_same_shape_at_every_exchange(classes: int) -> None:
    learner = Boosting(trees=3, early_stopping=3, colsample_bytree=0.7)
    those = pooled(120, classes)
    state = fit(Preprocessing(), {}, those, PLAN)
    state["boosting"] = learner.start(those[0].schema, PLAN.seed)
    phases = set()
    while True:
        plan = asked(learner, state)
        phases.add(plan.phase)
        zero = identity(learner, {Fold(): state}, those[0].schema, plan)
        sums = total([learner.contribute({Fold(): state}, c, plan) for c in those])
        assert {k: (v.shape, v.dtype) for k, v in zero.sums.items()} == {
            k: (v.shape, v.dtype) for k, v in sums.sums.items()
        }
        assert all(v.dtype == np.float64 and not v.any() for v in zero.sums.values())
        assert zero.cases == 0
        step = learner.apply({Fold(): state}, sums, plan)
        state = {**state, "boosting": step.arrays}
        if step.done:
            break
    assert phases == set(learner.phases)


def test_gradient_norms_stay_within_the_bounds_of_the_sensitivity() -> None:
    q = np.linspace(0, 1, 100_001)
    assert (q**2 + (q * (1 - q)) ** 2).max() <= 1
    assert (q**2 + 4 * (q * (1 - q)) ** 2 - q).max() <= 1e-12


@settings(max_examples=25, deadline=None)
@given(
    classes=st.sampled_from([2, 3, 4]),
    steps=st.integers(0, 14),
    who=st.integers(0, 59),
    label=st.integers(0, 3),
    scale=st.sampled_from([1.0, 30.0, 1000.0]),
    stopping=st.sampled_from([0, 50]),
)
def test_a_patient_more_changes_the_sums_by_no_more_than_the_sensitivity(
    classes: int, steps: int, who: int, label: int, scale: float, stopping: int
) -> None:
    learner = Boosting(trees=5, eta=0.5, early_stopping=stopping, colsample_bytree=0.8)
    s, x, y = table(60, classes)
    cohort = cohorts(s, x, y, np.zeros(60, int))[0]
    state = fit(Preprocessing(), {}, [cohort], PLAN)
    state["boosting"] = learner.start(s, PLAN.seed)
    for _ in range(steps):
        plan = asked(learner, state)
        state = {
            **state,
            "boosting": learner.apply(
                {Fold(): state}, learner.contribute({Fold(): state}, cohort, plan), plan
            ).arrays,
        }
    # margins far out: the worst case of every bound
    state["boosting"] = {
        **state["boosting"],
        "value": state["boosting"]["value"] * np.float32(scale),
    }
    plan = asked(learner, state)
    labels = cohort.labels.copy()
    labels[who] = label % classes
    more = dataclasses.replace(cohort, labels=labels)
    less = more.where(np.arange(60) != who)
    a, b = (
        learner.contribute({Fold(): state}, more, plan).sums,
        learner.contribute({Fold(): state}, less, plan).sums,
    )
    moved = np.sqrt(sum(((a[k] - b[k]) ** 2).sum() for k in a))
    bound = learner.phases[plan.phase].sensitivity(s)
    assert bound is not None
    assert moved <= bound


def test_the_sensitivity_is_reached_by_a_surely_wrong_prediction() -> None:
    learner = Boosting(trees=2)
    cohort = pooled(40, 3, sites=1)[0]
    state = fit(Preprocessing(), {}, [cohort], PLAN)
    arrays = learner.start(cohort.schema, 0)
    state["boosting"] = {**arrays, "base": np.array([40, 0, 0], np.float32)}
    plan = asked(learner, state)
    one = cohort.where((cohort.labels == 1) & (np.cumsum(cohort.labels == 1) == 1))
    moved = np.sqrt(
        sum((v**2).sum() for v in learner.contribute({Fold(): state}, one, plan).sums.values())
    )
    assert moved == pytest.approx(learner.phases[plan.phase].sensitivity(cohort.schema), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("stopping", [0, 3])
@pytest.mark.parametrize("base", [0.5, 0.0])
@pytest.mark.parametrize("kind", ["nobody", "one row", "one class", "nothing known"])
def test_poor_tables_give_finite_models(
    kind: str, base: float, stopping: int, classes: int
) -> None:
    learner = Boosting(trees=30, early_stopping=stopping, base_score=base)
    s, x, y = table(60, classes)
    keep = {"nobody": 0, "one row": 1}.get(kind, 60)
    x, y = x[:keep], y[:keep]
    if kind == "one class":
        y = np.ones_like(y)
    if kind == "nothing known":
        x = np.full_like(x, np.nan)
    those = [Cohort("A", s, tuple(f"p{i}" for i in range(keep)), x, y), empty(s, "B")]
    probe = Cohort(
        "probe",
        s,
        ("a", "b"),
        np.array([[np.nan] * 6, [0, 1, 2, 3, 40, 1.0]]),
        np.zeros(2, np.int64),
    )
    for state in (fitted(learner, those), learner.alone(those, Fold(), 7, 5)):
        p = learner.predict(state, probe)
        assert p.shape == (2, classes)
        assert np.isfinite(p).all()
        assert np.allclose(p.sum(axis=1), 1)
        assert np.isfinite(learner.explain(state, probe)).all()
        assert learner.predict(state, empty(s)).shape == (0, classes)
        assert learner.explain(state, empty(s)).shape == (0, 6, 1 if classes == 2 else 3)
        if kind == "one class":
            assert (p[:, 1] > 0.75).all()
            assert (p < 1).all()
            assert np.ptp(p, axis=0).max() < 1e-6


@pytest.mark.parametrize("classes", [2, 3])
def test_a_base_score_of_zero_starts_at_the_class_shares(classes: int) -> None:
    import xgboost

    s, x, y = table(200, classes)
    y = np.where(np.arange(200) % 3 == 0, y, 0)
    those = cohorts(s, x, y, np.arange(200) % 2)
    learner = Boosting(trees=4, base_score=0.0)
    state = fitted(learner, those)
    start = trees_model.probabilities(state["boosting"]["base"][None])[0]
    shares = np.bincount(y, minlength=classes) / 200
    assert np.allclose(start, shares[1:] if classes == 2 else shares, atol=1e-6)
    bins, labels = binned(state, those)
    model = xgboost.train(learner._parameters(s, 0), xgboost.DMatrix(bins, labels, nthread=1), 4)
    theirs = model.predict(xgboost.DMatrix(bins)).reshape(200, -1)
    mine = np.concatenate([learner.predict(state, c) for c in those])
    assert np.abs(mine[:, -theirs.shape[1] :] - theirs).max() < 1e-5


@pytest.mark.parametrize("stopping", [0, 3])
def test_alone_is_ordinary_xgboost_on_the_rows_put_together(stopping: int) -> None:
    import xgboost

    those, fold = pooled(300), Fold(parts=(2,))
    learner = Boosting(trees=20, early_stopping=stopping)
    state = learner.alone(those, fold, 7, 5)
    rows = [c.train(fold, 7, 5) for c in those]
    x, y = design(rows), np.concatenate([c.labels for c in rows])
    model = boosting.booster(state, those[0].schema)
    assert model.feature_names == [c.name for c in those[0].schema.columns]
    p = learner.predict(state, those[0])
    assert np.allclose(
        p[:, 1], model.predict(xgboost.DMatrix(those[0].design, feature_names=model.feature_names))
    )
    explained = learner.explain(state, those[0]).sum(axis=(1, 2))
    margin = model.predict(
        xgboost.DMatrix(those[0].design, feature_names=model.feature_names), output_margin=True
    )
    assert np.ptp(margin - explained) < 1e-4
    if not stopping:
        parameters = {
            "objective": "binary:logistic",
            "max_depth": 3,
            "eta": 0.1,
            "tree_method": "hist",
            "base_score": 0.5,
            "nthread": 1,
        }
        plain = xgboost.train(parameters, xgboost.DMatrix(x, y), 20)
        assert np.array_equal(
            plain.predict(xgboost.DMatrix(those[0].design)), p[:, 1].astype(np.float32)
        )
    else:
        assert len(json_trees(model)) <= 20


def test_test_rows_have_no_influence() -> None:
    those, fold = pooled(200), Fold(parts=(1,))
    poisoned = []
    for c in those:
        out = np.isin(c.parts(7, 5), fold.parts)
        poisoned.append(
            dataclasses.replace(
                c, values=np.where(out[:, None], 2.0, c.values), labels=np.where(out, 1, c.labels)
            )
        )
    plan = local_plan(fold, 7, 5)
    learner = Boosting(trees=10)
    assert pack(fitted(learner, those, plan)["boosting"]) == pack(
        fitted(learner, poisoned, plan)["boosting"]
    )


def test_hyperparameters_out_of_range_are_all_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Boosting(trees=0, eta=-1.0, subsample=1.5)
    assert caught.value.code == "C01"
    assert len(caught.value.faults) == 3


def test_it_is_a_head_and_does_not_import_xgboost_before_it_is_needed() -> None:
    assert isinstance(boosting.LEARNER, Head)
    code = "import sys, common.learners.boosting; assert 'xgboost' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
