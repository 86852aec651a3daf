"""A run's rounds: registration, transport, sums open and masked, screening, charges, resume."""
