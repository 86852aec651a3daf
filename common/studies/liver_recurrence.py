"""Hepatic recurrence within 24 months of resection of colorectal liver metastases, from what is
known before surgery.

Source of the cases: TCIA Colorectal-Liver-Metastases (doi 10.7937/QXK2-QG03), 197 patients of one
hospital.
"""

from common.data.schema import Channel, Choice, Imaging, Label, Number, Schema, Survival
from common.study.study import Study, Task

PREOP = "preop"
NO_YES = ("no", "yes")

SCHEMA = Schema(
    name="liver_recurrence",
    times=(PREOP,),
    features=(
        Number("age", "years", 0, 120, PREOP, title="Age at operation"),
        Choice("sex", ("female", "male"), PREOP, title="Sex"),
        Number("body_mass_index", "kg/m2", 10, 80, PREOP, title="Body mass index at operation"),
        Choice("major_comorbidity", NO_YES, PREOP, title="Major comorbidity"),
        Choice(
            "node_positive_primary", NO_YES, PREOP, title="Primary tumour with positive lymph nodes"
        ),
        Choice("synchronous", NO_YES, PREOP, title="Liver metastases synchronous with the primary"),
        Choice("multiple_metastases", NO_YES, PREOP, title="More than one liver metastasis"),
        Number("clinical_risk_score", "points", 0, 5, PREOP, title="Clinical risk score (Fong)"),
        Number("cea", "ng/mL", 0, 100_000, PREOP, "log", title="Carcinoembryonic antigen"),
        Number("max_tumour_size", "cm", 0, 40, PREOP, title="Largest metastasis"),
        Choice("bilobar_disease", NO_YES, PREOP, title="Metastases in both lobes"),
        Choice("extrahepatic_disease", NO_YES, PREOP, title="Disease outside the liver"),
        Choice(
            "chemotherapy_before_resection",
            NO_YES,
            PREOP,
            title="Chemotherapy before liver resection",
        ),
        Choice(
            "portal_vein_embolisation",
            NO_YES,
            PREOP,
            title="Portal vein embolisation before surgery",
        ),
    ),
    label=Label(
        "hepatic_recurrence",
        ("free", "recurred"),
        "Hepatic recurrence within 24 months of resection",
    ),
    survival=Survival("overall_survival", "months", 120),
    imaging=Imaging(
        channels=(Channel("ct", "CT", "Portal venous CT before surgery"),),
        regions=("liver", "lesion"),
        organ="liver",
        lesion=("lesion",),
        window=(-160, 240),
        spacing_mm=(2.5, 1.0, 1.0),
        crop_mm=(60.0, 60.0, 60.0),
        body=("ABD", "LIVER"),
    ),
)

STUDY = Study(
    name="liver_recurrence",
    question="Do colorectal liver metastases recur in the liver within 24 months of their "
    "resection?",
    schema=SCHEMA,
    tasks={
        PREOP: Task(
            PREOP,
            "Patients who were free of recurrence but followed for less than 24 months are "
            "unknown, never negative; death before a "
            "recurrence is a competing event.",
            alarm=0.75,
        )
    },
    clinical="logistic",
    hyper={"logistic": {"l2": 3.0}, "image": {"weight_decay": 2.0, "batch": 16, "rounds": 6}},
    learners=("logistic", "boosting", "image", "fusion"),
    # the resected specimen is read after the decision
    denied=(r"response", r"necrosis", r"fibrosis", r"mucin", r"steatosis", r"sinusoidal", r"nash"),
    virtual="One hospital (197 patients): the sites are virtual, drawn from its patients, and no "
    "claim about other hospitals follows.",
)
