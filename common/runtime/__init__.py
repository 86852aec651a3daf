"""Runtime: atomic file writes, hash chains, threads, exit statuses, health checks."""
