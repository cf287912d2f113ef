//! Distances between the surfaces of two masks, under three conventions. No volume is transformed: surfaces are found
//! from spans, and distances are computed at the elements of a surface only.
//!
//! The conventions differ in what an element is, where it lies, and how much it weighs. Each is named after what it
//! compares.

mod area;
mod elements;
mod nearest;
mod rows;
mod vtk;

use rayon::prelude::*;

use crate::pool::{self, Interrupt};
use crate::{Error, Result};
use elements::Surface;
pub(crate) use nearest::{Cuboid, Tree};
pub use rows::Rows;

/// What the surface of a mask is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// Every voxel face between inside and outside, as two triangles, weighted by area; distances from a triangle's
    /// centre to the nearest point of the other surface.
    Mesh,
    /// Every corner of eight voxels between inside and outside, weighted by the area that marching cubes draws there;
    /// distances between corners.
    Surfel,
    /// Every voxel of the mask with a face towards outside, each with weight 1; distances between voxel centres.
    Voxel,
}

/// The distances from the elements of one surface to another surface.
#[derive(Debug, Clone, Default)]
pub struct Directed {
    /// Distance [mm] and weight of each element, by ascending distance.
    elements: Vec<(f64, f64)>,
    total: f64,
    interpolated: bool,
}

impl Directed {
    fn new(mut elements: Vec<(f64, f64)>, interpolated: bool, threads: Option<usize>) -> Self {
        let by_distance = |a: &(f64, f64), b: &(f64, f64)| a.0.total_cmp(&b.0);
        if threads == Some(1) || elements.len() < 1 << 16 {
            elements.sort_unstable_by(by_distance);
        } else {
            pool::install(threads, || elements.par_sort_unstable_by(by_distance));
        }
        let total = elements.iter().map(|&(_, weight)| weight).sum();
        Self { elements, total, interpolated }
    }

    /// The sum of all weights [mm², or number of voxels].
    #[must_use]
    pub fn total(&self) -> f64 {
        self.total
    }

    /// Mean distance [mm], weighted; NaN without elements.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum_of(|mm| mm) / self.total
    }

    fn sum_of(&self, value: impl Fn(f64) -> f64) -> f64 {
        self.elements.iter().map(|&(mm, weight)| value(mm) * weight).sum()
    }

    /// The distance [mm] that a share `percent` of the surface does not exceed; NaN without elements.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> f64 {
        let Some(&(last, _)) = self.elements.last() else { return f64::NAN };
        if self.interpolated {
            let place = percent / 100.0 * (self.elements.len() - 1) as f64;
            let below = self.elements[place.floor() as usize].0;
            let above = self.elements[place.ceil() as usize].0;
            return below + (above - below) * place.fract();
        }
        let wanted = percent / 100.0 * self.total;
        let mut sum = 0.0;
        for &(mm, weight) in &self.elements {
            sum += weight;
            if sum >= wanted {
                return mm;
            }
        }
        last
    }

    /// The sum of the weights of elements within a distance [mm].
    #[must_use]
    pub fn within(&self, tolerance_mm: f64) -> f64 {
        let count = self.elements.partition_point(|&(mm, _)| mm <= tolerance_mm);
        self.elements[..count].iter().map(|&(_, weight)| weight).sum()
    }

    /// The share of the surface within a distance [mm].
    #[must_use]
    pub fn share_within(&self, tolerance_mm: f64) -> f64 {
        self.within(tolerance_mm) / self.total
    }
}

/// The distances between two surfaces, in both directions.
#[derive(Debug, Clone)]
pub struct Distances {
    /// From the elements of the first surface to the second surface.
    pub forward: Directed,
    /// From the elements of the second surface to the first surface.
    pub backward: Directed,
}

impl Distances {
    /// The larger of the two directed percentiles [mm]; 100: the Hausdorff distance.
    #[must_use]
    pub fn hausdorff_mm(&self, percent: f64) -> f64 {
        self.forward.percentile(percent).max(self.backward.percentile(percent))
    }

    /// The mean of the two directed means [mm].
    #[must_use]
    pub fn masd_mm(&self) -> f64 {
        f64::midpoint(self.forward.mean(), self.backward.mean())
    }

    /// The mean over the elements of both surfaces [mm].
    #[must_use]
    pub fn assd_mm(&self) -> f64 {
        self.pooled(|mm| mm)
    }

    /// The root of the mean squared distance over the elements of both surfaces [mm].
    #[must_use]
    pub fn rmsd_mm(&self) -> f64 {
        self.pooled(|mm| mm * mm).sqrt()
    }

    fn pooled(&self, value: impl Fn(f64) -> f64 + Copy) -> f64 {
        (self.forward.sum_of(value) + self.backward.sum_of(value)) / (self.forward.total + self.backward.total)
    }

    /// The share of both surfaces that lies within a distance [mm] of the other one (normalised surface distance).
    #[must_use]
    pub fn nsd(&self, tolerance_mm: f64) -> f64 {
        (self.forward.within(tolerance_mm) + self.backward.within(tolerance_mm))
            / (self.forward.total + self.backward.total)
    }
}

