"""The primary tumour behind a brain metastasis.

Sources of the cases: OpenBTAI (doi 10.1038/s41597-023-02123-0), 75 patients, tables only; Yale's
Pretreat-MetsToBrain-Masks (TCIA, doi 10.7937/6be1-r748) with four MR sequences. The sites of both
are the makers of the scanners.
"""

from common.data.schema import Channel, Choice, Imaging, Label, Number, Schema
from common.study.study import Study, Task

MRI = "first_mri"

SCHEMA = Schema(
    name="brain_primary",
    times=(MRI,),
    features=(
        Number("age", "years", 0, 120, MRI, title="Age at the first MRI"),
        Choice("sex", ("female", "male"), MRI, title="Sex"),
        Choice("smoking", ("no", "yes"), MRI, title="Ever smoked"),
    ),
    label=Label(
        "primary", ("nsclc", "breast", "melanoma", "sclc", "other"), "Type of the primary tumour"
    ),
    imaging=Imaging(
        channels=(
            Channel("t1n", "MR", "T1-weighted, native"),
            Channel("t1c", "MR", "T1-weighted with contrast"),
            Channel("t2w", "MR", "T2-weighted"),
            Channel("t2f", "MR", "T2-weighted FLAIR"),
        ),
        regions=("necrosis", "oedema", "enhancing"),
        lesion=("necrosis", "enhancing"),
        spacing_mm=(1.0, 1.0, 1.0),
        crop_mm=(48.0, 48.0, 48.0),
    ),
)

STUDY = Study(
    name="brain_primary",
    question="Which primary tumour does a brain metastasis come from?",
    schema=SCHEMA,
    tasks={
        MRI: Task(
            MRI,
            "Sex and smoking carry much of the answer (breast, lung): read every result beside "
            "the clinical-only one.",
        )
    },
    clinical="logistic",
    hyper={"logistic": {"l2": 3.0}},
    learners=("logistic", "boosting", "image", "fusion"),
    # the subtype and the drugs name the primary; the prognostic score (GPA) is computed from it
    denied=(
        r"subtype",
        r"drug|systemic",
        r"(^|[._ ])gpa([._ ]|$)",
        r"egfr|alk|ros1|kras|her2|braf|pdl1",
        r"primary",
    ),
    virtual="The sites are the makers of the scanners of one collection, or drawn from its "
    "patients; they are not hospitals.",
)
