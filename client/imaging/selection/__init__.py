"""Series selection: which series of a patient counts. Identifiers, ranking, selection,
duplicates."""
