"""The live page of the coordinator's room, and the metrics endpoint: read only, from ledgers alone."""
