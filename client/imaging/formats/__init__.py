"""Image formats behind one door: DICOM, NIfTI, label maps, segmentations."""
