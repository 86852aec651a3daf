"""Colorectal phantom: rows of a GDC export, and the CT of a few."""
