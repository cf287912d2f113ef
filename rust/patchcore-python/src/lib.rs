//! `patchcore._core`, the thin Python binding: it parses arguments, borrows arrays and calls the core through one gate.

mod ct;
mod gate;
mod measure;
mod norm;
mod pair;
mod predict;
mod prepare;
mod resample;
mod store;
mod texture;
mod windows;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    ct::register(module)?;
    measure::register(module)?;
    norm::register(module)?;
    pair::register(module)?;
    predict::register(module)?;
    prepare::register(module)?;
    resample::register(module)?;
    store::register(module)?;
    texture::register(module)?;
    windows::register(module)
}
