"""Courier: the process at a site that has a connection out, and no data."""
