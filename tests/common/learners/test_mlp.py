"""A network trained by federated averaging: what is sent, that a repeat is the same bits, and that
it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.cohort import Cohort, Fold
from common.federated.learner import Head, configured, fit, hyper_of, load, local_plan
from common.learners.mlp import Perceptron
from common.learners.preprocessing import Preprocessing, standardise
from common.networks.training import Schedule, Table, Trained, cross_entropy, learn
from common.types import Arrays, State, digest, pack, unpack
from tests.synthetic import cohort, sites

PLAN = local_plan(Fold(), 3, 5)


def prepared(learner: Perceptron, those: list[Cohort]) -> State:
    return {
        **fit(Preprocessing(), {}, those, PLAN),
        learner.name: learner.start(those[0].schema, 1),
    }


def test_the_start_is_torchs_default_and_depends_on_the_seed_alone() -> None:
    learner, s = Perceptron(hidden=(16, 8)), cohort(1).schema
    arrays = learner.start(s, 1)
    assert {k: v.shape for k, v in learner.parameters(arrays).items()} == {
        "w/0.weight": (16, 6), "w/0.bias": (16,), "w/2.weight": (8, 16), "w/2.bias": (8,),
        "w/4.weight": (2, 8), "w/4.bias": (2,),
    }  # fmt: skip
    for key, fan_in in (("w/0.weight", 6), ("w/2.weight", 16), ("w/4.bias", 8)):
        assert np.abs(arrays[key]).max() <= 1 / np.sqrt(fan_in)
    assert digest(learner.start(s, 1)) == digest(arrays) != digest(learner.start(s, 2))


def test_a_site_sends_its_parameters_times_its_training_cases() -> None:
    learner, those = configured(Perceptron(), {"rounds": 2}), sites(60, 2, unknown=0.2)
    state = prepared(learner, those)
    c = learner.contribute({Fold(): state}, those[0], PLAN)
    rows = those[0].train(Fold(), PLAN.seed, PLAN.parts)
    assert c.cases == len(rows) < len(those[0])
    own = {k.removeprefix("w/"): v / c.cases for k, v in c.sums.items()}
    assert all(np.abs(v).max() < 5 for v in own.values())
    moved = max(
        float(np.abs(own[k.removeprefix("w/")] - v).max())
        for k, v in learner.parameters(state["mlp"]).items()
    )
    assert moved > 1e-3
    assert 0 < float(c.tally["loss"]) / c.cases < 2


def test_a_repeated_plan_gives_the_same_bits_and_rounds_and_sites_draw_apart() -> None:
    learner, (site, *_) = Perceptron(), sites(60, 2)
    state = prepared(learner, [site])
    first = digest(learner.contribute({Fold(): state}, site, PLAN).sums)
    assert digest(learner.contribute({Fold(): state}, site, PLAN).sums) == first
    elsewhere = dataclasses.replace(site, site="elsewhere")
    later = {**state, "mlp": {**state["mlp"], "round": np.array(1)}}
    reseeded = dataclasses.replace(PLAN, seed=4)
    others = [(state, elsewhere, PLAN), (later, site, PLAN), (state, site, reseeded)]
    assert (
        len(
            {
                first,
                *(digest(learner.contribute({Fold(): s}, c, plan).sums) for s, c, plan in others),
            }
        )
        == 4
    )


def test_a_deep_network_goes_on_from_packed_arrays() -> None:
    """Packing sorts by name, and '10.weight' comes before '2.weight'."""
    learner, those = (
        configured(Perceptron(), {"hidden": (5, 6, 7, 8, 9, 10), "rounds": 2}),
        sites(40, 2),
    )
    state = prepared(learner, those)
    packed = {n: unpack(pack(a)) for n, a in state.items()}
    assert digest(learner.contribute({Fold(): packed}, those[0], PLAN).sums) == digest(
        learner.contribute({Fold(): state}, those[0], PLAN).sums
    )


def network(width: int = 4) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(width, 2))


def blank(width: int = 4) -> Arrays:
    return {"0.weight": np.zeros((2, width), np.float32), "0.bias": np.zeros(2, np.float32)}


def trained(start: Arrays, x: Any, y: Any, how: Schedule) -> Trained:
    import torch

    return learn(
        network(), start, Table(x, y), cross_entropy, how, seed=0, device=torch.device("cpu")
    )


def test_one_full_batch_step_is_gradient_descent() -> None:
    r = np.random.default_rng(0)
    x, y = r.normal(size=(50, 4)), r.integers(0, 2, 50)
    out = trained(blank(), x, y, Schedule(1, 50, 0.1, weight_decay=0.3, proximal=0.5))
    gradient = (0.5 - np.eye(2)[y]).T @ x / 50
    np.testing.assert_allclose(out.arrays["0.weight"], -0.1 * gradient, atol=1e-6)
    assert out.loss == pytest.approx(np.log(2))


def test_weight_decay_and_momentum_are_those_of_sgd() -> None:
    import torch

    r = np.random.default_rng(1)
    x, y = r.normal(size=(40, 4)), r.integers(0, 2, 40)
    start = {
        "0.weight": r.normal(size=(2, 4)).astype(np.float32),
        "0.bias": np.zeros(2, np.float32),
    }
    out = trained(start, x, y, Schedule(5, 40, 0.1, weight_decay=0.3))
    net = network()
    net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in start.items()})
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(
            net(torch.from_numpy(x.astype(np.float32))), torch.from_numpy(y)
        )
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g, v in zip(net.parameters(), grads, velocity, strict=True):
                v.copy_(0.9 * v + g + 0.3 * p)
                p.sub_(0.1 * v)
    np.testing.assert_allclose(out.arrays["0.weight"], net[0].weight.detach().numpy(), atol=1e-6)


def test_training_lowers_the_loss_and_leaves_its_inputs_alone() -> None:
    r = np.random.default_rng(2)
    x = r.normal(size=(200, 4))
    y = (x[:, 0] > 0).astype(np.int64)
    start = blank()
    before = digest({**start, "x": x, "y": y})
    losses = [trained(start, x, y, Schedule(epochs, 32, 0.05)).loss for epochs in (1, 10)]
    assert losses[1] < 0.5 * losses[0]
    assert digest({**start, "x": x, "y": y}) == before


def test_a_strong_proximal_term_returns_nearly_the_global_parameters() -> None:
    learner, those = configured(Perceptron(), {"proximal": 15.0, "epochs": 5}), sites(60, 2)
    state = prepared(learner, those)
    c = learner.contribute({Fold(): state}, those[0], PLAN)
    free = configured(Perceptron(), {"epochs": 5}).contribute({Fold(): state}, those[0], PLAN)

    def distance(sums: Arrays) -> float:
        return float(
            sum(((v / c.cases - state["mlp"][k]) ** 2).sum() for k, v in sums.items()) ** 0.5
        )

    assert distance(c.sums) < 0.2 * distance(free.sums)


@pytest.mark.parametrize("hidden", [(), (16,), (8, 8)])
def test_predictions_are_torchs_forward_pass(hidden: tuple[int, ...]) -> None:
    import torch
    from torch import nn

    learner, those = (
        configured(Perceptron(), {"hidden": hidden, "rounds": 2}),
        sites(60, 2, classes=3),
    )
    state = fit(learner, fit(Preprocessing(), {}, those, PLAN), those, PLAN)
    layers: list[nn.Module] = []
    weights = learner.parameters(state["mlp"])
    for i in range(len(weights) // 2):
        w, b = weights[f"w/{2 * i}.weight"], weights[f"w/{2 * i}.bias"]
        layer = nn.Linear(w.shape[1], w.shape[0])
        layer.weight.data, layer.bias.data = torch.from_numpy(w.copy()), torch.from_numpy(b.copy())
        layers += [nn.Tanh(), layer] if layers else [layer]
    x = torch.from_numpy(standardise(state["preprocessing"], those[0]).astype(np.float32))
    want = torch.softmax(nn.Sequential(*layers)(x), dim=1).detach().numpy()
    np.testing.assert_allclose(learner.predict(state, those[0]), want, atol=1e-5)


def test_contributions_of_a_network_add_up_to_the_change_of_the_log_odds() -> None:
    learner, those = Perceptron(hidden=(16, 8)), sites(200, 2, classes=3)
    state = fit(learner, fit(Preprocessing(), {}, those, PLAN), those, PLAN)
    p = learner.predict(state, those[0])
    values = learner.explain(state, those[0])
    average = dataclasses.replace(those[0], values=np.full_like(those[0].values, np.nan))
    q = learner.predict(state, average)
    change = np.log(p[:, 1:] / p[:, :1]) - np.log(q[:, 1:] / q[:, :1])
    np.testing.assert_allclose(values.sum(axis=1), change, atol=2e-3)


def auc(labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> float:
    events, others = scores[labels == 1], scores[labels == 0]
    return float(
        ((events[:, None] > others).sum() + 0.5 * (events[:, None] == others).sum())
        / (len(events) * len(others))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "logistic_fedavg"])
def test_ranks_the_phantoms_patients_about_as_well_as_newton(name: str, tmp_path: Path) -> None:
    """At its natural hospitals, thirty of them and most tiny; mean over three phantoms of the AUC
    of cross-fitted predictions."""
    from client.cohort.reader import read_table
    from common.study.load import load as study
    from simulation.phantom.colorectal import writer

    gaps = []
    for seed in range(3):
        writer.write(tmp_path / str(seed), seed=seed)
        reading = read_table(study("colorectal_metastasis"), "preop", tmp_path / str(seed))
        where = np.array(reading.institutions)
        those = [
            dataclasses.replace(reading.cohort.where(where == n), site=n)
            for n in sorted(set(where))
        ]
        found = [cross_fitted(load(learner), those) for learner in (name, "logistic")]  # type: ignore[arg-type]
        gaps.append(found[1] - found[0])
    assert np.mean(gaps) < 0.02


def cross_fitted(head: Head, those: list[Cohort]) -> float:
    scores, labels = [], []
    for part in range(5):
        plan = dataclasses.replace(local_plan(Fold(parts=(part,)), 1, 5), hyper=hyper_of(head))
        state = fit(head, fit(Preprocessing(), {}, those, plan), those, plan)
        for c in those:
            test = (c.parts(1, 5) == part) & (c.labels >= 0)
            scores.append(head.predict(state, c)[test, 1])
            labels.append(c.labels[test])
    return auc(np.concatenate(labels), np.concatenate(scores))
