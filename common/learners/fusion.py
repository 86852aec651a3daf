"""Late fusion, what the image adds to the table: stacking on out-of-fold logits (Wolpert 1992), by
federated Newton.

For a case with an image, the log-odds of class k against class 0 are

    eta_k = z_clin_k + a_k + b_k z_img_k + c_k' latent

where z_clin are the clinical head's log-odds (an offset: its coefficient is 1), z_img the image
network's and latent the autoencoder's, both standardised over the training cases: z_img over those
of the very network it is from, for one coefficient serves several networks, trained on other cases
each. A case without an image gets exactly the clinical prediction; a case without a table has the
prior log-odds of the classes for z_clin. Ridge penalties pull b and c to 0, that is, to the
clinical prediction.

The coefficients of an outer training set are fitted on its cases' out-of-fold log-odds: a case of
part q is scored by the clinical and image models that left out part q too; the autoencoder saw no
label, so the outer one serves all. Beside these coefficients stand those fitted without each part
q: they score part q out of fold, which sets the threshold on training cases only. All of them are
fitted in the same exchanges. A site sends gradients, Hessians and log-likelihoods of its cases with
an image and a label: a sum, weighted by those cases and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort, Fold
from common.data.schema import Floats, Schema
from common.federated.array_rules import (
    COUNT,
    ArrayRule,
    ArrayRules,
    flags,
    parameters,
    sums,
    whole,
)
from common.federated.coverage import Cover, Covers
from common.federated.learner import (
    Contribution,
    Federated,
    Head,
    Hyper,
    Phase,
    Plan,
    Step,
    TableHead,
    Traits,
    demand,
    lacks,
    load,
)
from common.federated.multinomial import (
    Ascent,
    Derivatives,
    against_reference,
    likelihood_of,
    log_softmax,
)
from common.federated.states import States, named_arrays
from common.metrics.calibration import EPSILON
from common.types import Arrays, Probs, State, digest


class ImageHead(Head, Protocol):
    """What the fusion needs of the image learner."""

    def standardised(self, state: State, cohort: Cohort) -> Floats: ...


class Encoder(Federated, Protocol):
    """What the fusion needs of the autoencoder."""

    def latent(self, state: State, cohort: Cohort) -> Floats: ...


@dataclass(frozen=True)
class Inputs:
    """Of the cases that have an image: clinical offset and image columns, (cases, classes - 1) and
    (cases, classes - 1, columns)."""

    offset: Floats
    columns: Floats


@dataclass(frozen=True)
class Fusion:
    """Arrays: `coefficients` (1 + parts, classes - 1, 2 + latent): a, b, c, fitted on all training
    cases, then without each part; `base`, `step`, `objective`, `rounds`: how the last Newton step
    was taken; `mean`, `scale` (latent,): of the autoencoder's code, `image_mean` (classes - 1,): of
    the image's log-odds."""

    name: str = "fusion"
    modality: ClassVar[frozenset[str]] = frozenset({"image"})
    clinical: str = "logistic"
    """The head whose prediction is the offset; it is the one reported as `clinical`."""
    latent: bool = True
    """Whether the autoencoder's latent code is an input beside the image network's log-odds."""
    l2: float = 1.0
    """Ridge on b."""
    l2_latent: float = 100.0
    """Ridge on c."""
    tolerance: float = 1e-6
    """Stop when a Newton step changes no coefficient by more."""
    rounds: int = 30
    """The most Newton steps."""
    learners: Mapping[str, Hyper] = field(default_factory=dict, hash=False)
    """The hyperparameters of the learners it reads, where they are not the defaults."""

    @property
    def needs(self) -> tuple[str, ...]:
        return (
            "preprocessing",
            self.clinical,
            "image",
            *self._of("image").needs,
            *(("autoencoder",) if self.latent else ()),
        )

    @property
    def traits(self) -> Traits:
        return Traits(
            spares=self._of("image").traits.spares,
            beyond=("image", *(("latent code",) if self.latent else ())),
        )

    @property
    def outer(self) -> tuple[str, ...]:
        """Needed of the outer training set only, not of those inside it."""
        return ("autoencoder",) if self.latent else ()

    def start(self, schema: Schema, seed: int) -> Arrays:
        return {"rounds": np.array(0)}

    def arrays(self, own: Arrays, schema: Schema) -> ArrayRules:
        if "mean" not in own:
            return {"rounds": whole(high=0)}
        others, latent = len(schema.label.classes) - 1, len(own["mean"])
        shape = ("variants", others, 2 + latent)
        return {
            "mean": parameters(latent),
            "scale": ArrayRule(np.float64, (latent,), 1e-9),
            "image_mean": parameters(others),
            "coefficients": parameters(*shape),
            "base": parameters(*shape),
            "step": parameters(*shape),
            "objective": sums("variants", unless=(-np.inf,)),
            "rounds": whole(),
            "converged": flags(),
            "cases": whole(low=-COUNT),
        }

    def phase(self, arrays: Arrays) -> str:
        return "newton" if "mean" in arrays else "moments"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        state = states[plan.fold]
        arrays, k = state[self.name], len(cohort.schema.label.classes)
        if self.phase(arrays) == "moments":
            rows, _ = self._rows(states, cohort, plan)
            latent = self._latent(state, rows)
            return Contribution(
                {"sum": latent.sum(axis=0), "squares": (latent**2).sum(axis=0)}, len(rows)
            )
        rows, parts, inputs = self.training(states, cohort, plan)
        beta = arrays["coefficients"]
        p = beta.shape[2]
        gradient = np.zeros((1 + plan.parts, k - 1, p))
        hessian = np.zeros((1 + plan.parts, (k - 1) * p, (k - 1) * p))
        likelihood = np.zeros(1 + plan.parts)
        y = np.eye(k)[rows.labels]
        for v in range(1 + plan.parts):
            keep = parts != v - 1
            x, offset, truth = inputs.columns[keep], inputs.offset[keep], y[keep]
            log_mu = log_softmax(against_reference(offset + np.einsum("nkp,kp->nk", x, beta[v])))
            mu = np.exp(log_mu[:, 1:])
            gradient[v] = np.einsum("nk,nkp->kp", truth[:, 1:] - mu, x)
            weight = mu[:, :, None] * (np.eye(k - 1) - mu[:, None, :])
            hessian[v] = np.einsum("nkl,nkp,nlq->kplq", weight, x, x, optimize=True).reshape(
                (k - 1) * p, (k - 1) * p
            )
            likelihood[v] = likelihood_of(log_mu, truth)
        image = inputs.columns[:, :, 1].sum(axis=0)
        return Contribution(
            {"gradient": gradient, "hessian": hessian, "likelihood": likelihood, "image": image},
            len(rows),
        )

    def covers(self, states: States, cohort: Cohort, plan: Plan) -> Covers:
        """Of each variant the cases outside the part that it is fitted without."""
        if self.phase(states[plan.fold][self.name]) == "moments":
            return {}
        rows = self.variants(states, cohort, plan)
        return dict.fromkeys(("gradient", "hessian", "likelihood"), rows)

    def variants(self, states: States, cohort: Cohort, plan: Plan) -> Cover:
        """(1 + parts,)"""
        rows, inner = self._rows(states, cohort, plan)
        whole = cohort.train(Fold(), plan.seed, plan.parts)
        whole = whole.where(whole.imaged & bool(inner))
        covers = []
        for v in range(1 + plan.parts):
            keep, there = (c.parts(plan.seed, plan.parts) != v - 1 for c in (rows, whole))
            covers.append(Cover.of(keep, there))
        return Cover.stack(covers)

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        state = states[plan.fold]
        arrays = state[self.name]
        if self.phase(arrays) == "moments":
            n = max(total.cases, 1)
            mean = total.sums["sum"] / n
            spread = np.sqrt(np.maximum(total.sums["squares"] / n - mean**2, 0))
            shape = (1 + plan.parts, len(state["preprocessing"]["classes"]) - 1, 2 + len(mean))
            begun: Arrays = {
                "mean": mean,
                "scale": np.where(spread > 1e-9, spread, 1.0),
                "image_mean": np.zeros(shape[1]),
                "coefficients": np.zeros(shape),
                "base": np.zeros(shape),
                "step": np.zeros(shape),
                "objective": np.full(shape[0], -np.inf),
                "rounds": np.array(0),
                "converged": np.array(False),
                "cases": np.array(total.cases),
            }
            return Step(begun, False)
        beta, done = arrays["coefficients"], int(arrays["rounds"]) + 1
        penalty = np.full(beta.shape[1:], self.l2_latent)
        penalty[:, 0], penalty[:, 1] = 1e-3, self.l2
        result = {n: np.array(a) for n, a in arrays.items()}
        same = total.cases == int(arrays["cases"])
        settled = np.zeros(len(beta), np.bool_)
        for v in range(len(beta)):
            sums = Derivatives(
                total.sums["gradient"][v], total.sums["hessian"][v], total.sums["likelihood"][v]
            )
            at = Ascent(
                beta[v], arrays["base"][v], arrays["step"][v], float(arrays["objective"][v])
            )
            there, fresh = at.next(sums, penalty, same=same)
            result["coefficients"][v], result["base"][v], result["step"][v] = (
                there.coefficients,
                there.base,
                there.step,
            )
            result["objective"][v] = there.objective
            settled[v] = fresh and np.abs(there.step).max() < self.tolerance
        converged = bool(settled.all())
        mean = total.sums["image"] / max(total.cases, 1)
        result |= {
            "rounds": np.array(done),
            "converged": np.array(converged),
            "cases": np.array(total.cases),
            "image_mean": mean,
        }
        return Step(result, converged or done >= self.rounds)

    def __post_init__(self) -> None:
        positive = ("l2", "l2_latent", "tolerance")
        demand(
            self.name,
            {
                **{f"{n} > 0": getattr(self, n) > 0 for n in positive},
                "rounds >= 1": self.rounds >= 1,
            },
        )

    @property
    def phases(self) -> Mapping[str, Phase]:
        newton = (
            "`gradient`, `hessian`, `likelihood` of its cases with an image and a label, and "
            "`image`, the sum of their log-odds"
        )
        # log-odds are not bounded
        return {
            "moments": Phase("`sum` and `squares` of the latent code", 1, None),
            "newton": Phase(newton, self.rounds, None),
        }

    def predict(self, state: State, cohort: Cohort) -> Probs:
        """(cases, classes). Of a case without an image: the clinical head's, to the last bit."""
        return self._predict(state, state, cohort, 0)

    def predict_inside(self, outer: State, inner: State, cohort: Cohort, part: int) -> Probs:
        """Cases of `part`, a training part of `outer`, by models that have not seen them: `inner`
        left out that part too."""
        return self._predict(outer, inner, cohort, 1 + part)

    def explain(self, state: State, cohort: Cohort) -> Floats:
        """(cases, features + `traits.beyond`, classes - 1): the clinical head's SHAP values, and
        the linear ones of the image (Lundberg & Lee 2017, cor. 1) against the average training case
        with an image; 0 for a case without one."""
        features = len(cohort.schema.features)
        out = np.zeros(
            (len(cohort), features + len(self.traits.beyond), len(cohort.schema.label.classes) - 1)
        )
        out[:, :features] = cast(TableHead, self._of(self.clinical)).explain(state, cohort)[
            :, :, -out.shape[2] :
        ]
        if cohort.imaged.any():
            columns = self._inputs(state, state, cohort.where(cohort.imaged)).columns
            beta = state[self.name]["coefficients"][0]
            out[cohort.imaged, features] = beta[:, 1] * (
                columns[:, :, 1] - state[self.name]["image_mean"]
            )
            if self.latent:
                out[cohort.imaged, features + 1] = np.einsum(
                    "nkp,kp->nk", columns[:, :, 2:], beta[:, 2:]
                )
        return out

    def _predict(self, outer: State, inner: State, cohort: Cohort, variant: int) -> Probs:
        beta = outer[self.name]["coefficients"][variant]
        return self.blend(
            outer,
            inner,
            cohort,
            lambda inputs: inputs.offset + np.einsum("nkp,kp->nk", inputs.columns, beta),
        )

    def blend(
        self, outer: State, inner: State, cohort: Cohort, eta: Callable[[Inputs], Floats]
    ) -> Probs:
        """The clinical prediction, and in its place softmax(eta) for the cases that have an
        image."""
        probs = _clinical(self._of(self.clinical), inner, cohort)
        if cohort.imaged.any():
            probs[cohort.imaged] = np.exp(
                log_softmax(
                    against_reference(eta(self._inputs(outer, inner, cohort.where(cohort.imaged))))
                )
            )
        return probs

    def training(
        self, states: States, cohort: Cohort, plan: Plan
    ) -> tuple[Cohort, NDArray[np.int64], Inputs]:
        """The labelled training cases with an image, their parts, and their inputs by models that
        have not seen them."""
        rows, inner = self._rows(states, cohort, plan)
        parts = rows.parts(plan.seed, plan.parts)
        return rows, parts, self._out_of_fold(states, rows, parts, plan.fold, inner)

    def _rows(
        self, states: States, cohort: Cohort, plan: Plan
    ) -> tuple[Cohort, Mapping[int, Fold]]:
        inner = {q: f for q in range(plan.parts) if (f := self._inner(states, plan, q)) is not None}
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        return rows.where(
            rows.imaged & np.isin(rows.parts(plan.seed, plan.parts), list(inner))
        ), inner

    def _inner(self, states: States, plan: Plan, part: int) -> Fold | None:
        """The training set inside the plan's that leaves `part` out too; None where a model could
        not be fitted on it."""
        fold = Fold(plan.fold.sites, tuple(sorted({*plan.fold.parts, part})))
        fitted = (
            part not in plan.fold.parts
            and fold in plan.reads
            and not lacks(self, states.get(fold, {}), self.outer)
        )
        return fold if fitted else None

    def _out_of_fold(
        self,
        states: States,
        rows: Cohort,
        parts: NDArray[np.int64],
        outer: Fold,
        inner: Mapping[int, Fold],
    ) -> Inputs:
        """The training cases' inputs, each part's by the models that left it out."""
        read = {
            fold: {n: a for n, a in state.items() if n != self.name}
            for fold, state in states.items()
        }
        key = (rows.hash, outer, self, digest(named_arrays(read)))
        if key not in _INPUTS:
            own, k = states[outer], len(rows.schema.label.classes)
            width = 2 + len(own[self.name]["mean"])
            offset, columns = np.zeros((len(rows), k - 1)), np.zeros((len(rows), k - 1, width))
            for q, fold in inner.items():
                mask = parts == q
                if mask.any():
                    one = self._inputs(own, states[fold], rows.where(mask))
                    offset[mask], columns[mask] = one.offset, one.columns
            while len(_INPUTS) >= 64:
                _INPUTS.pop(next(iter(_INPUTS)), None)
            _INPUTS[key] = Inputs(offset, columns)
        return _INPUTS[key]

    def _inputs(self, outer: State, inner: State, rows: Cohort) -> Inputs:
        """Of cases that all have an image."""
        k = len(rows.schema.label.classes)
        probs = _clinical(self._of(self.clinical), inner, rows)
        offset = np.log(np.maximum(probs[:, 1:], EPSILON)) - np.log(
            np.maximum(probs[:, :1], EPSILON)
        )
        if not rows.tabled.all():
            counts = inner["preprocessing"]["classes"] + 0.5
            offset[~rows.tabled] = np.log(counts[1:] / counts[0])
        image = cast(ImageHead, self._of("image")).standardised(inner, rows)
        latent = (self._latent(outer, rows) - outer[self.name]["mean"]) / outer[self.name]["scale"]
        ones = np.ones((len(rows), k - 1, 1))
        wide = np.broadcast_to(latent[:, None, :], (len(rows), k - 1, latent.shape[1]))
        return Inputs(offset, np.concatenate([ones, image[:, :, None], wide], axis=2))

    def _latent(self, own: State, rows: Cohort) -> Floats:
        if not self.latent:
            return np.zeros((len(rows), 0))
        return np.asarray(cast(Encoder, self._of("autoencoder")).latent(own, rows), np.float64)

    def _of(self, name: str) -> Federated:
        return load(name, self.learners.get(name, {}))


_INPUTS: dict[tuple[object, ...], Inputs] = {}
"""The same models score the same cases in every round of the Newton fit: a network need not run
each time."""


def _clinical(head: Federated, state: State, cohort: Cohort) -> Probs:
    """The clinical head's prediction; at a site without a table, the prior of the classes."""
    if "table" in cohort.modalities:
        return np.array(cast(Head, head).predict(state, cohort))
    counts = state["preprocessing"]["classes"] + 0.5
    return np.tile(counts / counts.sum(), (len(cohort), 1))


LEARNER = Fusion()
