//! Measures lesions for Python: arrays and NIfTI files in, columns out.

use std::path::PathBuf;

use numpy::{
    Element, PyArray1, PyArray2, PyArray3, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use patchcore::lesions::{Affine, measure};
use patchcore::pool::Interrupt;
use patchcore::{Components, Connectivity, Decoder, Geometry, Kind, LesionTable, Number, SpanTable, View, nifti};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::gate::{UnsupportedDataError, run, run_interruptible, to_python};

/// Up to this many voxels, a separate thread for Ctrl-C would take longer than the work.
const QUICK_VOXELS: usize = 1 << 20;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(measure_array, module)?)?;
    module.add_function(wrap_pyfunction!(measure_file, module)?)?;
    module.add_function(wrap_pyfunction!(label_components, module)?)?;
    module.add_function(wrap_pyfunction!(component_spans, module)?)?;
    module.add_function(wrap_pyfunction!(component_spans_of_file, module)?)?;
    module.add_function(wrap_pyfunction!(inflated_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(read_nifti_header, module)?)
}

fn kind_of(array: &Bound<'_, PyUntypedArray>) -> PyResult<(Kind, bool)> {
    let dtype = array.dtype();
    let kind = match (dtype.kind(), dtype.itemsize()) {
        (b'b', 1) => Kind::Bool,
        (b'u', 1) => Kind::U8,
        (b'i', 1) => Kind::I8,
        (b'u', 2) => Kind::U16,
        (b'i', 2) => Kind::I16,
        (b'u', 4) => Kind::U32,
        (b'i', 4) => Kind::I32,
        (b'u', 8) => Kind::U64,
        (b'i', 8) => Kind::I64,
        (b'f', 4) => Kind::F32,
        (b'f', 8) => Kind::F64,
        _ => {
            return Err(UnsupportedDataError::new_err(format!(
                "the array has dtype {dtype}; expected bool, an integer type, float32 or float64"
            )));
        }
    };
    let foreign = if cfg!(target_endian = "little") { b'>' } else { b'<' };
    Ok((kind, dtype.byteorder() == foreign))
}

/// Borrow an array's memory. The array must stay alive; the caller's reference guarantees this.
pub(crate) fn view_of<'a>(array: &'a Bound<'_, PyUntypedArray>) -> PyResult<View<'a>> {
    let (kind, swapped) = kind_of(array)?;
    let (shape, strides) = (array.shape(), array.strides());
    let (&[a, b, c], &[sa, sb, sc]) = (shape, strides) else {
        return Err(UnsupportedDataError::new_err(format!(
            "the array has shape {shape:?}; expected three axes (i, j, k)"
        )));
    };
    // SAFETY: NumPy guarantees that shape and strides address readable memory while the array is alive.
    let view = unsafe {
        let data = (*array.as_array_ptr()).fields.data.cast_const().cast();
        View::from_raw(data, [a, b, c], [sa, sb, sc], kind, swapped)
    };
    view.map_err(to_python)
}

/// Find components and call `then` with them, with the GIL released.
fn with_components<T: Send>(
    py: Python<'_>,
    array: &Bound<'_, PyUntypedArray>,
    labels: Option<&[i64]>,
    connectivity: u32,
    instances: bool,
    threads: Option<usize>,
    then: impl FnOnce(Components, &Interrupt) -> patchcore::Result<T> + Send,
) -> PyResult<T> {
    let view = view_of(array)?;
    let connectivity = Connectivity::try_from(connectivity).map_err(to_python)?;
    let decoder = Decoder::new(view.kind(), view.is_swapped(), labels);
    let work = |interrupt: &Interrupt| {
        then(joined(Components::of_view(&view, &decoder, connectivity, threads, interrupt)?, instances), interrupt)
    };
    if view.shape().iter().product::<usize>() <= QUICK_VOXELS {
        run(py, || work(&Interrupt::default()))
    } else {
        run_interruptible(py, work)
    }
}

/// With `instances`, every label is one object, wherever its voxels lie.
fn joined(components: Components, instances: bool) -> Components {
    if instances { components.joined_by_label() } else { components }
}

