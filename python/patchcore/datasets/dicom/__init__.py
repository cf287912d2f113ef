"""DICOM data sets: find CT series with their segmentations, measure them, convert them to NIfTI."""
