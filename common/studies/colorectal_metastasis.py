"""Distant metastasis (AJCC M1) at diagnosis of colorectal cancer, from what is known at two times.

Source of the cases: TCGA-COAD and TCGA-READ, whose tissue source sites are real hospitals.
"""

from common.data.schema import Channel, Choice, Imaging, Label, Number, Schema, Survival
from common.study.study import Study, Task

PREOP, POST = "preop", "postresection"

SCHEMA = Schema(
    name="colorectal_metastasis",
    times=(PREOP, POST),
    features=(
        Number("age", "years", 0, 120, PREOP, title="Age at diagnosis"),
        Choice("sex", ("female", "male"), PREOP, title="Sex"),
        Number(
            "cea",
            "ng/mL",
            0,
            100_000,
            PREOP,
            "log",
            title="Carcinoembryonic antigen before surgery",
        ),
        Choice(
            "location",
            ("right colon", "left colon", "rectum", "colon, unspecified"),
            PREOP,
            title="Location of the primary tumour",
        ),
        Choice("histology", ("adenocarcinoma", "mucinous", "other"), PREOP, title="Histology"),
        Choice("prior_malignancy", ("no", "yes"), PREOP, title="Earlier malignancy"),
        Choice("t", ("Tis", "T1", "T2", "T3", "T4"), POST, ordered=True, title="Pathologic T"),
        Choice("n", ("N0", "N1", "N2"), POST, ordered=True, title="Pathologic N"),
        Number("nodes_positive", "nodes", 0, 200, POST, "log", title="Lymph nodes with tumour"),
        Number("nodes_tested", "nodes", 0, 300, POST, "log", title="Lymph nodes examined"),
        Choice("lymphatic_invasion", ("no", "yes"), POST, title="Lymphatic invasion"),
        Choice("vascular_invasion", ("no", "yes"), POST, title="Vascular invasion"),
        Choice("perineural_invasion", ("no", "yes"), POST, title="Perineural invasion"),
        Choice("tumour_deposits", ("no", "yes"), POST, title="Tumour deposits outside nodes"),
    ),
    label=Label("metastasis", ("M0", "M1"), "Distant metastasis at diagnosis (AJCC M)"),
    survival=Survival("overall_survival", "days", 1825),
    imaging=Imaging(
        channels=(Channel("ct", "CT", "CT before surgery"),),
        window=(-160, 240),
        spacing_mm=(2.5, 1.0, 1.0),
        body=("ABD", "PELVIS", "COLON", "RECTUM", "LIVER"),
    ),
)

STUDY = Study(
    name="colorectal_metastasis",
    question="Has a colorectal cancer spread to distant organs (AJCC M1) at diagnosis?",
    schema=SCHEMA,
    tasks={
        PREOP: Task(PREOP, "Uses what is known before surgery (no T, no N).", alarm=0.90),
        POST: Task(
            POST,
            "A method benchmark, not a decision aid: M is normally known before the pathologist's "
            "T, N and node counts.",
            alarm=0.97,
        ),
    },
    learners=("logistic", "boosting", "image", "fusion"),
    # AJCC stage encodes M, and so does anything that names metastases or their treatment
    denied=(
        r"stage(?!r)",
        r"ajcc.*_m$",
        r"(^|[._ ])m_stage",
        r"metasta",
        r"residual_disease",
        r"tumor_status",
        r"disease_response",
    ),
)
