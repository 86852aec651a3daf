"""What a mapping may say, section by section, and what each key means: the parser knows these keys, and the reference is made of them."""

from __future__ import annotations

TOP = {
    "name": "by which `--source` chooses the mapping",
    "studies": "the studies that it serves",
    "nulls": "texts that mean missing, whatever their case; an empty cell always does",
    "tables": "`[tables.NAME]`: the files; the first is the index, whose patients are the cohort",
    "site": "`[site]`: which institution a patient is of",
    "label": "`[label]`: a column and its values, or `[label.within]`, an event within a horizon",
    "features": "`[features.NAME]`: where each of the study's features stands",
    "survival": "`[survival]`: `times` (the first that is known counts), `unit`, `event`, `dead`, `alive`",
    "images": "`[images]`: how images name their patients",
}
TABLE = {
    "files": "names or patterns, searched under the data folder",
    "key": "the column by which tables are joined: the patient's id",
    "format": "`csv`, `tsv`, `xlsx` or `parquet`, where the file's name does not say it",
    "sheet": "worksheet",
    "header": "number of the header row, or a list of rows that are joined by ` / `",
    "comment": "lines that start with it are skipped",
    "delimiter": "between columns, where it is not found by itself",
    "encoding": "of a text file",
    "decimal": "`,` for a decimal comma",
    "thousands": "mark between groups of three digits",
    "id_length": "keep so many first characters of the id",
    "id_pattern": "rows whose id does not match as a whole (legends, totals) are no cases",
    "strip_zeros": "drop the id's leading zeros",
    "rows": "`one` row a patient, or several that must `agree`",
    "duplicates": "several rows where one is declared: `error`, or `quarantine` (set aside and counted)",
    "optional": "the table may be absent; its features are then missing",
    "keep": "`column`, `values`, `reason`: only rows with one of these values",
    "person": "a column that knows people across ids: one person under two ids is refused (L04)",
    "id_per_site": "ids count anew in each hospital",
}
FIELD = {
    "table": "the table, where it is not the index",
    "column": "the column's name, or several that are known, each with a `unit` where that differs",
    "unit": "in which the table has it; converted to the study's",
    "unit_column": "a column in which each row states its unit",
    "keep": "as for tables, for this feature alone",
    "values": "study value = texts in the table; for a number, the number that stands for a text",
    "nulls": "texts that mean missing in this column alone",
    "absent": "the export does not have it: missing for everybody, and said",
    "optional": "some versions of the export do not have the column",
    "out_of_range": "a value outside the bounds: `error`, or `missing` (counted)",
    "disagree": "rows of a patient that contradict each other: `quarantine` the patient, or `missing` (the value)",
    "not_an_outcome": "why guard L02 does not apply to it; printed in the report",
}
KEEP = {
    "column": "the column that is looked at",
    "values": "rows with one of these are kept",
    "reason": "why patients without such a row are excluded, in the account of the patients",
    "optional": "a table without the column keeps all rows",
}
LABEL = {
    **FIELD,
    "unknown": "values that are neither class: kept apart, never trained on, never scored",
    "within": "in place of a column: `[label.within]`",
}
WITHIN = {
    "table": "the table, where it is not the index",
    "event": "the column of the event",
    "event_values": "`{ yes = [...], no = [...] }`",
    "time": "the column of the time to the event, or of the follow-up",
    "unit": "of that time, and of the horizon",
    "horizon": "an event up to it is the second class, event-free up to it the first, anything else unknown",
    "competing": "the column of an event that ends the follow-up, such as death",
    "competing_values": "`{ yes = [...], no = [...] }`",
    "competing_title": "how the account of the patients calls it",
}
SITE = {
    "table": "the table, where it is not the index",
    "column": "the column that names the institution",
    "slice": "first and last character of its text, from 0, the last not included",
    "names": "text = the institution's name; several texts may have one name",
    "constant": "one name for all, or for tables without the column",
    "from_file": "the file's name is the institution's",
    "pick": "several rows of a patient: they must `agree`, or the institution with `most` rows counts",
}
SURVIVAL = {
    "table": "the table, where it is not the index",
    "times": "columns of the time; the first that is known counts",
    "unit": "of the times",
    "event": "the column that says who died",
    "dead": "its values for death",
    "alive": "its values for life",
}
IMAGES = {
    "id": "where a DICOM file names its patient: `PatientID`, or `path`",
    "id_pattern": "regular expression that finds the id in it; a group `study` tells examinations apart",
    "id_length": "keep so many first characters of the id",
    "strip_zeros": "drop the id's leading zeros",
    "channels": "channel = patterns of NIfTI paths; where several match, the longest counts",
    "mask": "patterns of NIfTI label maps",
    "values": "region = its values in a label map",
    "regions": "region = regular expressions of the labels of DICOM segments, which match as a whole",
}
