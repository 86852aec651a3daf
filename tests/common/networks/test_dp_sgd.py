"""DP-SGD: a patient is one record however many crops, chance and noise are as promised, and without
them it is gradient descent."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest
from torch import nn

from common.errors import RefusedError
from common.federated.accounting import cost
from common.federated.learner import configured
from common.learners.autoencoder import reconstruction
from common.learners.mlp import Perceptron
from common.learners.segmentation import _examples, dice_and_entropy
from common.networks import architectures
from common.networks.augmentation import Augment
from common.networks.classifier_files import load as load_classifier
from common.networks.crops import case_crops, patient_logits
from common.networks.datasets import Cases, Singles
from common.networks.dp_sgd import Private, _Patients, add_clipped, learn, sampled
from common.networks.training import Schedule, Table, cross_entropy
from common.networks.training import learn as learn_plainly
from common.privacy import renyi
from common.privacy.mechanism import COUNTS, Privacy, Sampled, epsilon, gaussian, release
from common.privacy.patient_sums import grid
from common.privacy.random import repeatable
from common.runtime import time_limit
from common.types import Arrays, digest
from tests.pictures import IMAGING, sites
from tests.synthetic import schema

CPU = torch.device("cpu")


class Crops:
    """Rows of a table, of which a patient may have many; what is asked for is remembered."""

    noise, inputs = 0, 1

    def __init__(self, x: Any, y: Any, patient: Any) -> None:
        self._x, self._y, self.patient = (
            torch.tensor(x, dtype=torch.float32),
            torch.tensor(y),
            np.asarray(patient),
        )
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self._y)

    def batch(self, rows: Any, device: torch.device, noise: Any) -> tuple[Any, ...]:
        self.asked += sorted(set(self.patient[rows].tolist()))
        return self._x[rows], self._y[rows]


def crops(patients: int, many: int = 10, seed: int = 0) -> Crops:
    """The last patient has `many` crops, of large values; the others two each."""
    r = np.random.default_rng(seed)
    patient = np.concatenate([np.repeat(np.arange(patients - 1), 2), np.full(many, patients - 1)])
    x = r.normal(size=(len(patient), 3)) * np.where(patient == patients - 1, 100.0, 1.0)[:, None]
    order = r.permutation(len(patient))
    return Crops(x[order], r.integers(0, 2, len(patient)), patient[order])


def without_the_last(those: Crops) -> Crops:
    keep = those.patient < those.patient.max()
    return Crops(those._x[keep].numpy(), those._y[keep].numpy(), those.patient[keep])


def small(scale: float = 0.5, seed: int = 1) -> tuple[nn.Module, Arrays]:
    made = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    r = np.random.default_rng(seed)
    return made, {
        k: (scale * r.normal(size=v.shape)).astype(np.float32) for k, v in made.state_dict().items()
    }


def clipped(network: nn.Module, those: Any, clip: float, batch: int = 8) -> list[torch.Tensor]:
    """What a step adds up where everybody is in it."""
    on = grid(clip, 1.0)
    return [
        t * torch.tensor(on.step, dtype=torch.float64)
        for t in whole(network, those, cross_entropy, clip, batch)
    ]


def whole(
    network: nn.Module, those: Any, loss: Any, clip: float, batch: int = 8
) -> list[torch.Tensor]:
    """The same, in steps of the grid."""
    total = [torch.zeros_like(p, dtype=torch.int64) for p in network.parameters()]
    for gradient in _Patients(network, those, loss, CPU, batch).drawn(1.0):
        add_clipped(total, gradient, clip, grid(clip, 1.0))
    return total


def norm(tensors: list[torch.Tensor]) -> float:
    return float(sum(float(t.double().square().sum()) for t in tensors) ** 0.5)


# ---- a patient is one record ---------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from([1e-3, 1.0, 1e3, 1e6, 1e20, 1e38]),
    st.sampled_from([1e-3, 1.0, 50.0]),
    st.sampled_from(["finite", "nan", "inf"]),
)
def test_a_patient_with_ten_crops_moves_the_sum_by_no_more_than_the_clip(
    seed: int, scale: float, clip: float, kind: str
) -> None:
    """Whatever the parameters: large ones blow up what rounding leaves, so that not a bit of the
    others' gradients may change."""
    network, _ = small()
    r = np.random.default_rng(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(
                torch.from_numpy(
                    np.clip(scale * r.normal(size=p.shape), -3e38, 3e38).astype(np.float32)
                )
            )
        if kind != "finite":
            next(network.parameters())[0, 0] = float(kind)
    those = crops(9, seed=seed)
    with_, less = clipped(network, those, clip), clipped(network, without_the_last(those), clip)
    assert all(bool(t.isfinite().all()) for t in with_)
    most = grid(clip, 1.0).sensitivity(clip, sum(t.numel() for t in less))
    assert norm([a - b for a, b in zip(with_, less, strict=True)]) <= most * (1 + 1e-9)


def test_one_patient_who_gives_no_number_takes_nobodys_share_away() -> None:
    network, start = small()
    those = crops(6)
    those._x[those.patient == 5] = torch.inf
    with torch.no_grad():
        for p, v in zip(network.parameters(), start.values(), strict=True):
            p.copy_(torch.from_numpy(v))
    with_, less = clipped(network, those, 1.0), clipped(network, without_the_last(those), 1.0)
    assert all(torch.equal(a, b) for a, b in zip(with_, less, strict=True))
    assert norm(less) > 0.1


HOSTILE = [1e-30, 1e-3, 1.0, 1e3, 1e10, 1e20, 3e38]
COMPANY = st.lists(
    st.sampled_from([0.0, 1e-42, 1.0, 1e4, 3e38, math.inf, -math.inf, math.nan]), max_size=40
)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 999), st.sampled_from(HOSTILE), COMPANY, st.integers(0, 40), st.integers(1, 3)
)
def test_a_patient_adds_the_same_whole_numbers_in_every_company(
    seed: int, scale: float, company: list[float], place: int, rows: int
) -> None:
    """Whatever the neighbours are, wherever the patient stands, and under parameters that blow up
    the last bits."""
    r = np.random.default_rng(seed)
    network, _ = small(0.0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.from_numpy((scale * r.uniform(-1, 1, p.shape)).astype(np.float32)))
    place = min(place, len(company))
    sizes = [*company[:place], 1.0, *company[place:]]
    patient = np.repeat(np.arange(len(sizes)), r.integers(1, 4, len(sizes)))
    patient = np.sort(np.concatenate([patient[patient != place], np.full(rows, place)]))
    x, y = r.normal(size=(len(patient), 3)), r.integers(0, 2, len(patient))
    with np.errstate(all="ignore"):
        x = (x * np.array(sizes)[patient][:, None]).astype(np.float32)
    own = patient == place
    others = patient[~own]
    together = Crops(x, y, patient)
    alone = Crops(x[own], y[own], np.zeros(rows, int))
    without = Crops(x[~own], y[~own], others - (others > place))
    sums = [
        whole(network, those, cross_entropy, 1.0) if len(those) else None
        for those in (together, alone, without)
    ]
    assert sums[0] is not None
    assert sums[1] is not None
    for i, (total, share) in enumerate(zip(sums[0], sums[1], strict=True)):
        assert torch.equal(total - (sums[2][i] if sums[2] else 0), share)


