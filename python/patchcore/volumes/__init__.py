"""Reads CT images and label maps: NIfTI files and DICOM series behind one type."""
