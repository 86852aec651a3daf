"""Runs started and stopped at a coordinator's SuperLink."""
