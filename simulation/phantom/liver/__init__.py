"""Liver phantom: CT with outlines and a workbook."""
