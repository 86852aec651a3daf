"""The faces of a run: page, model, and what is in them."""
