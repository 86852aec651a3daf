"""Study, one clinical question, and the file that states it."""
