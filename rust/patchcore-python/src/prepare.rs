//! Prepares a case from a file or an array into a store, for Python. The façade decides about placement and metadata.

use std::path::PathBuf;

use numpy::{PyArray1, PyUntypedArray};
use patchcore::prepare::{LabelPlan, Placement, Source, prepare_bytes, prepare_image, prepare_labels};
use patchcore::resample::Kernel;
use patchcore::store::Layout;
use patchcore::{Connectivity, Error};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::gate::{run_interruptible, to_python};
use crate::measure::{origins, span_columns, view_of};

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(prepare_case_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(prepare_case_image, module)?)?;
    module.add_function(wrap_pyfunction!(prepare_case_labels, module)?)
}

/// The placement as Python passes it. Values are in canonical axis order; the entries of `axes` are stored axes.
#[derive(FromPyObject)]
struct PlacementArguments {
    axes: [usize; 3],
    flipped: [bool; 3],
    ratio: [f64; 3],
    shape: [usize; 3],
    start: [usize; 3],
    stop: [usize; 3],
    cubic: [bool; 3],
    antialias: bool,
}

impl PlacementArguments {
    fn placement(&self) -> Placement {
        Placement {
            axes: self.axes,
            flipped: self.flipped,
            ratio: self.ratio,
            shape: self.shape,
            part: std::array::from_fn(|axis| self.start[axis]..self.stop[axis]),
            kernel: self.cubic.map(|cubic| if cubic { Kernel::Cubic } else { Kernel::Linear }),
            antialias: self.antialias,
        }
    }

    fn layout(&self, shard: [usize; 3]) -> PyResult<Layout> {
        let shape = std::array::from_fn(|axis| self.stop[axis].saturating_sub(self.start[axis]));
        Layout::new(shape, shard).map_err(to_python)
    }
}

/// A source: the path of a file, or an array.
enum Given<'py> {
    File(PathBuf),
    Array(Bound<'py, PyUntypedArray>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match given.cast::<PyUntypedArray>() {
            Ok(array) => Ok(Self::Array(array.to_owned())),
            Err(_) => Ok(Self::File(given.extract()?)),
        }
    }
}

impl Given<'_> {
    fn source(&self) -> PyResult<Source<'_>> {
        match self {
            Self::File(path) => Ok(Source::File(path)),
            Self::Array(array) => view_of(array).map(Source::Array),
        }
    }
}

/// Return the most bytes of memory that preparing a case needs.
#[pyfunction]
#[pyo3(signature = (source, placement, *, shards, classes, threads))]
#[allow(clippy::needless_pass_by_value)]
fn prepare_case_bytes(
    py: Python<'_>,
    source: Given<'_>,
    placement: PlacementArguments,
    shards: [[usize; 3]; 2],
    classes: usize,
    threads: usize,
) -> PyResult<u64> {
    let layouts = [placement.layout(shards[0])?, placement.layout(shards[1])?];
    let (source, placement) = (source.source()?, placement.placement());
    run_interruptible(py, |_| prepare_bytes(&source, &placement, [&layouts[0], &layouts[1]], classes, threads))
}

/// Resample an image into an array of a store. Returns the number of bytes written.
#[pyfunction]
#[pyo3(signature = (source, placement, folder, *, shard, nan, threads))]
#[allow(clippy::needless_pass_by_value)]
fn prepare_case_image(
    py: Python<'_>,
    source: Given<'_>,
    placement: PlacementArguments,
    folder: PathBuf,
    shard: [usize; 3],
    nan: i16,
    threads: Option<usize>,
) -> PyResult<u64> {
    let layout = placement.layout(shard)?;
    let (source, placement) = (source.source()?, placement.placement());
    run_interruptible(py, |interrupt| prepare_image(&source, &placement, &folder, &layout, nan, threads, interrupt))
}

/// Resample a label map into an array of a store. Returns the lesions as columns.
#[pyfunction]
#[pyo3(signature = (source, placement, folder, *, shard, classes, lesion_label, connectivity, voxel_mm3, min_volume_mm3, threads))]
#[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
fn prepare_case_labels<'py>(
    py: Python<'py>,
    source: Given<'_>,
    placement: PlacementArguments,
    folder: PathBuf,
    shard: [usize; 3],
    classes: Vec<i64>,
    lesion_label: i64,
    connectivity: u32,
    voxel_mm3: f64,
    min_volume_mm3: f64,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let layout = placement.layout(shard)?;
    let (source, placement) = (source.source()?, placement.placement());
    let connectivity = Connectivity::try_from(connectivity).map_err(to_python)?;
    let plan = LabelPlan { classes: &classes, lesion_label, connectivity, voxel_mm3, min_volume_mm3 };
    let done = run_interruptible(py, |interrupt| {
        prepare_labels(&source, &placement, plan, &folder, &layout, threads, interrupt)
    })?;
    let kept =
        i64::try_from(done.kept_lesions).map_err(|_| to_python(Error::Memory("there are too many lesions".into())))?;
    let columns = span_columns(py, done.spans)?;
    let other = done.class_spans;
    columns.set_item(
        "class_spans",
        (PyArray1::from_vec(py, other.component), origins(py, other.origin)?, PyArray1::from_vec(py, other.length)),
    )?;
    columns.set_item("class_voxels", done.class_voxels)?;
    columns.set_item("is_lesion", PyArray1::from_vec(py, done.is_lesion))?;
    columns.set_item("kept_lesions", kept)?;
    Ok(columns)
}
