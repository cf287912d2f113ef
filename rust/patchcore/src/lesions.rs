//! Computes the lesion table from components: volumes, positions and diameters in mm.

use std::f64::consts::PI;

use rayon::prelude::*;

use crate::components::Components;
use crate::diameter::{AxialLayout, Outlines, PlaneMetric, Scratch};
use crate::pool::{self, Interrupt};
use crate::slab::Sums;
use crate::{Error, Result};

/// A 4×4 affine, row-major: voxel index → world mm.
pub type Affine = [[f64; 4]; 4];

/// The position of voxels in world coordinates.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Voxel index → world mm (RAS+).
    pub affine: Affine,
    /// The array axis normal to the axial slices.
    pub axial_axis: usize,
}

impl Geometry {
    /// Axis-aligned voxels with this spacing [mm]. Axial slices are normal to `axial_axis`.
    #[must_use]
    pub fn from_spacing(spacing: [f64; 3], axial_axis: usize) -> Self {
        let mut affine = [[0.0; 4]; 4];
        for axis in 0..3 {
            affine[axis][axis] = spacing[axis];
        }
        affine[3][3] = 1.0;
        Self { affine, axial_axis }
    }

    /// Voxels positioned by an affine. Axial slices are normal to the array axis nearest to world S.
    #[must_use]
    pub fn from_affine(affine: Affine) -> Self {
        let geometry = Self { affine, axial_axis: 2 };
        let spacing = geometry.spacing();
        let upward = |axis: usize| (affine[2][axis] / spacing[axis]).abs();
        // On a tie the later axis is used, because the slices usually lie along the last axis.
        let axial_axis = (0..3).max_by(|&a, &b| upward(a).total_cmp(&upward(b))).unwrap_or(2);
        Self { affine, axial_axis }
    }

    /// mm per voxel along each array axis: the norms of the affine's columns.
    #[must_use]
    pub fn spacing(&self) -> [f64; 3] {
        [0, 1, 2].map(|axis| self.dot(axis, axis).sqrt())
    }

    fn dot(&self, a: usize, b: usize) -> f64 {
        (0..3).map(|row| self.affine[row][a] * self.affine[row][b]).sum()
    }

    /// Volume of a voxel [mm³]: the absolute value of the determinant.
    #[must_use]
    pub fn voxel_volume_mm3(&self) -> f64 {
        let m = &self.affine;
        (m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]))
            .abs()
    }

    /// The world position of a voxel index.
    #[must_use]
    pub fn to_world(&self, voxel: [f64; 3]) -> [f64; 3] {
        [0, 1, 2].map(|row| {
            let m = &self.affine[row];
            m[0] * voxel[0] + m[1] * voxel[1] + m[2] * voxel[2] + m[3]
        })
    }

    /// Reject impossible geometry.
    ///
    /// # Errors
    /// [`Error::Header`] if the affine is not finite, is singular or has an axis of length 0; [`Error::Argument`] if
    /// `axial_axis` is not 0, 1 or 2.
    pub fn check(&self) -> Result<()> {
        let finite = self.affine.iter().flatten().all(|value| value.is_finite());
        let spacing = self.spacing();
        let volume = self.voxel_volume_mm3();
        if !finite || spacing.iter().any(|s| *s <= 0.0) || volume.is_nan() || volume <= 0.0 || !volume.is_finite() {
            return Err(Error::Header(format!(
                "spacing {spacing:?} mm with voxel volume {volume} mm3 is impossible; the spacing of each axis must be \
                 positive and finite, and the axes must be linearly independent"
            )));
        }
        if self.axial_axis > 2 {
            return Err(Error::Argument(format!("axial_axis {}; legal: 0, 1, 2", self.axial_axis)));
        }
        Ok(())
    }

    /// Reject spacings so large that a volume, a distance or a voxel position within `shape` overflows.
    ///
    /// # Errors
    /// [`Error::Header`] if a value overflows; also the errors of [`Geometry::check`].
    pub fn check_within(&self, shape: [usize; 3]) -> Result<()> {
        self.check()?;
        let spacing = self.spacing();
        let reach: f64 = (0..3).map(|axis| spacing[axis] * shape[axis] as f64).sum();
        let far = self.to_world(shape.map(|n| n as f64)).iter().all(|place| place.is_finite());
        if !(far && reach.powi(3).is_finite()) {
            return Err(Error::Header(format!("spacing {spacing:?} mm with shape {shape:?} is impossibly large")));
        }
        Ok(())
    }
}

/// One lesion. Axes are in array order.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesion {
    /// Label of the lesion.
    pub label: i64,
    /// Number of voxels.
    pub voxel_count: u64,
    /// Number of voxels times the volume of one voxel [mm³].
    pub volume_mm3: f64,
    /// First voxel index of the bounding box.
    pub bbox_start: [u64; 3],
    /// One past the last voxel index of the bounding box.
    pub bbox_stop: [u64; 3],
    /// Mean voxel index.
    pub centroid_voxel: [f64; 3],
    /// Mean world position [mm].
    pub centroid_mm: [f64; 3],
    /// Edge of the bounding box along each array axis [mm], from whole voxels.
    pub extent_mm: [f64; 3],
    /// Diameter of the ball with the same volume [mm].
    pub equivalent_diameter_mm: f64,
    /// Largest distance between voxel centres within one axial slice [mm].
    pub longest_axial_diameter_mm: f64,
    /// Whether a voxel of the lesion lies on the border of the array.
    pub touches_border: bool,
}

