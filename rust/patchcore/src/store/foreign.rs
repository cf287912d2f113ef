//! Reads Zarr v3 arrays of other software, with any codec chain, through the zarrs crate.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use zarrs::array::{Array, ArraySubset, ElementOwned};
use zarrs::filesystem::FilesystemStore;

use crate::{Error, Result};

/// A Zarr v3 array with three axes.
pub struct ForeignArray {
    array: Array<FilesystemStore>,
    shape: [usize; 3],
}

impl std::fmt::Debug for ForeignArray {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ForeignArray").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl ForeignArray {
    /// Open the array in a folder.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the array cannot be opened, has unknown codecs, or does not have three axes.
    pub fn open(folder: &Path) -> Result<Self> {
        let unsupported =
            |error: &dyn Display| Error::Unsupported(format!("cannot open the folder as a Zarr array: {error}"));
        let store = FilesystemStore::new(folder).map_err(|error| unsupported(&error))?;
        let array = Array::open(Arc::new(store), "/").map_err(|error| unsupported(&error))?;
        let lengths: Vec<usize> = array.shape().iter().filter_map(|&n| usize::try_from(n).ok()).collect();
        let shape = <[usize; 3]>::try_from(lengths)
            .map_err(|_| Error::Unsupported(format!("the array has shape {:?}; expected three axes", array.shape())))?;
        Ok(Self { array, shape })
    }

    /// Number of voxels along each axis.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Read a part of the array, C order. This function runs in the rayon pool in which it is called.
    ///
    /// # Errors
    /// [`Error::Argument`] if the part leaves the array, [`Error::Corrupt`] if a chunk cannot be decoded or if the
    /// array has another element type.
    pub fn read<T: ElementOwned>(&self, part: &[Range<usize>; 3]) -> Result<Vec<T>> {
        if (0..3).any(|axis| part[axis].start > part[axis].end || part[axis].end > self.shape[axis]) {
            return Err(Error::Argument(format!("the part {part:?} leaves the array of shape {:?}", self.shape)));
        }
        let ranges: Vec<Range<u64>> = part.iter().map(|range| range.start as u64..range.end as u64).collect();
        self.array
            .retrieve_array_subset::<Vec<T>>(&ArraySubset::new_with_ranges(&ranges))
            .map_err(|error| Error::Corrupt(format!("a chunk cannot be decoded: {error}")))
    }
}
