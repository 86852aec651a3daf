"""Volumes in patient space: resampling, preprocessing."""
