"""The faces of a run (`faces`): the page a clinician reads, on screen and on paper, and the model as files (`model`). All made from the report alone."""
