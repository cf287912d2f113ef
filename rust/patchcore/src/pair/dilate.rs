//! Grows a mask by the voxels that share a face or an edge with it.

use crate::surface::Rows;

/// The mask and its 18 neighbours, within the array.
pub(super) fn dilated(rows: &Rows) -> Rows {
    let [planes, lines, length] = rows.walk.walk_shape();
    let mut places: Vec<(u64, u32, u32)> = Vec::new();
    let mut reached: Vec<[u32; 2]> = Vec::new();
    let last = |axis: usize, count: usize| (rows.low[axis] + rows.size[axis] as i64 + 1).min(count as i64);
    for plane in (rows.low[0] - 1).max(0)..last(0, planes) {
        for row in (rows.low[1] - 1).max(0)..last(1, lines) {
            reached.clear();
            for (dp, dr) in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)] {
                // An edge is shared by voxels that differ in two coordinates, so not also along the row.
                let grow = u32::from(dp == 0 || dr == 0);
                reached.extend(
                    rows.row(plane + dp, row + dr)
                        .iter()
                        .map(|&[start, end]| [start.saturating_sub(grow), (end + grow).min(length as u32)]),
                );
            }
            reached.sort_unstable();
            let line = plane as u64 * lines as u64 + row as u64;
            for &[start, end] in &reached {
                match places.last_mut() {
                    Some((same, _, up_to)) if *same == line && start <= *up_to => *up_to = end.max(*up_to),
                    _ => places.push((line, start, end)),
                }
            }
        }
    }
    Rows::from_places(rows.walk, &places)
}