@pytest.mark.parametrize("name", ["mlp", "compact3d", "autoencoder", "segmentation"])
def test_in_company_a_gradient_is_what_it_is_alone(name: str) -> None:
    network, examples, loss = trained_on(name)
    each = _Patients(network, examples, loss, CPU, 8)
    together = list(each.drawn(1.0))
    assert len(together) == each.count
    alone = [each.gradient(p) for p in range(each.count)]
    for shared in together:
        apart = min(
            norm([a - b for a, b in zip(shared, other, strict=True)]) / norm(other)
            for other in alone
        )
        assert apart < 1e-5


MARK = 12345.0


class Marked(Crops):
    """Rows of which those of one patient make its batch, its shapes or whatever sees them fail."""

    def __init__(self, those: Crops, hit: int, where: str) -> None:
        super().__init__(those._x.numpy(), those._y.numpy(), those.patient)
        self._hit, self._where = hit, where
        self._x[self.patient == hit, 0] = MARK

    def batch(self, rows: Any, device: torch.device, noise: Any) -> tuple[Any, ...]:
        x, y = super().batch(rows, device, noise)
        hit = self._hit in self.patient[rows]
        if hit and self._where == "batch":
            raise RuntimeError("its picture cannot be read")
        return (x[:, :2], y) if hit and self._where == "shape" else (x, y)

    def loss(self, network: Any, batch: Any) -> torch.Tensor:
        if self._where == "loss" and bool((batch[0][:, 0] == MARK).any()):
            raise IndexError("its label is out of range")
        return cross_entropy(network, batch)


