"""Image geometry: volumes in patient space, resampling, preprocessing."""
