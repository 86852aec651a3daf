"""Station of a site: plans admitted, worked, charged and answered, beside the data and without a
network."""
