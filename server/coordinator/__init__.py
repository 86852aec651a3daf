"""Coordinator: runs started and stopped at its SuperLink."""
