"""PDF of the report, for paper and files."""
