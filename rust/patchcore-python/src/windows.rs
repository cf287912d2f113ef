//! Extracts, blends and samples windows for Python. The façades have checked the shapes and passed flat buffers; this
//! module borrows them.

use half::slice::HalfBitsSliceExt;
use numpy::{
    BorrowError, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray1,
    PyUntypedArray,
};
use patchcore::philox;
use patchcore::sampler::{Case, HardPoint, LesionSpans, Sampler, Shares};
use patchcore::windows::blend::{Layout, accumulate, finish};
use patchcore::windows::extract::{Intensity, Target, extract};
use patchcore::windows::{bf16, f16, grid};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::gate::{UnsupportedDataError, WindowError, run, to_python};
use crate::measure::view_of;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(extract_windows, module)?)?;
    module.add_function(wrap_pyfunction!(window_grid, module)?)?;
    module.add_function(wrap_pyfunction!(gaussian_importance, module)?)?;
    module.add_function(wrap_pyfunction!(blend_windows, module)?)?;
    module.add_function(wrap_pyfunction!(finish_blend, module)?)?;
    module.add_function(wrap_pyfunction!(uniforms, module)?)?;
    module.add_class::<WindowSampler>()
}

pub(crate) fn writable<'py, T: numpy::Element>(
    name: &str,
    array: &Bound<'py, PyArray1<T>>,
) -> PyResult<PyReadwriteArray1<'py, T>> {
    array.try_readwrite().map_err(|error| {
        WindowError::new_err(match error {
            BorrowError::AlreadyBorrowed => format!("{name} is in use by another call or overlaps another buffer"),
            _ => format!("{name} cannot be written: {error}"),
        })
    })
}