class Raising(nn.Module):
    """A layer that fails in a pass in which somebody stands."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 0] == MARK).any()):
            raise ValueError("not this one")
        return x


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from([1e-3, 1.0, 1e10]),
    st.sampled_from(["batch", "shape", "loss", "network"]),
    st.integers(0, 8),
    st.sampled_from([1, 8, 64]),
)
def test_a_patient_whose_gradient_raises_adds_nothing_and_changes_nobodys(
    seed: int, scale: float, where: str, hit: int, batch: int
) -> None:
    """Wherever it fails, in company and alone (of 1 none share; the last patient's rows are many)."""
    made, _ = small(0.0)
    network = nn.Sequential(Raising(), made) if where == "network" else made
    r = np.random.default_rng(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.from_numpy((scale * r.uniform(-1, 1, p.shape)).astype(np.float32)))
    those = crops(9, seed=seed)
    others = those.patient != hit
    left = those.patient[others]
    less = Crops(those._x[others].numpy(), those._y[others].numpy(), left - (left > hit))
    marked = Marked(those, hit, where)
    got = whole(network, marked, marked.loss, 1.0, batch)
    want = whole(network, less, cross_entropy, 1.0, batch)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert any(bool(t.any()) for t in got)


@pytest.mark.parametrize("where", ["batch", "shape", "loss", "network"])
def test_a_training_with_a_patient_who_raises_is_that_with_one_who_gives_no_number(
    where: str,
) -> None:
    """The draws of chance and noise are the same, and so is every parameter."""
    made, start = small()
    network = nn.Sequential(Raising() if where == "network" else nn.Identity(), made)
    start = {f"1.{k}": v for k, v in start.items()}
    marked = Marked(crops(9), 3, where)
    nothing = crops(9)
    nothing._x[nothing.patient == 3] = torch.nan
    private, how = Private(1.0, 1.0, Sampled(0.5, 6)), Schedule(1, 8, 0.1)
    out = []
    for those, loss in ((marked, marked.loss), (nothing, cross_entropy)):
        with repeatable(3, "draws"):
            out.append(learn(network, start, those, loss, how, private, device=CPU))
    assert digest(out[0]) == digest(out[1])


@pytest.mark.parametrize("batch", [1, 8])
def test_when_the_time_has_passed_steps_go_on_with_nobody(batch: int) -> None:
    """Patients who come later add nothing; all noise is drawn, and as it would have been."""
    made, start = small()
    private, how = Private(1.0, 1.0, Sampled(0.5, 6)), Schedule(1, batch, 0.1)

    def out(those: Crops, most: float) -> str:
        def over() -> bool:
            return len(those.asked) >= most

        with repeatable(3, "draws"), time_limit.until(over):
            return digest(learn(made, start, those, cross_entropy, how, private, device=CPU))

    nothing = crops(9)
    nothing._x[:] = torch.nan
    for most in (0, 5):
        some = crops(9)
        in_time = out(some, most)
        assert len(some.asked) == most
        assert (in_time == out(nothing, math.inf)) == (most == 0)


def test_a_network_that_mixes_rows_goes_one_patient_at_a_time() -> None:
    those = crops(9)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    each = _Patients(network, those, cross_entropy, CPU, 8)
    for p, gradient in enumerate(each.drawn(1.0)):
        assert all(torch.equal(a, b) for a, b in zip(gradient, each.gradient(p), strict=True))


@pytest.mark.parametrize(
    "name", ["mlp", "compact3d", "efficientnet_b3", "autoencoder", "segmentation"]
)
def test_opacus_validator_has_nothing_against_a_network_that_is_trained(name: str) -> None:
    from opacus.validators import ModuleValidator

    network, _, _ = trained_on(name)
    assert ModuleValidator.validate(network, strict=False) == []


def test_what_opacus_validator_refuses_is_refused() -> None:
    from opacus.validators import ModuleValidator

    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert ModuleValidator.validate(network, strict=False)
    with pytest.raises(RefusedError, match="P08"):
        learn(
            network,
            {},
            None,
            cross_entropy,
            Schedule(1, 8, 0.1),
            Private(1.0, 1.0, sampled(1, 0.5)),
            device=CPU,
        )


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "compact3d",
        pytest.param("efficientnet_b3", marks=pytest.mark.slow),
        "autoencoder",
        "segmentation",
    ],
)
def test_a_patients_gradient_is_the_sum_of_opacus_gradients_of_its_crops(name: str) -> None:
    from opacus import GradSampleModule

    network, examples, loss = trained_on(name)
    each = _Patients(network, examples, loss, CPU)
    hooked = copy.deepcopy(network)
    for module in hooked.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # which its hooks forbid
        if isinstance(
            module, nn.Conv2d
        ):  # of inputs with channels last its gradients are silently wrong (1.6.0)
            module.register_forward_pre_hook(
                lambda _, given_: tuple(x.contiguous() for x in given_)
            )
    wrapped = GradSampleModule(hooked, loss_reduction="sum")
    several = 0
    for patient in range(3):
        rows = np.flatnonzero(examples.patient == patient)
        loss(wrapped, examples.batch(rows, CPU, None)).backward()
        mine = each.gradient(patient)
        largest = max(float(g.abs().max()) for g in mine)
        for p, g in zip(hooked.parameters(), mine, strict=True):
            several = max(several, len(p.grad_sample))
            np.testing.assert_allclose(g, p.grad_sample.sum(0), atol=1e-4 * largest)
            p.grad_sample = None
    assert several > 1 or name in ("mlp", "segmentation")


