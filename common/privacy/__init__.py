"""Differential privacy: what a release costs, and noise from the operating system."""
