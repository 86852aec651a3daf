"""Learners, one file each; each has a module-level `LEARNER`, a frozen dataclass that holds its
default hyperparameters."""
