"""One file a study; each has a module-level `STUDY`."""
