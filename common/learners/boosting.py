"""XGBoost by federated histograms: the trees that `hist` grows on the pooled bin indices, from sums
alone.

Every site bins its rows by the edges that preprocessing agreed on. An exchange grows one level of
one round's trees (one tree a class, side by side; one for two classes): the sites send gradient and
hessian sums by node, column and bin, and the coordinator takes the best split of each node
(`common.trees.best_split`). Leaves follow from the last splits' own sums, so a round costs `depth`
exchanges, fewer where nothing splits. With early stopping, the validation loss of the last round
rides on the next round's first exchange, and one more exchange measures the last round.

Gradients are XGBoost's, from float32 margins p: g = p - y, h = max(p (1 - p), 1e-16), for several
classes twice that. Columns (a round) and rows (a tree round) are sampled by hashes of the public
seed, for rows with the patient's id: a site needs to ask nobody, and neither the site nor the order
of the rows matters.

Sensitivity. A patient adds (g_k, h_k) to one cell a column in each group k, so their squared norm
is columns * sum_k (g_k^2 + h_k^2). Two classes: q^2 + q^2 (1 - q)^2 <= 1, q the error. Several:
with f(q) = q^2 + 4 q^2 (1 - q)^2 <= q on [0, 1] (equality at 0, 1/2 and 1) the sum is f(1 - p_y) +
sum_{k != y} f(p_k) <= 2 (1 - p_y) <= 2.

References: Chen & Guestrin, XGBoost, KDD 2016, eq. 3-7 and algorithm 3; its sources at 3.2
(src/tree/hist, src/objective).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.data.cohort import Cohort, Fold
from common.data.schema import Floats, Schema
from common.errors import RefusedError, UsageError
from common.federated.learner import (
    Contribution,
    Federated,
    Phase,
    Plan,
    Step,
    Traits,
    fit,
    local_plan,
)
from common.federated.protected_sums import Summands, row_blocks
from common.federated.states import States
from common.learners.preprocessing import LEARNER as PREPARE
from common.privacy.patient_sums import Cells
from common.trees import best_split, native
from common.trees import model as trees_model
from common.trees.binning import bin_indices
from common.trees.checked import DEEPEST, Forest, checked, first_margin
from common.trees.leaves import Leaves, leaves
from common.trees.site_cache import SURE, losses, standing
from common.types import Array, Arrays, Probs, State


@dataclass(frozen=True)
class _Rows:
    """A site's training rows before an exchange."""

    bins: Array
    """(cases, columns)"""
    loss: Floats
    """(cases,): the log loss of the finished trees."""
    derivatives: Mapping[str, Floats]
    """`gradient` and `hessian` (cases, groups)."""
    judged: NDArray[np.bool_]
    """(cases,): held out, and counted now."""
    first: bool
    """Is it the round's first exchange?"""
    slot: Array
    """(cases, groups): the row of the histogram, -1 for none."""
    cells: best_split.Grid
    nodes: Sequence[int]
    """The open nodes of each group, which follow one another in the histogram."""


