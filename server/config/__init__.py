"""Run configuration, what a run is: its settings, its jobs, the sites that are enrolled."""
