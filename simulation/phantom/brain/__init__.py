"""Brain phantom: four MR sequences with outlines and a workbook."""
