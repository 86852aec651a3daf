"""Local, federated and pooled models on the same patients: predictions, metrics, intervals,
checks."""
