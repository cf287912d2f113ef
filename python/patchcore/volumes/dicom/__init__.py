"""DICOM: CT series, DICOM SEG and RTSTRUCT, found by UID and read as volumes in stored array order."""
