"""Processes and files: atomic writes, hash chains, threads, exit statuses, health checks."""
