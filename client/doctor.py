"""Self-check of a site's station: is the data readable and in schema, is there enough of it, and
can this machine work on it?

It runs where the station runs, without a network, and writes nothing but what a station would, and
its forecast of the longest work on one plan, which the station tells the coordinator. What else it
says stays at the site.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.site import public_counts, public_deadline, site_file
from client.site.site_file import Site
from client.station import guard, privacy_budget, socket_server, time_forecast
from client.station.station import cohort_of, open_site
from common.data.cohort import ESTIMABLE, UNKNOWN, Cohort, Fold
from common.data.made_up import made_up
from common.errors import DataError, FedmetsError
from common.federated.learner import fit, hyper_of, load, local_plan
from common.privacy.limits import SPLIT
from common.runtime import network
from common.runtime.health_check import Finding, faults
from common.study import load as studies
from common.study.study import Study
from common.trees.model import distributions
from common.types import flatten, pack
from common.wire import manifest, signing

PERMISSIONS = "fix permissions: the user that the station runs as must be able to read it"
EXPORT = (
    "re-export the table as the study's mapping declares it, or correct the mapping; rows "
    "that cannot be mended: exclude them"
)
LEAST_FREE_GB = 2.0
"""Free space for answers and logs; prepared images come on top."""
_DRY_RUN_CASES = 32
"""Cases of the dry run."""
_DRY_RUN_EXCHANGES = 3


def examine(path: Path, socket: Path) -> list[Finding]:
    """All that can be looked at from here. Never raises for what is wrong at the site: it is
    said."""
    try:
        site = site_file.load(path)
    except FedmetsError as error:
        return faults("site file", error, f"edit {path}")
    out = [Finding("site file", "ok", f"'{site.name}' takes part in {', '.join(site.studies)}")]
    out += _kit(path.parent, site)
    out += _keys(site)
    out += _isolation(socket)
    out += _disk(site)
    out += _gpu()
    out += _xgboost()
    try:
        open_site(path)
    except FedmetsError as error:
        return [*out, *faults("log", error, PERMISSIONS)]
    out += _privacy(site)
    for ref in site.studies:
        out += _study(site, ref)
    return out


def _privacy(site: Site) -> list[Finding]:
    masked = site.privacy.require == "secagg"
    if not site.privacy.noised:
        how = f"masked, with those of {', '.join(site.privacy.peers)}" if masked else "as they are"
        return [
            Finding(
                "privacy",
                "note",
                f"no epsilon is set: sums over at least {site.minimum} patients leave {how}",
            )
        ]
    try:
        account = privacy_budget.read(site.state, site.privacy)
    except FedmetsError as error:
        return faults("privacy", error, "restore the newest copy of the budget file")
    if account["faults"]:
        return [Finding("privacy", "fault", f, privacy_budget.NO_BOUND) for f in account["faults"]]
    if not account["begun"]:
        return [
            Finding(
                "privacy",
                "fault",
                "an epsilon is set, and there is no account: the station would not start (S05)",
                "restore the newest copy; where there never was one, say so once: fedmets client "
                "budget --site FILE --new",
            )
        ]
    text = "sums are masked; " if masked else ""
    text += (
        f"epsilon {account['spent']:.3f} of {account['epsilon']:g} spent, in "
        f"{account['releases']} releases"
    )
    if trust := privacy_budget.trust(account):
        text += f"; {trust}"
    enough = account["left"] > account["epsilon"] / 10
    return [
        Finding(
            "privacy",
            "ok" if enough else "warning",
            text,
            "" if enough else "what it cannot pay for is refused (P09)",
        )
    ]


def _keys(site: Site) -> list[Finding]:
    if not site.coordinator or site.key is None:
        return [
            Finding(
                "keys",
                "fault",
                "no coordinator is pinned, or no key named",
                "enrol: fedmets deploy enroll KIT --fingerprint ...",
            )
        ]
    try:
        signing.load(site.key)
    except FedmetsError as error:
        return faults("keys", error, f"chmod 600 {site.key}, or enrol again")
    return [Finding("keys", "ok", f"plans of {site.coordinator[:16]}... are answered")]


def _kit(folder: Path, site: Site) -> list[Finding]:
    """Every file of the kit as the pinned coordinator signed it, but those that IT edits."""
    if not (folder / manifest.NAME).exists():
        return []
    try:
        socket_server.check_kit(folder, site.coordinator)
        files = manifest.read(folder, site.coordinator)
    except FedmetsError as error:
        return faults("kit", error, "take the kit's file again, or ask the coordinator")
    edited = manifest.altered(folder, files, manifest.OWN)
    out = [Finding("kit", "ok", f"{len(files)} files as the coordinator signed them")]
    if edited:
        text = f"{', '.join(edited)}: other than the coordinator's, which is yours to decide"
        out.append(Finding("kit", "note", text))
    return out


def _isolation(socket: Path) -> list[Finding]:
    out = []
    for check, check_it, do in (
        (
            "isolation",
            network.alone,
            "start the station without a network; the container's compose file does",
        ),
        ("socket", lambda: _socket(socket), "another --socket, or mend its owner and mode"),
    ):
        try:
            check_it()
        except FedmetsError as error:
            out += faults(check, error, do)
        else:
            out.append(
                Finding(
                    check,
                    "ok",
                    "no interface but loopback"
                    if check == "isolation"
                    else f"{socket} can be made",
                )
            )
    return out


def _socket(path: Path) -> None:
    socket_server.check_path(path)
    socket_server.own(path.parent)


def _disk(site: Site) -> list[Finding]:
    out = []
    for name, folder in (("state", site.state), ("log", site.log.parent), ("cache", site.cache)):
        existing = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
        if not os.access(existing, os.W_OK):
            out.append(
                Finding(
                    "disk",
                    "fault",
                    f"{name}: '{existing}' cannot be written",
                    f"fix permissions, or set `{name}` in the site file",
                )
            )
            continue
        free = shutil.disk_usage(existing).free / 1e9
        way_out = (
            "" if free >= LEAST_FREE_GB else "free space: answers are kept on it before they leave"
        )
        out.append(
            Finding(
                "disk",
                "ok" if free >= LEAST_FREE_GB else "warning",
                f"{name}: {free:.1f} GB free on '{existing}'",
                way_out,
            )
        )
    return out


def _gpu() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        why = (
            "this station's PyTorch is built without CUDA"
            if torch.version.cuda is None
            else "PyTorch sees no CUDA device"
        )
        return [
            Finding(
                "GPU",
                "note",
                f"{why}: networks train on the CPU",
                "for a GPU: the GPU image, and the device in the compose file",
            )
        ]
    free, whole = torch.cuda.mem_get_info()
    text = f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB free"
    return [
        Finding(
            "GPU",
            "ok" if free > 4e9 else "warning",
            text,
            "" if free > 4e9 else "stop what else uses it, or expect halved batches",
        )
    ]


def _xgboost() -> list[Finding]:
    """With both distributions, which one's files are loaded is chance, and removing one breaks the
    other."""
    there = distributions()
    said = " and ".join(f"{distribution} {version}" for distribution, version in there.items())
    if len(there) == 1:
        return [Finding("XGBoost", "ok", said)]
    if there:
        do = (
            "pip uninstall -y xgboost xgboost-cpu, then install one: xgboost-cpu, or xgboost for "
            "a GPU"
        )
        return [Finding("XGBoost", "warning", f"{said} are both installed, in one folder", do)]
    return [
        Finding(
            "XGBoost",
            "fault",
            "neither xgboost-cpu nor xgboost is installed: no trees can be used",
            "pip install xgboost-cpu",
        )
    ]


def _study(site: Site, ref: str) -> list[Finding]:
    try:
        study = studies.load(ref)
        task = list(study.tasks)[-1]
        cohort = cohort_of(site, ref, task)
    except DataError as error:
        denied = any(word in str(error) for word in ("Permission denied", "cannot be read"))
        return faults(f"data, {ref}", error, PERMISSIONS if denied else EXPORT)
    except FedmetsError as error:
        return faults(
            f"study {ref}", error, "take the study out of the site file, or update fedmets"
        )
    except OSError as error:
        return [
            Finding(f"data, {ref}", "fault", f"'{error.filename}': {error.strerror}", PERMISSIONS)
        ]
    flow = cohort.flow
    labelled = int((cohort.labels != UNKNOWN).sum())
    counts = np.bincount(
        cohort.labels[cohort.labels != UNKNOWN], minlength=len(cohort.schema.label.classes)
    )
    counts_by_class = ", ".join(
        f"{n} {c}" for c, n in zip(cohort.schema.label.classes, counts, strict=True)
    )
    out = [
        Finding(
            f"data, {ref}",
            "ok",
            f"{flow.read} patients read, {len(cohort)} kept, {labelled} with a known label "
            f"({counts_by_class})",
        )
    ]
    out += [
        Finding(
            f"data, {ref}", "note", f"{n} left out: {why}", "exclude them knowingly, or re-export"
        )
        for why, n in flow.excluded
    ]
    out += [Finding(f"data, {ref}", "note", note) for note in flow.notes]
    if site.privacy.noised and site.privacy.delta >= 1 / max(len(cohort), 1):
        text = (
            f"privacy.delta = {site.privacy.delta:g} is not below 1 / {len(cohort)} cases: "
            "every plan would be refused (P07)"
        )
        out.append(Finding("privacy", "fault", text, "lower it in the site file"))
    out += _unseen(cohort, ref)
    out += _undeclared(site, cohort, ref)
    out += _number(site, cohort, ref)
    if labelled < site.minimum:
        text = (
            f"{labelled} patients with a known label, the minimum is {site.minimum}: every sum "
            "would be refused (P01)"
        )
        out.append(
            Finding(
                f"data, {ref}",
                "fault",
                text,
                "more patients, or a lower `minimum` if your rules allow it",
            )
        )
    elif (counts >= ESTIMABLE).sum() < 2:
        text = (
            f"fewer than {ESTIMABLE} patients of a second class: the site takes part, but no "
            "figure can be given for it alone"
        )
        out.append(Finding(f"data, {ref}", "note", text))
    if labelled >= site.minimum:
        out += _folds(site, labelled, ref)
        longest, findings = _forecast(study, *_timed(site, cohort), ref)
        out += findings
        try:
            time_forecast.save(site.state, Path(ref).name, task, longest)
        except FedmetsError as error:
            out += faults(f"forecast, {ref}", error, PERMISSIONS)
    return out


def _folds(site: Site, labelled: int, ref: str) -> list[Finding]:
    """Masked sites tell no number of patients but the one that they declare: of folds that are too
    small for them a run learns by its end."""
    most = public_counts.most_parts(site, labelled)
    if site.privacy.require != "secagg" or site.privacy.patients is not None or most >= SPLIT.most:
        return []
    text = f"a masked run of more than {most} parts would end at this site's first answer (M04)"
    way_out = (
        "declare privacy.patients = [least, most]: such a run is then refused before it begins"
    )
    return [Finding(f"data, {ref}", "note", text, way_out)]


def _unseen(cohort: Cohort, ref: str) -> list[Finding]:
    """Files of images, and nobody's image among them: that is no site without images."""
    notes = [n for n in cohort.flow.notes if n.startswith("images: ") and "holds none" not in n]
    if cohort.schema.imaging is None or cohort.imaged.any() or not notes:
        return []
    text = f"no patient has an image that can be used, though the folder is not empty: {notes[-1]}"
    do = "read the notes on images above and the site's log, which names the files and the way out"
    return [Finding(f"images, {ref}", "warning", text, do)]


