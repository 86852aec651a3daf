"""Metrics from sums: score histograms, DeLong, meta-analysis, calibration, Kaplan-Meier, subgroups."""
