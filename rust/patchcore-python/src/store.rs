//! Reads and writes the shards of a store for Python. The façade handles the metadata.

use std::path::PathBuf;

use numpy::{PyArray1, PyReadonlyArray2, PyUntypedArray};
use patchcore::pool;
use patchcore::store::{
    self, Element, KnownShard, Labels, Layout, Reading, StoredArray as Core, Wanted, read_windows, write_region,
};
use patchcore::windows::extract::Intensity;
use patchcore::{Error, Kind};
use pyo3::prelude::*;

use crate::gate::{UnsupportedDataError, run, run_interruptible, to_python};
use crate::measure::view_of;
use crate::windows::{Buffer, triples, with_intensities, writable};

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CHUNK", store::CHUNK)?;
    module.add_class::<StoredArray>()?;
    module.add_class::<ChunkCache>()?;
    module.add_class::<ForeignArray>()?;
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
    #[pyo3(signature = (folder, *, shape, shard, dtype, fill, known))]
    fn new(
        folder: PathBuf,
        shape: [usize; 3],
        shard: [usize; 3],
        dtype: &str,
        fill: i64,
        known: Option<Vec<Option<(u64, u32)>>>,
    ) -> PyResult<Self> {
        let layout = Layout::new(shape, shard).map_err(to_python)?;
        let written = |(bytes, checksum)| KnownShard { bytes, checksum: Some(checksum) };
        let known = known.map(|known| known.into_iter().map(|shard| shard.map(written)).collect());
        let misfit = || UnsupportedDataError::new_err(format!("fill value {fill} does not fit into {dtype}"));
        let inner = match dtype {
            "int16" => {
                let fill = fill.try_into().map_err(|_| misfit())?;
                Stored::Image(Core::open(folder, layout, fill, known).map_err(to_python)?)
            }
            "uint8" => {
                let fill = fill.try_into().map_err(|_| misfit())?;
                Stored::Label(Core::open(folder, layout, fill, known).map_err(to_python)?)
            }
            _ => {
                return Err(UnsupportedDataError::new_err(format!(
                    "the array has dtype {dtype}; expected int16 or uint8"
                )));
            }
        };
        Ok(Self { inner })
    }

    /// Compare every checksum. Returns the number of shards, chunks and bytes.
    fn verify(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        let seen = run_interruptible(py, |interrupt| match &self.inner {
            Stored::Image(array) => array.verify(interrupt),
            Stored::Label(array) => array.verify(interrupt),
        })?;
        Ok((seen.shards, seen.chunks, seen.bytes))
    }
}

/// Write the shards that a region of an array covers. The region must begin at the start of a shard along each axis.
/// Returns the number of bytes written.
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
            let misfit = |_| Error::Argument(format!("fill value {fill} does not fit into {kind:?}"));
            match kind {
                Kind::I16 => {
                    write_region::<i16>(&folder, &layout, &view, start, fill.try_into().map_err(misfit)?, interrupt)
                }
                Kind::U8 => {
                    write_region::<u8>(&folder, &layout, &view, start, fill.try_into().map_err(misfit)?, interrupt)
                }
                other => {
                    Err(Error::Unsupported(format!("the array has kind {other:?}; a store contains int16 or uint8")))
                }
            }
        })
    })
}

