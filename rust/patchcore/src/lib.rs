//! Lesion measuring, windows and sampling at memory speed, for 3D label maps and CT volumes.
//!
//! No Python in here: the `patchcore-python` crate is the thin binding.
//!
//! Two ideas carry the crate. *Measuring* never makes a label volume: it finds spans (maximal stretches of one label
//! along the fastest axis of memory) at memory bandwidth and joins them by union-find. *Windows* are clipped, scaled
//! and written where the caller wants them in one pass.

mod components;
pub mod ct;
mod decode;
mod diameter;
pub mod error;
mod gzip;
pub mod lesions;
pub mod nifti;
pub mod philox;
pub mod pool;
pub mod prepare;
pub mod resample;
pub mod sampler;
mod scan;
mod slab;
pub mod store;
mod table;
pub mod view;
pub mod windows;

pub use components::{Components, Number};
pub use decode::Decoder;
pub use error::{Error, Result};
pub use lesions::{Geometry, Lesion, LesionTable};
pub use slab::Connectivity;
pub use table::SpanTable;
pub use view::{Element, Kind, View};
