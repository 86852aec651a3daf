"""Web monitor: access, event stream, Prometheus metrics."""
