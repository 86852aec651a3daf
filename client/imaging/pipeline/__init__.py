"""Image preparation: many cases at once, cached, resumable."""