/// Read a batch of image windows, and of label windows if label arrays are given.
#[pyfunction]
#[pyo3(signature = (arrays, corners, window_size, out, *, format, hu_range, padding, labels, label_out, cache, threads))]
#[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
fn read_store_windows(
    py: Python<'_>,
    arrays: Vec<Py<StoredArray>>,
    corners: PyReadonlyArray2<'_, i64>,
    window_size: [usize; 3],
    out: &Bound<'_, PyAny>,
    format: &str,
    hu_range: Option<Vec<[f64; 2]>>,
    padding: f32,
    labels: Option<Vec<Py<StoredArray>>>,
    label_out: Option<&Bound<'_, PyArray1<u8>>>,
    cache: Option<Py<ChunkCache>>,
    threads: Option<usize>,
) -> PyResult<()> {
    let corners = triples(&corners)?;
    let intensity: Vec<Intensity> = match hu_range {
        Some(ranges) => ranges.into_iter().map(Intensity::Scaled).collect(),
        None => vec![Intensity::Raw(padding)],
    };
    let mut label_out = label_out.map(|array| writable("label_out", array)).transpose()?;
    let label_out = label_out.as_mut().map(|array| array.as_slice_mut()).transpose()?;
    let reading = Reading { size: window_size, threads, cache: cache.as_ref().map(|cache| &cache.get().0) };
    with_intensities(out, format, |out| {
        run(py, || {
            let images = wanted(&arrays, &corners, |stored| match stored {
                Stored::Image(array) => Some(array),
                Stored::Label(_) => None,
            })?;
            let label_windows = wanted(labels.as_deref().unwrap_or_default(), &corners, |stored| match stored {
                Stored::Label(array) => Some(array),
                Stored::Image(_) => None,
            });
            let label_windows = if labels.is_some() { label_windows? } else { Vec::new() };
            let labels = label_out.map(|out| Labels { windows: &label_windows, out });
            match out {
                Buffer::F32(out) => read_windows(&images, &intensity, out, labels, reading),
                Buffer::Half(out) => read_windows(&images, &intensity, out, labels, reading),
                Buffer::Brain(out) => read_windows(&images, &intensity, out, labels, reading),
                Buffer::I16(out) => read_windows(&images, &intensity, out, labels, reading),
            }
        })
    })
}

/// Read a batch of label windows only.
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
    let reading = Reading { size: window_size, threads, cache: None };
    run(py, || {
        let windows = wanted(&arrays, &corners, |stored| match stored {
            Stored::Label(array) => Some(array),
            Stored::Image(_) => None,
        })?;
        read_windows::<f32>(&[], &[Intensity::Raw(0.0)], &mut [], Some(Labels { windows: &windows, out }), reading)
    })
}

/// A cache of decoded chunks. It can be shared by all arrays.
#[pyclass(frozen, module = "patchcore._core")]
struct ChunkCache(store::ChunkCache);

#[pymethods]
impl ChunkCache {
    #[new]
    fn new(most_bytes: usize) -> Self {
        Self(store::ChunkCache::new(most_bytes))
    }

    /// Return the number of bytes in the cache, of hits and of misses.
    fn counts(&self) -> (usize, u64, u64) {
        let (hits, misses) = self.0.counts();
        (self.0.bytes(), hits, misses)
    }
}

/// A Zarr array with a codec chain that patchcore does not write itself.
#[pyclass(frozen, module = "patchcore._core")]
struct ForeignArray(store::ForeignArray);

#[pymethods]
impl ForeignArray {
    #[new]
    #[allow(clippy::needless_pass_by_value)]
    fn new(py: Python<'_>, folder: PathBuf) -> PyResult<Self> {
        run(py, || store::ForeignArray::open(&folder)).map(Self)
    }

    /// Read a part of the array in its own dtype, as a flat array in C order.
    #[pyo3(signature = (start, stop, dtype, *, threads))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        start: [usize; 3],
        stop: [usize; 3],
        dtype: &str,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let part = std::array::from_fn(|axis| start[axis]..stop[axis]);
        macro_rules! by_dtype {
            ($($name:literal: $type:ty),*) => {
                match dtype {
                    $($name => {
                        let values = run(py, || pool::install(threads, || self.0.read::<$type>(&part)))?;
                        Ok(PyArray1::from_vec(py, values).into_any())
                    })*
                    _ => Err(UnsupportedDataError::new_err(format!(
                        "the array has dtype {dtype}; expected int8, uint8, int16, uint16, int32 or float32"
                    ))),
                }
            };
        }
        by_dtype!("int8": i8, "uint8": u8, "int16": i16, "uint16": u16, "int32": i32, "float32": f32)
    }
}

fn wanted<'a, T: Element>(
    arrays: &'a [Py<StoredArray>],
    corners: &[[i64; 3]],
    pick: impl Fn(&'a Stored) -> Option<&'a Core<T>>,
) -> patchcore::Result<Vec<Wanted<'a, T>>> {
    if arrays.len() != corners.len() {
        return Err(Error::Window(format!(
            "{} arrays and {} corners; expected one array per corner",
            arrays.len(),
            corners.len()
        )));
    }
    let misfit = || Error::Unsupported("wrong kind of array; expected int16 for images and uint8 for labels".into());
    arrays
        .iter()
        .zip(corners)
        .map(|(array, &corner)| Ok(Wanted { array: pick(&array.get().inner).ok_or_else(misfit)?, corner }))
        .collect()
}
