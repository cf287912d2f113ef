//! Computes the overlapping windows that cover a volume, and the weights of a window's voxels for blending.

use crate::error::room;
use crate::{Error, Result};

/// Corners of the windows that cover a volume, in C order of their position. Consecutive windows start
/// `window · (1 − overlap)` voxels apart (rounded down, at least 1). The last window ends at the end of the volume.
///
/// An axis that is shorter than the window gets one window. Its padding is split evenly; an odd voxel goes to the end.
/// These are the windows of MONAI's `sliding_window_inference`.
///
/// # Errors
/// [`Error::Window`] if an edge or an axis is not positive or an overlap lies outside [0, 1); [`Error::Memory`] if the
/// windows do not fit into memory.
pub fn window_grid(shape: [i64; 3], window: [i64; 3], overlap: [f64; 3]) -> Result<Vec<[i64; 3]>> {
    let mut starts: [Vec<i64>; 3] = Default::default();
    for axis in 0..3 {
        starts[axis] = axis_starts(shape[axis], window[axis], overlap[axis]).map_err(|error| match error {
            Error::Window(what) => Error::Window(format!("axis {axis}: {what}")),
            other => other,
        })?;
    }
    let [xs, ys, zs] = &starts;
    let count = xs.len().checked_mul(ys.len()).and_then(|n| n.checked_mul(zs.len()));
    let mut corners = room(count, &format!("a grid of {} × {} × {} windows", xs.len(), ys.len(), zs.len()))?;
    for &x in xs {
        for &y in ys {
            corners.extend(zs.iter().map(|&z| [x, y, z]));
        }
    }
    Ok(corners)
}

fn axis_starts(extent: i64, window: i64, overlap: f64) -> Result<Vec<i64>> {
    if extent < 1 || window < 1 {
        return Err(Error::Window(format!(
            "{extent} voxels and a window edge of {window}; expected at least 1 for both"
        )));
    }
    if !(0.0..1.0).contains(&overlap) {
        return Err(Error::Window(format!("overlap {overlap}; legal: from 0 to below 1")));
    }
    if extent <= window {
        return Ok(vec![-((window - extent) / 2)]);
    }
    let interval = ((window as f64 * (1.0 - overlap)) as i64).max(1);
    let last = extent - window;
    let count = last / interval + 2;
    let mut starts = room(usize::try_from(count).ok(), &format!("{count} windows along one axis"))?;
    starts.extend((0..last).step_by(interval as usize).chain([last]));
    Ok(starts)
}

/// Weight of each voxel of a window, C order: the product over the axes of a Gaussian around the window's centre with
/// standard deviation `sigma · edge`. The weights are at least 1e-3, as in MONAI's `sliding_window_inference`
/// (`mode="gaussian"`).
///
/// # Errors
/// [`Error::Window`] if an edge or a sigma is not positive; [`Error::Memory`] if the weights do not fit into memory.
pub fn gaussian_importance(window: [usize; 3], sigma: [f64; 3]) -> Result<Vec<f32>> {
    if window.contains(&0) {
        return Err(Error::Window(format!("window size {window:?}; expected at least 1 voxel per edge")));
    }
    if sigma.iter().any(|&sigma| !sigma.is_finite() || sigma <= 0.0) {
        return Err(Error::Window(format!(
            "sigma {sigma:?}; legal: finite and above 0, as a fraction of the window edge"
        )));
    }
    let voxels = window.iter().try_fold(1usize, |product, &edge| product.checked_mul(edge));
    let mut weights = room(voxels, &format!("the weights of a window of {window:?} voxels"))?;
    let profiles: [Vec<f64>; 3] = std::array::from_fn(|axis| {
        let (centre, deviation) = ((window[axis] as f64 - 1.0) / 2.0, sigma[axis] * window[axis] as f64);
        (0..window[axis]).map(|index| (-((index as f64 - centre) / deviation).powi(2) / 2.0).exp()).collect()
    });
    let [xs, ys, zs] = &profiles;
    for x in xs {
        for y in ys {
            weights.extend(zs.iter().map(|z| (x * y * z) as f32));
        }
    }
    // Without this minimum the corner of a window would have weight e^-24, and a voxel that only window corners cover
    // would be lost by rounding.
    let least = weights.iter().copied().fold(f32::INFINITY, f32::min).max(1e-3);
    for weight in &mut weights {
        *weight = weight.max(least);
    }
    Ok(weights)
}
