//! Resamples one case from its own grid to the training grid and writes it to a store. The case is read plane by plane
//! and written shard by shard, so that memory does not grow with the volume.
//!
//! Old planes are read in the order of the source's memory. If the canonical axis runs in the opposite direction, new
//! planes and shards are written starting from the far end.

mod image;
mod labels;
mod slabs;

use std::ops::Range;
use std::path::Path;

pub use image::prepare_image;
pub use labels::{LabelPlan, PreparedLabels, prepare_labels};

use crate::nifti::read_header;
use crate::resample::{Band, Bands, Kernel};
use crate::store::{Element, Layout};
use crate::view::View;
use crate::{Error, Result};

/// The source of a volume. Axes are in stored order.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A NIfTI file.
    File(&'a Path),
    /// An array in memory.
    Array(View<'a>),
}

/// The order in which a source is read.
struct SourceWalk {
    shape: [usize; 3],
    /// Axes, slowest first.
    order: [usize; 3],
    /// Bytes per voxel of the read buffer; 0 if the source is an array in memory.
    voxel_bytes: usize,
}

impl Source<'_> {
    fn walk(&self) -> Result<SourceWalk> {
        match self {
            Source::File(path) => {
                let header = read_header(path)?;
                Ok(SourceWalk { shape: header.shape, order: [2, 1, 0], voxel_bytes: header.kind.size() })
            }
            Source::Array(view) => Ok(SourceWalk { shape: view.shape(), order: view.walk_order(), voxel_bytes: 0 }),
        }
    }
}

/// The position of a stored volume on the training grid. Triples are in canonical axis order.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The stored axis of each canonical axis.
    pub axes: [usize; 3],
    /// Whether the stored axis runs in the opposite direction.
    pub flipped: [bool; 3],
    /// New spacing divided by old spacing.
    pub ratio: [f64; 3],
    /// Number of voxels of the whole training grid.
    pub shape: [usize; 3],
    /// The part of the training grid that is kept.
    pub part: [Range<usize>; 3],
    /// Interpolation: cubic spline or linear.
    pub kernel: [Kernel; 3],
    /// Whether axes that become coarser are blurred before resampling.
    pub antialias: bool,
}

/// A placement in the reading order of a source.
struct Walked {
    /// The canonical axis at each position of the reading order, slowest first.
    canonical: [usize; 3],
    /// Whether the canonical axis runs against the reading direction, by position in the reading order.
    flipped: [bool; 3],
    /// The same, by stored axis.
    stored_flipped: [bool; 3],
    bands: Bands,
    /// Shape of the part that is kept, canonical axes.
    shape: [usize; 3],
}

impl Placement {
    fn walk(&self, source: &SourceWalk, kernel: [Kernel; 3], antialias: bool) -> Result<Walked> {
        let SourceWalk { shape: stored_shape, order, .. } = *source;
        let mut canonical = [usize::MAX; 3];
        for (place, stored) in order.into_iter().enumerate() {
            let axis = (0..3).find(|&axis| self.axes[axis] == stored);
            canonical[place] =
                axis.ok_or_else(|| Error::Argument(format!("axes {:?} are not a permutation of 0, 1, 2", self.axes)))?;
        }
        let flipped = canonical.map(|axis| self.flipped[axis]);
        let band = |place: usize| {
            let (axis, stored) = (canonical[place], order[place]);
            Band::new(stored_shape[stored], self.shape[axis], self.ratio[axis], kernel[axis], antialias)?
                .part(self.part[axis].clone())
        };
        let planes = band(0)?;
        let planes = if flipped[0] { planes.reversed() } else { planes };
        let mut stored_flipped = [false; 3];
        for axis in 0..3 {
            stored_flipped[self.axes[axis]] = self.flipped[axis];
        }
        Ok(Walked {
            canonical,
            flipped,
            stored_flipped,
            bands: Bands { planes, rows: band(1)?, columns: band(2)? },
            shape: std::array::from_fn(|axis| self.part[axis].len()),
        })
    }
}

/// The most bytes that preparing an image and then its labels needs with `threads` threads. The memory for spans is
/// small and not included.
///
/// # Errors
/// The errors of [`prepare_image`] for a source that cannot be read or an invalid placement.
pub fn prepare_bytes(
    source: &Source<'_>,
    placement: &Placement,
    layouts: [&Layout; 2],
    classes: usize,
    threads: usize,
) -> Result<u64> {
    let source = source.walk()?;
    let walked = placement.walk(&source, placement.kernel, placement.antialias)?;
    let old = walked.bands.rows.input() * walked.bands.columns.input();
    let new = walked.bands.rows.output() * walked.bands.columns.output();
    let slab = |layout: &Layout, bytes: usize| -> usize {
        let thickness = layout.shard()[walked.canonical[0]].min(walked.shape[walked.canonical[0]]);
        let widest = layout.shard().iter().product::<usize>() * bytes;
        // The slab and the compressed chunks of one shard.
        thickness * new * bytes + widest
    };
    let image =
        walked.bands.bytes(threads) + walked.bands.batch(threads) * old * source.voxel_bytes + slab(layouts[0], 2);
    let linear = placement.walk(&source, [Kernel::Linear; 3], false)?.bands;
    let labels = (linear.planes.taps() * classes + 5 + threads) * 4 * (new + old) + slab(layouts[1], 1);
    Ok(image.max(labels) as u64)
}

/// View `planes` new planes in canonical axis order. The first plane is the lowest, or the highest if `flipped` is
/// true.
fn canonical_view<'a, T: crate::view::Element + Element>(
    values: &'a [T],
    planes: usize,
    walked: &Walked,
    flipped: bool,
) -> Result<View<'a>> {
    let [_, rows, columns] = walked.canonical.map(|axis| walked.shape[axis]);
    let mut view = View::from_slice(values, [planes, rows, columns])?;
    if flipped {
        view = view.flipped(0);
    }
    let place = |axis: usize| (0..3).find(|&place| walked.canonical[place] == axis).unwrap_or(0);
    Ok(view.permuted([place(0), place(1), place(2)]))
}
