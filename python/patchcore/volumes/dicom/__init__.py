"""Reads DICOM CT series, SEG and RTSTRUCT as volumes in stored array order; files are matched by UID."""