def _undeclared(site: Site, cohort: Cohort, ref: str) -> list[Finding]:
    """Images that are not offered, for want of a declaration."""
    if not site.privacy.protected or cohort.schema.imaging is None or site.privacy.modalities:
        return []
    imaged = int(cohort.imaged.sum())
    text = (
        f"with an epsilon or masks images are offered where privacy.modalities names them; it names "
        f"nothing, and those of {imaged} patients are not"
    )
    do = 'to offer them: modalities = ["table", "image"] below [privacy]'
    return [Finding(f"images, {ref}", "warning" if imaged else "note", text, do)]


def _number(site: Site, cohort: Cohort, ref: str) -> list[Finding]:
    """The number of patients by which an answer's time is set."""
    policy = site.privacy
    if not policy.protected or not policy.answer_margin:
        return []
    if policy.patients is None:
        text = (
            "no number of patients is declared: answers leave after a time for "
            f"{public_deadline.most_patients(policy, site.minimum, None, len(cohort))}, which tells "
            "about how many there are"
        )
        do = "declare the least and the most, such as patients = [100, 400] below [privacy]"
        return [Finding(f"patients, {ref}", "note", text, do)]
    if len(cohort) <= policy.patients[1]:
        return []
    text = (
        f"{len(cohort)} patients, and privacy.patients declares {policy.patients[1]} at most: "
        "answers may leave before all have been worked on, and those left add nothing"
    )
    return [Finding(f"patients, {ref}", "warning", text, "raise it")]


