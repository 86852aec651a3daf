"""Run configuration, what a coordinator decided, frozen, parsed once from Flower's flat run
configuration; an unknown key is an error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from common.data.cohort import Fold
from common.data.schema import Schema
from common.errors import UsageError
from common.federated.learner import Federated, Grouped, Head, Hyper, Stacked, hyper_of, load
from common.privacy.limits import NOISE, SPLIT
from common.runtime import settings
from common.runtime.settings import Rule, Settings, Whole
from common.study import load as studies
from common.study.study import Study
from common.wire.compression import HOWS, ROUNDED

EVALUATIONS = ("within_site", "leave_one_site_out")
HOLDOUT = "holdout"
"""How a run with noise is evaluated where nothing else is asked for: one part is not trained on, so
that nobody pays twice."""


def _hypers(text: str) -> str:
    """JSON: learner -> its hyperparameters."""
    try:
        hypers = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(hypers, dict):
        raise ValueError("is not a JSON object")
    if not all(isinstance(hyper, dict) for hyper in hypers.values()):
        raise ValueError("needs an object of hyperparameters for each learner")
    return text


def _transfer(how: str) -> str:
    if how not in HOWS:
        raise ValueError(f"is unknown; allowed: {', '.join(HOWS)}")
    return how


def _outliers(times: float) -> float:
    if times and not 1 < times < float("inf"):
        raise ValueError("must be 0 or above 1: half of the sites always lie beyond the median")
    return times


Least = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Run(Settings):
    """Every key may be given as `flwr run . --run-config 'key=value'`; the defaults are
    pyproject.toml's."""

    study: str = "colorectal_metastasis"
    """Name of a study, or path of a study file."""
    task: str = ""
    """The prediction time; empty: the study's last."""
    out: str = ""
    """Folder of the run: ledger, states, model."""
    keys: str = ""
    """Folder of the coordinator's key and the list of enrolled sites' keys."""
    sites: str = ""
    """Folder of site folders, used by nodes without a site of their own (Flower's simulation
    engine)."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of splits and subsampling; never of noise."""
    parts: Annotated[int, Field(ge=2, le=SPLIT.most)] = 5
    """Hash parts for cross-fitting within sites."""
    learners: str = ""
    """Heads to train, comma-separated; empty: the study's."""
    hyper: Annotated[str, AfterValidator(_hypers)] = ""
    """JSON object: learner -> hyperparameters."""
    strategy: str = "fedavg"
    """Flower strategy by which learners that send parameters are combined."""
    evaluations: str = ",".join(EVALUATIONS)
    """Masked sums are evaluated within sites alone.

    With noise `holdout` takes their place; `within_site` is then to be had too, and every patient
    pays for each fold it is in.
    """
    comparison: bool = True
    """After the evaluation every site compares the models on its own patients: paired differences,
    local models, figures by site."""
    full: bool = False
    """Also leave-one-site-out for the learners on images: it multiplies their training."""
    left_out_sites: Whole = 12
    """Most sites that leave-one-site-out leaves out one by one (the largest); each costs a set of
    models. The others go together."""
    expect: Whole = 1
    """Sites to wait for before the first round."""
    quorum: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the sites able to do a step that must contribute to it. Where sums are masked all
    must, unless every site lets a run go on with fewer."""
    quorum_cases: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of those sites' labelled cases that the contributing ones must hold: five small
    hospitals do not stand for the large one."""
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """Seconds that a site has to answer, if only that it is still at work; also the longest wait
    for sites to register."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a site that did not answer is asked again; and how many deadlines more one plan may
    take, where no forecast says more."""
    transfer: Annotated[str, AfterValidator(_transfer)] = "whole"
    """`whole`: every state to every site. `changed`: what a site does not hold. `float16`, `int8`:
    of large models the rounded changes."""
    norm_bound: Least = 0.0
    """Largest L2 norm by which one site's update may change a learner's parameters; beyond it the
    update is refused (X03). 0: none."""
    outliers: Annotated[float, AfterValidator(_outliers)] = 0.0
    """How many times the median of at least four sites' norms one of them may be, before it is
    refused (X03); 0: as large as it likes."""
    noise: Least = 0.0
    """Standard deviation of the noise in every sum, in units of what one patient can add to it; 0:
    none. Sites with a budget demand it."""
    secure: bool = False
    """Whether sums are masked, so that the coordinator sees those over all sites alone; three
    messages a step instead of one."""
    open_trees: bool = False
    """Trees are grown without noise or masks, so that the coordinator can tell single patients' rows
    from a site's sums; each site has to allow it, too."""
    smallest_leaf: Annotated[int, Field(ge=0)] = 10
    """The fewest patients, over all sites, of a leaf of the model; at least the largest of the sites'
    `minimum`, or they refuse (P11)."""
    shared_noise: bool = False
    """Whether the sites share one noise under masks, instead of each adding all of it; every site
    must allow it."""
    accept_leak: str = ""
    """Comma-separated features for which guard L03 is overridden; printed in the report."""
    resume: bool = False
    """Go on where the ledger in `out` ends; `fedmets server resume` sets it."""

    @staticmethod
    def parse(config: Mapping[str, object]) -> Run:
        """The run that a flat configuration describes; every fault at once (C01)."""
        raw = dict(config)
        if raw.get("evaluations", Run.evaluations) == Run.evaluations:
            if raw.get("noise"):
                raw["evaluations"] = HOLDOUT
            elif raw.get("secure"):
                raw["evaluations"] = "within_site"
        return settings.checked(Run, raw, "run configuration", "C01")

    def faults(self) -> Iterator[Rule]:
        """What does not go together."""
        if self.parts < 3 and "within_site" in self.evaluations:
            yield "parts", "must lie in 3 to 20 (a threshold takes models that leave two parts out)"
        if self.noise and not NOISE.holds(self.noise):
            yield "noise", f"must be 0, or lie in {NOISE.least:g} to {NOISE.most:g}"
        if self.noise and self.transfer in ROUNDED:
            yield (
                "transfer",
                f"rounds sums, and noise={self.noise:g} is for sums that are sent whole; leave "
                "one of them out",
            )
        allowed = (HOLDOUT, "within_site") if self.noise else EVALUATIONS
        asked = [e for e in self.evaluations.split(",") if e]
        unknown = [e for e in asked if e not in allowed]
        if unknown:
            noisy = " with noise" if self.noise else ""
            yield (
                "evaluations",
                f"names unknown {', '.join(unknown)}{noisy}; allowed: {', '.join(allowed)}",
            )
        elif HOLDOUT in asked and len(asked) > 1:
            yield "evaluations", f"names several, but {HOLDOUT} goes with no other"
        if self.shared_noise and not (self.secure and self.noise):
            yield "shared_noise", "is for sums with noise under masks; set noise and secure, too"
        if self.secure:
            yield from self._not_masked()

    def _not_masked(self) -> Iterator[Rule]:
        """What needs the updates of single sites."""
        if self.transfer in ROUNDED:
            yield (
                "transfer",
                "rounds each site's update, which secure sums hide; leave one of them out",
            )
        if "leave_one_site_out" in self.evaluations:
            yield (
                "evaluations",
                "cannot name leave_one_site_out, which shows a site's sums by what its absence "
                "changes; secure sums hide them, "
                "use within_site",
            )
        if self.norm_bound or self.outliers or self.quorum_cases:
            yield (
                "secure",
                "hides the single sites that norm_bound, outliers and quorum_cases judge; leave "
                "these out",
            )
        if self.expect < 3:
            yield (
                "expect",
                "is too few: secure sums need at least 3 sites, for of two each could take its "
                "own part off",
            )

    @property
    def toml(self) -> str:
        """What differs from the defaults, for `flwr run --run-config FILE`: on a command line
        Flower takes no quotes in a value."""
        # a JSON text is a TOML text, too
        return "".join(
            f"{k} = {json.dumps(v)}\n" for k, v in asdict(self).items() if v != getattr(Run, k)
        )

    def load_study(self) -> Study:
        return studies.load(self.study)

    def task_of(self, study: Study) -> str:
        return self.task or list(study.tasks)[-1]

    def heads(self, study: Study) -> tuple[Federated, ...]:
        """The heads to train, configured."""
        chosen = tuple(filter(None, self.learners.split(","))) or study.learners
        if len(set(chosen)) < len(chosen):
            raise UsageError(
                "C01", f"learners name one twice ({', '.join(chosen)}); give each once"
            )
        found = tuple(self.learner(name, study) for name in chosen)
        for learner in found:
            if not isinstance(learner, Head):
                raise UsageError(
                    "C01",
                    f"learner '{learner.name}' predicts nothing by itself and is run where it is "
                    "needed; name heads only",
                )
            if isinstance(learner, Stacked):
                lacking = [
                    n for n in learner.needs if n not in chosen and isinstance(load(n), Head)
                ]
                if lacking:
                    raise UsageError(
                        "C01",
                        f"learner '{learner.name}' combines {', '.join(lacking)}; name these too",
                    )
        known = {n for learner in found for n in (learner.name, *learner.needs)} | {
            "preprocessing",
            "importance",
        }
        for name in json.loads(self.hyper or "{}"):
            if name not in known:
                raise UsageError(
                    "C01",
                    f"hyper names learner '{name}', which this run does not train "
                    f"({', '.join(sorted(known))})",
                )
        return found

    def demand_protection(self, study: Study) -> None:
        """UsageError C01 names the heads that sites would refuse to train openly (P11), before
        anybody is asked."""
        heads = self.heads(study)
        fine = [h.name for h in heads if any(phase.fine for phase in h.phases.values())]
        if fine and not (self.noise or self.secure or self.open_trees):
            raise UsageError(
                "C01",
                f"learner(s) {', '.join(fine)}: without noise or masks the sums show single "
                "patients, and sites refuse them; run with secure=true (3 sites at least) or "
                "noise, leave them out (learners), or set open_trees=true where each site's "
                "[privacy] has open_trees = true",
            )

    def learner(self, name: str, study: Study) -> Federated:
        """A learner with the study's and the run's hyperparameters; one that reads others gets
        theirs too."""
        hyper = {**study.hyper.get(name, {}), **self._hyper().get(name, {})}
        if isinstance(load(name), Grouped):
            hyper = {"smallest_leaf": self.smallest_leaf, **hyper}
        if isinstance(load(name), Stacked):
            hyper = {
                "learners": self.hypers(study),
                **({"clinical": study.clinical} if study.clinical else {}),
                **hyper,
            }
        return load(name, hyper)

    def hypers(self, study: Study) -> dict[str, Hyper]:
        """The hyperparameters of every learner that has other than its defaults."""
        mine = self._hyper()
        both = {
            n: {**study.hyper.get(n, {}), **mine.get(n, {})} for n in sorted({*study.hyper, *mine})
        }
        return {
            n: h
            for n, h in both.items()
            if h and n != "importance" and not isinstance(load(n), Stacked)
        }

    def _hyper(self) -> dict[str, dict[str, object]]:
        hyper: dict[str, dict[str, object]] = json.loads(self.hyper or "{}")
        return hyper

    def importance(self, heads: Sequence[str], hypers: Mapping[str, Hyper]) -> Federated:
        """What looks at which features move these heads; a `clip` lets it do so with noise."""
        return load(
            "importance",
            {"heads": list(heads), "learners": hypers, **self._hyper().get("importance", {})},
        )

    def preprocessing(self, study: Study) -> Federated:
        return self.learner("preprocessing", study)

    def id(self, study: Study, schema: Schema) -> str:
        """A hash of what decides the model: the same configuration gives the same id."""
        learners = [(x.name, hyper_of(x)) for x in (self.preprocessing(study), *self.heads(study))]
        decisive = {
            k: v
            for k, v in asdict(self).items()
            if k not in ("out", "keys", "sites", "resume", "deadline", "retries")
        }
        decisive["study"] = Path(self.study).name
        hypers = json.dumps(self.hypers(study), sort_keys=True)
        text = json.dumps([decisive, schema.hash, learners, study.clinical, hypers], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def folds(self, held_out: Sequence[tuple[str, ...]]) -> tuple[Fold, ...]:
        """All training sets of the run.

        Everybody; each part left out (its predictions are the within-site ones); each pair of parts
        left out (the out-of-fold predictions on training rows that set the threshold and choose the
        head for each part); the same for each held-out group of sites: every estimable site by
        itself, and the others together. With noise no fold is there for thresholds.
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
