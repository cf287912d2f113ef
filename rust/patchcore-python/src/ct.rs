//! Reads CTs for Python: the stored voxels of a file, and one pass that measures everything that the checks and the HU
//! range need.

use std::path::PathBuf;

use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray, PyUntypedArrayMethods};
use patchcore::ct::{Examined, Histogram, LesionSpan, Limits, Sample, Surroundings, examine_bytes, examine_file};
use patchcore::{Kind, nifti};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::gate::{UnsupportedDataError, run_interruptible};
use crate::measure::{describe, view_of};

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(read_nifti_voxels, module)?)?;
    module.add_function(wrap_pyfunction!(examine_ct_file, module)?)?;
    module.add_function(wrap_pyfunction!(examine_ct_array, module)?)
}

/// Return the voxels as 64-bit words in this machine's byte order, and the header.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
fn read_nifti_voxels(py: Python<'_>, path: PathBuf) -> PyResult<(Bound<'_, PyArray1<u64>>, Bound<'_, PyDict>)> {
    let (words, header) = run_interruptible(py, |interrupt| nifti::read_voxels(&path, interrupt))?;
    Ok((PyArray1::from_vec(py, words), describe(py, &header)?))
}

/// Convert lesion spans along the first axis: rows of three coordinates, and lengths.
fn spans_of(origin: &PyReadonlyArray2<'_, i32>, length: &PyReadonlyArray1<'_, i32>) -> Vec<LesionSpan> {
    let rows = origin.as_array();
    rows.rows()
        .into_iter()
        .zip(length.as_array())
        .map(|(row, &length)| LesionSpan {
            // A negative number becomes so large that it lies outside the volume and is rejected.
            origin: [row[0] as usize, row[1] as usize, row[2] as usize],
            length: length as usize,
        })
        .collect()
}

#[pyfunction]
#[pyo3(signature = (path, *, origin, length, spacing, radius_mm, lowest, highest, sample))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
fn examine_ct_file<'py>(
    py: Python<'py>,
    path: PathBuf,
    origin: PyReadonlyArray2<'py, i32>,
    length: PyReadonlyArray1<'py, i32>,
    spacing: [f64; 3],
    radius_mm: f64,
    lowest: f64,
    highest: f64,
    sample: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let spans = spans_of(&origin, &length);
    let limits = Limits { lowest, highest, sample };
    let (found, header) = run_interruptible(py, |interrupt| {
        let shape = if spans.is_empty() { [0; 3] } else { nifti::read_header(&path)?.shape };
        let surroundings = Surroundings::new(shape, &spans, spacing, radius_mm)?;
        examine_file(&path, &surroundings, limits, interrupt)
    })?;
    let described = columns(py, found)?;
    described.set_item("header", describe(py, &header)?)?;
    Ok(described)
}

#[pyfunction]
#[pyo3(signature = (array, *, origin, length, spacing, radius_mm, lowest, highest, sample))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
fn examine_ct_array<'py>(
    py: Python<'py>,
    array: &Bound<'py, PyUntypedArray>,
    origin: PyReadonlyArray2<'py, i32>,
    length: PyReadonlyArray1<'py, i32>,
    spacing: [f64; 3],
    radius_mm: f64,
    lowest: f64,
    highest: f64,
    sample: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let view = view_of(array)?;
    let kind = view.kind();
    if !matches!(kind, Kind::I16 | Kind::F32) || view.is_swapped() || !array.is_fortran_contiguous() {
        return Err(UnsupportedDataError::new_err(format!(
            "the CT has dtype {}; expected int16 or float32 in Fortran order and native byte order",
            array.dtype()
        )));
    }
    let shape = view.shape();
    let bytes = shape.iter().product::<usize>() * kind.size();
    // SAFETY: the array is contiguous, so its elements are exactly these bytes; the caller's reference keeps it alive.
    let bytes: &[u8] =
        unsafe { std::slice::from_raw_parts((*array.as_array_ptr()).fields.data.cast_const().cast(), bytes) };
    let spans = spans_of(&origin, &length);
    let limits = Limits { lowest, highest, sample };
    let found = run_interruptible(py, |interrupt| {
        let surroundings = Surroundings::new(shape, &spans, spacing, radius_mm)?;
        examine_bytes(bytes, kind, shape, &surroundings, limits, interrupt)
    })?;
    columns(py, found)
}

fn columns(py: Python<'_>, found: Examined) -> PyResult<Bound<'_, PyDict>> {
    let described = PyDict::new(py);
    described.set_item("low", found.range.0)?;
    described.set_item("high", found.range.1)?;
    described.set_item("not_finite", found.not_finite)?;
    described.set_item("below", found.below)?;
    described.set_item("above", found.above)?;
    described.set_item("hash", PyBytes::new(py, &found.hash))?;
    described.set_item("scan", found.scan)?;
    match found.sample {
        Sample::Int16(values) => described.set_item("sample", PyArray1::from_vec(py, values))?,
        Sample::Float32(values) => described.set_item("sample", PyArray1::from_vec(py, values))?,
    }
    described.set_item("within", histogram(py, found.within))?;
    described.set_item("around", histogram(py, found.around))?;
    Ok(described)
}

fn histogram(py: Python<'_>, histogram: Histogram) -> (i32, Bound<'_, PyArray1<i64>>) {
    (histogram.start, PyArray1::from_vec(py, histogram.counts))
}
