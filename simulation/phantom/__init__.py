"""Phantoms: believable site folders with a planted truth, on which guards, learners and reports are
tried where no real data may be.

A phantom is drawn from distributions set by hand to look like the aggregates of a real cohort; no
row or id of a real patient is in it. Because the generator is known, so is the best AUC that any
model could reach on it (its *ceiling*), and a phantom is held against that, never against a paper.

- `colorectal.hospitals`: the institutions of the colorectal phantom and how they differ
- `colorectal.generative_model`: one cohort, as arrays
- `colorectal.ceiling`: Bayes' rule on that model: the true probability of metastasis given what a
  task sees, and its AUC
- `colorectal.records`: one patient as the rows of the GDC's export
- `colorectal.writer`: all of them on disk, with `truth.json` beside them; `colorectal.images`: the
  CT of a few, as TCIA holds it
- `faults.table_faults`: one planted fault each, with the code of the guard that has to find it

Two phantoms have images; half of what decides their label stands in the table only, half in the
image only:

- `liver`: CT with outlines and a workbook, as TCIA's Colorectal-Liver-Metastases;
  `generative_model`, `table`, `body`, `anatomy`, `dicom` draw, tabulate, shape, render and file it
- `brain`: four MR sequences with outlines and a workbook, as Yale's Pretreat-MetsToBrain-Masks;
  `generative_model`, `anatomy`
- `shared`: `scanners`, `holdings`: which maker's scanner saw whom, and whose images, outlines or
  clinical rows are missing
- `shared`: `shapes`, `processes`, `workbook`, `nifti_files`, `image_truth`: what both are made with
- `faults.image_faults`: one planted fault each in their files
"""
