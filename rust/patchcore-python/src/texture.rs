//! IBSI's features of a region, for Python.

use numpy::{PyReadonlyArray3, PyUntypedArrayMethods};
use patchcore::texture::{Bins, Region, features};
use pyo3::prelude::*;

use crate::gate::{run_interruptible, to_python};

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(texture_features, module)?)
}

/// Return name and value of each feature of a region: C-contiguous arrays (x, y, z). At most one kind of bins is given;
/// without, intensities are grey levels.
#[pyfunction]
#[pyo3(signature = (image, mask, spacing, *, intensity_range, bin_width, bin_count))]
#[allow(clippy::needless_pass_by_value)]
fn texture_features(
    py: Python<'_>,
    image: PyReadonlyArray3<'_, f64>,
    mask: PyReadonlyArray3<'_, bool>,
    spacing: [f64; 3],
    intensity_range: Option<(f64, f64)>,
    bin_width: Option<f64>,
    bin_count: Option<u32>,
) -> PyResult<Vec<(String, f64)>> {
    let argument = |_| to_python(patchcore::Error::Argument("the arrays of a region must be C-contiguous".into()));
    let shape = image.shape();
    let region = Region {
        shape: [shape[0], shape[1], shape[2]],
        image: image.as_slice().map_err(argument)?,
        mask: mask.as_slice().map_err(argument)?,
        spacing,
    };
    let bins = match (bin_width, bin_count) {
        (Some(width), _) => Bins::Width(width),
        (None, Some(count)) => Bins::Count(count),
        (None, None) => Bins::Levels,
    };
    run_interruptible(py, |_| features(&region, intensity_range, bins))
}
