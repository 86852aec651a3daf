"""Metrics from sums: definitions, estimability, resampling, score histograms, DeLong,
meta-analysis, calibration, survival, subgroups."""
