"""The station: plans admitted, worked, charged and answered, beside the data and without a
network."""
