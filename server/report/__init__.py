"""The faces of a run (`faces`): the page a clinician reads, on screen and on paper; the model as files (`model`). From the report alone."""
