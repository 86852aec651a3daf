"""Draft of a study for a table of one's own: its profile, what each column seems to be, and the file
that says so."""
