//! The distance from a point to the nearest of many boxes: a tree of bounding boxes over a lattice of integers.
//!
//! Each node has up to four children, whose bounds lie side by side, so that four distances are computed at once. They
//! are computed in float32 and only decide what is skipped, with a margin for rounding; the distance to a box itself is
//! computed in float64.

/// A box on the lattice; corners belong to it. It may be flat or a single point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cuboid {
    pub(crate) low: [i32; 3],
    pub(crate) high: [i32; 3],
}

impl Cuboid {
    fn around<T>(boxes: &[(Self, T)]) -> Self {
        let mut all = boxes[0].0;
        for (other, _) in &boxes[1..] {
            for axis in 0..3 {
                all.low[axis] = all.low[axis].min(other.low[axis]);
                all.high[axis] = all.high[axis].max(other.high[axis]);
            }
        }
        all
    }

    #[inline]
    pub(crate) fn squared_mm2(&self, point: [i32; 3], scale: [f64; 3]) -> f64 {
        let mut sum = 0.0;
        for axis in 0..3 {
            let outside = (self.low[axis] - point[axis]).max(point[axis] - self.high[axis]).max(0);
            let mm = f64::from(outside) * scale[axis];
            sum += mm * mm;
        }
        sum
    }
}

/// Largest lattice coordinate that float32 holds exactly.
pub(crate) const MOST: usize = 1 << 24;

const WIDTH: usize = 4;
/// Marks a child that is a box and not a node.
const BOX: u32 = 1 << 31;
/// A distance in float32 is at most this factor above the true one.
const MARGIN: f32 = 1.0 + 1e-5;

/// Bounds of up to four children, by axis; unused children are infinitely far away.
#[derive(Debug, Clone, Copy)]
struct Node {
    low: [[f32; WIDTH]; 3],
    high: [[f32; WIDTH]; 3],
    child: [u32; WIDTH],
}

impl Node {
    const EMPTY: Self =
        Self { low: [[f32::INFINITY; WIDTH]; 3], high: [[f32::INFINITY; WIDTH]; 3], child: [BOX; WIDTH] };

    /// Squared distances from a point to the bounds of the children [mm²], in float32.
    #[inline]
    fn squared_mm2(&self, point: [f32; 3], scale: [f32; 3]) -> [f32; WIDTH] {
        let mut sums = [0.0; WIDTH];
        for axis in 0..3 {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let below = self.low[axis][lane] - point[axis];
                let above = point[axis] - self.high[axis][lane];
                let outside = if below > above { below } else { above };
                let mm = if outside > 0.0 { outside * scale[axis] } else { 0.0 };
                *sum += mm * mm;
            }
        }
        sums
    }
}

/// Boxes, each with a value, arranged for the search of the nearest one.
#[derive(Debug)]
pub(crate) struct Tree<T> {
    scale: [f64; 3],
    boxes: Vec<(Cuboid, T)>,
    nodes: Vec<Node>,
}

impl<T: Copy> Tree<T> {
    /// Arrange at least one box. `scale` is the length of a lattice step along each axis [mm]; coordinates lie below
    /// [`MOST`].
    pub(crate) fn new(mut boxes: Vec<(Cuboid, T)>, scale: [f64; 3]) -> Self {
        let mut nodes = Vec::with_capacity(boxes.len() / 2 + 1);
        arrange(&mut boxes, 0, scale, &mut nodes);
        Self { scale, boxes, nodes }
    }

    /// The squared distance from a point to the nearest box [mm²].
    ///
    /// `near` is the index of a box that may be near, for example of the one that was found for the previous point. It
    /// becomes the index of the nearest box.
    #[inline]
    pub(crate) fn squared_mm2(&self, point: [i32; 3], near: &mut usize) -> f64 {
        let mut best = self.boxes[*near].0.squared_mm2(point, self.scale);
        let (place, scale) = (point.map(|n| n as f32), self.scale.map(|mm| mm as f32));
        let mut limit = best as f32 * MARGIN;
        let mut waiting = [(0.0f32, 0u32); 64];
        let mut depth = 1;
        while depth > 0 {
            depth -= 1;
            let (distance, index) = waiting[depth];
            if distance >= limit {
                continue;
            }
            let node = &self.nodes[index as usize];
            let squared = node.squared_mm2(place, scale);
            let bottom = depth;
            for (distance, child) in squared.into_iter().zip(node.child) {
                if distance >= limit {
                    continue;
                }
                if child & BOX == 0 {
                    // The nearest child is put on top: it is searched first.
                    let mut at = depth;
                    while at > bottom && waiting[at - 1].0 < distance {
                        waiting[at] = waiting[at - 1];
                        at -= 1;
                    }
                    waiting[at] = (distance, child);
                    depth += 1;
                } else {
                    let number = (child ^ BOX) as usize;
                    let exact = self.boxes[number].0.squared_mm2(point, self.scale);
                    if exact < best {
                        (best, *near) = (exact, number);
                        limit = best as f32 * MARGIN;
                    }
                }
            }
        }
        best
    }

