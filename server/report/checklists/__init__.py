"""Reporting checklists: TRIPOD+AI and CLAIM, item by item."""