@dataclass(frozen=True)
class Boosting:
    """Arrays: those of `common.trees.model`, the last tree growing while `finished` < trees;
    `level` the depth that the next exchange splits; `base` (groups,) the margin before the first
    tree (NaN until known); `losses`: a finished round's mean validation loss. A model from `alone`
    brings the `edges` and `offsets` that its bins count; else they are preprocessing's."""

    name: str = "boosting"
    needs: ClassVar[tuple[str, ...]] = ("preprocessing",)
    modality: ClassVar[frozenset[str]] = frozenset({"table"})
    traits: ClassVar[Traits] = Traits(trains=True)
    trees: int = 60
    """The most rounds; a round is a tree, or one a class when there are more than two."""
    depth: int = 3
    """Levels of a tree; each costs an exchange."""
    eta: float = 0.1
    """Share of a leaf's value that is added (XGBoost's learning rate)."""
    lambda_: float = 1.0
    """L2 penalty on the leaves' values (XGBoost's `lambda`)."""
    alpha: float = 0.0
    """L1 penalty on the leaves' values."""
    gamma: float = 0.0
    """The least gain of a split (XGBoost's `gamma`, `min_split_loss`); `hist` applies it while
    growing and prunes nothing later."""
    min_child_weight: float = 1.0
    """The least sum of hessians on either side of a split."""
    smallest_leaf: int = 0
    """The fewest patients, over all sites, on either side of a split: a floor of the hessian sum, of
    which a patient adds at most 1/4 (several classes: 1/2). 0: none but `min_child_weight`."""
    colsample_bytree: float = 1.0
    """Share of the columns that a round may split on, chosen by hash."""
    subsample: float = 1.0
    """Share of the patients that a round grows on, chosen by hash."""
    early_stopping: int = 0
    """Stop after this many rounds without a lower validation loss, and keep the trees up to the
    lowest; 0: off."""
    validation: float = 0.2
    """The share of training patients, chosen by hash, that early stopping holds out."""
    base_score: float = 0.5
    """The prediction before the first tree, for two classes a probability; it is without effect for
    more. 0: the class shares that preprocessing counted (XGBoost's `boost_from_average`), for any
    number of classes."""

    def __post_init__(self) -> None:
        rules = {
            "trees >= 1": self.trees >= 1,
            f"1 <= depth <= {DEEPEST}": 1 <= self.depth <= DEEPEST,
            "eta > 0": self.eta > 0,
            "lambda_ >= 0": self.lambda_ >= 0,
            "alpha >= 0": self.alpha >= 0,
            "gamma >= 0": self.gamma >= 0,
            "min_child_weight >= 0": self.min_child_weight >= 0,
            "smallest_leaf >= 0": self.smallest_leaf >= 0,
            "0 < colsample_bytree <= 1": 0 < self.colsample_bytree <= 1,
            "0 < subsample <= 1": 0 < self.subsample <= 1,
            "early_stopping >= 0": self.early_stopping >= 0,
            "0 < validation < 1": 0 < self.validation < 1,
            "0 <= base_score < 1": 0 <= self.base_score < 1,
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise UsageError(
                "C01",
                *(
                    f"learner '{self.name}' needs {rule}; change that hyperparameter"
                    for rule in broken
                ),
            )

    def penalty(self, groups: int) -> best_split.Penalty:
        return best_split.Penalty(self.lambda_, self.alpha, self.gamma, self._least_hessian(groups))

    def _least_hessian(self, groups: int) -> float:
        return max(self.min_child_weight, self.smallest_leaf * best_split.largest_hessian(groups))

    def start(self, schema: Schema, seed: int) -> Arrays:
        groups = _groups(schema)
        fixed = (
            np.log(self.base_score / (1 - self.base_score))
            if groups == 1 and self.base_score
            else self.base_score
        )
        return {
            **trees_model.blank(groups, self.depth),
            "finished": np.array(0),
            "level": np.array(0),
            "base": np.full(groups, fixed if self.base_score else np.nan, np.float32),
            "losses": np.zeros(0),
        }

    def phase(self, arrays: Arrays) -> str:
        return "grow" if int(arrays["finished"]) < len(arrays["column"]) else "score"

    def contribute(self, states: States, cohort: Cohort, plan: Plan) -> Contribution:
        at = self._standing(states[plan.fold], cohort, plan)
        sums: Arrays = {}
        if self.early_stopping:
            sums["validation"] = np.array([at.loss[at.judged].sum(), float(at.judged.sum())])
        if plan.phase == "grow":
            for key, values in at.derivatives.items():
                sums[key] = best_split.histogram(at.bins, at.slot, values, at.cells, sum(at.nodes))
        # by the finished trees: new with each round's first exchange
        tally = {"log_loss": np.array(at.loss.sum())} if at.first else {}
        return Contribution(sums, len(at.loss), tally)

    def summands(self, states: States, cohort: Cohort, plan: Plan) -> Iterator[Summands]:
        """What each patient adds to the same sums."""
        at = self._standing(states[plan.fold], cohort, plan)
        for b in row_blocks(len(at.loss), 4 * len(at.nodes) * (len(at.cells.columns) + 1)):
            sums: dict[str, Floats | Cells] = {}
            if self.early_stopping:
                judged = at.judged[b, None]
                sums["validation"] = np.where(judged, np.stack([at.loss[b], judged[:, 0]], 1), 0.0)
            if plan.phase == "grow":
                for key, values in at.derivatives.items():
                    sums[key] = best_split.summands(
                        at.bins[b], at.slot[b], values[b], at.cells, at.nodes
                    )
            yield Summands(len(at.loss[b]), sums, {"log_loss": at.loss[b]} if at.first else {})

    def _standing(self, state: State, cohort: Cohort, plan: Plan) -> _Rows:
        rows = cohort.train(plan.fold, plan.seed, plan.parts)
        forest = _forest(state, cohort.schema)
        at, finished, level = standing(rows, forest), forest.finished, forest.level
        held = (
            _hashed(rows, plan.seed, -1) < self.validation
            if self.early_stopping
            else np.zeros(len(rows), np.bool_)
        )
        cells, slot, nodes = (
            best_split.grid(np.zeros(1), np.arange(0)),
            np.empty((len(rows), 0)),
            [0],
        )
        if plan.phase == "grow":
            used = (
                ~held
                if self.subsample == 1
                else ~held & (_hashed(rows, plan.seed, finished) < self.subsample)
            )
            if finished == len(forest.trees["column"]):
                raise RefusedError("P02", "a level is asked for, and no tree of the state grows")
            cells = self._cells(forest.cuts, plan.seed, finished)
            growing = trees_model.between(forest.trees, finished, finished + 1)
            open_ = trees_model.open_nodes(growing["column"][0], level)
            slots = np.where(open_, np.cumsum(open_).reshape(open_.shape) - 1, -1)
            reached = trees_model.walk(growing, at.bins, level)[:, 0]
            slot = np.where(used[:, None], slots[np.arange(slots.shape[0]), reached], -1)
            nodes = [int(n) for n in open_.sum(axis=1)]
        return _Rows(
            at.bins,
            best_split.exact(losses(at.margin, rows.labels)),
            {"gradient": at.gradient, "hessian": at.hessian},
            held & (level == 0 and finished > 0),
            level == 0,
            slot,
            cells,
            nodes,
        )

    def validate(self, state: State, schema: Schema) -> None:
        """RefusedError P02 where the trees are none that this learner grows."""
        _forest(state, schema)

    def apply(self, states: States, total: Contribution, plan: Plan) -> Step:
        state = states[plan.fold]
        arrays = dict(state[self.name])
        arrays["base"] = first_margin(arrays["base"], state["preprocessing"])
        finished, level = int(arrays["finished"]), int(arrays["level"])
        if self.early_stopping and level == 0 and finished:
            loss, patients = total.sums["validation"]
            arrays["losses"] = np.append(
                arrays["losses"], loss / patients if patients > 0 else np.inf
            )
            best = (
                int(arrays["losses"].argmin())
                if np.isfinite(arrays["losses"]).any()
                else finished - 1
            )
            if plan.phase == "score" or finished - 1 - best >= self.early_stopping:
                kept = trees_model.between(arrays, 0, best + 1)
                return Step({**arrays, **kept, "finished": np.array(best + 1)}, True)
        cells = self._cells(state["preprocessing"], plan.seed, finished)
        penalty = self.penalty(len(arrays["base"]))
        found = best_split.search(total.sums["gradient"], total.sums["hessian"], cells, penalty)
        tree = {name: arrays[name][finished].copy() for name in trees_model.KINDS}
        self._split(tree, trees_model.open_nodes(tree["column"], level), found, penalty)
        arrays |= {
            name: np.concatenate([arrays[name][:finished], tree[name][None]])
            for name in trees_model.KINDS
        }
        if found.worth.any() and level + 1 < self.depth:
            return Step({**arrays, "level": np.array(level + 1)}, False)
        arrays |= {"level": np.array(0), "finished": np.array(finished + 1)}
        if finished + 1 < self.trees:
            fresh = trees_model.blank(len(arrays["base"]), self.depth)
            return Step(
                {**arrays, **{name: np.concatenate([arrays[name], fresh[name]]) for name in fresh}},
                False,
            )
        return Step(arrays, not self.early_stopping)

    def _split(
        self,
        tree: Arrays,
        open_: NDArray[np.bool_],
        found: best_split.Splits,
        penalty: best_split.Penalty,
    ) -> None:
        """Write the splits found at the open nodes of one round's trees, and their children as
        leaves."""
        group, node = np.nonzero(open_)
        eta = np.float32(self.eta)
        stump = node == 0
        if stump.any():
            tree["hess"][group[stump], 0] = found.total[1, stump]
            tree["value"][group[stump], 0] = best_split.weight(found.total[:, stump], penalty) * eta
        k, i, made = group[found.worth], node[found.worth], found.worth
        for name, values in (
            ("column", found.column),
            ("bin", found.bin),
            ("left", found.left),
            ("gain", found.gain),
        ):
            tree[name][k, i] = values[made]
        tree["value"][k, i] = best_split.weight(found.total[:, made], penalty)
        for side in (0, 1):
            sums = found.sums[:, made, side]
            tree["hess"][k, 2 * i + 1 + side] = sums[1]
            tree["value"][k, 2 * i + 1 + side] = best_split.weight(sums, penalty) * eta

    def _cells(self, preprocessing: Arrays, seed: int, tree: int) -> best_split.Grid:
        """The histogram's cells in one round: all columns, or those that the public seed draws for
        it."""
        count = len(preprocessing["offsets"]) - 1
        columns = np.arange(count)
        if self.colsample_bytree < 1:
            columns = np.sort(
                np.argsort(_mixed(columns.astype(np.uint64), seed, tree))[: self._sampled(count)]
            )
        return best_split.grid(preprocessing["offsets"], columns)

    def _sampled(self, columns: int) -> int:
        return min(columns, max(1, int(np.float32(self.colsample_bytree) * columns)))

    @property
    def phases(self) -> Mapping[str, Phase]:
        grow = (
            "gradient and hessian sums by node, column and bin; where needed class counts and "
            "the last validation loss"
        )
        score = "the validation loss of the last round, and the cases it is over"
        return {
            "grow": Phase(grow, self.trees * self.depth, self._grown, fine=True),
            "score": Phase(score, 1 if self.early_stopping else 0, lambda _: self._held_out),
        }

    def _grown(self, schema: Schema) -> float:
        """Derived at the head of this file; the factor covers float32 and the rounding to 2^-36."""
        grown = np.sqrt(self._sampled(len(schema.columns)) * (1 if _groups(schema) == 1 else 2)) * (
            1 + 1e-6
        )
        return max(float(grown), self._held_out)

    @property
    def _held_out(self) -> float:
        """A held-out patient adds to the validation sums and to nothing else."""
        return float(np.hypot(-np.log(SURE), 1) * (1 + 1e-6)) if self.early_stopping else 0.0

    def predict(self, state: State, cohort: Cohort) -> Probs:
        forest = _forest(state, cohort.schema)
        done = trees_model.between(forest.trees, 0, forest.finished)
        start = np.tile(forest.base, (len(cohort), 1))
        p = trees_model.probabilities(
            trees_model.margins(done, bin_indices(forest.cuts, cohort), start)
        ).astype(np.float64)
        return (
            np.concatenate([1 - p, p], axis=1)
            if p.shape[1] == 1
            else p / p.sum(axis=1, keepdims=True)
        )

    def leaves(self, state: State, schema: Schema) -> Leaves:
        """What the leaves of a state's trees tell of patients."""
        return leaves(_forest(state, schema), self.penalty(_groups(schema)), self.eta)

    def alone(
        self,
        cohorts: Sequence[Cohort],
        fold: Fold,
        seed: int,
        parts: int,
        prepare: Federated = PREPARE,
    ) -> State:
        """Ordinary XGBoost (`hist`, 256 bins of its own, one thread) with the same hyperparameters
        on the rows put together."""
        import xgboost

        state = fit(prepare, {}, cohorts, local_plan(fold, seed, parts))
        rows = [c.train(fold, seed, parts) for c in cohorts]
        x, y = np.concatenate([r.design for r in rows]), np.concatenate([r.labels for r in rows])
        if not len(y):
            return {**state, self.name: self.start(cohorts[0].schema, seed)}
        held = (
            np.concatenate([_hashed(r, seed, -1) < self.validation for r in rows])
            if self.early_stopping
            else np.zeros(len(y), bool)
        )
        train = xgboost.DMatrix(x[~held], y[~held], nthread=1)
        options: dict[str, Any] = {}
        if held.any():
            watched = [(xgboost.DMatrix(x[held], y[held], nthread=1), "validation")]
            options = {
                "evals": watched,
                "early_stopping_rounds": self.early_stopping,
                "verbose_eval": False,
            }
        if not train.num_row():
            return {**state, self.name: self.start(cohorts[0].schema, seed)}
        model = xgboost.train(
            self._parameters(cohorts[0].schema, seed), train, self.trees, **options
        )
        if held.any():
            model = model[: model.best_iteration + 1]
        return {**state, self.name: native.read_back(model, self.depth)}

    def _parameters(self, schema: Schema, seed: int) -> dict[str, object]:
        """XGBoost's names for the hyperparameters."""
        groups = _groups(schema)
        same = ("eta", "alpha", "gamma", "colsample_bytree", "subsample")
        return {
            **{key: getattr(self, key) for key in same},
            **({"base_score": self.base_score} if self.base_score else {}),
            **(
                {"objective": "binary:logistic"}
                if groups == 1
                else {"objective": "multi:softprob", "num_class": groups}
            ),
            "lambda": self.lambda_,
            "min_child_weight": self._least_hessian(groups),
            "max_depth": self.depth,
            "tree_method": "hist",
            "nthread": 1,
            "verbosity": 0,
            "seed": seed % 2**31,
        }

    def explain(self, state: State, cohort: Cohort) -> Floats:
        """(cases, features, 1 or classes): XGBoost's TreeSHAP in log-odds; the columns of one
        unordered choice are added."""
        contributions = booster(state, cohort.schema).predict(
            native.matrix(cohort.design), pred_contribs=True, validate_features=False
        )
        if not np.isfinite(contributions).all():
            raise RefusedError("P02", "trees in a state: their covers give no finite SHAP values")
        columns, names = cohort.schema.columns, [f.name for f in cohort.schema.features]
        by_column = contributions.reshape(
            len(cohort), _groups(cohort.schema), len(columns) + 1
        ).astype(np.float64)
        out = np.zeros((len(cohort), len(names), by_column.shape[1]))
        for j, column in enumerate(columns):
            out[:, names.index(column.feature.name)] += by_column[:, :, j]
        return out


def booster(state: State, schema: Schema) -> Any:
    """The model as a native `xgboost.Booster`: features are the schema's columns by name, in
    natural units, NaN where missing."""
    return native.booster(_forest(state, schema), schema)


def _forest(state: State, schema: Schema) -> Forest:
    """The state's trees, checked: nothing is computed from any others."""
    classes = len(schema.label.classes)
    return checked(state["boosting"], state.get("preprocessing", {}), len(schema.columns), classes)


# ---- public chance: hashes of the seed, the tree and the patient ---------------------------------


def _hashed(rows: Cohort, seed: int, tree: int) -> Floats:
    """(cases,): a number in [0, 1) by patient and tree (-1: the held-out patients)."""
    hashes: NDArray[np.uint64] | None = rows.derived.get(("boosting", seed))
    if hashes is None:
        digests = b"".join(
            hashlib.sha256(f"boosting:{seed}:{i}".encode()).digest()[:8] for i in rows.ids
        )
        hashes = rows.derived["boosting", seed] = np.frombuffer(digests, np.dtype("<u8")).astype(
            np.uint64
        )
    return np.asarray((_mixed(hashes, seed, tree) >> np.uint64(11)) * 2.0**-53)


def _mixed(x: NDArray[np.uint64], seed: int, tree: int) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele et al., OOPSLA 2014) over `x` and a 64-bit digest of seed and
    tree."""
    salt = np.frombuffer(
        hashlib.sha256(f"boosting:{seed}:tree:{tree}".encode()).digest()[:8], np.dtype("<u8")
    ).astype(np.uint64)
    z = x * np.uint64(0x9E3779B97F4A7C15) + salt
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


# ---- shapes --------------------------------------------------------------------------------------


def _groups(schema: Schema) -> int:
    classes = len(schema.label.classes)
    return 1 if classes == 2 else classes


LEARNER = Boosting()
