"""The liver phantom: CT with outlines and a workbook."""
