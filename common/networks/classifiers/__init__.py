"""Image classifiers, one file each; each has a module-level `CLASSIFIER`, which says all that is
asked of a network."""
