"""One door to all formats of images and outlines: DICOM, NIfTI, label maps."""
