//! Reads and measures NIfTI-1 and NIfTI-2 files as a stream.
//!
//! Source: the NIfTI-1 (nifti1.h) and NIfTI-2 (nifti2.h) headers. The affine is chosen as in nibabel: the sform,
//! otherwise the qform, otherwise the voxel size with the origin in the middle of the array.

mod header;
mod planes;
mod stream;

pub use header::{Forms, Header, parse_header};
pub(crate) use planes::FilePlanes;
pub use stream::{components_of_bytes, components_of_file, inflated_bytes, read_header, read_voxels};
