"""Within-site AUC, over pairs of patients of the same site, from each site's concordant pairs: its
interval, differences, and estimability.

Between hospitals the interval is DeLong's (`common.metrics.delong`); where the patients are at hand
their resamples give it. There a model may stand for several, each with patients of its own (a site
is judged by all models that were trained elsewhere): its figure is the mean of theirs, in each
resample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.schema import Floats
from common.metrics.delong import Concordance, Estimate, against, aucs, difference, limits
from common.metrics.estimability import estimable, judged, judged_in_pairs
from common.metrics.resampling import percentiles, variance


@dataclass(frozen=True)
class SiteSums:
    """Of one model, or of several, by site; held: the classes held against the rest."""

    counts: Floats
    """(sites, models, classes): labelled patients that were scored."""
    pairs: Floats
    """(draws, sites, models, held, 2): concordant pairs, and pairs; of the sample, then of each
    resample where there are any."""
    spread: Floats | None
    """(sites, models * held, models * held), as `Concordance` has it, of models on the same
    patients; None with resamples."""

    @classmethod
    def from_sites(
        cls, counts: Floats, concordant: Floats, pairs: Floats, spread: Floats
    ) -> SiteSums:
        """Of models on the same patients, as sites tell them.

        counts (sites, classes), concordant (sites, models, held), pairs (sites, held), spread
        (sites, models * held, models * held)."""
        models = concordant.shape[1]
        concordant_and_pairs = np.stack(
            [concordant, np.broadcast_to(pairs[:, None], concordant.shape)], -1
        )
        return cls(np.repeat(counts[:, None], models, 1), concordant_and_pairs[None], spread)

    def at(self, sites: slice) -> SiteSums:
        return SiteSums(
            self.counts[sites],
            self.pairs[:, sites],
            None if self.spread is None else self.spread[sites],
        )

    @property
    def of_sites(self) -> Floats:
        """(sites, classes): patients that any of the models has scored."""
        return np.asarray(self.counts.max(1))

    @property
    def total(self) -> Floats:
        """(classes,)"""
        return np.asarray(self.of_sites.sum(0))

    def _aucs(self) -> Floats:
        """(draws, models): the mean over the classes that are judged; NaN where a model is not
        estimable."""
        held = against(self.counts.shape[2])
        values = np.full((len(self.pairs), self.counts.shape[1]), np.nan)
        for m in range(values.shape[1]):
            classes = judged_in_pairs(self.counts[:, m], self.pairs[0, :, m, :, 1])
            if classes:
                sums = self.pairs[:, :, m, [held.index(k) for k in classes]].sum(1)
                # a resample of a subgroup may have no pair: 0 / 0, undefined
                with np.errstate(divide="ignore", invalid="ignore"):
                    values[:, m] = (sums[..., 0] / sums[..., 1]).mean(1)
        return values

    def _delong(self) -> tuple[Floats, Floats]:
        """(models,) AUCs and their covariance."""
        totals = self.pairs[0].sum(0)
        assert self.spread is not None
        sums = Concordance(totals[..., 0], totals[0, :, 1], self.spread.sum(0))
        return aucs(sums, judged(self.total), self.counts.shape[2])

    def auc(self) -> tuple[Estimate, float]:
        """With its variance; not estimable unless it is of every model that has scored anybody."""
        scored = self.counts.any((0, 2))
        draws = self._aucs()[:, scored]
        if not scored.any() or not np.isfinite(draws[0]).all():
            return Estimate(None), np.nan
        if self.spread is None:
            return percentiles(draws.mean(1)), variance(draws.mean(1))
        values, covariance = self._delong()
        counts = self.total
        smaller = min((min(counts[k], counts.sum() - counts[k]) for k in judged(counts)), default=0)
        return limits(float(values[0]), float(covariance[0, 0]), smaller), float(covariance[0, 0])

    def difference(self) -> Estimate:
        """Of the first half of the models minus the second, each minus its own of the other
        half."""
        if self.spread is not None:
            return difference(*self._delong())
        draws = self._aucs()
        half = draws.shape[1] // 2
        differences = draws[:, :half] - draws[:, half:]
        defined = np.isfinite(differences[0])
        return percentiles(differences[:, defined].mean(1)) if defined.any() else Estimate(None)

    def row(self) -> dict[str, Any]:
        """n, events, and the AUC with its interval where it is estimable."""
        estimate, _ = self.auc()
        can = estimable(self.total) and estimate.value is not None and estimate.low is not None
        value, low, high = estimate if can else Estimate(None)
        n, events = int(self.total.sum()), int(self.total[1:].sum())
        return {"n": n, "events": events, "auc": value, "low": low, "high": high, "estimable": can}
