"""What a run is: its configuration, its jobs, the sites that are enrolled."""
