"""CLAIM, 2024 update: Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300. 44
items; topics in our own words."""

from __future__ import annotations

from server.report.checklists import answers as a
from server.report.checklists import image_answers as images
from server.report.checklists.checklist import Item

NAME = "CLAIM 2024"
PAPER = "Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300"
_TITLE, _INTRO, _DESIGN, _DATA, _REFERENCE, _PARTS = (
    "Title, abstract",
    "Introduction",
    "Design",
    "Data",
    "Reference standard",
    "Partitions",
)
_MODEL, _TRAINING, _EVALUATION, _RESULTS, _END, _OTHER = (
    "Model",
    "Training",
    "Evaluation",
    "Results",
    "Discussion",
    "Other",
)

ITEMS = (
    Item(
        "1", _TITLE, "Title: names the method, such as deep learning", "headline", images.technology
    ),
    Item("2", _TITLE, "Structured summary", "headline", a.summary, "the abstract itself"),
    Item(
        "3",
        _INTRO,
        "Background, intended use and role",
        "headline",
        a.use,
        "the clinical background",
    ),
    Item("4", _INTRO, "Aims and hypotheses", "headline", a.aims, "hypotheses"),
    Item("5", _DESIGN, "Prospective or retrospective"),
    Item("6", _DESIGN, "Goal of the study", "headline", a.goal),
    Item("7", _DATA, "Sources", "flow", a.source, "dates and settings of the source"),
    Item(
        "8",
        _DATA,
        "Inclusion and exclusion",
        "flow",
        a.eligibility,
        "how the source itself was recruited",
    ),
    Item("9", _DATA, "Preprocessing", "flow", a.preparation),
    Item("10", _DATA, "Selection of parts of the data, such as crops", "images", images.regions),
    Item("11", _DATA, "De-identification"),
    Item("12", _DATA, "Missing data", "flow", a.missing_values),
    Item(
        "13",
        _DATA,
        "How images were acquired",
        "images",
        images.scanners,
        "protocols of acquisition",
    ),
    Item(
        "14",
        _REFERENCE,
        "How the reference standard was obtained",
        "headline",
        a.outcome,
        "how it was assessed",
    ),
    Item("15", _REFERENCE, "Why this reference standard"),
    Item("16", _REFERENCE, "Who annotated for it"),
    Item(
        "17",
        _REFERENCE,
        "Annotation of the test set",
        "images",
        images.annotated,
        "who annotated, with which tools",
    ),
    Item("18", _REFERENCE, "Agreement within and between annotators"),
    Item("19", _PARTS, "How data were assigned to partitions", "methods", a.partitions),
    Item("20", _PARTS, "Level at which partitions are disjoint", "methods", a.disjoint),
    Item("21", "Testing data", "Intended sample size", "flow", a.size, "whether it is enough"),
    Item(
        "22",
        _MODEL,
        "The model: inputs, layers, outputs",
        "trace",
        a.specification,
        "the architecture in words",
    ),
    Item("23", _MODEL, "Software and versions", "trace", a.software),
    Item("24", _MODEL, "How parameters were initialised"),
    Item(
        "25",
        _TRAINING,
        "Training: augmentation, hyperparameters, number of models",
        "methods",
        images.training,
        "augmentation",
    ),
    Item("26", _TRAINING, "How the final model was chosen", "methods", images.chosen),
    Item("27", _TRAINING, "Ensembles", "comparison", images.ensembles),
    Item("28", _EVALUATION, "Metrics", "comparison", a.measures),
    Item("29", _EVALUATION, "Uncertainty and significance", "methods", a.uncertainty),
    Item("30", _EVALUATION, "Robustness and sensitivity", "subgroups", images.robustness),
    Item("31", _EVALUATION, "Explainability", "importance", images.explained),
    Item("32", _EVALUATION, "Evaluation on internal data", "comparison", a.internal),
    Item(
        "33",
        _EVALUATION,
        "Testing on external data",
        "comparison",
        a.external,
        "data of another collection",
    ),
    Item("34", _EVALUATION, "Registration as a trial"),
    Item("35", _RESULTS, "Numbers included and left out", "flow", a.flow),
    Item(
        "36",
        _RESULTS,
        "Characteristics of the cases in each partition",
        "flow",
        a.characteristics,
        "demography by partition",
    ),
    Item("37", _RESULTS, "Performance, with its uncertainty", "comparison", a.performance),
    Item("38", _RESULTS, "Diagnostic performance and its precision", "comparison", a.summary),
    Item("39", _RESULTS, "Analysis of failures"),
    Item("40", _END, "Limitations", "headline", a.limits, "bias, generalisability"),
    Item("41", _END, "What it means for practice"),
    Item("42", _OTHER, "Where the full protocol is"),
    Item(
        "43",
        _OTHER,
        "Whether software, model and data are available",
        "trace",
        a.code,
        "where they can be had",
    ),
    Item("44", _OTHER, "Funding, and the funder's part"),
)
