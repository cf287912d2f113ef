//! Instance norm for the networks, in memory that torch owns.

use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use patchcore::norm::Norm;
use pyo3::prelude::*;

use crate::gate::run;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(instance_norm, module)?)?;
    module.add_function(wrap_pyfunction!(instance_norm_gradient, module)?)
}

/// Arrays are flat: (samples, voxels, channels) in C order; statistics (samples, 2, channels).
#[pyfunction]
#[pyo3(signature = (x, residual, out, statistics, *, samples, channels, eps, slope, threads))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
fn instance_norm(
    py: Python<'_>,
    x: PyReadonlyArray1<'_, f32>,
    residual: Option<PyReadonlyArray1<'_, f32>>,
    mut out: PyReadwriteArray1<'_, f32>,
    mut statistics: PyReadwriteArray1<'_, f32>,
    samples: usize,
    channels: usize,
    eps: f64,
    slope: f32,
    threads: usize,
) -> PyResult<()> {
    let norm = Norm { samples, channels, slope, threads };
    let (x, out, statistics) = (x.as_slice()?, out.as_slice_mut()?, statistics.as_slice_mut()?);
    let residual = residual.as_ref().map(|array| array.as_slice()).transpose()?;
    run(py, || norm.forward(x, residual, out, statistics, eps))
}

#[pyfunction]
#[pyo3(signature = (x, out, gradient, statistics, of_x, of_residual, *, samples, channels, slope, threads))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
fn instance_norm_gradient(
    py: Python<'_>,
    x: PyReadonlyArray1<'_, f32>,
    out: Option<PyReadonlyArray1<'_, f32>>,
    gradient: PyReadonlyArray1<'_, f32>,
    statistics: PyReadonlyArray1<'_, f32>,
    mut of_x: PyReadwriteArray1<'_, f32>,
    mut of_residual: Option<PyReadwriteArray1<'_, f32>>,
    samples: usize,
    channels: usize,
    slope: f32,
    threads: usize,
) -> PyResult<()> {
    let norm = Norm { samples, channels, slope, threads };
    let (x, gradient, statistics) = (x.as_slice()?, gradient.as_slice()?, statistics.as_slice()?);
    let out = out.as_ref().map(|array| array.as_slice()).transpose()?;
    let of_x = of_x.as_slice_mut()?;
    let of_residual = of_residual.as_mut().map(|array| array.as_slice_mut()).transpose()?;
    run(py, || norm.backward(x, out, gradient, statistics, of_x, of_residual))
}
