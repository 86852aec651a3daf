"""Boosted trees from histograms: binning, best split, model."""
