"""Safetensors file of a finished model: what a run leaves in `model.state`, tensors named
`learner<tab>array`.

Any program that reads safetensors opens it, runs no code of the file's, and shares no code with
this one. Files that were left before (`common.types.pack`) begin with a list where safetensors have
an object, and are still read. The run's own states are packed as ever: their hash is that of the
packed bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.errors import WireError
from common.types import Array, State, flatten, nest, unpack

FORMAT = 2
"""Of model.json and model.state."""
READ = (1, 2)
"""Formats that are read."""
_KINDS = frozenset("biuf")
_LIMIT = 2**31
_HEADER = 2**23
"""Bytes of names and shapes: about a hundred thousand tensors."""


def model_state(state: Mapping[str, Mapping[str, Array]]) -> bytes:
    """The file's bytes; equal states give equal bytes. WireError W01 for a dtype that is not bool,
    integer or float."""
    from safetensors.numpy import save

    arrays = flatten(state)
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
            raise WireError(
                "W01",
                f"array '{name}' has dtype {array.dtype}; only bool, integer and float arrays up "
                "to 64 bits may be kept",
            )
    little = {
        name: np.ascontiguousarray(a).astype(a.dtype.newbyteorder("<")).reshape(a.shape)
        for name, a in arrays.items()
    }
    return bytes(save(little))


def opened(blob: bytes) -> State:
    """The state in a file of either format, read-only. WireError W02 where it is neither, is cut
    off, or claims more than it holds."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if blob[8:9] == b"[":
        return nest(unpack(blob))
    try:
        if len(blob) > _LIMIT:
            raise ValueError(f"{len(blob)} bytes")
        if int.from_bytes(blob[:8], "little") > _HEADER:
            raise ValueError(f"a header of {int.from_bytes(blob[:8], 'little')} bytes")
        arrays = load(blob)
        for name, array in arrays.items():
            if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
                raise ValueError(f"array '{name}' of {array.dtype}")
            array.flags.writeable = False
    except (SafetensorError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
        raise WireError(
            "W02", f"not a safetensors file of numbers ({error}); it was truncated or altered"
        ) from error
    return nest(arrays)
