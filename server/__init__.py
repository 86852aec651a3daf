"""A table with a ledger: drives rounds over Flower's Grid, adds what sites send, never sees a
patient."""
