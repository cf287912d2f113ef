//! Moran's I and Geary's C: whether voxels that are near each other have similar intensities.

use rustfft::FftPlannerScalar;
use rustfft::num_complex::Complex;

use super::{Region, place};
use crate::error::{Result, room};

/// Up to so many voxels every pair is looked at; beyond, sums over pairs are convolutions.
const MOST_PAIRWISE: usize = 2048;

/// Return Moran's I and Geary's C with weights of one over the distance, of the voxels `used`.
pub(super) fn correlation(region: &Region<'_>, used: &[usize]) -> Result<(f64, f64)> {
    let count = used.len() as f64;
    let mean = used.iter().map(|&at| region.image[at]).sum::<f64>() / count;
    let squares: f64 = used.iter().map(|&at| (region.image[at] - mean).powi(2)).sum();
    if used.len() < 2 || squares == 0.0 {
        return Ok((f64::NAN, f64::NAN));
    }
    // Sums over pairs of weight, weight × product of deviations, weight × squared deviation of the first.
    let (weights, products, own) =
        if used.len() <= MOST_PAIRWISE { pairwise(region, used, mean) } else { convolved(region, used, mean)? };
    let moran = count / weights * products / squares;
    let geary = (count - 1.0) / (2.0 * weights) * (2.0 * own - 2.0 * products) / squares;
    Ok((moran, geary))
}

fn pairwise(region: &Region<'_>, used: &[usize], mean: f64) -> (f64, f64, f64) {
    let voxels: Vec<([f64; 3], f64)> = used
        .iter()
        .map(|&at| {
            let here = place(region.shape, at);
            ([0, 1, 2].map(|axis| here[axis] as f64 * region.spacing[axis]), region.image[at] - mean)
        })
        .collect();
    let (mut weights, mut products, mut own) = (0.0, 0.0, 0.0);
    for (at, (a, x)) in voxels.iter().enumerate() {
        for (b, y) in &voxels[..at] {
            let squared: f64 = (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum();
            let weight = 1.0 / squared.sqrt();
            weights += 2.0 * weight;
            products += 2.0 * weight * x * y;
            own += weight * (x * x + y * y);
        }
    }
    (weights, products, own)
}

fn convolved(region: &Region<'_>, used: &[usize], mean: f64) -> Result<(f64, f64, f64)> {
    // The box of the voxels, and as much room beside it, so that the ends of a convolution do not meet.
    let places: Vec<[isize; 3]> = used.iter().map(|&at| place(region.shape, at)).collect();
    let low = [0, 1, 2].map(|axis| places.iter().map(|place| place[axis]).min().unwrap_or(0));
    let used_size = [0, 1, 2].map(|axis| {
        let high = places.iter().map(|place| place[axis]).max().unwrap_or(0);
        (high - low[axis] + 1) as usize
    });
    let size = used_size.map(|length| smooth(2 * length));
    let count = size.iter().product();
    let grid = || -> Result<Vec<Complex<f64>>> {
        let mut grid = room(Some(count), "the pairs of voxels of a region")?;
        grid.resize(count, Complex::default());
        Ok(grid)
    };
    let at = |place: &[isize; 3]| {
        let [x, y, z] = [0, 1, 2].map(|axis| (place[axis] - low[axis]) as usize);
        (x * size[1] + y) * size[2] + z
    };
    let mut kernel = grid()?;
    for x in 0..size[0] {
        for y in 0..size[1] {
            for z in 0..size[2] {
                // Steps backwards lie at the far end.
                let squared: f64 = [x, y, z]
                    .into_iter()
                    .enumerate()
                    .map(|(axis, step)| (step.min(size[axis] - step) as f64 * region.spacing[axis]).powi(2))
                    .sum();
                kernel[(x * size[1] + y) * size[2] + z].re = if squared > 0.0 { 1.0 / squared.sqrt() } else { 0.0 };
            }
        }
    }
    // The mask is the real part and the deviation the imaginary one: both are convolved at once.
    let mut field = grid()?;
    for (&voxel, place) in used.iter().zip(&places) {
        field[at(place)] = Complex::new(1.0, region.image[voxel] - mean);
    }
    let mut planner = FftPlannerScalar::new();
    transform(&mut kernel, size, &mut planner, None)?;
    transform(&mut field, size, &mut planner, None)?;
    for (value, weight) in field.iter_mut().zip(&kernel) {
        *value *= weight;
    }
    transform(&mut field, size, &mut planner, Some(used_size))?;
    let (mut weights, mut products, mut own) = (0.0, 0.0, 0.0);
    for (&voxel, place) in used.iter().zip(&places) {
        let around = field[at(place)] / count as f64;
        let deviation = region.image[voxel] - mean;
        weights += around.re;
        products += around.im * deviation;
        own += around.re * deviation * deviation;
    }
    Ok((weights, products, own))
}

/// The next number with only small factors, for which the transform is quick.
fn smooth(least: usize) -> usize {
    (least..=2 * least)
        .find(|&number| {
            let mut rest = number;
            for factor in [2, 3, 5] {
                while rest % factor == 0 {
                    rest /= factor;
                }
            }
            rest == 1
        })
        .unwrap_or(least)
}

/// Transform a grid in place; backwards if `back` is given, and then only its first `back` values along each axis count.
///
/// Most of a grid is room for the convolution: lines of zeros are not transformed, nor lines that nobody reads.
fn transform(
    grid: &mut [Complex<f64>],
    size: [usize; 3],
    planner: &mut FftPlannerScalar<f64>,
    back: Option<[usize; 3]>,
) -> Result<()> {
    for axis in if back.is_some() { [2, 1, 0] } else { [0, 1, 2] } {
        let length = size[axis];
        let stride: usize = size[axis + 1..].iter().product();
        let plan = if back.is_some() { planner.plan_fft_inverse(length) } else { planner.plan_fft_forward(length) };
        let mut line = room(Some(length), "a line of a transform")?;
        line.resize(length, Complex::default());
        let mut scratch = vec![Complex::default(); plan.get_inplace_scratch_len()];
        for first in 0..grid.len() / length {
            // The place on the later axes, which are transformed back already.
            let after = first % stride;
            let is_read = |[_, y, z]: [usize; 3]| match axis {
                0 => after / size[2] < y && after % size[2] < z,
                1 => after < z,
                _ => true,
            };
            if !back.is_none_or(is_read) {
                continue;
            }
            let begin = first / stride * stride * length + after;
            let mut is_zero = true;
            for (at, value) in line.iter_mut().enumerate() {
                *value = grid[begin + at * stride];
                is_zero &= *value == Complex::ZERO;
            }
            if is_zero {
                continue;
            }
            plan.process_with_scratch(&mut line, &mut scratch);
            for (at, value) in line.iter().enumerate() {
                grid[begin + at * stride] = *value;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_give_the_same() {
        let shape = [7, 9, 5];
        let count = shape.iter().product();
        let image: Vec<f64> = (0..count).map(|at| f64::from((at * 37 % 101) as u8)).collect();
        let mask: Vec<bool> = (0..count).map(|at| at % 3 != 1).collect();
        let region = Region { shape, image: &image, mask: &mask, spacing: [0.7, 1.0, 2.5] };
        let used: Vec<usize> = (0..count).filter(|&at| mask[at]).collect();
        let (a, b) = (pairwise(&region, &used, 40.0), convolved(&region, &used, 40.0).unwrap());
        for (x, y) in [(a.0, b.0), (a.1, b.1), (a.2, b.2)] {
            assert!((x - y).abs() < 1e-9 * x.abs().max(1.0), "{x} {y}");
        }
    }
}
