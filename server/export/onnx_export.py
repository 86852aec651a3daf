"""ONNX export of the networks (any runtime), and torch.export's .pt2: programs that need neither
fedmets nor its code.

Both are made of one traced graph with a free number of crops. What an input or output is, and how
an image becomes one, is written into each file. The same parameters give the same ONNX bytes: what
a tracer notes of its own machine (paths, stack traces) is taken out.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.schema import Imaging, Schema
from common.learners.segmentation import SOFT_TISSUE
from common.networks.classifier_files import trained
from common.networks.federated_averaging import bare
from common.networks.training import load
from common.types import Arrays, State

OPSET = 20


@dataclass(frozen=True)
class Network:
    """A network that leaves: `inputs` and `outputs` say name -> shape after the free first axis,
    and what it is."""

    name: str
    module: Any
    inputs: Mapping[str, tuple[tuple[int, ...], str]]
    outputs: Mapping[str, str]
    grid: tuple[int, ...]
    notes: Mapping[str, str]


def trained_networks(schema: Schema, state: State) -> list[Network]:
    """The networks that were trained; none in a run without images."""
    imaging = schema.imaging
    if imaging is None:
        return []
    makers = {"image": _image, "autoencoder": _autoencoder, "segmentation": _segmentation}
    return [
        make(schema, imaging, state[name])
        for name, make in makers.items()
        if bare(state.get(name, {}))
    ]


def traced(network: Network) -> Any:
    """torch's ExportedProgram. It has been tried with one crop and with several."""
    import torch

    example = tuple(torch.zeros(3, *shape) for shape, _ in network.inputs.values())
    free = torch.export.Dim("crops", min=1)
    with _quiet(), torch.no_grad():
        return torch.export.export(
            network.module.eval(), example, dynamic_shapes=[{0: free} for _ in example]
        )


def onnx(network: Network, program: Any, metadata: Mapping[str, str]) -> bytes:
    """An ONNX file; `metadata` and the network's own notes are its metadata."""
    import torch

    names = list(network.inputs)
    free = torch.export.Dim("crops", min=1)
    example = tuple(torch.zeros(3, *shape) for shape, _ in network.inputs.values())
    with _quiet(), torch.no_grad():
        exported = torch.onnx.export(
            program,
            example,
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=list(network.outputs),
            dynamic_shapes=[{0: free} for _ in names],
            opset_version=OPSET,
        )
    model = exported.model_proto
    _forget(model)
    notes = {
        **metadata,
        **network.notes,
        "inputs": _json({n: says for n, (_, says) in network.inputs.items()}),
    }
    notes |= {"outputs": _json(network.outputs), "grid": _json(network.grid)}
    for key, value in sorted(notes.items()):
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "fedmets", metadata.get("version", "")
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = (
            network.inputs[value.name][1]
            if value.name in network.inputs
            else network.outputs[value.name]
        )
    blob: bytes = model.SerializeToString(deterministic=True)
    return blob


def pt2(program: Any) -> bytes:
    """torch.export's own file: `torch.export.load(path).module()` needs torch and nothing else."""
    import torch

    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file)
    return file.getvalue()


def scaling(imaging: Imaging) -> str:
    """How intensities become what a network sees."""
    if not imaging.modality.hounsfield:
        return (
            "MR: clipped to the 0.5 and 99.5 percentiles inside the brain, z-score inside it, "
            "clipped to +-5; a missing sequence is 0"
        )
    low, high = imaging.window_hu
    return (
        f"CT: Hounsfield units clipped to {low:g}..{high:g} and mapped linearly to -1..1; "
        "outside the volume -1"
    )


def _image(schema: Schema, imaging: Imaging, arrays: Arrays) -> Network:
    import torch

    from common.networks import architectures

    channels, classes = len(imaging.channels), len(schema.label.classes)
    module = architectures.Scores(trained(arrays), channels, classes)
    load(module.network, bare(arrays))
    module.correction.copy_(torch.from_numpy(np.log(arrays["weights"])))
    grid = tuple(int(g) for g in arrays["grid"])
    log_odds = (
        f"log-odds of {', '.join(schema.label.classes[1:])} against "
        f"{schema.label.classes[0]}, one crop's"
    )
    return Network(
        "image",
        module,
        {
            "crops": ((channels + 1, *grid), _crops(imaging)),
            "present": ((channels,), "1 where the channel is there, 0 where it is missing"),
        },
        {
            "logits": "log-probabilities of the classes up to a number, one crop's",
            "log_odds": log_odds,
        },
        grid,
        {
            "patient": "a patient's logits and log_odds are the means over the patient's crops; "
            "softmax of the mean logits: probabilities"
        },
    )


def _autoencoder(schema: Schema, imaging: Imaging, arrays: Arrays) -> Network:
    from common.networks import architectures as networks

    channels, grid = len(imaging.channels), tuple(int(g) for g in arrays["grid"])
    module = networks.AutoEncoder(channels, len(arrays["w/code.bias"]), (grid[0], grid[1], grid[2]))
    load(module, bare(arrays))
    return Network(
        "autoencoder",
        networks.Coded(module),
        {"crops": ((channels + 1, *grid), _crops(imaging))},
        {"code": "latent code, one crop's", "remembered": "the crop as its code remembers it"},
        grid,
        {
            "patient": "a patient's code is the mean over the patient's crops; lesions by an "
            "expert's outline alone, else the whole field"
        },
    )


def _segmentation(schema: Schema, imaging: Imaging, arrays: Arrays) -> Network:
    from common.networks import architectures as networks

    views = 2 if imaging.modality.hounsfield else 1
    channels, grid = views * len(imaging.channels), tuple(int(g) for g in arrays["grid"])
    module = networks.unet(channels, len(imaging.regions), tuple(int(w) for w in arrays["widths"]))
    load(module, bare(arrays))
    says = f"the whole field of view; channels: {', '.join(c.name for c in imaging.channels)}"
    if imaging.modality.hounsfield:
        says += f", and the same as tanh((HU - {SOFT_TISSUE[0]:g}) / {SOFT_TISSUE[1]:g})"
    return Network(
        "segmentation",
        module,
        {"volume": ((channels, *grid), says)},
        {"regions": f"logits of {', '.join(imaging.regions)} in each voxel"},
        grid,
        {
            "regions": _json(imaging.regions),
            "lesion": f"where {' or '.join(imaging.lesion) or 'nothing'} has a probability above "
            "0.5",
        },
    )


def _crops(imaging: Imaging) -> str:
    size = " x ".join(f"{s:g}" for s in imaging.crop_mm)
    names = ", ".join(c.name for c in imaging.channels)
    return (
        "(crops, channels, z, y, x), float32; axes grow towards head, back and left; channels: "
        f"{names}, and the share of lesion (0..1); "
        f"a crop is {size} mm round one of the {imaging.crops} largest lesions, or the whole "
        "field where none is known"
    )


def _forget(model: Any) -> None:
    """What the tracer noted of the machine, and names that would differ from run to run."""
    model.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    for item in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for function in model.functions:
        function.ClearField("metadata_props")
        for node in function.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")


def _json(value: Any) -> str:
    return json.dumps(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's tracer and exporter warn of their own insides."""
    loggers = [
        logging.getLogger(n) for n in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [x.level for x in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x in loggers:
            x.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for x, level in zip(loggers, levels, strict=True):
                x.setLevel(level)
