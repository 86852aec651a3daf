"""What every network of `common/networks/classifiers/` must do: a new file is found by its name and
tried here without a new line."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.data.cohort import Fold
from common.data.schema import Channel, Imaging
from common.errors import RefusedError, UsageError
from common.federated.learner import configured, fit, hyper_of, load, local_plan
from common.learners.image import Image
from common.networks.architectures import AutoEncoder, ClassifierNetwork, draw, parameters
from common.networks.classifier import Classifier
from common.networks.classifier_files import load as network_of
from common.networks.classifier_files import names, trained
from common.networks.dp_sgd import Private, Sampled, learn
from common.networks.gradcam_maps import heatmaps, sanity
from common.networks.pretrained import adopt
from common.networks.training import Schedule
from common.types import Arrays, digest
from server.export import monai_bundle, onnx_export
from tests import pictures
from tests.paths import ROOT

NAMES = names()
CPU, PLAN = torch.device("cpu"), local_plan(Fold(), 0, 3)
MR = pictures.imaging(4, crops=1)
CT = Imaging(
    (Channel("ct", "CT"),), ("core", "rim"), lesion=("core", "rim"), window=(-160, 240),
    crop_mm=(16.0, 16.0, 16.0), crops=1, coarse=(8, 10, 10),
)  # fmt: skip
PARAMETERS = {
    ("compact3d", 1): "17e4a23138fd6e50", ("compact3d", 4): "a124be1774870b5e",
    ("efficientnet_b3", 1): "b47afd26b78da52f", ("efficientnet_b3", 4): "cbaee9ec0756e971",
}  # fmt: skip
"""Network, channels -> digest of its parameters' names and shapes for three classes: models that
were trained must be read for ever."""

every = pytest.mark.parametrize("name", NAMES)
modalities = pytest.mark.parametrize("imaging", [CT, MR], ids=["CT", "MR"])


def made(name: str, channels: int, classes: int = 3, *, last: bool = True) -> ClassifierNetwork:
    network = ClassifierNetwork(network_of(name), channels, classes)
    draw(network, 3, last=last)
    return network


def crops(name: str, channels: int, n: int = 3, more: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of the smallest size, or of so many voxels more; of the last one a sequence may lack."""
    grid = [size + more * (1 + axis) for axis, size in enumerate(network_of(name).smallest)]
    x = torch.randn(n, channels + 1, *grid, generator=torch.Generator().manual_seed(0))
    x[:, -1] = (x[:, -1] > 0).float()
    present = torch.ones(n, channels)
    if channels > 1:
        x[-1, 0], present[-1, 0] = 0, 0
    return x, present


def image(name: str) -> Image:
    return configured(
        Image(),
        {"network": name, "grid": network_of(name).smallest, "rounds": 1, "epochs": 1,
         "segmentation": False},
    )  # fmt: skip


@every
def test_it_says_what_it_is(name: str) -> None:
    said = network_of(name)
    assert isinstance(said, Classifier)
    assert said.name == name
    assert said.title.strip()
    assert said.number >= 0
    assert [n for n in NAMES if network_of(n).number == said.number] == [name]
    assert trained({"network": np.array(said.number)}) is said
    assert min(said.smallest) >= 4


