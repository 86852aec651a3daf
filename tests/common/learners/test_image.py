"""The image network: what a site counts with, class weights and their correction, that it learns,
what it starts from."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.station.gaussian_noise import noised
from common.data.cohort import UNKNOWN, Cohort, Fold, empty
from common.data.picture import EXPERT, PREDICTED, WHOLE, InMemory
from common.errors import RefusedError, UsageError
from common.federated.accounting import accountable
from common.federated.learner import Averaged, Plan, configured, fit, local_plan, total
from common.learners.autoencoder import Autoencoder
from common.learners.image import CERTAIN, Image, class_weights, prior, with_images
from common.learners.segmentation import Segmentation
from common.networks import architectures
from common.networks.classifier_files import load as load_classifier
from common.privacy.mechanism import Privacy
from common.privacy.random import repeatable
from common.types import Arrays, State, digest
from tests import synthetic
from tests.pictures import imaging, schema, sites, with_pictures

PLAN = local_plan(Fold(), 3, 5)
SMALL = configured(Image(), {"grid": (4, 8, 8), "rounds": 2, "epochs": 1, "segmentation": False})


def counted(learner: Image, those: list[Cohort], state: State | None = None) -> State:
    """The state before the first round of training."""
    begun = {**(state or {}), "image": learner.start(those[0].schema, 1)}
    plan = dataclasses.replace(PLAN, phase="count")
    return {
        **begun,
        "image": learner.apply(
            {Fold(): begun},
            total([learner.contribute({Fold(): begun}, c, plan) for c in those]),
            plan,
        ).arrays,
    }


def train_plan(**how: Any) -> Plan:
    return dataclasses.replace(PLAN, phase="train", **how)


def auc(labels: Any, scores: Any) -> float:
    events, others = scores[labels == 1], scores[labels == 0]
    return float(
        ((events[:, None] > others).sum() + 0.5 * (events[:, None] == others).sum())
        / (len(events) * len(others))
    )


def test_it_learns_what_only_the_picture_tells() -> None:
    learner = configured(
        Image(), {"grid": (8, 12, 12), "rounds": 4, "epochs": 3, "segmentation": False}
    )
    state = fit(learner, {}, sites(90, 3, seed=1), PLAN)
    (unseen,) = sites(120, 1, seed=2)
    assert auc(unseen.labels, learner.predict(state, unseen)[:, 1]) > 0.9
    relabelled = [
        dataclasses.replace(c, labels=np.random.default_rng(0).permutation(c.labels))
        for c in sites(90, 3, seed=1)
    ]
    null = fit(configured(learner, {"rounds": 2}), {}, relabelled, PLAN)
    assert 0.2 < auc(unseen.labels, learner.predict(null, unseen)[:, 1]) < 0.8


def test_three_classes_and_a_sequence_missing_at_a_site() -> None:
    learner = configured(
        Image(), {"grid": (8, 12, 12), "rounds": 4, "epochs": 3, "segmentation": False}
    )
    those = sites(120, 3, seed=1, classes=3)
    those[1] = with_pictures(those[1], absent=(1,), seed=1)
    state = fit(learner, {}, those, PLAN)
    (unseen,) = sites(90, 1, seed=2, classes=3)
    p = learner.predict(state, unseen)
    assert np.mean(p.argmax(axis=1) == unseen.labels) > 0.7
    np.testing.assert_allclose(
        learner.logits(state, unseen), np.log(p[:, 1:] / p[:, :1]), atol=1e-6
    )


def test_log_odds_are_standardised_over_the_training_cases_of_all_sites() -> None:
    those = sites(60, 3, seed=1, share=0.8, unknown=0.2)
    state = fit(SMALL, {}, those, PLAN)
    rows = [with_images(c.train(PLAN.fold, PLAN.seed, PLAN.parts)) for c in those]
    raw = np.concatenate([SMALL.logits(state, r) for r in rows])
    np.testing.assert_allclose(state["image"]["mean"], raw.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(state["image"]["spread"], raw.std(axis=0), rtol=1e-6)
    z = np.concatenate([SMALL.standardised(state, r) for r in rows])
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-6)


def test_a_site_counts_with_its_labelled_cases_that_have_an_image() -> None:
    those = sites(60, 2, seed=1, share=0.6, unknown=0.2)
    state = counted(SMALL, those)
    held = [int((c.imaged & (c.labels != UNKNOWN)).sum()) for c in those]
    assert all(0 < n < len(c) for n, c in zip(held, those, strict=True))
    assert state["image"]["counts"].sum() == sum(held)
    given = [SMALL.contribute({Fold(): state}, c, train_plan()) for c in those]
    assert [c.cases for c in given] == held
    new = SMALL.apply({Fold(): state}, total(given), train_plan()).arrays
    for key, value in SMALL.parameters(new).items():
        own = [c.sums[key] / c.cases for c in given]
        np.testing.assert_allclose(value, np.average(own, axis=0, weights=held), atol=1e-6)
        assert value.dtype == np.float32
    assert isinstance(SMALL, Averaged)
    assert any(
        np.abs(given[0].sums[k] / held[0] - v).max() > 1e-3
        for k, v in SMALL.parameters(state["image"]).items()
    )


def test_a_site_without_images_adds_nothing_and_still_gets_the_prior() -> None:
    those = sites(60, 2, seed=1)
    table = dataclasses.replace(those[1], pictures=(), modalities=frozenset({"table"}))
    state = counted(SMALL, those)
    nothing = SMALL.contribute({Fold(): state}, table, train_plan())
    zero = SMALL.contribute({Fold(): state}, empty(those[0].schema), train_plan())
    assert nothing.cases == 0
    assert digest({**nothing.sums, **nothing.tally}) == digest({**zero.sums, **zero.tally})
    counts = state["image"]["counts"]
    np.testing.assert_allclose(SMALL.predict(state, table), np.tile(prior(counts), (len(table), 1)))
    half = dataclasses.replace(
        those[0], pictures=tuple(p if i % 2 else None for i, p in enumerate(those[0].pictures))
    )
    mixed = SMALL.predict(state, half)
    np.testing.assert_allclose(
        mixed[~half.imaged], np.tile(prior(counts), ((~half.imaged).sum(), 1))
    )
    np.testing.assert_allclose(mixed[half.imaged], SMALL.predict(state, those[0])[half.imaged])


def test_where_nobody_holds_an_image_it_is_done_and_says_nothing() -> None:
    those = [dataclasses.replace(c, pictures=()) for c in sites(20, 2, seed=1)]
    state = fit(SMALL, {}, those, PLAN)
    assert int(state["image"]["round"]) == 0
    np.testing.assert_allclose(SMALL.predict(state, those[0]), 0.5)


def test_class_weights_are_inverse_to_federated_counts_and_capped() -> None:
    np.testing.assert_allclose(class_weights(np.array([60.0, 20.0]), 10), [2 / 3, 2])
    capped = class_weights(np.array([990.0, 10.0]), 5)
    assert capped[1] / capped[0] == pytest.approx(5)
    assert (capped * [990, 10]).sum() == pytest.approx(1000)
    np.testing.assert_array_equal(class_weights(np.array([5.0, 0.0, 5.0]), 5), [1, 1, 1])
    np.testing.assert_array_equal(class_weights(np.zeros(2), 5), [1, 1])
    np.testing.assert_allclose(class_weights(np.array([60.0, 20.0]), 1), [1, 1])


def test_predictions_are_corrected_for_the_class_weights() -> None:
    """Where pictures tell nothing, the mean prediction is the prevalence, not one half."""
    r = np.random.default_rng(0)
    those = []
    for site in sites(160, 2, seed=1, signal=0.0):
        those.append(
            dataclasses.replace(site, labels=(r.random(len(site)) < 0.15).astype(np.int64))
        )
    learner = configured(
        Image(),
        {
            "grid": (4, 8, 8),
            "rounds": 3,
            "epochs": 1,
            "segmentation": False,
            "weight_cap": 10,
            "learning_rate": 0.001,
        },
    )
    state = fit(learner, {}, those, PLAN)
    share = float(np.mean(np.concatenate([c.labels for c in those])))
    assert state["image"]["weights"][1] / state["image"]["weights"][0] > 3
    corrected = np.mean([learner.predict(state, c)[:, 1].mean() for c in those])
    uncorrected = {**state, "image": {**state["image"], "weights": np.ones(2)}}
    assert abs(corrected - share) < 0.08
    assert np.mean([learner.predict(uncorrected, c)[:, 1].mean() for c in those]) > 0.3


def test_a_repeated_plan_gives_the_same_bits_and_rounds_sites_and_seeds_draw_apart() -> None:
    (site, *_) = those = sites(40, 2, seed=1)
    state = counted(SMALL, those)
    first = digest(SMALL.contribute({Fold(): state}, site, train_plan()).sums)
    assert (
        digest(SMALL.contribute({Fold(): state}, dataclasses.replace(site), train_plan()).sums)
        == first
    )
    later = {**state, "image": {**state["image"], "round": np.array(1)}}
    elsewhere = dataclasses.replace(site, site="elsewhere")
    others = [
        (state, elsewhere, train_plan()),
        (later, site, train_plan()),
        (state, site, train_plan(seed=4)),
    ]
    assert (
        len(
            {first, *(digest(SMALL.contribute({Fold(): s}, c, plan).sums) for s, c, plan in others)}
        )
        == 4
    )


def test_the_start_depends_on_the_seed_alone() -> None:
    s = schema()
    assert digest(SMALL.start(s, 1)) == digest(SMALL.start(s, 1)) != digest(SMALL.start(s, 2))
    with pytest.raises(UsageError, match="declares none"):
        SMALL.start(synthetic.schema(), 1)


@pytest.mark.parametrize("fold", [Fold(parts=(1,)), Fold(("S1",))], ids=lambda f: f.key)
def test_pictures_outside_the_training_set_change_nothing(fold: Fold) -> None:
    """Test cases, held-out sites, and cases of unknown label, labelled or not: their pictures are
    exchanged for others."""
    those = sites(60, 3, seed=1, unknown=0.2)
    plan = local_plan(fold, PLAN.seed, PLAN.parts)
    poisoned = []
    for c in those:
        kept = set(c.train(fold, plan.seed, plan.parts).ids)
        other = with_pictures(c, seed=99)
        pictures = tuple(
            p if i in kept else q for i, p, q in zip(c.ids, c.pictures, other.pictures, strict=True)
        )
        assert pictures != c.pictures
        poisoned.append(dataclasses.replace(c, pictures=pictures))
    assert digest(fit(SMALL, {}, those, plan)["image"]) == digest(
        fit(SMALL, {}, poisoned, plan)["image"]
    )
    assert digest(fit(SMALL, {}, those, PLAN)["image"]) != digest(
        fit(SMALL, {}, poisoned, PLAN)["image"]
    )


def test_regions_come_from_the_segmentation_where_no_expert_outlined_any() -> None:
    those = sites(60, 2, seed=1, masked=0.5)
    segmentation = configured(Segmentation(), {"grid": (4, 8, 8), "widths": (4, 8), "rounds": 2})
    state = fit(segmentation, {}, those, PLAN)
    state = {**state, "segmentation": {**state["segmentation"]}}
    learner = dataclasses.replace(SMALL, segmentation=True)
    assert learner.needs == ("segmentation",)
    bare = [i for i, p in enumerate(those[0].pictures) if p is not None and p.mask is None]
    state = counted(learner, those, state)
    sources = learner.crops(state, those[0]).sources
    assert {sources[i] for i in range(len(sources)) if i not in bare} == {EXPERT}
    assert PREDICTED in {sources[i] for i in bare} <= {PREDICTED, WHOLE}
    without = {k: v for k, v in state.items() if k != "segmentation"}
    assert {learner.crops(without, those[0]).sources[i] for i in bare} == {WHOLE}
    assert digest(learner.contribute({Fold(): state}, those[0], train_plan()).sums) != digest(
        learner.contribute({Fold(): without}, those[0], train_plan()).sums
    )


def test_a_new_segmentation_gives_new_logits() -> None:
    """What is remembered is told apart by all that it depends on."""
    those = sites(40, 1, seed=1, masked=0.5)
    state = counted(SMALL, those)
    state["image"]["w/head.weight"] = (
        np.random.default_rng(0)
        .normal(size=state["image"]["w/head.weight"].shape)
        .astype(np.float32)
    )
    states = [
        fit(
            configured(Segmentation(), {"grid": (4, 8, 8), "widths": (4, 8), "rounds": r}),
            {},
            those,
            PLAN,
        )
        for r in (1, 3)
    ]
    found = [SMALL.logits({**s, **state}, those[0]) for s in (*states, {})]
    assert len({f.tobytes() for f in found}) == 3
    assert np.isfinite(found).all()


def test_the_encoder_may_start_where_the_autoencoders_is() -> None:
    those = sites(30, 2, seed=1)
    learner = dataclasses.replace(SMALL, initial="autoencoder")
    assert learner.needs == ("autoencoder",)
    auto = fit(
        configured(Autoencoder(), {"grid": (4, 8, 8), "rounds": 1, "epochs": 1, "dimensions": 4}),
        {},
        those,
        PLAN,
    )
    state = counted(learner, those, auto)
    trunk = [k for k in state["image"] if k.startswith("w/trunk.")]
    assert len(trunk) > 10
    for key in trunk:
        np.testing.assert_array_equal(state["image"][key], auto["autoencoder"][key])
    assert any((state["image"][k] != counted(SMALL, those)["image"][k]).any() for k in trunk)


def test_alone_fits_what_it_needs_too() -> None:
    those = sites(40, 2, seed=1, masked=0.5)
    learner = configured(
        Image(), {"grid": (4, 8, 8), "rounds": 1, "epochs": 1, "initial": "autoencoder"}
    )
    ready = fit(
        configured(Segmentation(), {"grid": (4, 8, 8), "widths": (4, 8), "rounds": 1, "epochs": 1}),
        {},
        those[:1],
        PLAN,
    )
    ready |= fit(
        configured(Autoencoder(), {"grid": (4, 8, 8), "rounds": 1, "epochs": 1}),
        {},
        those[:1],
        PLAN,
    )
    state = learner.alone(those, Fold(("S1",), (0,)), PLAN.seed, PLAN.parts, ready=ready)
    kept = those[0].train(Fold(parts=(0,)), PLAN.seed, PLAN.parts)
    assert state["image"]["counts"].sum() == len(kept)
    assert learner.predict(state, those[1]).shape == (len(those[1]), 2)


# ---- pretrained parameters -----------------------------------------------------------------------


def saved(path: Path, arrays: Arrays) -> str:
    np.savez(path, **dict(arrays))  # type: ignore[arg-type]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(channels: int = 2, classes: int = 2, seed: int = 7) -> Arrays:
    made = architectures.ClassifierNetwork(load_classifier("compact3d"), channels, classes)
    architectures.draw(made, seed, last=True)
    return architectures.parameters(made)


def test_pretrained_parameters_are_taken_from_a_file_with_the_declared_hash(tmp_path: Path) -> None:
    file, given = tmp_path / "w.npz", weights()
    learner = dataclasses.replace(SMALL, pretrained=str(file), pretrained_sha256=saved(file, given))
    start = learner.start(schema(), 1)
    assert all((start[f"w/{k}"] == v).all() for k, v in given.items())
    torch.save(
        {"state_dict": {k: torch.from_numpy(v) for k, v in given.items()}}, tmp_path / "w.pt"
    )
    sha = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    again = dataclasses.replace(
        SMALL, pretrained=str(tmp_path / "w.pt"), pretrained_sha256=sha
    ).start(schema(), 1)
    assert digest(again) == digest(start)


def test_a_first_layer_for_other_channels_is_spread_and_a_last_layer_for_other_classes_left(
    tmp_path: Path,
) -> None:
    file, given = tmp_path / "w.npz", weights(channels=4, classes=5)
    learner = dataclasses.replace(SMALL, pretrained=str(file), pretrained_sha256=saved(file, given))
    start = learner.start(schema(), 1)
    np.testing.assert_allclose(
        start["w/trunk.stem.weight"].sum(axis=1), given["trunk.stem.weight"].sum(axis=1), atol=1e-5
    )
    assert not start["w/head.weight"].any()
    np.testing.assert_array_equal(
        start["w/trunk.deep.first.weight"], given["trunk.deep.first.weight"]
    )


def test_wrong_pretrained_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "w.npz"
    sha = saved(file, weights())

    def refused(match: str, path: Path = file, hash_: str = sha) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            dataclasses.replace(SMALL, pretrained=str(path), pretrained_sha256=hash_).start(
                schema(), 1
            )
        assert caught.value.code == "C01"

    refused("declared is 0000", hash_="0" * 64)
    refused("cannot be read", path=tmp_path / "none.npz")
    (tmp_path / "text.pt").write_text("hello")
    refused("neither an .npz", tmp_path / "text.pt", hashlib.sha256(b"hello").hexdigest())
    torch.save({"a": Path}, tmp_path / "code.pt")
    refused(
        "more than tensors",
        tmp_path / "code.pt",
        hashlib.sha256((tmp_path / "code.pt").read_bytes()).hexdigest(),
    )
    other = tmp_path / "other.npz"
    refused("does not fit the network", other, saved(other, {"conv.weight": np.zeros((2, 2))}))
    wild = weights()
    wild["trunk.stem.weight"][0] = np.nan
    refused("not finite", other, saved(other, wild))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"network": "resnet"}, "network: one of"),
        ({"initial": "imagenet"}, "initial: one of"),
        ({"grid": (4, 8)}, "grid"),
        ({"grid": (2, 8, 8)}, "grid"),
        ({"network": "efficientnet_b3", "grid": (16, 8, 8)}, "24 x 24"),
        (
            {"network": "efficientnet_b3", "initial": "autoencoder", "grid": (4, 32, 32)},
            "compact3d",
        ),
        ({"pretrained": "x.pt"}, "pretrained_sha256"),
        ({"pretrained_sha256": "0" * 64}, "pretrained_sha256"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is out of range"),
        ({"weight_cap": 0.5}, "weight_cap >= 1"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(how: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        configured(Image(), how)


def test_the_original_studys_network_trains_and_predicts() -> None:
    learner = configured(
        Image(),
        {
            "network": "efficientnet_b3",
            "grid": (4, 24, 24),
            "rounds": 1,
            "epochs": 1,
            "segmentation": False,
        },
    )
    (site,) = those = sites(8, 1, imaging(1, crops=1), seed=1)
    state = fit(learner, {}, those, PLAN)
    p = SMALL.predict(state, site)  # the arrays tell which network it is
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert np.ptp(p[:, 0]) > 0


def test_what_is_remembered_of_a_cohort_is_not_another_cohorts() -> None:
    (site,) = those = sites(20, 1, seed=1)
    state = counted(SMALL, those)
    state["image"]["w/head.weight"] = (
        np.random.default_rng(0)
        .normal(size=state["image"]["w/head.weight"].shape)
        .astype(np.float32)
    )
    before = SMALL.logits(state, site)
    order = np.random.default_rng(0).permutation(len(site))
    mixed = dataclasses.replace(
        site,
        ids=tuple(site.ids[i] for i in order),
        values=site.values[order],
        labels=site.labels[order],
        pictures=tuple(site.pictures[i] for i in order),
        survival=None,
    )
    np.testing.assert_array_equal(SMALL.logits(state, mixed), before[order])
    fresh = tuple(dataclasses.replace(p, kept=InMemory()) for p in site.pictures if p)
    np.testing.assert_array_equal(
        SMALL.logits(state, dataclasses.replace(site, pictures=fresh)), before
    )


# ---- with noise ----------------------------------------------------------------------------------


def test_a_fit_with_noise_in_every_phase_ends_and_predicts() -> None:
    """Noise of a hundred patients: counts and squares come out below 0."""
    those, privacy = sites(24, 2, seed=1), Privacy(20.0)
    state: State = {"image": SMALL.start(those[0].schema, 1)}
    phases = []
    with repeatable(3, "image"):
        while len(phases) < 10:
            plan = dataclasses.replace(PLAN, phase=SMALL.phase(state["image"]), privacy=privacy)
            bound = SMALL.phases[plan.phase].sensitivity(those[0].schema)
            assert bound is not None
            step = SMALL.apply(
                {Fold(): state},
                total(
                    [
                        noised(SMALL.contribute({Fold(): state}, c, plan), bound, privacy)
                        for c in those
                    ]
                ),
                plan,
            )
            state, phases = {"image": step.arrays}, [*phases, plan.phase]
            if step.done:
                break
    assert phases == ["count", "train", "train", "spread"]
    assert {p: phases.count(p) for p in phases} == {
        name: phase.exchanges for name, phase in SMALL.phases.items()
    }
    np.testing.assert_allclose(SMALL.predict(state, those[0]).sum(axis=1), 1)
    assert np.isfinite(SMALL.standardised(state, those[0])).all()
    assert accountable(SMALL)


def test_class_weights_of_another_shape_are_refused_before_a_patient_is_looked_at() -> None:
    (site,) = those = sites(20, 1, seed=1)
    state = counted(SMALL, those)
    state["image"]["weights"] = np.ones(1)
    for held in (site, empty(site.schema)):
        with pytest.raises(RefusedError, match="class weights"):
            SMALL.contribute({Fold(): state}, held, train_plan(privacy=Privacy(1.0)))


def test_no_log_odds_move_mean_and_spread_further_than_certain() -> None:
    (site,) = those = sites(20, 1, seed=1)
    state = counted(SMALL, those)
    state["image"]["w/head.bias"] = np.array([-1e30, 1e30], np.float32)
    plan = dataclasses.replace(PLAN, phase="spread")
    got = SMALL.contribute({Fold(): state}, site, plan)
    np.testing.assert_allclose(got.sums["sum"], len(site) * CERTAIN)
    bound = SMALL.phases[plan.phase].sensitivity(site.schema)
    assert isinstance(bound, float)
    assert np.hypot(CERTAIN, CERTAIN**2) <= bound
