"""Which series of a patient counts: identifiers, ranking, selection, duplicates."""