def trained_on(name: str) -> tuple[Any, Any, Any]:
    (site,) = sites(6, 1, seed=1)
    if name == "mlp":
        r = np.random.default_rng(0)
        return small()[0], Table(r.normal(size=(4, 3)), r.integers(0, 2, 4)), cross_entropy
    if name == "segmentation":
        pictures: Any = site.pictures
        made = architectures.unet(len(IMAGING.channels), len(IMAGING.regions), (4, 8))
        outlined = _examples(pictures, IMAGING, (4, 8, 8), Augment())
        outlined.noise = 0  # as they are
        return made.train(), outlined, dice_and_entropy
    grid = (4, 32, 32) if name == "efficientnet_b3" else (4, 8, 8)
    held = case_crops(site, grid)
    if name == "autoencoder":
        made = architectures.AutoEncoder(len(IMAGING.channels), 4, grid)
        return made.train(), Singles(held, held.counts, site.pictures, None), reconstruction  # type: ignore[arg-type]
    made = architectures.ClassifierNetwork(load_classifier(name), len(IMAGING.channels), 2)
    architectures.draw(made, 3, last=True)

    def loss(network: Any, batch: Any) -> Any:
        x, present, mean, labels = batch
        return nn.functional.cross_entropy(
            patient_logits(network(x, present), mean), labels, reduction="sum"
        )

    return made.train(), Cases(held, held.counts, site.pictures, site.labels, None), loss  # type: ignore[arg-type]


# ---- chance and noise ----------------------------------------------------------------------------

ONE = Schedule(epochs=1, batch=1, learning_rate=1.0)


def test_noise_has_the_promised_size_also_where_there_is_nobody() -> None:
    made = nn.Linear(100, 100)
    start = {k: np.zeros(v.shape, np.float32) for k, v in made.state_dict().items()}
    for those in (
        None,
        Table(np.zeros((0, 100)), np.zeros(0)),
        Table(np.zeros((1, 100)), np.zeros(1)),
    ):
        # a patient who is never drawn: the rate is as good as 0
        out = learn(
            made, start, those, cross_entropy, ONE, Private(2.0, 3.0, Sampled(1e-4, 1)), device=CPU
        )
        noise = np.concatenate([v.ravel() for v in out.values()]) / 6
        assert kstest(noise, "norm").pvalue > 1e-4
        assert noise.std() == pytest.approx(1, abs=0.03)
    halved = learn(
        made,
        start,
        None,
        cross_entropy,
        Schedule(1, 2, 1.0),
        Private(2.0, 3.0, Sampled(0.5, 1)),
        device=CPU,
    )
    assert halved["weight"].std() == pytest.approx(3, rel=0.03), (
        "what is divided by is the public batch"
    )
    again = learn(
        made,
        start,
        None,
        cross_entropy,
        Schedule(1, 2, 1.0),
        Private(2.0, 3.0, Sampled(0.5, 1)),
        device=CPU,
    )
    assert not (again["weight"] == halved["weight"]).any()


