"""A run's memory: the hash-chained ledger, states, the heartbeat beside it."""
