"""The coordinator's room: what a run's ledger says, on the terminal, as a page, as metrics and in a log."""
