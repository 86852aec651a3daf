"""How each command of the documentation is held: executed here, with its placeholders filled, or by
a test elsewhere that is named.

A new command needs a line in `HELD`; a new kind of placeholder a line in the world that fills it
(`tests/docs/worlds.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

RUNBOOK = "tests/containers/test_runbook.py::test_a_federation_is_set_up_run_and_renewed_by_the_runbook_alone"
IMAGES = "tests/e2e/test_image_studies.py::"
PREDICTED = IMAGES + "test_new_patients_are_scored_as_at_the_stations"
TUNED = IMAGES + "test_a_site_fine_tunes_for_itself_and_predicts_with_what_it_made"
SINK = "tests/server/monitor/test_mlflow_sink.py::"
TINY = "--prepare --phantom-patients 150"
"""Read and partition for real, and stop before training."""
FEW = "--prepare --minimum-patients 1 --virtual-sites 2"


@dataclass(frozen=True)
class Here:
    """Executed in the folder that `world` makes; `more` is appended to the command, which is
    otherwise as written."""

    world: str = "nothing"
    more: str = ""
    status: tuple[int, ...] = (0,)
    until: str = ""
    """A command that would go on for ever is ended when it has printed this."""
    slow: str = ""
    """Options with which the slow suite runs it to its end, too."""


@dataclass(frozen=True)
class There:
    """Executed by a test elsewhere, whose file must hold the command's words; `block`: it takes the
    runbook's block itself."""

    test: str
    block: bool = False


GDC = "fedmets simulate --study colorectal_metastasis --data tcga-coadread"
CT = f"{GDC} --images tcga-ct"
LIVER = "fedmets simulate --study liver_recurrence"
BRAIN = "fedmets simulate --study brain_primary"
QUICK = "--bootstraps 100 --evaluations within_site --folds 3"
ON_TABLE = f"--learners logistic,boosting --set boosting.trees=3 {QUICK}"

