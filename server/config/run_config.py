"""Run: what a coordinator decided, frozen, parsed once from Flower's flat run configuration; an unknown key is an error."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from common.data.cohort import Fold
from common.data.schema import Schema
from common.errors import UsageError
from common.federated.learner import Federated, Head, Hyper, Stacked, hyper_of, load
from common.study import load as studies
from common.study.study import Study
from common.wire.compression import HOWS, ROUNDED

EVALUATIONS = ("within_site", "leave_one_site_out")
HOLDOUT = "holdout"
"""How a run with noise is evaluated where nothing else is asked for: one part is not trained on, so that nobody pays twice."""


@dataclass(frozen=True)
class Run:
    """Every key may be given as `flwr run . --run-config 'key=value'`; the defaults are pyproject.toml's."""

    study: str = "colorectal_metastasis"
    """Name of a study, or path of a study file."""
    task: str = ""
    """The prediction time; empty: the study's last."""
    out: str = ""
    """Folder of the run: ledger, states, model."""
    keys: str = ""
    """Folder of the coordinator's key and the list of enrolled sites' keys."""
    sites: str = ""
    """Folder of site folders, used by nodes without a site of their own (Flower's simulation engine)."""
    seed: int = 0
    """Seed of splits and subsampling; never of noise."""
    parts: int = 5
    """Hash parts for cross-fitting within sites."""
    learners: str = ""
    """Heads to train, comma-separated; empty: the study's."""
    hyper: str = ""
    """JSON object: learner -> hyperparameters."""
    strategy: str = "fedavg"
    """Flower strategy by which learners that send parameters are combined."""
    evaluations: str = ",".join(EVALUATIONS)
    """Masked sums are evaluated within sites alone.

    With noise `holdout` takes their place; `within_site` is then to be had too, and every patient pays for each fold it is in.
    """
    comparison: bool = True
    """After the evaluation every site compares the models on its own patients: paired differences, local models, figures by site."""
    full: bool = False
    """Also leave-one-site-out for the learners on images: it multiplies their training."""
    left_out_sites: int = 12
    """Most sites that leave-one-site-out leaves out one by one (the largest); each costs a set of models. The others go together."""
    expect: int = 1
    """Sites to wait for before the first round."""
    quorum: float = 1.0
    """Share of the sites able to do a step that must contribute to it."""
    quorum_cases: float = 0.0
    """Share of those sites' labelled cases that the contributing ones must hold: five small hospitals do not stand for the large one."""
    deadline: float = 600.0
    """Seconds that a site has to answer, if only that it is still at work; also the longest wait for sites to register."""
    retries: int = 2
    """How often a site that did not answer is asked again; and how many deadlines more one plan may take, where no forecast says more."""
    transfer: str = "whole"
    """`whole`: every state to every site. `changed`: what a site does not hold. `float16`, `int8`: of large models the rounded changes."""
    norm_bound: float = 0.0
    """Largest L2 norm by which one site's update may change a learner's parameters; beyond it the update is refused (X03). 0: none."""
    outliers: float = 0.0
    """How many times the median of at least four sites' norms one of them may be, before it is refused (X03); 0: as large as it likes."""
    noise: float = 0.0
    """Standard deviation of the noise in every sum, in units of what one patient can add to it; 0: none. Sites with a budget demand it."""
    secure: bool = False
    """Whether sums are masked, so that the coordinator sees those over all sites alone; three messages a step instead of one."""
    accept_leak: str = ""
    """Comma-separated features for which guard L03 is overridden; printed in the report."""
    resume: bool = False
    """Go on where the ledger in `out` ends; `python -m server resume` sets it."""

    @staticmethod
    def parse(config: Mapping[str, object]) -> Run:
        known = {f.name: f.type for f in fields(Run)}
        faults = []
        values: dict[str, object] = {}
        for key, value in config.items():
            default = getattr(Run, key, None)
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                faults.append(
                    f"run configuration has no key '{key}'" + (f"; did you mean '{near[0]}'?" if near else f"; keys: {', '.join(known)}")
                )
            elif type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
                faults.append(f"run configuration: {key}={value!r} must be a {type(default).__name__}")
            else:
                values[key] = float(value) if isinstance(default, float) else value  # type: ignore[arg-type]
        if not faults:
            run = Run(**values)  # type: ignore[arg-type]
            if run.noise and run.evaluations == Run.evaluations:
                run = replace(run, evaluations=HOLDOUT)
            if run.secure and run.evaluations == Run.evaluations:
                run = replace(run, evaluations="within_site")
            faults += _faults(run)
        if faults:
            raise UsageError("C01", *faults)
        return run

    @property
    def toml(self) -> str:
        """What differs from the defaults, for `flwr run --run-config FILE`: on a command line Flower takes no quotes in a value."""
        # a JSON text is a TOML text, too
        return "".join(f"{k} = {json.dumps(v)}\n" for k, v in asdict(self).items() if v != getattr(Run, k))

    def load_study(self) -> Study:
        return studies.load(self.study)

    def task_of(self, study: Study) -> str:
        return self.task or list(study.tasks)[-1]

    def heads(self, study: Study) -> tuple[Federated, ...]:
        """The heads to train, configured."""
        chosen = tuple(filter(None, self.learners.split(","))) or study.learners
        if len(set(chosen)) < len(chosen):
            raise UsageError("C01", f"learners name one twice ({', '.join(chosen)}); give each once")
        found = tuple(self.learner(name, study) for name in chosen)
        for learner in found:
            if not isinstance(learner, Head):
                raise UsageError(
                    "C01", f"learner '{learner.name}' predicts nothing by itself and is run where it is needed; name heads only"
                )
            if isinstance(learner, Stacked):
                lacking = [n for n in learner.needs if n not in chosen and isinstance(load(n), Head)]
                if lacking:
                    raise UsageError("C01", f"learner '{learner.name}' combines {', '.join(lacking)}; name these too")
        known = {n for learner in found for n in (learner.name, *learner.needs)} | {"preprocessing", "importance"}
        for name in json.loads(self.hyper or "{}"):
            if name not in known:
                raise UsageError("C01", f"hyper names learner '{name}', which this run does not train ({', '.join(sorted(known))})")
        return found

    def learner(self, name: str, study: Study) -> Federated:
        """A learner with the study's and the run's hyperparameters; one that reads others gets theirs too."""
        hyper = {**study.hyper.get(name, {}), **self._hyper().get(name, {})}
        if isinstance(load(name), Stacked):
            hyper = {"learners": self.hypers(study), **({"clinical": study.clinical} if study.clinical else {}), **hyper}
        return load(name, hyper)

    def hypers(self, study: Study) -> dict[str, Hyper]:
        """The hyperparameters of every learner that has other than its defaults."""
        mine = self._hyper()
        both = {n: {**study.hyper.get(n, {}), **mine.get(n, {})} for n in sorted({*study.hyper, *mine})}
        return {n: h for n, h in both.items() if h and n != "importance" and not isinstance(load(n), Stacked)}

    def _hyper(self) -> dict[str, dict[str, object]]:
        hyper: dict[str, dict[str, object]] = json.loads(self.hyper or "{}")
        return hyper

    def importance(self, heads: Sequence[str], hypers: Mapping[str, Hyper]) -> Federated:
        """What looks at which features move these heads; a `clip` lets it do so with noise."""
        return load("importance", {"heads": list(heads), "learners": hypers, **self._hyper().get("importance", {})})

    def preprocessing(self, study: Study) -> Federated:
        return self.learner("preprocessing", study)

    def id(self, study: Study, schema: Schema) -> str:
        """A hash of what decides the model: the same configuration gives the same id."""
        learners = [(x.name, hyper_of(x)) for x in (self.preprocessing(study), *self.heads(study))]
        decisive = {k: v for k, v in asdict(self).items() if k not in ("out", "keys", "sites", "resume", "deadline", "retries")}
        decisive["study"] = Path(self.study).name
        hypers = json.dumps(self.hypers(study), sort_keys=True)
        text = json.dumps([decisive, schema.hash, learners, study.clinical, hypers], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folds(self, held_out: Sequence[tuple[str, ...]]) -> tuple[Fold, ...]:
        """All training sets of the run.

        Everybody; each part left out (its predictions are the within-site ones); each pair of parts left out (the out-of-fold
        predictions on training rows that set the threshold and choose the head for each part); the same for each held-out group of
        sites: every estimable site by itself, and the others together. With noise no fold is there for thresholds.
        """
        parts = range(self.parts)
        if HOLDOUT in self.evaluations:
            return (Fold(parts=(0,)),)
        out = [Fold()]
        if "within_site" in self.evaluations:
            out += [Fold(parts=(p,)) for p in parts]
            out += [Fold(parts=(p, q)) for p in parts for q in parts if p < q and not self.noise]
        if "leave_one_site_out" in self.evaluations:
            out += [Fold(group) for group in held_out]
            out += [Fold(group, (p,)) for group in held_out for p in parts]
        return tuple(out)


def _not_masked(run: Run) -> list[str]:
    """What needs the updates of single sites."""
    out = []
    if run.transfer in ROUNDED:
        out.append(f"transfer={run.transfer} rounds each site's update, which secure sums hide; leave one of them out")
    if "leave_one_site_out" in run.evaluations:
        out.append(
            "evaluations: leave_one_site_out shows a site's sums by what its absence changes; secure sums hide them, use within_site"
        )
    if run.norm_bound or run.outliers or run.quorum_cases:
        out.append("norm_bound, outliers and quorum_cases judge single sites, which secure sums hide; leave them out")
    if run.expect < 3:
        out.append(f"expect={run.expect}: secure sums need at least 3 sites, for of two each could take its own part off")
    return out


def _faults(run: Run) -> list[str]:
    out = []
    least = 3 if "within_site" in run.evaluations else 2
    if not least <= run.parts <= 50:
        out.append(f"parts={run.parts} must lie in {least} to 50 (a threshold takes models that leave two parts out)")
    if run.left_out_sites < 1:
        out.append(f"left_out_sites={run.left_out_sites} must be at least 1")
    if run.expect < 1:
        out.append(f"expect={run.expect} must be at least 1")
    if not 0 < run.quorum <= 1:
        out.append(f"quorum={run.quorum} must lie in (0, 1]")
    if not 0 <= run.quorum_cases <= 1:
        out.append(f"quorum_cases={run.quorum_cases} must lie in [0, 1]")
    if not 0 <= run.norm_bound < float("inf"):
        out.append(f"norm_bound={run.norm_bound} must be 0 or a number above it")
    if run.outliers and not 1 < run.outliers < float("inf"):
        out.append(f"outliers={run.outliers} must be 0 or above 1: half of the sites always lie beyond the median")
    if not 0 <= run.noise < float("inf"):
        out.append(f"noise={run.noise} must be 0 or a number above it")
    if run.noise and run.transfer in ROUNDED:
        out.append(f"transfer={run.transfer} rounds sums, and noise={run.noise:g} is for sums that are sent whole; leave one of them out")
    if run.secure:
        out += _not_masked(run)
    if not 0 < run.deadline < float("inf") or run.retries < 0:
        out.append(f"deadline={run.deadline} must be above 0 and retries={run.retries} not below 0")
    if run.transfer not in HOWS:
        out.append(f"transfer={run.transfer!r} is unknown; allowed: {', '.join(HOWS)}")
    allowed = (HOLDOUT, "within_site") if run.noise else EVALUATIONS
    asked = [e for e in run.evaluations.split(",") if e]
    bad = [e for e in asked if e not in allowed]
    if bad:
        out.append(f"evaluations: unknown {', '.join(bad)}{' with noise' if run.noise else ''}; allowed: {', '.join(allowed)}")
    elif HOLDOUT in asked and len(asked) > 1:
        out.append(f"evaluations: {HOLDOUT} goes with no other; {', '.join(asked)} are asked for")
    try:
        if run.hyper and not isinstance(json.loads(run.hyper), dict):
            raise ValueError("not a JSON object")
        if run.hyper and not all(isinstance(v, dict) for v in json.loads(run.hyper).values()):
            raise ValueError("each learner needs an object of hyperparameters")
    except ValueError as error:
        out.append(f"hyper={run.hyper!r}: {error}")
    return out
