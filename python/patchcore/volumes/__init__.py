"""Where voxels are read: NIfTI files and DICOM series behind one type."""
