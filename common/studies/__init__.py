"""Studies, one file each; each has a module-level `STUDY`."""
