"""DICOM: headers, pixels, series, slice geometry, split series, MR sequences, segmentation
objects."""
