"""What a case is: schema, cohort, picture."""
