"""DICOM data sets: finding CT series with their segmentations, measuring them, converting them to NIfTI."""
