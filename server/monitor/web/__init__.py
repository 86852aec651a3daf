"""The live page of runs: access, event stream, Prometheus metrics."""
