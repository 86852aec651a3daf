"""Pretrained parameters to start from, out of a file that the coordinator names together with its
hash."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from pathlib import Path

import numpy as np

from common.errors import UsageError
from common.types import Arrays

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Of batch normalisation, which is not used here."""


def adopt(file: str, sha256: str, weights: Arrays, prefix: str = "") -> Arrays:
    """`weights` with those of equal name and shape from `file` in their place; UsageError C01 when
    it is not the file, or does not fit. `prefix`: what the names in `weights` may have before those
    of the file.

    A first layer for other channels takes the mean over the file's; a last layer for other classes
    is left as it is.
    """
    path = Path(file)
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UsageError(
            "C01",
            f"pretrained: '{file}' cannot be read ({error.strerror or error}); name a file at the "
            "coordinator",
        ) from error
    found = hashlib.sha256(blob).hexdigest()
    if found != sha256.lower():
        raise UsageError(
            "C01",
            f"pretrained: '{file}' has SHA-256 {found}, declared is {sha256}; get the file again "
            "or correct the hash",
        )
    given = {k: v for k, v in _read(path, blob).items() if not k.endswith(BUFFERS)}
    given = {_own_name(k, weights, prefix): v for k, v in given.items()}
    out, left = dict(weights), []
    for name, own in weights.items():
        theirs = given.get(name)
        if theirs is not None and theirs.shape == own.shape:
            out[name] = theirs.astype(np.float32)
        elif (
            theirs is not None
            and own.ndim > 2
            and theirs.shape[:1] + theirs.shape[2:] == own.shape[:1] + own.shape[2:]
        ):
            mean = theirs.mean(axis=1, keepdims=True) * (theirs.shape[1] / own.shape[1])
            out[name] = np.repeat(mean, own.shape[1], axis=1).astype(np.float32)
        elif not name.startswith("head."):
            left.append(name if theirs is None else f"{name} ({theirs.shape} for {own.shape})")
    if left:
        raise UsageError(
            "C01",
            f"pretrained: '{file}' does not fit the network: {len(left)} of {len(weights)} "
            "parameters are missing or of another shape "
            f"({', '.join(left[:5])}{' ...' if len(left) > 5 else ''}); use a file of the same "
            "network",
        )
    if not all(np.isfinite(v).all() for v in out.values()):
        raise UsageError(
            "C01", f"pretrained: '{file}' holds values that are not finite; use another file"
        )
    spare = sorted(set(given) - set(weights))
    logging.getLogger("fedmets").info(
        "pretrained: '%s' adopted; not used of it: %s", file, ", ".join(spare) or "nothing"
    )
    return out


def _own_name(name: str, weights: Arrays, prefix: str) -> str:
    longer = prefix + name
    return longer if name not in weights and longer in weights else name


def _read(path: Path, blob: bytes) -> Arrays:
    try:
        if path.suffix == ".npz":
            with np.load(io.BytesIO(blob), allow_pickle=False) as file:
                return {k: file[k] for k in file.files}
        import torch

        loaded = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
        state = loaded.get("state_dict", loaded)
        return {k: v.float().numpy() for k, v in state.items()}
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        RuntimeError,
        EOFError,
        zipfile.BadZipFile,
        ImportError,
    ) as error:
        raise UsageError(
            "C01",
            f"pretrained: '{path}' is neither an .npz file of arrays nor a state dict that torch "
            "reads with weights_only",
        ) from error
    except Exception as error:  # the unpickler's own
        if type(error).__name__ != "UnpicklingError":
            raise
        raise UsageError(
            "C01",
            f"pretrained: '{path}' holds more than tensors and is not opened; save its state dict "
            "alone",
        ) from error