#[pyfunction]
#[pyo3(signature = (array, affine, *, labels, connectivity, instances, min_volume_mm3, axial_axis, threads))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
fn measure_array<'py>(
    py: Python<'py>,
    array: &Bound<'py, PyUntypedArray>,
    affine: Affine,
    labels: Option<Vec<i64>>,
    connectivity: u32,
    instances: bool,
    min_volume_mm3: f64,
    axial_axis: Option<usize>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let mut geometry = Geometry::from_affine(affine);
    if let Some(axis) = axial_axis {
        geometry.axial_axis = axis;
    }
    let labels = labels.as_deref();
    let table = with_components(py, array, labels, connectivity, instances, threads, |components, interrupt| {
        measure(&components, &geometry, min_volume_mm3, threads, interrupt)
    })?;
    columns(py, &table)
}

#[pyfunction]
#[pyo3(signature = (path, *, labels, connectivity, instances, min_volume_mm3, affine, axial_axis))]
#[allow(clippy::too_many_arguments)]
#[allow(clippy::needless_pass_by_value)]
fn measure_file(
    py: Python<'_>,
    path: PathBuf,
    labels: Option<Vec<i64>>,
    connectivity: u32,
    instances: bool,
    min_volume_mm3: f64,
    affine: Option<Affine>,
    axial_axis: Option<usize>,
) -> PyResult<(Bound<'_, PyDict>, Bound<'_, PyDict>)> {
    let connectivity = Connectivity::try_from(connectivity).map_err(to_python)?;
    let (table, header) = run_interruptible(py, |interrupt| {
        let (components, header) = nifti::components_of_file(&path, labels.as_deref(), connectivity, interrupt)?;
        let components = joined(components, instances);
        let mut geometry = affine.map_or_else(|| header.geometry(), Geometry::from_affine);
        geometry.axial_axis = axial_axis.unwrap_or(geometry.axial_axis);
        Ok((measure(&components, &geometry, min_volume_mm3, None, interrupt)?, header))
    })?;
    Ok((columns(py, &table)?, describe(py, &header)?))
}

#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
fn inflated_bytes(py: Python<'_>, path: PathBuf) -> PyResult<u64> {
    run_interruptible(py, |interrupt| nifti::inflated_bytes(&path, interrupt))
}

#[pyfunction]
#[allow(clippy::needless_pass_by_value)]
fn read_nifti_header(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let header = run_interruptible(py, |_| nifti::read_header(&path))?;
    describe(py, &header)
}

pub(crate) fn describe<'py>(py: Python<'py>, header: &nifti::Header) -> PyResult<Bound<'py, PyDict>> {
    let geometry = header.geometry();
    let described = PyDict::new(py);
    described.set_item("shape", header.shape)?;
    described.set_item("affine", header.affine)?;
    described.set_item("spacing", geometry.spacing())?;
    described.set_item("axial_axis", geometry.axial_axis)?;
    described.set_item("scaling", header.scaling)?;
    described.set_item("pixdim", header.forms.pixdim)?;
    described.set_item("sform", header.forms.sform)?;
    described.set_item("qform", header.forms.qform)?;
    described.set_item("dtype", dtype_of(header))?;
    described.set_item("data_offset", header.data_offset)?;
    described.set_item("data_bytes", header.data_bytes())?;
    Ok(described)
}

/// NumPy's name for the stored element type.
fn dtype_of(header: &nifti::Header) -> String {
    let order = if header.swapped == cfg!(target_endian = "little") { '>' } else { '<' };
    let letter = match header.kind {
        Kind::Bool => 'b',
        Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => 'u',
        Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => 'i',
        Kind::F32 | Kind::F64 => 'f',
    };
    format!("{order}{letter}{}", header.kind.size())
}

pub(crate) fn columns<'py>(py: Python<'py>, table: &LesionTable) -> PyResult<Bound<'py, PyDict>> {
    let lesions = &table.lesions;
    let columns = PyDict::new(py);
    macro_rules! column {
        ($name:ident, $type:ty) => {
            let values = lesions.iter().map(|lesion| lesion.$name as $type);
            columns.set_item(stringify!($name), PyArray1::from_iter(py, values))?;
        };
    }
    macro_rules! triples {
        ($name:ident, $type:ty) => {
            let values: Vec<$type> =
                lesions.iter().flat_map(|lesion| lesion.$name).map(|value| value as $type).collect();
            columns.set_item(stringify!($name), PyArray1::from_vec(py, values).reshape([lesions.len(), 3])?)?;
        };
    }
    column!(label, i64);
    column!(voxel_count, i64);
    column!(volume_mm3, f64);
    triples!(bbox_start, i64);
    triples!(bbox_stop, i64);
    triples!(centroid_voxel, f64);
    triples!(centroid_mm, f64);
    triples!(extent_mm, f64);
    column!(equivalent_diameter_mm, f64);
    column!(longest_axial_diameter_mm, f64);
    column!(touches_border, bool);
    columns.set_item("speck_count", table.speck_count)?;
    columns.set_item("speck_voxel_count", table.speck_voxel_count)?;
    columns.set_item("rounded", table.rounded)?;
    Ok(columns)
}

