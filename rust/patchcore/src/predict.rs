//! Turns the predictions of overlapping windows into the label map of a scan, in bounded memory.
//!
//! Windows arrive in ascending order along the first axis. A plane of the training grid is final as soon as no later
//! window can touch it: [`Ring`] then hands it on, [`Interpolation`] brings it to the scan's grid, and [`Rule`] chooses
//! the class there. Only the planes between the first and the last open one are in memory. Several models, whose
//! windows may differ in size and spacing, are averaged on the scan's grid.

mod interpolation;
mod ring;
mod rule;
mod stream;

pub use interpolation::Interpolation;
pub use ring::Ring;
pub use rule::Rule;
pub use stream::{Model, Output, Stream, labels_of};
