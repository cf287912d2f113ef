//! The spans of components as columns, for sampling lesion voxels without a label array.

use crate::components::Components;
use crate::diameter::spans_by_component;
use crate::{Error, Result};

/// One row a span, grouped by component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpanTable {
    /// Component of each span, 0-based, ascending.
    pub component: Vec<i32>,
    /// First voxel of each span, three array coordinates a span.
    pub origin: Vec<i32>,
    /// Voxels of each span.
    pub length: Vec<i32>,
    /// The array axis along which spans lie.
    pub axis: usize,
    /// Voxels of each component.
    pub voxel_count: Vec<i64>,
}

impl SpanTable {
    /// The spans of all components.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if an axis or the number of components does not fit 31 bits.
    pub fn new(components: &Components) -> Result<Self> {
        let walk = &components.walk;
        let most = i32::MAX as usize;
        if walk.shape.iter().any(|&n| n > most) || components.len() > most {
            return Err(Error::Unsupported("the span table holds 31-bit coordinates and component numbers".into()));
        }
        let (starts, spans) = spans_by_component(components);
        let mut table = Self { axis: walk.order[2], ..Self::default() };
        table.voxel_count = components.sums.iter().map(|sums| sums.voxels as i64).collect();
        for component in 0..components.len() {
            for span in &spans[starts[component]..starts[component + 1]] {
                table.component.push(component as i32);
                table.origin.extend(walk.to_array([span.plane, span.row, span.start]).map(|n| n as i32));
                table.length.push((span.end - span.start) as i32);
            }
        }
        Ok(table)
    }
}