    /// Call `visit` with the value of every box within a squared distance [mm²].
    pub(crate) fn for_each_within(&self, point: [i32; 3], limit_mm2: f64, mut visit: impl FnMut(&T)) {
        let (place, scale) = (point.map(|n| n as f32), self.scale.map(|mm| mm as f32));
        let limit = limit_mm2 as f32 * MARGIN;
        let mut waiting = vec![0u32];
        while let Some(index) = waiting.pop() {
            let node = &self.nodes[index as usize];
            for (distance, child) in node.squared_mm2(place, scale).into_iter().zip(node.child) {
                if distance > limit {
                    continue;
                }
                if child & BOX == 0 {
                    waiting.push(child);
                } else {
                    visit(&self.boxes[(child ^ BOX) as usize].1);
                }
            }
        }
    }

    /// The value of the nearest box. Among equally near boxes, the one whose nearest point has the smallest last, middle
    /// and first coordinate. `near` as in [`Tree::squared_mm2`].
    pub(crate) fn nearest(&self, point: [i32; 3], near: &mut usize) -> &T {
        let exact = self.squared_mm2(point, near);
        let (place, scale) = (point.map(|n| n as f32), self.scale.map(|mm| mm as f32));
        let limit = exact as f32 * MARGIN;
        let rank = |index: usize| {
            let (cuboid, _) = &self.boxes[index];
            [2, 1, 0].map(|axis| point[axis].clamp(cuboid.low[axis], cuboid.high[axis]))
        };
        let mut best = *near;
        let mut waiting = vec![0u32];
        while let Some(index) = waiting.pop() {
            let node = &self.nodes[index as usize];
            for (distance, child) in node.squared_mm2(place, scale).into_iter().zip(node.child) {
                if distance > limit {
                    continue;
                }
                let number = (child ^ BOX) as usize;
                if child & BOX == 0 {
                    waiting.push(child);
                } else if self.boxes[number].0.squared_mm2(point, self.scale) <= exact && rank(number) < rank(best) {
                    best = number;
                }
            }
        }
        &self.boxes[best].1
    }
}

/// Add the node of some boxes, the first of which is number `first`; return its index.
fn arrange<T>(boxes: &mut [(Cuboid, T)], first: usize, scale: [f64; 3], nodes: &mut Vec<Node>) -> u32 {
    let index = nodes.len();
    nodes.push(Node::EMPTY);
    let quarter = boxes.len().div_ceil(WIDTH).max(1);
    let (mut rest, mut from, mut lane) = (boxes, first, 0);
    while !rest.is_empty() {
        let count = quarter.min(rest.len());
        if rest.len() > count {
            let bounds = Cuboid::around(rest);
            let length = |axis: usize| f64::from(bounds.high[axis] - bounds.low[axis]) * scale[axis];
            let axis = (0..3).max_by(|&a, &b| length(a).total_cmp(&length(b))).unwrap_or(0);
            rest.select_nth_unstable_by_key(count, |(cuboid, _)| cuboid.low[axis] + cuboid.high[axis]);
        }
        let (part, others) = rest.split_at_mut(count);
        let bounds = Cuboid::around(part);
        let child = if count == 1 { from as u32 | BOX } else { arrange(part, from, scale, nodes) };
        for axis in 0..3 {
            nodes[index].low[axis][lane] = bounds.low[axis] as f32;
            nodes[index].high[axis][lane] = bounds.high[axis] as f32;
        }
        nodes[index].child[lane] = child;
        (rest, from, lane) = (others, from + count, lane + 1);
    }
    index as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_finds_what_a_search_of_all_boxes_finds() {
        let mut state = 1u64;
        let mut random = |below: i32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % below as u64) as i32
        };
        for count in [1, 2, 4, 5, 7, 500] {
            let boxes: Vec<Cuboid> = (0..count)
                .map(|_| {
                    let low = [random(90), random(60), random(40)];
                    Cuboid { low, high: [low[0] + random(9), low[1] + random(2), low[2]] }
                })
                .collect();
            let scale = [0.7, 1.3, 2.5];
            let tree = Tree::new(boxes.iter().map(|&cuboid| (cuboid, ())).collect(), scale);
            let mut near = 0;
            for _ in 0..300 {
                let point = [random(300) - 100, random(300) - 100, random(300) - 100];
                let least = boxes.iter().map(|b| b.squared_mm2(point, scale)).fold(f64::INFINITY, f64::min);
                assert_eq!(tree.squared_mm2(point, &mut near).to_bits(), least.to_bits());
            }
        }
    }
}