def _timed(site: Site, cohort: Cohort) -> tuple[Cohort, float | None]:
    """By whom a plan is timed, and for how many: by patients, or where an answer waits for a public
    time, by made-up ones."""
    policy = site.privacy
    if not (policy.protected and policy.answer_margin):
        return cohort, None
    imaged = "image" in guard.modalities(site, cohort)
    made = made_up(cohort.schema, _DRY_RUN_CASES, (Fold(), 0, 5), imaged=imaged)
    most = public_deadline.most_patients(policy, site.minimum, None, len(cohort))
    return made, most * policy.answer_margin


def _forecast(
    study: Study, cohort: Cohort, patients: float | None, ref: str
) -> tuple[float, list[Finding]]:
    """A measured forecast from `cohort` for `patients` of them, where these are not as many: the
    slowest of a learner's first exchanges (the very first may only count).

    Returns the seconds of the slowest learner, too.
    """
    out, longest = [], 0.0
    plan = local_plan(Fold(), 0, 5)
    prepared = fit(load("preprocessing"), {}, [cohort], plan)
    for name, eligible, hyper in (
        ("logistic", np.ones(len(cohort), np.bool_), {}),
        ("image", cohort.imaged, {"segmentation": False}),
    ):
        learner = load(name, {**study.hyper.get(name, {}), **hyper})
        if name not in study.learners or not learner.modality <= cohort.modalities:
            continue
        sample = cohort.where(eligible & (np.cumsum(eligible) <= _DRY_RUN_CASES))
        state, seconds = {**prepared, name: learner.start(cohort.schema, 0)}, 0.0
        for step in range(_DRY_RUN_EXCHANGES):
            step_plan = replace(
                plan,
                learner=name,
                step=step,
                phase=learner.phase(state[name]),
                hyper=hyper_of(learner),
            )
            states = {plan.fold: state}
            started = time.perf_counter()
            sums = learner.contribute(states, sample, step_plan)
            seconds = max(seconds, time.perf_counter() - started)
            state = {**state, name: learner.apply(states, sums, step_plan).arrays}
        there = int(eligible.sum())
        seconds *= (there if patients is None else patients) / max(len(sample), 1)
        longest = max(longest, seconds)
        size = len(pack(flatten({name: state[name]}))) / 1e6
        text = f"{name}: about {seconds:.1f} s and {2 * size:.1f} MB a round and training set"
        how = f"{len(sample)} of {there} cases" if patients is None else "made-up patients, at most"
        text += f", measured on {how}; memory {_memory():.1f} GB"
        out.append(Finding(f"forecast, {ref}", "ok", text))
    return longest, out


def _memory() -> float:
    """GB: the most that this process (on a GPU: the device) has held."""
    import resource

    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated()) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
