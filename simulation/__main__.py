"""`fedmets simulate`, in a checkout `python -m simulation`: a federation of virtual hospitals on
this machine, through the same two Flower apps as the real one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common.runtime import environment
from common.runtime.command import named
from common.runtime.exit_status import ended, leave

DESCRIPTION = """Train a study's models across hospitals without moving their data, and compare local, federated and pooled.
Without --data, a synthetic twin of the study's cohort is written to the run's folder and used."""

EPILOG = """exit status: 0 done, 2 wrong option or study file, 3 unusable data, 4 stopped by a guard against leakage,
5 a round could not be completed, 6 the run's folder is in the way or broken, 130 interrupted (go on with --resume)

examples:
  fedmets simulate
  fedmets simulate --study liver_recurrence
  fedmets simulate --study brain_primary --phantom null
  fedmets simulate --study colorectal_metastasis --data /path/to/tcga-coadread --task preop
  fedmets simulate --study my_study.toml --data hospitals.csv
  fedmets simulate --draft hospitals.csv > my_study.toml"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog=named("simulation"),
        description=DESCRIPTION,
        epilog=EPILOG.replace("fedmets simulate", named("simulation")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = p.add_argument_group("what is asked")
    what.add_argument(
        "--study",
        default="colorectal_metastasis",
        metavar="NAME|FILE",
        help="a study, or the path of a .toml or .py file of one's own",
    )
    what.add_argument("--task", default="", help="prediction time (default: the study's last)")
    what.add_argument(
        "--data",
        metavar="PATH",
        help="folder with the tables and the images, or one table (default: the folder of a study "
        "file; else a synthetic cohort)",
    )
    what.add_argument(
        "--images", metavar="DIR", help="folder with the images, where they do not lie in --data"
    )
    what.add_argument(
        "--phantom",
        choices=("default", "null", "missing", "images"),
        default="default",
        help="which synthetic cohort: null: the image carries nothing; missing: sites lack the "
        "table, the images or a sequence; "
        "images: the table with CT of a few patients (colorectal_metastasis)",
    )
    what.add_argument(
        "--phantom-patients",
        type=int,
        metavar="N",
        help="size of the synthetic cohort (default: the study's)",
    )
    what.add_argument(
        "--source", default="", metavar="NAME", help="source mapping, where the files fit several"
    )
    what.add_argument(
        "--unknown-label",
        choices=("exclude", "sensitivity"),
        default="exclude",
        help="cases without a label: leave them out, or also give best- and worst-case bounds",
    )
    how = p.add_argument_group("how it is federated")
    how.add_argument(
        "--minimum-site",
        type=int,
        default=20,
        metavar="N",
        help="institutions with fewer labelled cases are small (default 20)",
    )
    how.add_argument(
        "--small-sites",
        choices=("pool", "hold-out"),
        default="pool",
        help="small institutions: pooled into 'other', or left out of the federation",
    )
    how.add_argument(
        "--partition",
        choices=("natural", "even", "skewed", "scanner"),
        help="sites: the table's institutions (default, where it has several), virtual ones of "
        "equal size or of skewed labels, "
        "or the makers of the scanners",
    )
    how.add_argument(
        "--virtual-sites",
        type=int,
        metavar="N",
        help="number of virtual sites (default 5; 3 where there are images)",
    )
    how.add_argument(
        "--minimum-patients",
        type=int,
        default=10,
        metavar="N",
        help="fewest patients in any sum that leaves a site (default 10)",
    )
    how.add_argument(
        "--learners", default="", metavar="A,B", help="heads to train (default: the study's)"
    )
    how.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="LEARNER.KEY=VALUE",
        help="a hyperparameter, e.g. boosting.trees=40",
    )
    how.add_argument(
        "--strategy",
        default="fedavg",
        help="Flower strategy for learners that send parameters (fedavg, fedadam, fedmedian, "
        "krum, ...)",
    )
    how.add_argument(
        "--transfer",
        default="whole",
        metavar="HOW",
        help="what travels: every state whole (default), what has changed, or of large models the "
        "rounded changes (float16, int8)",
    )
    how.add_argument(
        "--secure",
        action="store_true",
        help="mask the sums, so that the coordinator sees those over all sites alone",
    )
    how.add_argument(
        "--engine",
        choices=("inprocess", "ray"),
        default="inprocess",
        help="in this process, or Flower's simulation engine on Ray",
    )
    how.add_argument(
        "--norm-bound",
        type=float,
        default=0.0,
        metavar="X",
        help="refuse an update that changes the parameters by more (L2 norm; 0: none)",
    )
    how.add_argument(
        "--outliers",
        type=float,
        default=0.0,
        metavar="X",
        help="refuse one that is more than X times the median of the sites' (0: none)",
    )
    how.add_argument(
        "--attack",
        choices=("label_flip", "scale", "nan", "stale"),
        help="one site poisons the models: with flipped labels in its table, or with scaled, "
        "non-finite or stale parameters",
    )
    how.add_argument(
        "--attacker",
        type=int,
        metavar="N",
        help="which site does (default: the one with the most patients)",
    )
    how.add_argument(
        "--quorum",
        type=float,
        default=1.0,
        help="share of able sites that must contribute to each step (default 1)",
    )
    how.add_argument(
        "--quorum-cases",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="and of their labelled cases (default 0)",
    )
    how.add_argument(
        "--deadline",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds a site has for one exchange (default 600)",
    )
    how.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="repeats with sites that did not answer (default 2)",
    )
    judge = p.add_argument_group("how it is judged")
    judge.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help="parts for cross-fitting (default 5; 3 where there are images)",
    )
    judge.add_argument(
        "--evaluations",
        default="within_site,leave_one_site_out",
        help="within_site, leave_one_site_out, or both (default)",
    )
    judge.add_argument(
        "--full", action="store_true", help="leave-one-site-out for the learners on images too"
    )
    judge.add_argument(
        "--left-out-sites",
        type=int,
        default=12,
        metavar="N",
        help="most sites that leave-one-site-out leaves out one by one, the largest; the others "
        "go together (default 12)",
    )
    judge.add_argument(
        "--bootstraps",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for the intervals (default 1000)",
    )
    judge.add_argument(
        "--epsilon",
        default="",
        metavar="E,E",
        help="what privacy costs: train each head again at these epsilons, e.g. 1,3,10,inf "
        "(default: not)",
    )
    judge.add_argument(
        "--delta",
        type=float,
        default=1e-5,
        metavar="D",
        help="the delta of those epsilons (default 1e-5)",
    )
    judge.add_argument(
        "--noise-seed",
        type=int,
        metavar="N",
        help="draw the noise from a seed, so that the run can be repeated: it then hides nobody",
    )
    judge.add_argument(
        "--audit",
        action="store_true",
        help="attack the models to learn who was trained on, and look for canaries through the "
        "noise (epsilon 3, or those of --epsilon)",
    )
    judge.add_argument(
        "--accept-leak",
        action="append",
        default=[],
        metavar="FEATURE",
        help="go on although this feature predicts the label almost perfectly; printed in the "
        "report",
    )
    judge.add_argument(
        "--permute-labels",
        type=int,
        metavar="SEED",
        help="shuffle labels within sites first: every AUC should then lie about 0.5",
    )
    run = p.add_argument_group("the run")
    run.add_argument(
        "--seed", type=int, default=0, help="seed of splits and subsampling (default 0)"
    )
    run.add_argument(
        "--out",
        default="runs",
        metavar="DIR",
        help="where the run's folder is made (default runs/)",
    )
    run.add_argument(
        "--cache",
        metavar="DIR",
        help="where prepared images are kept (default DIR of --out, cache/)",
    )
    run.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with an interrupted run: its folder; other options are taken from it",
    )
    run.add_argument(
        "--statements",
        default="",
        metavar="FILE",
        help="what only people can say (funding, ethics, ...), for the report's checklists: "
        "docs/report.md",
    )
    run.add_argument(
        "--prepare", action="store_true", help="only write the site folders, for `flwr run`"
    )
    run.add_argument(
        "--draft",
        metavar="TABLE",
        help="print a study file for this table, to be corrected, and stop",
    )
    run.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object at the end instead of tables; progress goes to stderr",
    )
    return p


def given(argv: Sequence[str] | None) -> list[str]:
    """The options that stand on the command line, whether or not they say what the default says."""
    silent = parser()
    for action in silent._actions:
        action.default = argparse.SUPPRESS
    return sorted(vars(silent.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = parser().parse_args(argv)
    args.given = given(argv)
    environment.prepare()
    return ended(lambda: _do(args))


def _do(args: argparse.Namespace) -> int:
    if args.draft:
        from pathlib import Path

        from client.table.draft.study_draft import draft

        sys.stdout.write(draft(Path(args.draft)))
        return 0
    from simulation.run import simulate

    return simulate(args)


if __name__ == "__main__":
    leave(main)