#[pyfunction]
#[pyo3(signature = (array, *, labels, connectivity, threads))]
#[allow(clippy::needless_pass_by_value)]
fn label_components<'py>(
    py: Python<'py>,
    array: &Bound<'py, PyUntypedArray>,
    labels: Option<Vec<i64>>,
    connectivity: u32,
    threads: Option<usize>,
) -> PyResult<(Bound<'py, PyAny>, usize)> {
    let shape = view_of(array)?.shape();
    let components = with_components(py, array, labels.as_deref(), connectivity, false, threads, |found, _| Ok(found))?;
    let painted = match components.len() {
        0..=0xFF => paint::<u8>(py, shape, &components, threads)?.into_any(),
        0x100..=0xFFFF => paint::<u16>(py, shape, &components, threads)?.into_any(),
        _ => paint::<u32>(py, shape, &components, threads)?.into_any(),
    };
    Ok((painted, components.len()))
}

/// Paint into a new array with the same memory order of axes as the input.
fn paint<'py, N: Number + Element>(
    py: Python<'py>,
    shape: [usize; 3],
    components: &Components,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray3<N>>> {
    let order = components.order();
    // Use NumPy's own function: if memory is short it raises an exception, while the function of the numpy crate would
    // panic.
    let zeros = py.import("numpy")?.getattr("zeros")?;
    let out = zeros.call1((order.map(|axis| shape[axis]), N::get_dtype(py)))?.cast_into::<PyArray3<N>>()?;
    // SAFETY: the array was created here, so there is no other reference to it yet.
    let voxels = unsafe { out.as_slice_mut() }?;
    run_interruptible(py, |interrupt| components.paint(voxels, threads, interrupt))?;
    let mut axes = [0; 3];
    for (position, &axis) in order.iter().enumerate() {
        axes[axis] = position;
    }
    out.permute(Some(axes))
}

#[pyfunction]
#[pyo3(signature = (array, *, labels, connectivity, instances))]
#[allow(clippy::needless_pass_by_value)]
fn component_spans<'py>(
    py: Python<'py>,
    array: &Bound<'py, PyUntypedArray>,
    labels: Option<Vec<i64>>,
    connectivity: u32,
    instances: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let table = with_components(py, array, labels.as_deref(), connectivity, instances, None, |components, _| {
        SpanTable::new(&components)
    })?;
    span_columns(py, table)
}

#[pyfunction]
#[pyo3(signature = (path, *, labels, connectivity, instances))]
#[allow(clippy::needless_pass_by_value)]
fn component_spans_of_file(
    py: Python<'_>,
    path: PathBuf,
    labels: Option<Vec<i64>>,
    connectivity: u32,
    instances: bool,
) -> PyResult<Bound<'_, PyDict>> {
    let connectivity = Connectivity::try_from(connectivity).map_err(to_python)?;
    let table = run_interruptible(py, |interrupt| {
        let (components, _) = nifti::components_of_file(&path, labels.as_deref(), connectivity, interrupt)?;
        SpanTable::new(&joined(components, instances))
    })?;
    span_columns(py, table)
}

/// Return the spans of components as arrays, with the names that the Python façade uses.
pub(crate) fn span_columns(py: Python<'_>, table: SpanTable) -> PyResult<Bound<'_, PyDict>> {
    let columns = PyDict::new(py);
    columns.set_item("lesion", PyArray1::from_vec(py, table.component))?;
    columns.set_item("origin", origins(py, table.origin)?)?;
    columns.set_item("length", PyArray1::from_vec(py, table.length))?;
    columns.set_item("axis", table.axis)?;
    columns.set_item("voxel_count", PyArray1::from_vec(py, table.voxel_count))?;
    Ok(columns)
}

/// Reshape the first voxels of spans to rows of three numbers.
pub(crate) fn origins(py: Python<'_>, origin: Vec<i32>) -> PyResult<Bound<'_, PyArray2<i32>>> {
    let rows = origin.len() / 3;
    PyArray1::from_vec(py, origin).reshape([rows, 3])
}
