//! Measures lesions, extracts windows and samples windows at memory speed, for 3D label maps and CT volumes.
//!
//! This crate contains no Python code: the `patchcore-python` crate is the thin binding.
//!
//! The crate is built on two ideas. *Measuring* never creates a volume of component numbers: it finds spans (maximal
//! stretches of one label along the fastest axis of memory) at memory bandwidth and joins them by union-find.
//! *Windows* are clipped, scaled and written into the caller's buffer in one pass.

mod components;
pub mod ct;
mod decode;
mod diameter;
mod dispatch;
pub mod error;
mod gzip;
pub mod lesions;
pub mod nifti;
pub mod norm;
mod openmp;
pub mod pair;
pub mod philox;
pub mod pool;
pub mod predict;
pub mod prepare;
pub mod resample;
pub mod sampler;
mod scan;
mod slab;
pub mod store;
pub mod surface;
mod table;
pub mod texture;
pub mod view;
pub mod windows;

pub use components::{Components, Number};
pub use decode::Decoder;
pub use error::{Error, Result};
pub use lesions::{Geometry, Lesion, LesionTable};
pub use slab::Connectivity;
pub use table::SpanTable;
pub use view::{Element, Kind, View};
