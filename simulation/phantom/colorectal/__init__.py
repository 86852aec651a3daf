"""The colorectal phantom: rows of a GDC export, and the CT of a few."""
