"""Building blocks of phantoms: scanners, shapes, missing modalities, draws, files."""
