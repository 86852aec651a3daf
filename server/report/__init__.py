"""The faces of a run: the page a clinician reads (`page`), the model as files (`model`). Both are made from the report alone."""
