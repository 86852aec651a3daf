"""TRIPOD+AI: Collins et al., BMJ 2024;385:e078378. 27 main items, 52 with their parts; topics in our own words."""

from __future__ import annotations

from server.report.checklists import answers as a
from server.report.checklists.checklist import Item

NAME = "TRIPOD+AI"
PAPER = "Collins et al., BMJ 2024;385:e078378"
_TITLE, _INTRO, _METHODS, _OPEN, _RESULTS, _END = "Title, abstract", "Introduction", "Methods", "Open science", "Results", "Discussion"

ITEMS = (
    Item("1", _TITLE, "Title: a prediction model, for whom, of what", "headline", a.title, "the target population"),
    Item("2", _TITLE, "Abstract", "headline", a.summary, "the abstract itself"),
    Item("3a", _INTRO, "Clinical context, why the model, what there is already"),
    Item("3b", _INTRO, "For whom, by whom and where in care it is meant", "headline", a.use, "place in care, users"),
    Item("3c", _INTRO, "Known inequalities in health between groups"),
    Item("4", _INTRO, "Aims: developing, evaluating, or both", "headline", a.aims),
    Item("5a", _METHODS, "Sources of the data, why these, how representative", "flow", a.source, "why these data, whom they represent"),
    Item("5b", _METHODS, "Dates of recruitment and of the end of follow-up"),
    Item("6a", _METHODS, "Setting: number and location of centres", "flow", a.centres, "kind of care, locations"),
    Item("6b", _METHODS, "Who was eligible", "flow", a.eligibility, "how the source itself was recruited"),
    Item("6c", _METHODS, "Treatments received, and what was done about them"),
    Item(
        "7",
        _METHODS,
        "Preparing and checking the data, alike in all groups",
        "flow",
        a.preparation,
        "differences between groups of patients",
    ),
    Item("8a", _METHODS, "The outcome: definition, horizon, how assessed", "headline", a.outcome, "how and when it was assessed"),
    Item("8b", _METHODS, "Who assessed an outcome that takes judgement"),
    Item("8c", _METHODS, "Blinding when the outcome was assessed"),
    Item("9a", _METHODS, "How predictors were chosen", "methods", a.selection, "why the study declares these"),
    Item("9b", _METHODS, "Definition of each predictor, how and when measured", "importance", a.predictors, "how each was measured"),
    Item("9c", _METHODS, "Who assessed predictors that take judgement"),
    Item("10", _METHODS, "Sample size and how it came about", "flow", a.size, "whether it is enough"),
    Item("11", _METHODS, "Missing data", "flow", a.missing_values),
    Item("12a", _METHODS, "How data were used and partitioned", "methods", a.partitions),
    Item("12b", _METHODS, "How predictors enter the analysis", "methods", a.transforms),
    Item("12c", _METHODS, "Kind of model, building, tuning, internal validation", "comparison", a.models, "why these models"),
    Item("12d", _METHODS, "Differences between clusters: how examined", "sites", a.clusters),
    Item("12e", _METHODS, "Measures and plots of performance", "comparison", a.measures),
    Item("12f", _METHODS, "Updating of a model after evaluation", "methods", a.updating),
    Item("12g", _METHODS, "How predictions were calculated", "trace", a.calculated),
    Item("13", _METHODS, "Class imbalance", "headline", a.imbalance),
    Item("14", _METHODS, "Fairness: what was done about it, and why", "subgroups", a.fairness, "which groups matter, and why"),
    Item("15", _METHODS, "What the model puts out, and any threshold", "methods", a.output),
    Item("16", _METHODS, "How development and evaluation data differ", "methods", a.differing),
    Item("17", _METHODS, "Ethics approval and consent"),
    Item("18a", _OPEN, "Funding, and the funder's part"),
    Item("18b", _OPEN, "Conflicts of interest"),
    Item("18c", _OPEN, "Where the protocol is"),
    Item("18d", _OPEN, "Registration"),
    Item("18e", _OPEN, "Whether the data are available"),
    Item("18f", _OPEN, "Whether the code is available", "trace", a.code, "where it can be had"),
    Item("19", "Patients and public", "Their part in the study"),
    Item("20a", _RESULTS, "Flow of participants, with and without the outcome", "flow", a.flow),
    Item(
        "20b",
        _RESULTS,
        "Characteristics overall and by centre",
        "flow",
        a.characteristics,
        "distributions of the predictors, dates, treatments",
    ),
    Item("20c", _RESULTS, "Distribution of predictors: evaluation against development", "methods", a.probe, "the distributions themselves"),
    Item("21", _RESULTS, "Participants and events in each analysis", "sites", a.analysed),
    Item("22", _RESULTS, "The full model, to predict in new patients", "trace", a.specification),
    Item("23a", _RESULTS, "Performance with intervals, in subgroups too", "comparison", a.performance),
    Item("23b", _RESULTS, "Differences between clusters: results", "sites", a.clusters_found),
    Item("24", _RESULTS, "Results of any updating", "methods", a.updating),
    Item("25", _END, "Interpretation, fairness included, beside other studies"),
    Item("26", _END, "Limitations", "headline", a.limits, "bias, representativeness, power"),
    Item("27a", _END, "Use in care: poor or missing inputs"),
    Item("27b", _END, "Use in care: what users must do, and know"),
    Item("27c", _END, "What comes next"),
)
