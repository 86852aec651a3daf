"""The report of a run, on the page and on paper, from its record alone."""
