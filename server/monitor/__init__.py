"""Monitoring: what a run's ledger says, on the terminal, as metrics and in a log."""
