//! Extracts windows (sub-volumes at any position of a CT) and blends them back together.
//!
//! [`extract`] clips, scales and writes a batch of windows into the caller's buffer in one pass. [`grid`] covers a
//! volume with overlapping windows. [`blend`] combines overlapping predictions. Window coordinates are in array order
//! (i, j, k); buffers are in C order.

pub mod blend;
pub mod extract;
pub mod grid;
// Inlining is needed so that one loop can be compiled for several vector widths: see `walk::fill`.
#[allow(clippy::inline_always)]
pub(crate) mod pixel;
#[allow(clippy::inline_always)]
mod walk;

pub use half::{bf16, f16};
pub use pixel::Intensities;