@every
def test_its_declaration_is_read_without_torch(name: str) -> None:
    """Whatever reads a plan reads it too, the courier's machine among them."""
    code = (
        "import sys\nfrom common.networks.classifier_files import load\n"
        f"load({name!r})\nprint([m for m in ('torch', 'monai') if m in sys.modules])"
    )
    folders = importlib.import_module("common.networks.classifiers").__path__
    whole = f"from common.networks import classifiers\nclassifiers.__path__[:] = {[*folders]}\n"
    done = subprocess.run(
        [sys.executable, "-c", whole + code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@every
@modalities
@pytest.mark.parametrize("more", [0, 3])
def test_it_gives_logits_of_each_crop_by_itself(name: str, imaging: Imaging, more: int) -> None:
    channels = len(imaging.channels)
    network, (x, present) = made(name, channels).eval(), crops(name, channels, more=more)
    with torch.inference_mode():
        logits = network(x, present)
        features = network.features(x)
        assert logits.shape == (3, 3)
        assert torch.isfinite(logits).all()
        assert features.ndim == 5
        assert len(features) == 3
        assert torch.equal(network.classify(features, present), logits)
        for i in range(3):
            alone = network(x[i : i + 1], present[i : i + 1])
            np.testing.assert_allclose(alone[0], logits[i], rtol=1e-3, atol=1e-4)
        network.train()
        assert torch.equal(network(x, present), logits), "something in it is random"


@every
def test_it_starts_without_an_opinion_from_the_seed_alone(name: str) -> None:
    starts = []
    for noise in (5, 6):
        torch.manual_seed(noise)
        starts.append(digest(parameters(made(name, 2, last=False))))
    assert starts[0] == starts[1]
    with torch.inference_mode():
        assert not made(name, 2, last=False)(*crops(name, 2)).any()


@every
@modalities
def test_its_parameters_stay_readable(name: str, imaging: Imaging) -> None:
    channels = len(imaging.channels)
    shapes = {k: tuple(v.shape) for k, v in made(name, channels).state_dict().items()}
    assert {k.partition(".")[0] for k in shapes} == set(network_of(name).layers(channels, 3))
    assert {k: v[0] for k, v in shapes.items() if k.startswith("head.")}.items() >= {
        ("head.weight", 3)
    }
    text = "\n".join(f"{k} {v}" for k, v in shapes.items())
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert PARAMETERS.get((name, channels), found) == found


def test_the_networks_that_were_trained_are_still_here() -> None:
    assert {n: network_of(n).number for n, _ in PARAMETERS} == {
        "compact3d": 0,
        "efficientnet_b3": 1,
    }


@every
def test_it_suits_averages_over_hospitals_and_dp_sgd(name: str) -> None:
    """No running statistics; every parameter learns; a private step moves each."""
    from opacus.validators import ModuleValidator

    network = made(name, 2)
    assert not list(network.buffers())
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    assert ModuleValidator.validate(network, strict=False) == []
    x, present = crops(name, 2)

    def loss(at: Any, rows: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(at(*rows), torch.tensor([0, 1, 2]), reduction="sum")

    gradients = torch.autograd.grad(loss(network, (x, present)), list(network.parameters()))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert np.mean([bool(g.any()) for g in gradients]) > 0.9

    class Patient:
        """One, with three crops."""

        patient, noise, inputs = np.zeros(3, int), 0, 2

        def __len__(self) -> int:
            return 3

        def batch(self, rows: Any, device: Any, varied: Any) -> Any:
            return x[rows], present[rows]

    start = parameters(network)
    private = Private(1.0, 1.0, Sampled(1.0, 1))
    done = learn(network, start, Patient(), loss, Schedule(1, 1, 0.1), private, device=CPU)  # type: ignore[arg-type]
    assert all(np.isfinite(v).all() and (v != start[k]).any() for k, v in done.items())


@every
@modalities
def test_grad_cam_has_a_layer_to_look_at(name: str, imaging: Imaging) -> None:
    channels = len(imaging.channels)
    network, (x, present) = made(name, channels).eval(), crops(name, channels, 2, more=8)
    mean = torch.full((1, 2), 0.5)
    maps = [heatmaps(network, x, present, mean, target) for target in (1, 2)]
    for seen in maps:
        assert seen.shape == (2, *x.shape[2:])
        assert torch.isfinite(seen).all()
        assert (seen >= 0).all()
    assert any(seen.any() for seen in maps)
    assert abs(sanity(network, x, present, mean, 1, 7)) < 0.99


@every
def test_an_encoder_is_the_autoencoders(name: str) -> None:
    shapes = [
        {k: v.shape for k, v in network.named_parameters() if k.startswith("trunk.")}
        for network in (made(name, 2), AutoEncoder(2, 8, (8, 8, 8)))
    ]
    assert not network_of(name).encoder or shapes[0] == shapes[1]


@every
def test_pretrained_parameters_are_adopted(name: str, tmp_path: Path) -> None:
    prefix, own = network_of(name).prefix, parameters(made(name, 2))
    np.savez(tmp_path / "w.npz", **{k.removeprefix(prefix): v for k, v in own.items()})  # type: ignore[arg-type]
    sha = hashlib.sha256((tmp_path / "w.npz").read_bytes()).hexdigest()
    blank: Arrays = {k: np.zeros_like(v) for k, v in own.items()}
    assert digest(adopt(str(tmp_path / "w.npz"), sha, blank, prefix)) == digest(own)


@every
@modalities
def test_the_image_learner_trains_it(name: str, imaging: Imaging) -> None:
    learner = image(name)
    assert load("image", hyper_of(learner)) == learner
    those = pictures.sites(6, 1, imaging, seed=1)
    state = fit(learner, {}, those, PLAN)
    assert trained(state["image"]).name == name
    probs = Image().predict(state, those[0])  # the arrays tell which network it is
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert np.ptp(probs[:, 0]) > 0


@every
def test_one_voxel_less_than_it_takes_is_refused(name: str) -> None:
    for axis in range(3):
        grid = tuple(s - (i == axis) for i, s in enumerate(network_of(name).smallest))
        with pytest.raises(UsageError, match="grid"):
            configured(Image(), {"network": name, "grid": grid})


@every
def test_it_is_compiled_as_one_graph(name: str) -> None:
    """What a GPU trains is compiled; a network that breaks its graph would be slow there."""
    network, given = made(name, 2), crops(name, 2)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        np.testing.assert_allclose(compiled(*given), network(*given), atol=1e-5)
    torch._dynamo.reset()


@every
@pytest.mark.slow
def test_it_leaves_as_onnx_and_in_a_bundle_without_fedmets(name: str, tmp_path: Path) -> None:
    """torch's tracer alone takes seconds."""
    import onnxruntime

    schema, channels = pictures.schema(2, MR), len(MR.channels)
    learner = image(name)
    arrays: Arrays = {**learner.start(schema, 3), "weights": np.array([1.0, 2.0])}
    arrays |= {f"w/{k}": v for k, v in parameters(made(name, channels, 2)).items()}
    (network,) = onnx_export.trained_networks(schema, {"image": arrays})
    program = onnx_export.traced(network)
    session = onnxruntime.InferenceSession(
        onnx_export.onnx(network, program, {}), providers=["CPUExecutionProvider"]
    )
    truth = {}
    for n in (1, 2, 5):
        x, present = crops(name, channels, n)
        with torch.inference_mode():
            truth[n] = network.module.eval()(x, present)[0].numpy()
        given = {"crops": x.numpy(), "present": present.numpy()}
        assert session.run(["logits"], given)[0] == pytest.approx(truth[n], rel=1e-3, abs=1e-4)

    for path, source in monai_bundle.scripts(network_of(name)).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(source)
    torch.save(network.module.state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "crops.npz", x=x.numpy(), present=present.numpy())
    code = (
        "import sys, json, numpy, torch\nsys.path.insert(0, '')\n"
        "from scripts import networks, score\n"
        f"network = networks.scores(channels={channels}, classes=2)\n"
        "network.load_state_dict(torch.load('model.pt', weights_only=True))\n"
        "given = numpy.load('crops.npz')\n"
        "said = network.eval()(torch.from_numpy(given['x']), torch.from_numpy(given['present']))\n"
        "print(json.dumps(said[0].tolist()))\n"
        "assert not {'common', 'server', 'fedmets'} & set(sys.modules)\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(said, truth[5], rtol=1e-4, atol=1e-5)


def test_an_unknown_network_is_refused_with_those_that_there_are() -> None:
    listed = ", ".join(NAMES)
    with pytest.raises(UsageError, match=f"'resnet' is unknown; there are {listed}") as caught:
        network_of("resnet")
    assert caught.value.code == "C01"
    with pytest.raises(UsageError, match=f"network: one of {listed}"):
        replace(Image(), network="resnet")
    for number in (-1, 4_000):
        with pytest.raises(RefusedError, match=f"number {number}, here are 0 .compact3d.") as told:
            trained({"network": np.array(number)})
        assert told.value.code == "P02"
