//! Assigns predicted voxels to the nearest true component: the Voronoi regions of the components, where they are needed.

use crate::Result;
use crate::components::Components;
use crate::pool::Interrupt;
use crate::surface::{Cuboid, Tree, check_lattice};

pub(super) fn nearest_voxels(
    truth: &Components,
    prediction: &Components,
    spacing: [f64; 3],
    interrupt: &Interrupt,
) -> Result<Vec<u64>> {
    let mut counts = vec![0; truth.len()];
    if truth.is_empty() {
        return Ok(counts);
    }
    check_lattice(truth.walk.shape)?;
    let walk = truth.walk;
    let rows = walk.walk_shape()[1] as u64;
    let place = |line: u64, at: u32| walk.to_array([(line / rows) as i32, (line % rows) as i32, at as i32]);
    let spans = truth.spans().map(|(line, span, component)| {
        (Cuboid { low: place(line, span.start), high: place(line, span.end - 1) }, component)
    });
    let tree = Tree::new(spans.collect(), spacing);
    let mut true_spans = truth.spans().peekable();
    let (mut near, mut open) = (0, u64::MAX);
    for (line, span, _) in prediction.spans() {
        if line != open {
            interrupt.check()?;
            open = line;
        }
        let mut at = span.start;
        while at < span.end {
            // Voxels of a true component are nearest to themselves.
            while true_spans.peek().is_some_and(|&(other, its, _)| (other, its.end) <= (line, at)) {
                true_spans.next();
            }
            let (inside, until) = match true_spans.peek() {
                Some(&(other, its, component)) if other == line && its.start <= at => {
                    (Some(component), its.end.min(span.end))
                }
                Some(&(other, its, _)) if other == line => (None, its.start.min(span.end)),
                _ => (None, span.end),
            };
            if let Some(component) = inside {
                counts[component as usize] += u64::from(until - at);
            } else {
                for voxel in at..until {
                    counts[*tree.nearest(place(line, voxel), &mut near) as usize] += 1;
                }
            }
            at = until;
        }
    }
    Ok(counts)
}
