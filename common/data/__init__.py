"""Data model of a case: schema, cohort, picture."""
