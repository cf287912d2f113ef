//! Shards and windows of a store for Python; metadata is the façade's.

use std::path::PathBuf;

use numpy::{PyArray1, PyReadonlyArray2, PyUntypedArray};
use patchcore::pool;
use patchcore::store::{
    self, Element, Layout, StoredArray as Core, Wanted, read_label_windows, read_windows, write_region,
};
use patchcore::windows::extract::Intensity;
use patchcore::{Error, Kind};
use pyo3::prelude::*;

use crate::gate::{UnsupportedDataError, run, run_interruptible, to_python};
use crate::measure::view_of;
use crate::windows::{triples, writable};

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CHUNK", store::CHUNK)?;
    module.add_class::<StoredArray>()?;
    module.add_function(wrap_pyfunction!(write_store_region, module)?)?;
    module.add_function(wrap_pyfunction!(read_store_windows, module)?)?;
    module.add_function(wrap_pyfunction!(read_store_label_windows, module)?)
}

/// An array of a store, open for reading.
#[pyclass(frozen, module = "patchcore._core")]
struct StoredArray {
    inner: Stored,
}

enum Stored {
    Image(Core<i16>),
    Label(Core<u8>),
}

#[pymethods]
impl StoredArray {
    #[new]
    #[pyo3(signature = (folder, *, shape, shard, dtype, fill))]
    fn new(folder: PathBuf, shape: [usize; 3], shard: [usize; 3], dtype: &str, fill: i64) -> PyResult<Self> {
        let layout = Layout::new(shape, shard).map_err(to_python)?;
        let misfit = || UnsupportedDataError::new_err(format!("fill value {fill} does not fit {dtype}"));
        let inner = match dtype {
            "int16" => Stored::Image(Core::new(folder, layout, fill.try_into().map_err(|_| misfit())?)),
            "uint8" => Stored::Label(Core::new(folder, layout, fill.try_into().map_err(|_| misfit())?)),
            _ => return Err(UnsupportedDataError::new_err(format!("an array of {dtype}; expected int16 or uint8"))),
        };
        Ok(Self { inner })
    }

    /// Compare every checksum; returns the numbers of shards, chunks and bytes.
    fn verify(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        let seen = run_interruptible(py, |interrupt| match &self.inner {
            Stored::Image(array) => array.verify(interrupt),
            Stored::Label(array) => array.verify(interrupt),
        })?;
        Ok((seen.shards, seen.chunks, seen.bytes))
    }
}

/// Write the shards that a slab of an array covers; it begins at a shard's edge on each axis. Returns the bytes written.
#[pyfunction]
#[pyo3(signature = (folder, region, *, shape, shard, start, fill, threads))]
#[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
fn write_store_region(
    py: Python<'_>,
    folder: PathBuf,
    region: &Bound<'_, PyUntypedArray>,
    shape: [usize; 3],
    shard: [usize; 3],
    start: [usize; 3],
    fill: i64,
    threads: Option<usize>,
) -> PyResult<u64> {
    let layout = Layout::new(shape, shard).map_err(to_python)?;
    let view = view_of(region)?;
    let kind = view.kind();
    run_interruptible(py, |interrupt| {
        pool::install(threads, || {
            let misfit = |_| Error::Argument(format!("fill value {fill} does not fit {kind:?}"));
            match kind {
                Kind::I16 => {
                    write_region::<i16>(&folder, &layout, &view, start, fill.try_into().map_err(misfit)?, interrupt)
                }
                Kind::U8 => {
                    write_region::<u8>(&folder, &layout, &view, start, fill.try_into().map_err(misfit)?, interrupt)
                }
                other => Err(Error::Unsupported(format!("a store of {other:?}; expected int16 or uint8"))),
            }
        })
    })
}

#[pyfunction]
#[pyo3(signature = (arrays, corners, window_size, out, *, hu_range, padding, threads))]
#[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
fn read_store_windows(
    py: Python<'_>,
    arrays: Vec<Py<StoredArray>>,
    corners: PyReadonlyArray2<'_, i64>,
    window_size: [usize; 3],
    out: &Bound<'_, PyArray1<f32>>,
    hu_range: Option<[f64; 2]>,
    padding: f32,
    threads: Option<usize>,
) -> PyResult<()> {
    let corners = triples(&corners)?;
    let mut out = writable("out", out)?;
    let out = out.as_slice_mut()?;
    let intensity = hu_range.map_or(Intensity::Raw(padding), Intensity::Scaled);
    run(py, || {
        let wanted = wanted(&arrays, &corners, |stored| match stored {
            Stored::Image(array) => Some(array),
            Stored::Label(_) => None,
        })?;
        read_windows(&wanted, window_size, intensity, out, threads)
    })
}

#[pyfunction]
#[pyo3(signature = (arrays, corners, window_size, out, *, threads))]
#[allow(clippy::needless_pass_by_value)]
fn read_store_label_windows(
    py: Python<'_>,
    arrays: Vec<Py<StoredArray>>,
    corners: PyReadonlyArray2<'_, i64>,
    window_size: [usize; 3],
    out: &Bound<'_, PyArray1<u8>>,
    threads: Option<usize>,
) -> PyResult<()> {
    let corners = triples(&corners)?;
    let mut out = writable("out", out)?;
    let out = out.as_slice_mut()?;
    run(py, || {
        let wanted = wanted(&arrays, &corners, |stored| match stored {
            Stored::Label(array) => Some(array),
            Stored::Image(_) => None,
        })?;
        read_label_windows(&wanted, window_size, out, threads)
    })
}

fn wanted<'a, T: Element>(
    arrays: &'a [Py<StoredArray>],
    corners: &[[i64; 3]],
    pick: impl Fn(&'a Stored) -> Option<&'a Core<T>>,
) -> patchcore::Result<Vec<Wanted<'a, T>>> {
    if arrays.len() != corners.len() {
        return Err(Error::Window(format!("{} arrays and {} corners; expected one each", arrays.len(), corners.len())));
    }
    let misfit = || Error::Unsupported("an array of the other kind: images are int16, labels uint8".into());
    arrays
        .iter()
        .zip(corners)
        .map(|(array, &corner)| Ok(Wanted { array: pick(&array.get().inner).ok_or_else(misfit)?, corner }))
        .collect()
}
