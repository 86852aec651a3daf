"""Rounds of a run: registration, transport, sums open and masked, screening, charges, resume."""
