//! Stores the spans of components as columns, for sampling lesion voxels without a label array.

use crate::components::Components;
use crate::{Error, Result};

/// A table with one row per span, grouped by component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpanTable {
    /// Component of each span, 0-based, ascending.
    pub component: Vec<i32>,
    /// First voxel of each span: three array coordinates per span.
    pub origin: Vec<i32>,
    /// Number of voxels in each span.
    pub length: Vec<i32>,
    /// The array axis along which spans lie.
    pub axis: usize,
    /// Number of voxels in each component.
    pub voxel_count: Vec<i64>,
}

impl SpanTable {
    /// Collect the spans of all components.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if an axis or the number of components does not fit 31 bits.
    pub fn new(components: &Components) -> Result<Self> {
        let walk = &components.walk;
        let most = i32::MAX as usize;
        if walk.shape.iter().any(|&n| n > most) || components.len() > most {
            return Err(Error::Unsupported(
                "the span table supports at most 2^31 - 1 voxels per axis and 2^31 - 1 components".into(),
            ));
        }
        // Row of the next span of each component: after all spans of the previous components.
        let mut total = 0;
        let mut next: Vec<usize> = Vec::with_capacity(components.len());
        for sums in &components.sums {
            next.push(total);
            total += sums.spans as usize;
        }
        let mut table = Self {
            component: vec![0; total],
            origin: vec![0; 3 * total],
            length: vec![0; total],
            axis: walk.order[2],
            voxel_count: components.sums.iter().map(|sums| sums.voxels as i64).collect(),
        };
        components.for_each_span(|component, plane, row, span| {
            let at = next[component];
            next[component] += 1;
            table.component[at] = component as i32;
            table.length[at] = (span.end - span.start) as i32;
            let origin = walk.to_array([plane, row, span.start]).map(|n| n as i32);
            table.origin[3 * at..3 * at + 3].copy_from_slice(&origin);
        });
        Ok(table)
    }
}
