"""Evaluation of local, federated and pooled models on the same patients: predictions, metrics,
intervals, checks."""
