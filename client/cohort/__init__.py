"""Cohort: from a site's tables and images to its frozen snapshot of cases."""
