"""An epoch of the default image network from the warm cache, against tensors in memory, and against
MONAI's PersistentDataset.

    python -m bench.epoch [--cases 120 --channels 4 --repeats 5]

All arms train the same network with the same loss, optimiser and batches of patients, and vary
crops in the same ways; they take turns. The cache's crops are kept files that are mapped
(`client.imaging.pipeline.image_cache`). MONAI's are what its PersistentDataset keeps, varied by its
dictionary transforms and read by its DataLoader, in this process or in a worker, with and without
metadata. Then: what a site's process holds in memory beside the mapped cache.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.imaging.pipeline.image_cache import Cache
from common.data.picture import Picture
from common.data.schema import Channel, Imaging
from common.networks import federated_averaging
from common.networks.architectures import ClassifierNetwork
from common.networks.augmentation import Augment
from common.networks.classifiers.compact3d import CLASSIFIER
from common.networks.crops import CaseCrops, patient_logits
from common.networks.datasets import Cases, presence
from common.networks.training import Schedule, learn
from common.runtime.threads import fix_threads
from common.types import Arrays

GRID = (16, 24, 24)
BATCH = 8
CPU = torch.device("cpu")


def pictures(cases: int, imaging: Imaging, cache: Cache) -> list[Picture]:
    """Noise with one to three lesions; crops are kept in `cache`."""
    r = np.random.default_rng(0)
    out = []
    for i in range(cases):
        voxels = r.integers(-2000, 2000, (len(imaging.channels), 64, 96, 96), dtype=np.int16)
        mask = np.zeros(voxels.shape[1:], np.uint8)
        for k in range(int(r.integers(1, 4))):
            mask[20 * k + 4 : 20 * k + 12, 20:40, 30:50] = 1
        coarse = np.zeros((len(imaging.channels), 2, 2, 2), np.int16)
        present = (True,) * len(imaging.channels)
        out.append(
            Picture(
                str(i),
                voxels,
                1e-3,
                (1, 1, 1),
                present,
                coarse,
                mask,
                None,
                (True,),
                kept=cache.kept(f"{i:064d}"),
            )
        )
    return out


class InMemory(Cases):
    """The same batches out of one tensor."""

    def __init__(
        self, crops: CaseCrops, labels: Any, pictures: list[Picture], augment: Augment
    ) -> None:
        super().__init__(crops, crops.counts, pictures, labels, augment)
        everything = torch.from_numpy(np.concatenate(list(crops)).astype(np.float32)).contiguous(
            memory_format=torch.channels_last_3d
        )
        self._store.gather = lambda rows, device: everything[torch.from_numpy(rows)]  # type: ignore[method-assign]


def loss(network: Any, batch: Any) -> Any:
    x, present, mean, labels = batch
    return torch.nn.functional.cross_entropy(
        patient_logits(network(x, present), mean), labels, reduction="sum"
    )


def with_monai(
    crops: CaseCrops, labels: Any, given: list[Picture], folder: Path, network: Any, start: Arrays
) -> Callable[[int, bool], None]:
    """An epoch with so many workers, its tensors carrying MONAI's metadata or not. The first one
    writes the dataset's own files."""
    from monai.data import DataLoader, PersistentDataset, set_track_meta
    from monai.transforms import (
        Compose,
        EnsureTyped,
        LoadImaged,
        RandAffined,
        RandFlipd,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )

    folder.mkdir()
    items, of_case = [], []
    for i, cut in enumerate(crops):
        of_case.append(range(len(items), len(items) + len(cut)))
        for n, one in enumerate(cut):
            files = {"image": folder / f"{i}-{n}-image.npy", "mask": folder / f"{i}-{n}-mask.npy"}
            np.save(files["image"], np.asarray(one[:-1], np.float32))
            np.save(files["mask"], np.asarray(one[-1:], np.float32))
            items.append({**{k: str(v) for k, v in files.items()}, "case": i})
    both, turn, scale = ["image", "mask"], (0.26,) * 3, (0.1,) * 3
    dataset = PersistentDataset(
        items,
        Compose(
            [
                LoadImaged(
                    both, reader="NumpyReader", channel_dim=0
                ),  # this and the next are what the dataset keeps
                EnsureTyped(both, dtype=torch.float32),
                RandScaleIntensityd(["image"], 0.1, prob=1.0),
                RandShiftIntensityd(["image"], 0.1, prob=1.0),
                *(RandFlipd(both, 0.5, axis) for axis in range(3)),
                RandAffined(
                    both,
                    prob=Augment.resampled,
                    rotate_range=turn,
                    scale_range=scale,
                    padding_mode="border",
                    mode="bilinear",
                ),
            ]
        ),
        folder / "kept",
    )
    bits = presence(given)

    def gathered(those: list[dict[str, Any]]) -> Any:
        order = list(dict.fromkeys(t["case"] for t in those))
        case = torch.tensor([order.index(t["case"]) for t in those])
        member = case == torch.arange(len(order))[:, None]
        x = torch.stack(
            [torch.cat([torch.as_tensor(t["image"]), torch.as_tensor(t["mask"])]) for t in those]
        )
        x = x.contiguous(memory_format=torch.channels_last_3d)
        return (
            x,
            bits[order][case],
            member / member.sum(dim=1, keepdim=True),
            torch.as_tensor(labels)[order],
        )

    def epoch(workers: int, meta: bool) -> None:
        set_track_meta(meta)
        order = np.random.default_rng(0).permutation(len(given))
        batches = [
            [n for i in some for n in of_case[i]]
            for some in np.split(order, np.arange(BATCH, len(order), BATCH))
        ]
        loader = DataLoader(
            dataset, batch_sampler=batches, num_workers=workers, collate_fn=gathered
        )

        class Loaded:
            """The loader's batches, whatever rows are asked for: it has drawn its own."""

            noise = 0

            def __init__(self) -> None:
                self._batches = iter(loader)

            def __len__(self) -> int:
                return len(given)

            def batch(self, rows: Any, device: Any, noise: Any) -> Any:
                return next(self._batches)

        learn(network, start, Loaded(), loss, HOW, seed=0, device=CPU)
        set_track_meta(True)

    return epoch


