"""From a site's tables and images to its frozen Cohort."""
