"""The language both sides speak: schema, cohort, learners, exchange. Imports neither client nor
server."""

__version__ = "0.1.0"
