"""Fault injection: one planted fault each, in tables and in images."""
