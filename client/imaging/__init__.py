"""Medical images as hospitals hold them: DICOM and NIfTI, which series counts, geometry,
preparation."""
