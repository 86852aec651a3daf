"""Split checks (guard L04): nobody stands on both sides of a split. Checked on the cohorts before,
and on what was written to disk afterwards.

Each site's folder gets `predictions.tsv`: a salted hash of each patient, the part, the label and
every out-of-fold probability. It names patients to nobody but stays at the site all the same; the
report is made of sums and intervals.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.site import site_file
from common.data.cohort import Cohort, Fold
from common.errors import LeakError
from server.ledger import state_store
from simulation.evaluation.predictions import Comparison

FILE = "predictions.tsv"


def verify(cohorts: Sequence[Cohort], folds: Sequence[Fold], seed: int, parts: int) -> None:
    """No patient at two sites; no test patient of a fold among those it trains on."""
    site_of: dict[str, str] = {}
    faults = []
    for c in cohorts:
        for i in c.ids:
            if site_of.setdefault(i, c.site) != c.site:
                faults.append(
                    f"L04 patient '{i}' stands at site '{site_of[i]}' and at site '{c.site}'; "
                    "remove one of the two records"
                )
        for fold in folds:
            trained = set(c.train(fold, seed, parts).ids)
            tested = {
                i
                for i, p in zip(c.ids, c.parts(seed, parts).tolist(), strict=True)
                if p in fold.parts or c.site in fold.sites
            }
            if trained & tested:
                faults.append(
                    f"L04 fold '{fold.key}' trains on {len(trained & tested)} patients of site "
                    f"'{c.site}' that it is tested on"
                )
    if faults:
        raise LeakError("L04", *faults)


def write(
    folder: Path,
    cohorts: Sequence[Cohort],
    comparison: Comparison,
    models: Sequence[str],
    seed: int,
) -> None:
    """`predictions.tsv` in each site's folder."""
    single = {k: v[0] for k, v in comparison.scores.items() if len(v) == 1 and k[0] in models}
    homes = {
        site_file.load(path).name: path.parent
        for path in sorted((folder / "sites").glob("*/site.toml"))
    }
    start = 0
    for c in cohorts:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow(["patient", "part", "label", *("|".join(k) for k in single)])
        for row in range(start, start + len(c)):
            salted = hashlib.sha256(f"{seed}|{comparison.ids[row]}".encode()).hexdigest()[:20]
            probs = [
                " ".join(f"{p:.9g}" for p in s.probs[row]) if s.seen[row] else ""
                for s in single.values()
            ]
            writer.writerow(
                [salted, int(comparison.parts[row]), int(comparison.labels[row]), *probs]
            )
        start += len(c)
        state_store.write(homes[c.site] / FILE, text.getvalue().encode())


def verify_written(folder: Path, sites: Mapping[int, Path]) -> None:
    """Read the files back: each patient once, in one site and one part."""
    place_of: dict[str, str] = {}
    faults = []
    for path in sites.values():
        with open(path.parent / FILE, newline="", encoding="utf-8") as f:
            for row in csv.DictReader(f, delimiter="\t"):
                place = f"{path.parent.name}, part {row['part']}"
                if row["patient"] in place_of:
                    faults.append(
                        f"L04 patient {row['patient']} stands in {place_of[row['patient']]} and in "
                        f"{place}"
                    )
                place_of[row["patient"]] = place
    if faults:
        raise LeakError("L04", *faults)