/// All lesions, ordered by smallest C-order index, and the counts of components that were too small.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LesionTable {
    /// The lesions.
    pub lesions: Vec<Lesion>,
    /// Components below the minimum volume.
    pub speck_count: u64,
    /// Total voxels of these components.
    pub speck_voxel_count: u64,
    /// Whether stored labels were rounded to integers.
    pub rounded: bool,
}

/// Measure every component with at least `min_volume_mm3`.
///
/// # Errors
/// [`Error::Header`] for impossible geometry, [`Error::Argument`] if `min_volume_mm3` is NaN or the axial axis is not
/// 0, 1 or 2, [`Error::Interrupted`] if asked to stop.
pub fn measure(
    components: &Components,
    geometry: &Geometry,
    min_volume_mm3: f64,
    threads: Option<usize>,
    interrupt: &Interrupt,
) -> Result<LesionTable> {
    geometry.check_within(components.walk.shape)?;
    if min_volume_mm3.is_nan() {
        return Err(Error::Argument("min_volume_mm3 is NaN; expected a number".into()));
    }
    let voxel_mm3 = geometry.voxel_volume_mm3();
    // The comparison uses the same arithmetic as the volumes, so that equal volumes are always treated equally.
    let keep = |sums: &Sums| sums.voxels as f64 * voxel_mm3 >= min_volume_mm3;
    let outlines = Outlines::new(components, axial_layout(components, geometry), plane_metric(geometry), keep);
    let lesion = |scratch: &mut Scratch, number: usize| -> Result<Option<Lesion>> {
        if number.is_multiple_of(1024) {
            interrupt.check()?;
        }
        let sums = &components.sums[number];
        if !keep(sums) {
            return Ok(None);
        }
        let diameter = outlines.longest_axial_diameter_mm(number, sums, scratch);
        Ok(Some(describe(components, sums, geometry, voxel_mm3, diameter)))
    };
    let count = components.len();
    let found: Vec<Option<Lesion>> = if count < 2_000 || threads == Some(1) {
        let mut scratch = Scratch::default();
        (0..count).map(|number| lesion(&mut scratch, number)).collect::<Result<_>>()?
    } else {
        pool::install(threads, || (0..count).into_par_iter().map_init(Scratch::default, lesion).collect::<Result<_>>())?
    };
    let mut table = LesionTable { rounded: components.rounded, ..Default::default() };
    for (sums, lesion) in components.sums.iter().zip(found) {
        if let Some(lesion) = lesion {
            table.lesions.push(lesion);
        } else {
            table.speck_count += 1;
            table.speck_voxel_count += sums.voxels;
        }
    }
    Ok(table)
}

fn describe(components: &Components, sums: &Sums, geometry: &Geometry, voxel_mm3: f64, diameter: f64) -> Lesion {
    let walk = &components.walk;
    let voxels = sums.voxels as f64;
    let low = walk.to_array(sums.low).map(u64::from);
    let high = walk.to_array(sums.high).map(u64::from);
    let centroid_voxel = walk.to_array(sums.coordinates).map(|sum| sum as f64 / voxels);
    let volume_mm3 = voxels * voxel_mm3;
    let spacing = geometry.spacing();
    Lesion {
        label: sums.label,
        voxel_count: sums.voxels,
        volume_mm3,
        bbox_start: low,
        bbox_stop: high.map(|last| last + 1),
        centroid_voxel,
        centroid_mm: geometry.to_world(centroid_voxel),
        extent_mm: [0, 1, 2].map(|axis| (high[axis] - low[axis] + 1) as f64 * spacing[axis]),
        equivalent_diameter_mm: (6.0 * volume_mm3 / PI).cbrt(),
        longest_axial_diameter_mm: diameter,
        touches_border: (0..3).any(|axis| low[axis] == 0 || high[axis] + 1 == walk.shape[axis] as u64),
    }
}

/// In-plane axes in array order, so that rounding does not depend on the walk order.
fn plane_axes(geometry: &Geometry) -> [usize; 2] {
    match geometry.axial_axis {
        0 => [1, 2],
        1 => [0, 2],
        _ => [0, 1],
    }
}

fn plane_metric(geometry: &Geometry) -> PlaneMetric {
    let [u, v] = plane_axes(geometry);
    PlaneMetric { uu: geometry.dot(u, u), uv: 2.0 * geometry.dot(u, v), vv: geometry.dot(v, v) }
}

fn axial_layout(components: &Components, geometry: &Geometry) -> AxialLayout {
    let order = components.walk.order;
    let slice = order.iter().position(|&axis| axis == geometry.axial_axis).unwrap_or(0);
    // Columns lie along the spans if possible, rows along the other axis.
    let (row, column) = match slice {
        0 => (1, 2),
        1 => (0, 2),
        _ => (0, 1),
    };
    AxialLayout { slice, row, column, row_is_u: order[row] == plane_axes(geometry)[0] }
}
