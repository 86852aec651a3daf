"""Ledger: a run's memory, hash-chained; the states and the heartbeat beside it."""