/// An output buffer for intensities.
pub(crate) enum Buffer<'a> {
    F32(&'a mut [f32]),
    Half(&'a mut [f16]),
    Brain(&'a mut [bf16]),
    I16(&'a mut [i16]),
}

/// Borrow a flat buffer of intensities: float32, int16, or the bits of 16-bit floats as uint16.
pub(crate) fn with_intensities<T>(
    out: &Bound<'_, PyAny>,
    format: &str,
    work: impl FnOnce(Buffer<'_>) -> PyResult<T>,
) -> PyResult<T> {
    match format {
        "float32" => work(Buffer::F32(writable("out", out.cast::<PyArray1<f32>>()?)?.as_slice_mut()?)),
        "int16" => work(Buffer::I16(writable("out", out.cast::<PyArray1<i16>>()?)?.as_slice_mut()?)),
        "float16" => {
            work(Buffer::Half(writable("out", out.cast::<PyArray1<u16>>()?)?.as_slice_mut()?.reinterpret_cast_mut()))
        }
        "bfloat16" => {
            work(Buffer::Brain(writable("out", out.cast::<PyArray1<u16>>()?)?.as_slice_mut()?.reinterpret_cast_mut()))
        }
        other => Err(UnsupportedDataError::new_err(format!(
            "windows cannot have dtype {other}; expected float32, float16, bfloat16 or int16"
        ))),
    }
}

pub(crate) fn triples<T: numpy::Element + Copy>(array: &PyReadonlyArray2<'_, T>) -> PyResult<Vec<[T; 3]>> {
    let (triples, rest) = array.as_slice()?.as_chunks::<3>();
    if !rest.is_empty() {
        return Err(PyValueError::new_err("expected rows of three numbers"));
    }
    Ok(triples.to_vec())
}

#[pyfunction]
#[pyo3(signature = (volumes, corners, window_size, out, *, format, hu_range, padding, labels, label_corners, label_out, threads))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
fn extract_windows(
    py: Python<'_>,
    volumes: Vec<Bound<'_, PyUntypedArray>>,
    corners: PyReadonlyArray2<'_, i64>,
    window_size: [usize; 3],
    out: &Bound<'_, PyAny>,
    format: &str,
    hu_range: Option<[f64; 2]>,
    padding: f32,
    labels: Option<Vec<Bound<'_, PyUntypedArray>>>,
    label_corners: Option<PyReadonlyArray2<'_, i64>>,
    label_out: Option<&Bound<'_, PyArray1<u8>>>,
    threads: Option<usize>,
) -> PyResult<()> {
    let corners = triples(&corners)?;
    let label_corners = label_corners.map(|corners| triples(&corners)).transpose()?.unwrap_or_default();
    let image_views = volumes.iter().map(view_of).collect::<PyResult<Vec<_>>>()?;
    let label_views = labels.as_deref().unwrap_or_default().iter().map(view_of).collect::<PyResult<Vec<_>>>()?;
    let mut label_out = label_out.map(|array| writable("label_out", array)).transpose()?;
    let label_out = label_out.as_mut().map(|array| array.as_slice_mut()).transpose()?;
    let intensity = hu_range.map_or(Intensity::Raw(padding), Intensity::Scaled);
    with_intensities(out, format, |out| {
        run(py, || {
            let labels = label_out.map(|out| Target { volumes: &label_views, corners: &label_corners, out });
            let (volumes, corners) = (&image_views[..], &corners[..]);
            match out {
                Buffer::F32(out) => extract(Target { volumes, corners, out }, intensity, labels, window_size, threads),
                Buffer::Half(out) => extract(Target { volumes, corners, out }, intensity, labels, window_size, threads),
                Buffer::Brain(out) => {
                    extract(Target { volumes, corners, out }, intensity, labels, window_size, threads)
                }
                Buffer::I16(out) => extract(Target { volumes, corners, out }, intensity, labels, window_size, threads),
            }
        })
    })
}

#[pyfunction]
fn window_grid(
    py: Python<'_>,
    shape: [i64; 3],
    window_size: [i64; 3],
    overlap: [f64; 3],
) -> PyResult<Bound<'_, PyArray2<i64>>> {
    let corners = run(py, || grid::window_grid(shape, window_size, overlap))?;
    let rows = corners.len();
    PyArray1::from_vec(py, corners.into_flattened()).reshape([rows, 3])
}

#[pyfunction]
fn gaussian_importance(py: Python<'_>, window_size: [usize; 3], sigma: [f64; 3]) -> PyResult<Bound<'_, PyArray1<f32>>> {
    let weights = run(py, || grid::gaussian_importance(window_size, sigma))?;
    Ok(PyArray1::from_vec(py, weights))
}

#[pyfunction]
#[pyo3(signature = (total, weight, corners, predictions, importance, *, channels, shape, window_size, threads))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
fn blend_windows(
    py: Python<'_>,
    total: &Bound<'_, PyArray1<f32>>,
    weight: &Bound<'_, PyArray1<f32>>,
    corners: PyReadonlyArray2<'_, i64>,
    predictions: PyReadonlyArray1<'_, f32>,
    importance: PyReadonlyArray1<'_, f32>,
    channels: usize,
    shape: [usize; 3],
    window_size: [usize; 3],
    threads: Option<usize>,
) -> PyResult<()> {
    let corners = triples(&corners)?;
    let (mut total, mut weight) = (writable("total", total)?, writable("weight", weight)?);
    let (total, weight) = (total.as_slice_mut()?, weight.as_slice_mut()?);
    let (predictions, importance) = (predictions.as_slice()?, importance.as_slice()?);
    let layout = Layout { channels, shape, window: window_size };
    run(py, || accumulate(layout, &corners, predictions, importance, total, weight, threads))
}

#[pyfunction]
#[pyo3(signature = (total, weight, *, threads))]
#[allow(clippy::needless_pass_by_value)]
fn finish_blend(
    py: Python<'_>,
    total: &Bound<'_, PyArray1<f32>>,
    weight: PyReadonlyArray1<'_, f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    let mut total = writable("total", total)?;
    let (total, weight) = (total.as_slice_mut()?, weight.as_slice()?);
    run(py, || finish(total, weight, threads))
}

#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
fn uniforms<'py>(
    py: Python<'py>,
    seed: u64,
    step: u64,
    positions: PyReadonlyArray1<'py, u32>,
    purpose: u8,
    count: usize,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let positions = positions.as_slice()?;
    let values = run(py, || {
        let total = positions.len().checked_mul(count);
        let mut values = patchcore::error::room(total, "the uniform numbers")?;
        values.resize(positions.len() * count, 0.0);
        for (&position, row) in positions.iter().zip(values.chunks_exact_mut(count.max(1))) {
            philox::uniforms(seed, step, position, purpose, row);
        }
        Ok(values)
    })?;
    PyArray1::from_vec(py, values).reshape([positions.len(), count])
}

/// Spans as the façade passes them: lesion, origin and length of each span, the axis, and the number of lesions.
type SpanColumns<'py> =
    (PyReadonlyArray1<'py, i32>, PyReadonlyArray2<'py, i32>, PyReadonlyArray1<'py, i32>, usize, usize);

/// Shape, lesions, optionally an organ, and whether the case has lesions of other labels.
type CaseColumns<'py> = ([i64; 3], SpanColumns<'py>, Option<SpanColumns<'py>>, bool);

/// Columns of draws: case, corner, kind, lesion, voxel.
type DrawColumns<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray1<u8>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray2<i64>>,
);

/// Call `then` with the borrowed spans.
fn with_spans<T>(
    columns: &SpanColumns<'_>,
    then: impl FnOnce(LesionSpans<'_>) -> patchcore::Result<T>,
) -> PyResult<patchcore::Result<T>> {
    let (lesion, origin, length, axis, lesion_count) = columns;
    Ok(then(LesionSpans {
        lesion: lesion.as_slice()?,
        origin: &triples(origin)?,
        length: length.as_slice()?,
        axis: *axis,
        lesion_count: *lesion_count,
    }))
}

#[pyclass(frozen, module = "patchcore._core")]
struct WindowSampler(Sampler);

#[pymethods]
impl WindowSampler {
    /// `shares` are the shares of lesion, organ, hard and lesion-free windows. `hard_case`, `hard_voxel` and
    /// `hard_weight` describe the hard points.
    #[new]
    #[pyo3(signature = (cases, window_size, *, seed, shares, alpha, hard_case, hard_voxel, hard_weight))]
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    fn new(
        cases: Vec<CaseColumns<'_>>,
        window_size: [i64; 3],
        seed: u64,
        shares: [f64; 4],
        alpha: f64,
        hard_case: Vec<usize>,
        hard_voxel: PyReadonlyArray2<'_, i64>,
        hard_weight: PyReadonlyArray1<'_, f64>,
    ) -> PyResult<Self> {
        let cases = cases
            .iter()
            .enumerate()
            .map(|(index, (shape, lesions, organ, other_lesions))| {
                let named = |error| to_python(patchcore::Error::Argument(format!("case {index}: {error}")));
                let case = with_spans(lesions, |spans| Case::new(*shape, spans))?.map_err(named)?;
                let case = case.with_other_lesions(*other_lesions);
                match organ {
                    Some(organ) => with_spans(organ, |spans| case.with_organ(spans))?.map_err(named),
                    None => Ok(case),
                }
            })
            .collect::<PyResult<Vec<_>>>()?;
        let voxels = triples(&hard_voxel)?;
        let points = hard_case.iter().zip(voxels).zip(hard_weight.as_slice()?);
        let hard = points.map(|((&case, voxel), &weight)| HardPoint { case, voxel, weight }).collect();
        let [lesion, organ, hard_share, lesion_free] = shares;
        let shares = Shares { lesion, organ, hard: hard_share, lesion_free };
        Sampler::new(cases, window_size, seed, shares, alpha, hard).map(Self).map_err(to_python)
    }

    #[allow(clippy::needless_pass_by_value)]
    fn draw<'py>(
        &self,
        py: Python<'py>,
        step: u64,
        positions: PyReadonlyArray1<'py, u32>,
    ) -> PyResult<DrawColumns<'py>> {
        let positions = positions.as_slice()?;
        let draws =
            run(py, || positions.iter().map(|&position| self.0.draw(step, position)).collect::<Result<Vec<_>, _>>())?;
        let rows = draws.len();
        let corners = draws.iter().flat_map(|draw| draw.corner);
        let voxels = draws.iter().flat_map(|draw| draw.voxel.unwrap_or([-1; 3]));
        Ok((
            PyArray1::from_iter(py, draws.iter().map(|draw| draw.case as i64)),
            PyArray1::from_iter(py, corners).reshape([rows, 3])?,
            PyArray1::from_iter(py, draws.iter().map(|draw| draw.kind as u8)),
            PyArray1::from_iter(py, draws.iter().map(|draw| draw.lesion.map_or(-1, |lesion| lesion as i64))),
            PyArray1::from_iter(py, voxels).reshape([rows, 3])?,
        ))
    }

    /// Return (window index, lesion index) for every lesion with a voxel in a window.
    #[allow(clippy::needless_pass_by_value)]
    fn lesions_in<'py>(
        &self,
        py: Python<'py>,
        cases: Vec<usize>,
        corners: PyReadonlyArray2<'py, i64>,
    ) -> PyResult<Vec<(usize, usize)>> {
        let corners = triples(&corners)?;
        run(py, || {
            let mut seen = Vec::new();
            for (window, (&case, &corner)) in cases.iter().zip(&corners).enumerate() {
                seen.extend(self.0.lesions_in(case, corner)?.into_iter().map(|lesion| (window, lesion)));
            }
            Ok(seen)
        })
    }
}
