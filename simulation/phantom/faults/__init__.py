"""One planted fault each, in tables and in images."""
