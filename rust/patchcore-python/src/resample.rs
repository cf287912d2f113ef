//! Resamples arrays for Python. The façade converts memory order to array order.

use numpy::{PyArray1, PyUntypedArray};
use patchcore::pool;
use patchcore::resample::{ArrayPlanes, Band, Bands, Kernel, resample, resample_labels};
use patchcore::{Error, View};
use pyo3::prelude::*;

use crate::gate::run_interruptible;
use crate::measure::view_of;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(resample_array, module)?)?;
    module.add_function(wrap_pyfunction!(resample_class_indices, module)?)
}

/// Compute the bands in memory order. The arguments are in array order.
fn bands_of(
    view: &View<'_>,
    order: [usize; 3],
    ratio: [f64; 3],
    shape: [usize; 3],
    cubic: [bool; 3],
    antialias: bool,
) -> patchcore::Result<Bands> {
    let band = |axis: usize| {
        let kernel = if cubic[axis] { Kernel::Cubic } else { Kernel::Linear };
        Band::new(view.shape()[axis], shape[axis], ratio[axis], kernel, antialias)
    };
    Ok(Bands { planes: band(order[0])?, rows: band(order[1])?, columns: band(order[2])? })
}

/// Return an empty vector with capacity for a new volume. The shape comes from the caller, so this must not abort.
fn volume<T>(shape: [usize; 3]) -> patchcore::Result<Vec<T>> {
    let count = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    let mut out = Vec::new();
    count
        .and_then(|count| out.try_reserve_exact(count).ok())
        .ok_or_else(|| Error::Memory(format!("not enough memory for a volume of shape {shape:?}")))?;
    Ok(out)
}

/// A flat array in memory order, and the order of its axes.
type Walked<'py, T> = (Bound<'py, PyArray1<T>>, [usize; 3]);

#[pyfunction]
#[pyo3(signature = (array, *, ratio, shape, cubic, antialias, nan, threads))]
#[allow(clippy::too_many_arguments)]
fn resample_array<'py>(
    py: Python<'py>,
    array: &Bound<'py, PyUntypedArray>,
    ratio: [f64; 3],
    shape: [usize; 3],
    cubic: [bool; 3],
    antialias: bool,
    nan: f32,
    threads: Option<usize>,
) -> PyResult<Walked<'py, i16>> {
    let view = view_of(array)?;
    let order = view.walk_order();
    let out = run_interruptible(py, |interrupt| {
        let bands = bands_of(&view, order, ratio, shape, cubic, antialias)?;
        let mut out = volume(shape)?;
        let mut source = ArrayPlanes::new(view, order, nan);
        pool::install(threads, || {
            resample(&mut source, &bands, interrupt, |_, planes| {
                out.extend_from_slice(planes);
                Ok(())
            })
        })?;
        Ok(out)
    })?;
    Ok((PyArray1::from_vec(py, out), order))
}

#[pyfunction]
#[pyo3(signature = (array, *, ratio, shape, classes, threads))]
fn resample_class_indices<'py>(
    py: Python<'py>,
    array: &Bound<'py, PyUntypedArray>,
    ratio: [f64; 3],
    shape: [usize; 3],
    classes: u8,
    threads: Option<usize>,
) -> PyResult<Walked<'py, u8>> {
    let view = view_of(array)?;
    let order = view.walk_order();
    let out = run_interruptible(py, |interrupt| {
        let bands = bands_of(&view, order, ratio, shape, [false; 3], false)?;
        let mut out = volume(shape)?;
        let mut source = ArrayPlanes::new(view, order, 0.0);
        pool::install(threads, || {
            resample_labels(&mut source, &bands, classes, interrupt, |_, plane| {
                out.extend_from_slice(plane);
                Ok(())
            })
        })?;
        Ok(out)
    })?;
    Ok((PyArray1::from_vec(py, out), order))
}
