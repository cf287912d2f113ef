//! Examines a CT in one pass: extreme values, a regular sample, a hash of the voxels, and the HU in and around lesions.

mod around;
mod histogram;
mod scan;
mod values;

use std::path::Path;

use blake3::Hasher;

pub use around::{LesionSpan, Surroundings};
use histogram::Counter;
pub use histogram::Histogram;
use scan::Scan;
pub use values::Sample;
use values::{Format, Value};

use crate::nifti::{FilePlanes, Header};
use crate::pool::Interrupt;
use crate::view::Kind;
use crate::{Error, Result, error};

/// Limits for counting and sampling voxels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Values below this are counted in [`Examined::below`].
    pub lowest: f64,
    /// Values above this are counted in [`Examined::above`].
    pub highest: f64,
    /// Approximate number of voxels to sample.
    pub sample: usize,
}

/// The results of one pass over a CT. Values are HU: stored values times slope plus intercept. They are computed in
/// float32, except for unscaled int16 voxels, which stay int16.
#[derive(Debug, Clone, PartialEq)]
pub struct Examined {
    /// The smallest and the largest value. Not meaningful if any value is NaN or infinite.
    pub range: (f64, f64),
    /// Number of voxels that are NaN or infinite.
    pub not_finite: u64,
    /// Number of voxels below [`Limits::lowest`].
    pub below: u64,
    /// Number of voxels above [`Limits::highest`].
    pub above: u64,
    /// Every n-th voxel, in stored order.
    pub sample: Sample,
    /// BLAKE3 hash of shape, type and voxels, first axis fastest.
    pub hash: [u8; 32],
    /// A hash of the HU alone, in whatever order: see [`scan`].
    pub scan: u64,
    /// HU of the lesion voxels.
    pub within: Histogram,
    /// HU of all voxels within the radius of a lesion voxel, including the lesion voxels.
    pub around: Histogram,
}

/// Examine a CT in a NIfTI file, plane by plane. The file is read to its last byte.
///
/// # Errors
/// As [`crate::nifti::read_header`]; [`Error::Corrupt`] if the file ends early or fails its checksum,
/// [`Error::Argument`] if the lesions have a different shape, [`Error::Interrupted`] if asked to stop.
pub fn examine_file(
    path: &Path,
    surroundings: &Surroundings,
    limits: Limits,
    interrupt: &Interrupt,
) -> Result<(Examined, Header)> {
    let mut planes = FilePlanes::open(path, [false; 3], f32::NAN)?;
    let header = planes.header.clone();
    let format = Format { kind: header.kind, swapped: header.swapped, scaling: header.scaling };
    let examined = examine(header.shape, format, surroundings, limits, |_, use_plane| {
        interrupt.check()?;
        use_plane(planes.next_bytes()?);
        Ok(())
    })?;
    planes.finish()?;
    Ok((examined, header))
}

/// Examine a CT in memory: int16 or float32 HU, the first axis fastest, native byte order.
///
/// # Errors
/// [`Error::Argument`] if the number of bytes does not match the shape, or the lesions have a different shape;
/// [`Error::Interrupted`] if asked to stop.
pub fn examine_bytes(
    bytes: &[u8],
    kind: Kind,
    shape: [usize; 3],
    surroundings: &Surroundings,
    limits: Limits,
    interrupt: &Interrupt,
) -> Result<Examined> {
    let plane = shape[0] * shape[1] * kind.size();
    if bytes.len() != plane * shape[2] {
        return Err(Error::Argument(format!("{} bytes do not match shape {shape:?} of {kind:?} voxels", bytes.len())));
    }
    let format = Format { kind, swapped: false, scaling: (1.0, 0.0) };
    examine(shape, format, surroundings, limits, |number, use_plane| {
        interrupt.check()?;
        use_plane(&bytes[number * plane..(number + 1) * plane]);
        Ok(())
    })
}

/// A function that passes the bytes of a plane to another function.
type GivePlane<'a> = dyn FnMut(usize, &mut dyn FnMut(&[u8])) -> Result<()> + 'a;

fn examine(
    shape: [usize; 3],
    format: Format,
    surroundings: &Surroundings,
    limits: Limits,
    mut give: impl FnMut(usize, &mut dyn FnMut(&[u8])) -> Result<()>,
) -> Result<Examined> {
    surroundings.check(shape)?;
    if format.is_int16() {
        walk::<i16>(shape, format, surroundings, limits, &mut give)
    } else {
        walk::<f32>(shape, format, surroundings, limits, &mut give)
    }
}

fn walk<T: Value>(
    shape: [usize; 3],
    format: Format,
    surroundings: &Surroundings,
    limits: Limits,
    give: &mut GivePlane<'_>,
) -> Result<Examined> {
    let plane_voxels = shape[0] * shape[1];
    let voxels = plane_voxels.checked_mul(shape[2]);
    let total = voxels.ok_or_else(|| Error::Memory(format!("shape {shape:?} has too many voxels")))?;
    // An odd step: with a row length of a power of two, an even step would take the same columns of every row.
    let step = (total / limits.sample.max(1)).max(1) | 1;
    let mut sample = error::room(Some(total.div_ceil(step)), "a sample of the image")?;
    let mut values: Vec<T> = error::room(Some(plane_voxels), "a plane of the image")?;
    let mut hasher = Hasher::new();
    hasher.update(format!("{} {shape:?}", T::NAME).as_bytes());
    let mut counts = T::counts(limits);
    let mut scan = Scan::new();
    let (mut within, mut around) = (Counter::default(), Counter::default());
    let mut next_sample = 0;
    for plane in 0..shape[2] {
        give(plane, &mut |bytes| T::decode(bytes, format, &mut values))?;
        hasher.update(T::bytes(&values));
        counts.add(&values);
        scan.add(&values);
        let first = plane * plane_voxels;
        while next_sample < first + values.len() {
            sample.push(values[next_sample - first]);
            next_sample += step;
        }
        for (row, inner, outer) in surroundings.rows(plane) {
            let line = &values[row * shape[0]..(row + 1) * shape[0]];
            within.add(line, inner);
            around.add(line, outer);
        }
    }
    Ok(Examined {
        range: counts.range(),
        not_finite: counts.not_finite,
        below: counts.below,
        above: counts.above,
        sample: T::sample(sample),
        hash: *hasher.finalize().as_bytes(),
        scan: scan.sum,
        within: within.finish(),
        around: around.finish(),
    })
}

#[cfg(test)]
mod tests;
