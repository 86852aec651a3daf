"""Image embeddings: the image network's features of a site's own pictures, as tables for the site's
own use. Nothing of it is sent.

A *patient* embedding is the encoder's feature map, averaged over space and over the patient's
crops; a *slice* embedding is the map averaged over one of its axial planes. Files are readable by
their owner alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from client.local_model.model_folder import Networks
from common.data.cohort import Cohort
from common.errors import DataError, RunError
from common.learners.image import with_images
from common.runtime.atomic_files import fresh


def embed(
    cohort: Cohort, networks: Networks, folder: Path, tell: Callable[[int, int], None]
) -> tuple[int, int]:
    """Write `patients.parquet` (patient, region, f0...) and `slices.parquet` (patient, crop, slice,
    f0...); returns their row counts.

    `slice` counts the planes of the encoder's map from the feet to the head of a crop. D09 where no
    case has an image.
    """
    import torch

    from common.networks.datasets import Cases
    from common.networks.devices import choose, repeatable

    rows = with_images(cohort)
    if not len(rows):
        raise DataError(
            "D09", f"site '{cohort.site}': no case has an image; there is nothing to embed"
        )
    networks.demand(rows.schema)
    image, device = networks.image, choose()
    crops = image.crops(networks.state, rows)
    cases = Cases(crops, crops.counts, cast(Any, rows.pictures), rows.labels, None)
    patients: list[tuple[str, str, Any]] = []
    planes: list[tuple[str, int, int, Any]] = []
    with repeatable(device), torch.inference_mode():
        network = image.built(networks.state, rows.schema, device)
        for i, patient in enumerate(rows.ids):
            tell(i, len(rows))
            x, _, _, _ = cases.batch(np.array([i]), device, None)
            maps = network.features(x).float()
            # (crops, planes, features): a 2.5D network has a map for each slab, a 3D one a plane
            # for each step along z
            averaged = (
                maps.unflatten(0, (len(x), -1)).mean((3, 4))
                if maps.ndim == 4
                else maps.mean((3, 4)).transpose(1, 2)
            )
            features = averaged.cpu().numpy()
            patients.append((patient, crops.sources[i], features.mean(axis=(0, 1))))
            planes += [
                (patient, c, z, features[c, z])
                for c in range(features.shape[0])
                for z in range(features.shape[1])
            ]
    tell(len(rows), len(rows))
    _write(folder / "patients.parquet", ("patient", "region"), patients)
    _write(folder / "slices.parquet", ("patient", "crop", "slice"), planes)
    return len(patients), len(planes)


def _write(path: Path, keys: tuple[str, ...], rows: list[Any]) -> None:
    import pyarrow
    from pyarrow import parquet

    values = np.stack([r[-1] for r in rows])
    columns = {k: [r[i] for r in rows] for i, k in enumerate(keys)} | {
        f"f{j}": values[:, j] for j in range(values.shape[1])
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        with fresh(aside) as f:
            parquet.write_table(pyarrow.table(columns), f)
        os.replace(aside, path)
    except OSError as error:
        raise RunError(
            "S03", f"'{path}' cannot be written ({error.strerror}); free space or mend permissions"
        ) from error