HOW = Schedule(1, BATCH, 0.003, 0.05, optimiser="adamw")


def megabytes(field: str) -> float:
    """A line of this process's memory account, in MB."""
    line = next(
        x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{field}:")
    )
    return int(line.split()[1]) / 1024


def spread(values: list[float], unit: float = 1e3) -> str:
    return (
        f"{statistics.median(values) * unit:.0f} [{min(values) * unit:.0f}, "
        f"{max(values) * unit:.0f}]"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=120)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    fix_threads()
    imaging = Imaging(
        tuple(Channel(f"c{i}", "MR") for i in range(given.channels)),
        ("lesion",),
        lesion=("lesion",),
    )
    augment = Augment(imaging.crop_mm)
    how = CLASSIFIER, given.channels, 2
    network = federated_averaging.network(ClassifierNetwork, *how)
    start = federated_averaging.bare(federated_averaging.drawn(ClassifierNetwork, how, 0))
    with tempfile.TemporaryDirectory() as name:
        held = pictures(given.cases, imaging, Cache(Path(name)))
        labels = np.arange(given.cases) % 2
        CaseCrops(held, imaging, GRID)  # the cache is warm from here on
        held = [
            Picture(
                p.key,
                p.voxels[:, :1].copy(),
                p.unit,
                p.spacing_mm,
                p.present,
                p.coarse,
                p.mask,
                None,
                (True,),
                kept=p.kept,
            )
            for p in held
        ]
        learn(
            network,
            start,
            Cases(
                c := CaseCrops(held[:16], imaging, GRID), c.counts, held[:16], labels[:16], augment
            ),
            loss,
            HOW,
            seed=0,
            device=CPU,
        )
        before = megabytes("RssAnon")
        crops = CaseCrops(held, imaging, GRID)
        mapped = Cases(crops, crops.counts, held, labels, augment)

        def cached() -> None:
            learn(network, start, mapped, loss, HOW, seed=0, device=CPU)

        peak = before
        for _ in range(2):
            cached()
            peak = max(peak, megabytes("RssAnon"))
        model, batch = (
            sum(v.nbytes for v in start.values()) / 2**20,
            BATCH * 3 * 4 * np.prod(GRID) * (given.channels + 1) / 2**20,
        )
        memory = InMemory(crops, labels, held, augment)

        def in_memory() -> None:
            learn(network, start, memory, loss, HOW, seed=0, device=CPU)

        monai = with_monai(crops, labels, held, Path(name) / "monai", network, start)
        arms: dict[str, Callable[[], None]] = {"cache": cached, "memory": in_memory}
        for meta in (True, False):
            for workers in (0, 1):
                arms[f"MONAI{'' if meta else ' without metadata'}, {workers} workers"] = partial(
                    monai, workers, meta
                )
        seconds: dict[str, list[float]] = {k: [] for k in arms}
        with quiet():
            for arm in arms.values():
                arm()
            for _ in range(given.repeats):
                for k, arm in arms.items():
                    began = time.perf_counter()
                    arm()
                    seconds[k].append(time.perf_counter() - began)
    middle = {k: statistics.median(v) for k, v in seconds.items()}
    print(
        f"{given.cases} cases, {int(crops.counts.sum())} crops of {given.channels} + 1 x {GRID}, "
        f"{given.repeats} turns each"
    )
    for k, v in seconds.items():
        print(
            f"  {k}: {spread(v)} ms an epoch, {middle[k] / crops.counts.sum() * 1e3:.2f} ms a crop"
        )
    print(f"  cache / memory: {middle['cache'] / middle['memory']:.2f} (goal at most 1.10)")
    for k in arms:
        if k.startswith("MONAI"):
            print(f"  cache / {k}: {middle['cache'] / middle[k]:.2f} (goal at most 0.33)")
    print(
        f"memory beside the mapped cache: {before:.0f} MB after the first batches, {peak:.0f} MB "
        "at most after two epochs: "
        f"{peak - before:+.0f} MB; the model is {model:.1f} MB, a batch {batch:.1f} MB (goal: no "
        "more than these and 200 MB)"
    )


if __name__ == "__main__":
    main()
