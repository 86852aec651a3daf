"""Content of a report: rows, metrics of models, sums between hospitals, wording."""
