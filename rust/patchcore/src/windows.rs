//! Windows: sub-volumes taken from anywhere in a CT and put back together.
//!
//! [`extract`] clips, scales and writes a batch of windows in one pass into the caller's buffer; [`grid`] covers a
//! volume with overlapping windows; [`blend`] puts overlapping predictions together. Window coordinates are array
//! order (i, j, k), buffers are C order.

pub mod blend;
pub mod extract;
pub mod grid;
// Inlining is what lets one loop be compiled for several vector widths: see `walk::fill`.
#[allow(clippy::inline_always)]
pub(crate) mod pixel;
#[allow(clippy::inline_always)]
mod walk;

pub use half::{bf16, f16};
pub use pixel::Intensities;