/// Check that the lattice of a shape fits the tree: with its finest convention, six steps per voxel.
pub(crate) fn check_lattice(shape: [usize; 3]) -> Result<()> {
    match shape.iter().find(|&&n| n >= nearest::MOST / 6 - 1) {
        Some(n) => {
            Err(Error::Unsupported(format!("an axis has {n} voxels; expected fewer than {}", nearest::MOST / 6)))
        }
        None => Ok(()),
    }
}

/// Measure the distances between the surfaces of two masks of one shape.
///
/// Under [`Convention::Mesh`], distances at one of `tolerances_mm` have the rounding of VTK: it decides whether they are
/// within it.
///
/// # Errors
/// [`Error::Argument`] if a mask is empty, if their shapes or orders differ, or if a spacing is not positive;
/// [`Error::Unsupported`] for an axis with more than 2.7·10⁶ voxels; [`Error::Interrupted`] if asked to stop.
pub fn distances(
    first: &Rows,
    second: &Rows,
    spacing: [f64; 3],
    convention: Convention,
    tolerances_mm: &[f64],
    threads: Option<usize>,
    interrupt: &Interrupt,
) -> Result<Distances> {
    if first.is_empty() || second.is_empty() {
        return Err(Error::Argument("a mask without a voxel has no surface".into()));
    }
    if first.walk.shape != second.walk.shape || first.walk.order != second.walk.order {
        return Err(Error::Argument(format!(
            "the masks have shapes {:?} and {:?}; expected one shape and one order of axes",
            first.walk.shape, second.walk.shape
        )));
    }
    if spacing.iter().any(|mm| !(mm.is_finite() && *mm > 0.0)) {
        return Err(Error::Argument(format!("spacing {spacing:?} mm; expected positive numbers")));
    }
    check_lattice(first.walk.shape)?;
    let surfaces = [first, second].map(|rows| Surface::new(rows, spacing, convention));
    interrupt.check()?;
    let trees = [&surfaces[0], &surfaces[1]].map(|surface| {
        let scale = spacing.map(|mm| mm / f64::from(surface.steps));
        Tree::new(surface.runs.iter().enumerate().map(|(at, run)| (surface.cuboid(run), at as u32)).collect(), scale)
    });
    let ties_mm = if convention == Convention::Mesh { tolerances_mm } else { &[] };
    let directed = |from: usize, to: usize| -> Result<Directed> {
        let task = Measuring { from: &surfaces[from], to: &surfaces[to], tree: &trees[to], ties_mm };
        let elements = task.run(threads, interrupt)?;
        Ok(Directed::new(elements, convention == Convention::Voxel, threads))
    };
    Ok(Distances { forward: directed(0, 1)?, backward: directed(1, 0)? })
}

/// Runs per task: few enough to react to Ctrl-C and to balance the cores.
const RUNS_AT_ONCE: usize = 4096;

/// A distance this close to a tolerance, as a share of it, is at the tolerance.
const TIE: f64 = 1e-9;

/// The measuring of one direction.
struct Measuring<'a> {
    from: &'a Surface,
    to: &'a Surface,
    tree: &'a Tree<u32>,
    ties_mm: &'a [f64],
}

impl Measuring<'_> {
    fn run(&self, threads: Option<usize>, interrupt: &Interrupt) -> Result<Vec<(f64, f64)>> {
        let task = |runs: &[elements::Run]| -> Result<Vec<(f64, f64)>> {
            interrupt.check()?;
            let (mut found, mut near) = (Vec::with_capacity(2 * runs.len()), 0);
            for run in runs {
                self.from.for_each_point(run, |point, weight, number| {
                    let mm = self.tree.squared_mm2(point, &mut near).sqrt();
                    let tie =
                        self.ties_mm.iter().any(|tolerance| mm > 0.0 && (mm - tolerance).abs() <= TIE * tolerance);
                    found.push((if tie { self.as_vtk(run, point, number, mm) } else { mm }, weight));
                });
            }
            Ok(found)
        };
        let runs = &self.from.runs;
        let mut all = Vec::with_capacity(self.from.points());
        if threads == Some(1) || runs.len() < RUNS_AT_ONCE {
            for part in runs.chunks(RUNS_AT_ONCE) {
                all.extend(task(part)?);
            }
        } else {
            // The parts of a round are dropped before the next round, so that distances are not held twice.
            for round in runs.chunks(64 * RUNS_AT_ONCE) {
                let parts: Vec<_> =
                    pool::install(threads, || round.par_chunks(RUNS_AT_ONCE).map(task).collect::<Result<_>>())?;
                all.extend(parts.into_iter().flatten());
            }
        }
        Ok(all)
    }

    /// The distance `mm` of a triangle's centre, computed as VTK does.
    fn as_vtk(&self, run: &elements::Run, point: [i32; 3], number: u32, mm: f64) -> f64 {
        let centre = vtk::centre(&self.from.triangle(run, number));
        let limit_mm2 = mm * mm * (1.0 + 1e-6);
        let mut least = f64::INFINITY;
        self.tree.for_each_within(point, limit_mm2, |&other| {
            self.to.triangles_near(&self.to.runs[other as usize], point, limit_mm2, |triangle| {
                least = least.min(vtk::to_triangle(centre, &triangle));
            });
        });
        least.sqrt()
    }
}