def test_each_patient_is_in_a_step_by_chance_and_for_itself() -> None:
    those, steps, rate = crops(20, many=2), 300, 0.15
    made, start = small()
    how = Schedule(1, 1000, 0.01)
    learn(
        made, start, those, cross_entropy, how, Private(1.0, 1.0, Sampled(rate, steps)), device=CPU
    )
    taken = np.bincount(those.asked, minlength=20)
    assert binom.cdf(taken, steps, rate).min() > 1e-6
    assert binom.sf(taken, steps, rate).min() > 1e-6
    assert np.std(taken) > 2  # a fixed number for each would not be chance
    assert len(those.asked) == pytest.approx(20 * steps * rate, rel=0.15)


def test_chance_can_be_repeated_in_a_simulation_alone() -> None:
    those, (made, start), private = crops(20), small(), Private(1.0, 1.0, Sampled(0.3, 5))

    def digested() -> str:
        return digest(
            learn(made, start, those, cross_entropy, Schedule(1, 5, 0.1), private, device=CPU)
        )

    with repeatable(7, "x"):
        first = digested()
    with repeatable(7, "x"):
        assert digested() == first
    assert len({first, digested(), digested()}) == 3


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_without_noise_and_with_everybody_it_is_gradient_descent(optimiser: Any) -> None:
    r = np.random.default_rng(0)
    those, (made, start) = Table(r.normal(size=(30, 3)), r.integers(0, 2, 30)), small()
    how = Schedule(6, 30, 0.05, weight_decay=0.1, proximal=0.2, optimiser=optimiser)
    want = learn_plainly(made, start, those, cross_entropy, how, seed=0, device=CPU).arrays
    got = learn(
        made, start, those, cross_entropy, how, Private(1e-12, 1e3, sampled(6, 1.0)), device=CPU
    )
    for k, v in want.items():
        assert np.abs(v - start[k]).max() > 0.01
        np.testing.assert_allclose(got[k], v, atol=2e-5)


def test_the_network_that_is_lent_stays_as_it_is() -> None:
    made, start = small()
    before = digest(architectures.parameters(made))
    learn(made, start, crops(5), cross_entropy, ONE, Private(1.0, 1.0, Sampled(0.5, 2)), device=CPU)
    assert digest(architectures.parameters(made)) == before


def test_a_network_with_running_statistics_is_refused_by_name() -> None:
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(RefusedError, match=r"1\.running_mean.*use group") as caught:
        learn(made, {}, None, cross_entropy, ONE, Private(1.0, 1.0, Sampled(0.5, 2)), device=CPU)
    assert caught.value.code == "P08"


def test_what_comes_out_is_finite_whatever_comes_in() -> None:
    """A refusal that depends on patients would tell of them; one of the parameters does not."""
    made, start = small()
    bad = {**start, "0.weight": np.full_like(start["0.weight"], np.nan)}
    for how in (Schedule(1, 1, 1e36), Schedule(1, 1, 1e36, optimiser="adamw")):

        def out(given: Any, n: int, how: Schedule = how) -> Any:
            private = Private(1e6, 1e6, Sampled(1.0, 3))
            return learn(made, given, crops(n), cross_entropy, how, private, device=CPU)

        assert all(np.isfinite(v).all() for v in out(start, 5).values())
        for n in (1, 5):
            with pytest.raises(RefusedError, match=r"0\.weight is not finite"):
                out(bad, n)


# ---- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "rate", "steps"),
    [(2, 0.1, 20), (3, 0.1, 30), (1, 1.0, 1), (1, 0.3, 4), (5, 0.0001, 50_000)],
)
def test_steps_are_public(epochs: int, rate: float, steps: int) -> None:
    assert sampled(epochs, rate) == Sampled(rate, steps)


def test_rounds_cost_what_opacus_accountant_says_of_all_their_steps() -> None:
    from opacus.accountants import RDPAccountant

    learner = configured(Perceptron(), {"rounds": 7, "epochs": 2, "rate": 0.05})
    accountant = RDPAccountant()
    for _ in range(7 * 40):
        accountant.step(noise_multiplier=1.3, sample_rate=0.05)
    bound = learner.phases["train"].sensitivity(schema())
    assert isinstance(bound, Sampled)
    ours = 7 * (release(Privacy(1.3), bound) - gaussian(COUNTS))
    divergences = accountant.get_epsilon(1e-5, alphas=list(renyi.ORDERS))
    assert renyi.epsilon(ours.rdp, 1e-5) == pytest.approx(divergences, rel=1e-9)
    assert 0.8 * divergences < epsilon(ours, 1e-5) < divergences
    assert cost([learner], schema(), 1.3) == 7 * release(Privacy(1.3), bound)
