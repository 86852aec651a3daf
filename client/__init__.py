"""A hospital's door: the only package that sees a patient. It imports common, never server."""