HELD: dict[str, Here | There] = {
    # README.md, docs/howto: simulations
    "make simulation": Here("repository"),
    LIVER: There(IMAGES + "test_the_report_has_all_models_in_all_arms"),
    f"FEDMETS_DEVICE=cpu {LIVER}": Here(more=f"--phantom-patients 20 {FEW}"),
    BRAIN: There(
        IMAGES + "test_sites_without_a_table_or_without_images_take_part_in_what_they_can"
    ),
    f"{LIVER} --phantom null": There(
        IMAGES + "test_where_the_image_carries_nothing_the_report_says_so"
    ),
    f"{BRAIN} --phantom missing": There(
        IMAGES + "test_sites_without_a_table_or_without_images_take_part_in_what_they_can"
    ),
    "fedmets simulate --study colorectal_metastasis --phantom images": There(
        "tests/e2e/test_colorectal_images.py::test_the_report_says_that_image_and_fusion_were_not_run_and_why"
    ),
    "fedmets simulate --audit --epsilon 3,inf": Here(
        more=TINY, slow=f"--learners private_logistic --phantom-patients 250 {QUICK}"
    ),
    "fedmets simulate --epsilon 1,3,10,inf": Here(
        more=TINY, slow=f"--learners private_logistic --phantom-patients 250 {QUICK}"
    ),
    "fedmets simulate --secure --epsilon 3": Here(
        more=f"{TINY} --partition even",
        slow=f"--learners private_logistic --phantom-patients 500 --partition even {QUICK}",
    ),
    "fedmets simulate --secure": Here(
        more=f"{TINY} --partition even",
        slow=f"--learners logistic --phantom-patients 500 --partition even {QUICK}",
    ),
    "fedmets simulate --study colorectal_metastasis --data /path/to/tcga-coadread --task preop": Here(
        "gdc", "--prepare"
    ),
    f"{LIVER} --data /path/to/Colorectal-Liver-Metastases": Here("liver", FEW),
    "fedmets simulate --prepare --data /path/to/tcga-coadread": Here("gdc"),
    "fedmets simulate --draft hospitals.csv > my_study.toml": Here("hospitals"),
    "fedmets simulate --study my_study.toml --data hospitals.csv": Here(
        "drafted", "--prepare", slow=ON_TABLE
    ),
    # docs/howto: the collections
    f"{GDC} --prepare": Here("gdc"),
    f"{GDC} --task preop": Here("gdc", "--prepare"),
    GDC: Here("gdc", "--prepare", slow=ON_TABLE),
    f"{CT} --prepare": Here("gdc with ct"),
    f"{CT} --task preop": Here("gdc with ct", "--prepare"),
    f"{LIVER} --data Colorectal-Liver-Metastases --prepare": Here("liver", FEW),
    f"{LIVER} --data Colorectal-Liver-Metastases": Here("liver", FEW),
    f"{BRAIN} --data Pretreat-MetsToBrain-Masks --prepare": Here(
        "yale", "--minimum-patients 1 --minimum-site 1"
    ),
    f"{BRAIN} --data Pretreat-MetsToBrain-Masks": Here(
        "yale", "--prepare --minimum-patients 1 --minimum-site 1"
    ),
    f"{BRAIN} --data openbtai --prepare": Here("openbtai"),
    f"{BRAIN} --data openbtai": Here("openbtai", "--prepare"),
    # a site, for itself
    "fedmets client embed --site site.toml --study liver_recurrence --model runs/<folder>/model "
    "--out embeddings": There(IMAGES + "test_a_site_embeds_and_explains_with_the_model"),
    "fedmets client explain --site site.toml --study liver_recurrence --model runs/<folder>/model "
    "--out images.html": There(IMAGES + "test_a_site_embeds_and_explains_with_the_model"),
    "fedmets client explain --site site.toml --study liver_recurrence --model model --report "
    "report.json --out mine.html": There(IMAGES + "test_a_site_embeds_and_explains_with_the_model"),
    "fedmets client budget --site site.toml": Here("site"),
    "fedmets client budget --site site.toml --new": There(
        "tests/client/station/test_cohort_pin.py::test_a_station_with_an_epsilon_and_no_account_does_not_start"
    ),
    "fedmets client audit --site site.toml --last 50": There(
        "tests/client/station/test_audit_log.py::test_the_record_has_every_message_and_the_budget_every_release"
    ),
    # docs/model.md: `cd` is where the bundle's test runs it
    "fedmets client predict --model runs/<folder>/model --data new_patients --out predictions": There(
        PREDICTED
    ),
    "fedmets client predict --model model --data new_patients --out predictions": There(PREDICTED),
    "fedmets client finetune --site site.toml --model runs/<folder>/model --out own_model": There(
        TUNED
    ),
    "fedmets client finetune --site site.toml --model model --out own_model --epochs 3": There(
        TUNED
    ),
    "cd model/bundle": There(
        IMAGES + "test_a_site_writes_crops_and_the_bundle_scores_them_as_the_learner_does"
    ),
    "python -m monai.bundle run --config_file configs/inference.json --meta_file "
    "configs/metadata.json --dataset_dir ../../crops"
    " --output_dir ../../scored": There(
        IMAGES + "test_a_site_writes_crops_and_the_bundle_scores_them_as_the_learner_does"
    ),
    # a federation
    "fedmets server noise --study colorectal_metastasis --learners private_logistic --epsilon 3": Here(),
    "fedmets deploy provision federation.toml --out kits": Here("federation"),
    "fedmets deploy fingerprint kits/coordinator": Here("kits"),
    "fedmets deploy enroll kit --fingerprint XXXX-XXXX-...": Here("kits"),
    "fedmets deploy enroll KIT --fingerprint XXXX-...": Here("kits"),
    "fedmets deploy fingerprint KIT/enrolment.json": Here("enrolled"),
    "fedmets deploy site add kits/coordinator enrolment.json --fingerprint XXXX-XXXX-...": Here(
        "enrolled"
    ),
    "fedmets deploy site add kits/coordinator enrolment.json --fingerprint XXXX-...": Here(
        "enrolled"
    ),
    "fedmets deploy site list kits/coordinator": Here("kits"),
    # nobody is at that name: the doctor finds it, and says what to do
    "fedmets deploy doctor kit": Here("enrolled", status=(1, 3)),
    "fedmets deploy coordinator kits/coordinator/door --state door-state --link link": There(
        RUNBOOK, block=True
    ),
    "unshare --net --map-root-user fedmets deploy signer kits/coordinator/signer --state state "
    "--link link": There(RUNBOOK, block=True),
    "fedmets server run --study colorectal_metastasis --expect 2 --keys kits/coordinator/signer "
    "--state state --link link --set learners=logistic": There(RUNBOOK, block=True),
    "unshare --net --map-root-user fedmets client serve --site KIT/site.toml --socket "
    "/run/fedmets/station.sock": There(RUNBOOK, block=True),
    "fedmets deploy courier KIT --socket /run/fedmets/station.sock": There(RUNBOOK, block=True),
    # docs/monitoring.md
    "fedmets server monitor --out state/runs": Here("runs", "--port 0", until="http://127.0.0.1:"),
    "podman exec -d CONTAINER fedmets server monitor --state /state --socket /state/room.sock": Here(
        "runs", until="unix:"
    ),
    "pip install 'fedmets[mlflow]'": There(
        "tests/docs/test_commands.py::test_extras_that_pages_name_are_declared"
    ),
    "fedmets server run --study colorectal_metastasis --expect 3 --set secure=true --mlflow "
    "http://127.0.0.1:5000": There(SINK),
    "fedmets server mlflow RUN --uri file:/path/of/a/folder": There(SINK),
}

EXAMPLES: dict[str, tuple[str, ...]] = {
    "README.md": ("tests/docs/test_commands.py::test_the_readme_s_python_runs",),
    "docs/howto/learner.md": ("tests/docs/test_commands.py::test_the_learner_learns",),
    "docs/howto/network.md": (
        "tests/docs/test_commands.py::test_the_network_passes_the_contract_where_the_page_saves_it",
    ),
    "docs/howto/study-in-code.md": ("tests/docs/test_commands.py::test_the_study_in_code_is_one",),
    "docs/howto/read-report.md": ("tests/docs/test_commands.py::test_the_report_is_read",),
    "docs/model.md": (
        "tests/server/export/test_model_folder.py::test_the_page_s_examples_run",
        IMAGES + "test_a_site_writes_crops_and_the_bundle_scores_them_as_the_learner_does",
    ),
}
"""Page -> the tests that take its Python examples from it and run them."""
