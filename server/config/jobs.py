"""Jobs, what a run has to train, on which training sets, in the order of need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.data.cohort import ESTIMABLE, Fold
from common.errors import FederationError, UsageError
from common.federated.accounting import accountable
from common.federated.learner import Explained, Federated, Head, Stacked, load
from common.learners.scores import scored_by
from common.study.study import Study
from common.wire.messages import Hello
from server.config.run_config import Run


@dataclass(frozen=True)
class Job:
    """One learner on one fold. `reads` are the folds whose state it needs: its own, or several for
    an evaluation."""

    learner: Federated
    fold: Fold
    reads: tuple[Fold, ...]
    optional: bool = False
    """What no site may be able to give (P01, D06): it is then left out with all that needs it, and
    the ledger says so."""

    @property
    def key(self) -> tuple[Fold, str]:
        return self.fold, self.learner.name


def possible(run: Run, study: Study, hellos: Iterable[Hello]) -> tuple[Federated, ...]:
    """The run's heads, without those on images where no site holds images of patients of two
    classes.

    Images of one class a site would teach a network which hospital they come from. FederationError
    D06 where the run names such a head.
    """
    heads = run.heads(study)
    if any(h.imaged_estimable for h in hellos):
        return heads
    out = tuple(h for h in heads if "image" not in h.modality)
    if len(out) < len(heads) and run.learners:
        names = ", ".join(h.name for h in heads if h not in out)
        said = (
            f"{names}: no site holds images of at least {ESTIMABLE} labelled cases of each of "
            "two classes; leave these learners out, or have the IT of sites with an epsilon or "
            "masks declare their images (privacy.modalities)"
        )
        raise FederationError("D06", said)
    return out


def demand_parts(run: Run, groups: Sequence[tuple[str, ...]], hellos: Mapping[str, Hello]) -> None:
    """FederationError P01 where a site's patients are too few to be folded into the run's parts: it
    would refuse every fold, and be in some sums and not in others."""
    if not any(f.parts for f in run.folds(groups)):
        return
    few = {s: h.parts for s, h in hellos.items() if 0 < h.parts < run.parts}
    if few:
        raise FederationError(
            "P01",
            *(
                f"site '{site}' has patients for {most} parts at most, the run has {run.parts}: each "
                "part must be expected to hold the site's minimum"
                for site, most in sorted(few.items())
            ),
            f"begin the run with --parts {max(min(few.values()), 3)} where that is enough for all, "
            "or without these sites",
        )


def clinical_head(study: Study, heads: Sequence[Federated]) -> str | None:
    """The head reported as `clinical`: the one that a fusion starts from, else the study's; None:
    chosen by log loss."""
    return next((h.clinical for h in heads if isinstance(h, Stacked)), study.clinical)


def training_sets(run: Run, groups: Sequence[tuple[str, ...]]) -> tuple[Fold, ...]:
    """All folds that a run has a state of."""
    folds = run.folds(groups)
    held_out = [f for f in folds if run.noise and len(f.parts) == 1]
    return (*folds, *(scored_by(f, run.parts) for f in held_out))


def build_jobs(
    run: Run, study: Study, groups: Sequence[tuple[str, ...]], heads: Sequence[Federated]
) -> list[Job]:
    """Preprocessing and every head, with all that it needs, on every fold; then what reads them
    all."""
    folds = run.folds(groups)
    jobs = [job for fold in folds for job in _fits(run, study, fold, folds, heads)]
    names = [h.name for h in heads]
    hypers = run.hypers(study)
    if run.noise:
        judge = load("scores", {"heads": names, "learners": hypers})
        explained = run.importance([h.name for h in heads if isinstance(h, Explained)], hypers)
        # what moves a model is one release more, so only where it is asked for
        jobs += [Job(explained, folds[0], (folds[0],))] if accountable(explained) else []
        unseen = [Job(judge, scored_by(f, run.parts), (f,)) for f in folds if len(f.parts) == 1]
        return _bounded([*jobs, *unseen], heads)
    if run.evaluations:
        jobs.append(Job(load("evaluation", {"heads": names, "learners": hypers}), Fold(), folds))
        if run.comparison:
            chosen = {"clinical": clinical} if (clinical := clinical_head(study, heads)) else {}
            jobs.append(
                Job(
                    load("comparison", {"heads": names, "learners": hypers, **chosen}),
                    Fold(),
                    folds,
                )
            )
    jobs.append(
        Job(
            run.importance([h.name for h in heads if isinstance(h, Explained)], hypers),
            Fold(),
            (Fold(),),
        )
    )
    held_out = tuple(f for f in folds if not f.sites and len(f.parts) == 1)
    if held_out and any(h.name == "image" for h in heads):
        jobs.append(Job(load("gradcam", {"learners": hypers}), Fold(), held_out, optional=True))
    if study.schema.survival:
        jobs.append(Job(load("survival"), Fold(), (Fold(),), optional=True))
    return jobs


def _bounded(jobs: Sequence[Job], heads: Sequence[Federated]) -> list[Job]:
    """What a run with noise does: what only looks at models is left out, for every release costs.
    UsageError C01: one has no bound."""
    trained = {
        name
        for j in jobs
        if isinstance(j.learner, Head)
        for name in (*j.learner.needs, j.learner.name)
    }
    # a head that has no fold to be fitted on is named, too
    wanted = (*heads, *(j.learner for j in jobs if j.learner.name in trained))
    if unbounded := sorted({learner.name for learner in wanted if not accountable(learner)}):
        raise UsageError(
            "C01",
            "noise is for sums that one patient changes by a bounded amount; leave these "
            f"learners out: {', '.join(unbounded)}",
        )
    # preprocessing where nobody needs it is there for guard L03, and would be one more release
    return [j for j in jobs if j.learner.name != "preprocessing" or j.learner.name in trained]


def _fits(
    run: Run, study: Study, fold: Fold, folds: Sequence[Fold], heads: Sequence[Federated]
) -> list[Job]:
    """What is trained on one fold, in the order of need. Images leave no site out but with
    `run.full`."""
    here = [h for h in heads if "image" not in h.modality or not fold.sites or run.full]
    inner = tuple(
        f
        for f in folds
        if f.sites == fold.sites
        and len(f.parts) == len(fold.parts) + 1
        and set(fold.parts) < set(f.parts)
    )
    deepest = len(fold.parts) + bool(fold.sites) > 1 or not inner
    stacked = [h for h in here if isinstance(h, Stacked)]
    single = [h for h in here if not isinstance(h, Stacked)]
    wanted: dict[str, Federated] = {}

    def want(learner: Federated) -> None:
        for need in learner.needs:
            if need not in wanted:
                want(run.learner(need, study))
        wanted.setdefault(learner.name, learner)

    want(run.preprocessing(study))
    for head in single:
        want(head)
    for head in () if deepest else stacked:
        for need in head.needs:
            want(wanted.get(need) or run.learner(need, study))
    jobs = [
        Job(learner, fold, (fold,), optional="image" in learner.modality)
        for learner in wanted.values()
    ]
    return jobs + [
        Job(head, fold, (fold, *inner), optional=True) for head in ([] if deepest else stacked)
    ]
