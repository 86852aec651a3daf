"""Setting of a simulated run: everything it needs, decided before its first round, and the
federation run on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.cohort.reader import Reading, read_table
from client.station.station import open_station
from common.data.cohort import ESTIMABLE, UNKNOWN, Cohort
from common.errors import DataError, FedmetsError, RunError, UsageError
from common.runtime.console import Console, progress
from common.study.study import Study
from server.app import Outcome
from server.config.run_config import Run
from server.ledger import state_store
from simulation.federation import (
    label_permutation,
    malicious_site,
    partition,
    site_folders,
    synthetic_cohorts,
)
from simulation.federation.options import (
    DEFAULT_FOLDS,
    DEFAULT_IMAGE_FOLDS,
    DEFAULT_IMAGE_SITES,
    DEFAULT_SITES,
    Options,
)


@dataclass(frozen=True)
class Setting:
    """Everything that a run needs, decided before its first round."""

    args: argparse.Namespace
    folder: Path
    study: Study
    task: str
    reading: Reading
    parted: partition.Partition
    sites: dict[int, Path]
    run: Run
    phantom: bool
    attacker: str = ""
    """The site that has gone over to the other side; empty: none."""


def prepare(options: Options, console: Console | None = None) -> Setting:
    """The table, the images and the sites: all that can be wrong with the data is found here,
    before any round."""
    console = console or Console(quiet=True)
    args, folder, study, task = options.args, options.folder, options.study, options.task
    with progress(console) as bar:
        line = bar.add_task("", total=None, visible=False)

        def tell(what: str) -> Callable[[int, int], None]:
            return lambda done, of: bar.update(
                line, description=what, completed=done, total=of, visible=done < of
            )

        data, phantom = _data(args, folder, study, tell("writing the synthetic cohort"))
        images, cache = (
            _images(args, data),
            Path(args.cache) if args.cache else Path(args.out) / "cache",
        )

        images_told = tell("preparing images (once)")
        reading = read_table(
            study,
            task,
            data,
            source=args.source or None,
            images=images,
            cache=cache,
            tell=images_told,
        )
    _two_classes(reading)
    _unchanged(folder, reading)
    source = "" if study.source else reading.source
    if args.permute_labels is not None:
        data, mapping = label_permutation.write(folder / "permuted", reading, args.permute_labels)
        source = str(mapping.resolve())
        shuffled = read_table(study, task, data, source=source)
        cohort = replace(
            shuffled.cohort,
            flow=reading.cohort.flow,
            pictures=reading.cohort.pictures,
            modalities=reading.cohort.modalities,
        )
        reading = replace(shuffled, cohort=cohort, overrides=reading.overrides)
    pictured = _pictured(options.run, study, reading)
    parts = args.folds or (DEFAULT_IMAGE_FOLDS if pictured else DEFAULT_FOLDS)
    parted = _parted(args, reading, pictured)
    _enough(args, reading, parted, parts)
    attacker, elsewhere = malicious_site.chosen(args, parted), {}
    if args.attack == malicious_site.IN_DATA:
        poisoned, mapping = malicious_site.flipped(
            folder / "poisoned", reading, parted.sites[attacker]
        )
        elsewhere[attacker] = poisoned, str(mapping.resolve())
    sites = site_folders.write_sites(
        folder / "sites",
        parted,
        site_folders.SiteTemplate(
            args.study,
            data,
            source,
            args.minimum_patients,
            images=images if reading.cohort.imaged.any() else None,
            cache=cache if reading.cohort.imaged.any() else None,
            noise_seed=args.noise_seed,
            secure=options.run.secure,
            elsewhere=elsewhere,
        ),
    )
    run = replace(
        options.run,
        expect=len(sites),
        parts=parts,
        keys=str((folder / site_folders.COORDINATOR).resolve()),
    )
    return Setting(args, folder, study, task, reading, parted, sites, run, phantom, attacker)


def _data(
    args: argparse.Namespace, folder: Path, study: Study, tell: Callable[[int, int], None]
) -> tuple[Path, bool]:
    if args.data:
        return Path(args.data), False
    if study.source is not None and "tables" in study.source and Path(args.study).suffix:
        return Path(args.study).parent, False
    synthetic_cohorts.write(
        study.name,
        folder / "data",
        seed=args.seed,
        mode=args.phantom,
        patients=args.phantom_patients,
        tell=tell,
    )
    return folder / "data", True


def _pictured(run: Run, study: Study, reading: Reading) -> bool:
    """Will networks be trained? Not where a handful of patients has an image."""
    cohort = reading.cohort
    counts = np.bincount(cohort.labels[cohort.imaged & (cohort.labels != UNKNOWN)], minlength=2)
    return any("image" in h.modality for h in run.heads(study)) and bool(
        (counts >= ESTIMABLE).sum() >= 2
    )


def _images(args: argparse.Namespace, data: Path) -> Path | None:
    """Where images are looked for: in the folder of the tables, if not elsewhere."""
    if args.images:
        if not Path(args.images).is_dir():
            raise UsageError("C01", f"--images {args.images}: there is no such folder")
        return Path(args.images)
    return data if data.is_dir() else None


def _two_classes(reading: Reading) -> None:
    """With one class in the whole table there is nothing to learn."""
    label = reading.cohort.schema.label
    classes_present = sorted({int(k) for k in reading.cohort.labels} - {UNKNOWN})
    if len(classes_present) < 2:
        n = int((reading.cohort.labels != UNKNOWN).sum())
        what = (
            f"all {n} labelled cases are '{label.classes[classes_present[0]]}'"
            if classes_present
            else "no case has a known label"
        )
        raise DataError(
            "D09",
            f"label '{label.name}': {what}; check the label's column and its values "
            f"({', '.join(label.classes)})",
        )


def _enough(
    args: argparse.Namespace, reading: Reading, parted: partition.Partition, parts: int
) -> None:
    """In each training set that leaves two parts out, one site at least must have as many patients
    as a sum must cover."""
    if "within_site" not in args.evaluations:
        return
    cohort = reading.cohort
    part = dict(zip(cohort.ids, cohort.parts(args.seed, parts).tolist(), strict=True))
    labelled = {
        i for i, label in zip(cohort.ids, cohort.labels.tolist(), strict=True) if label != UNKNOWN
    }
    counts = [
        np.bincount([part[i] for i in ids if i in labelled], minlength=parts)
        for ids in parted.sites.values()
    ]
    pairs = [(p, q) for p in range(parts) for q in range(p)]
    worst = min(max(int(c.sum() - c[p] - c[q]) for c in counts) for p, q in pairs)
    if worst < args.minimum_patients:
        raise DataError(
            "D09",
            f"the largest site has only {worst} labelled patients in one of the training sets "
            f"that leave two of {parts} parts out, "
            f"and a sum must cover {args.minimum_patients}; ask for fewer --virtual-sites, a "
            "higher --minimum-site, "
            "or a lower --minimum-patients",
        )


def _unchanged(folder: Path, reading: Reading) -> None:
    """A resumed run must meet the table that it was begun with."""
    path = folder / "cohort.sha256"
    if path.exists():
        if path.read_text().strip() != reading.cohort.hash:
            raise RunError(
                "S01",
                f"the data changed since '{folder}' was begun; put the old files back, or start a "
                "new run",
            )
    else:
        state_store.write(path, reading.cohort.hash.encode())


def _parted(args: argparse.Namespace, reading: Reading, pictured: bool) -> partition.Partition:
    kind = args.partition
    if not kind and len(set(reading.institutions)) > 1:
        kind = "natural"
    elif not kind:
        kind = "scanner" if args.phantom == "missing" else "even"
    if kind == "natural":
        return partition.natural(reading, args.minimum_site, args.small_sites)
    if kind == "scanner":
        return partition.by_scanner(reading, args.minimum_site, args.small_sites)
    split = partition.even if kind == "even" else partition.skewed
    return split(
        reading,
        args.virtual_sites or (DEFAULT_IMAGE_SITES if pictured else DEFAULT_SITES),
        args.seed,
        args.minimum_site,
    )


def federate(setting: Setting, console: Console) -> Outcome:
    """Run the two apps; on a failure, show what the sites wrote in their own logs (here they are
    all ours)."""
    try:
        with progress(console) as bar:
            line = bar.add_task("federated", total=None)

            def tell(exchange: Any, progress: Any, jobs: int) -> None:
                names = ", ".join(dict.fromkeys(str(w["learner"]) for w in exchange.work))
                bar.update(
                    line,
                    total=jobs,
                    completed=len(progress.done),
                    description=f"exchange {progress.step}: {names}",
                )

            if setting.args.engine == "ray":
                from simulation.federation.ray_engine import run_on_ray

                return run_on_ray(setting.run, len(setting.sites), tell)
            from client.app import app as honest
            from server.app import coordinate
            from simulation.federation.in_process_grid import InProcessGrid

            # networks spend their time outside Python's lock, tables inside it
            workers = 2 if setting.reading.cohort.imaged.any() else 1
            client = honest
            if setting.args.attack in malicious_site.IN_ANSWERS:
                site = setting.sites[1 + list(setting.parted.sites).index(setting.attacker)]
                client = malicious_site.AttackedApp(honest, site, setting.args.attack)
            return coordinate(
                InProcessGrid(client, setting.sites, workers=workers), setting.run, tell
            )
    except FedmetsError:
        for path in sorted((setting.folder / "sites").glob("*/station.log")):
            print(f"--- {path}\n{path.read_text().strip()[-2000:]}", file=sys.stderr)
        raise


def cohorts(setting: Setting) -> list[Cohort]:
    """The sites' cohorts, in site order; the same objects as the stations hold."""
    site_cohorts = [
        open_station(str(path)).cohort(setting.args.study, setting.task)
        for path in setting.sites.values()
    ]
    return sorted(site_cohorts, key=lambda c: c.site)
