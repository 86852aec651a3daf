"""The report as a page: front, tables, charts in their places."""
