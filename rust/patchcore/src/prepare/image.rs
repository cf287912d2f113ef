//! Prepares the CT of a case.

use std::path::Path;

use super::slabs::Slabs;
use super::{Placement, Source, Walked};
use crate::Result;
use crate::nifti::FilePlanes;
use crate::pool::{self, Interrupt};
use crate::resample::{ArrayPlanes, Planes, resample};
use crate::store::Layout;

/// Resample an image to the training grid and write it to an array of a store. Returns the number of bytes written.
///
/// `nan` replaces NaN, and is the fill value of chunks that are not written. Values are rounded and clipped to the
/// range of int16.
///
/// # Errors
/// Any error while reading `source`, [`crate::Error::Argument`] if `layout` does not match the kept part,
/// [`crate::Error::Io`] if the store cannot be written, [`crate::Error::Memory`], [`crate::Error::Interrupted`].
pub fn prepare_image(
    source: &Source<'_>,
    placement: &Placement,
    folder: &Path,
    layout: &Layout,
    nan: i16,
    threads: Option<usize>,
    interrupt: &Interrupt,
) -> Result<u64> {
    let walked = placement.walk(&source.walk()?, placement.kernel, placement.antialias)?;
    pool::install(threads, || match *source {
        Source::File(path) => {
            let mut planes = FilePlanes::open(path, walked.stored_flipped, f32::from(nan))?;
            let written = run(&mut planes, &walked, folder, layout, nan, interrupt)?;
            planes.finish()?;
            Ok(written)
        }
        Source::Array(view) => {
            let order = view.walk_order();
            let view = order[1..]
                .iter()
                .fold(view, |view, &axis| if walked.stored_flipped[axis] { view.flipped(axis) } else { view });
            let mut planes = ArrayPlanes::new(view, order, f32::from(nan));
            run(&mut planes, &walked, folder, layout, nan, interrupt)
        }
    })
}

fn run(
    planes: &mut impl Planes,
    walked: &Walked,
    folder: &Path,
    layout: &Layout,
    fill: i16,
    interrupt: &Interrupt,
) -> Result<u64> {
    let mut slabs = Slabs::new(folder, layout, walked, fill, walked.flipped[0])?;
    resample(planes, &walked.bands, interrupt, |_, values| slabs.push(values, interrupt))?;
    Ok(slabs.written)
}
