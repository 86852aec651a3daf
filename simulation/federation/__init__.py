"""Simulated federation: options, partition, site folders, engines, attackers."""
