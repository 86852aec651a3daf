"""Preparation of a cohort's images: many cases at once, cached, resumable."""
