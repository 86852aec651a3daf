"""What a report says: rows, metrics of models, sums between hospitals, wording."""
