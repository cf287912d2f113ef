//! Tests that windows cover their volume, and that extracting and blending them returns the volume.

#![allow(clippy::float_cmp)] // these values are exact

use patchcore::Error;
use patchcore::view::View;
use patchcore::windows::blend::{Layout, accumulate, finish};
use patchcore::windows::extract::{Intensity, Target, extract};
use patchcore::windows::grid::{gaussian_importance, window_grid};
use proptest::prelude::*;

/// Extract every window of a grid and blend them back. Also returns the sum of weights at each voxel.
fn round_trip(
    values: &[i16],
    shape: [usize; 3],
    window: [usize; 3],
    overlap: f64,
    importance: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let corners = window_grid(shape.map(|n| n as i64), window.map(|n| n as i64), [overlap; 3]).unwrap();
    let volumes = vec![View::from_slice(values, shape).unwrap(); corners.len()];
    let mut batch = vec![0.0; corners.len() * window.iter().product::<usize>()];
    let images = Target { volumes: &volumes, corners: &corners, out: &mut batch };
    extract(images, Intensity::Raw(0.0), None, window, None).unwrap();
    let (mut sum, mut weight) = (vec![0.0; values.len()], vec![0.0; values.len()]);
    let layout = Layout { channels: 1, shape, window };
    accumulate(layout, &corners, &batch, importance, &mut sum, &mut weight, None).unwrap();
    finish(&mut sum, &weight, None).unwrap();
    (sum, weight)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn extract_then_blend_is_the_identity(
        shape in prop::array::uniform3(1usize..24),
        window in prop::array::uniform3(1usize..12),
        overlap in 0.0f64..0.8,
        seed: u64,
    ) {
        let mut stream = patchcore::philox::Stream::new(seed, 0, 0, 0);
        let values: Vec<i16> = (0..shape.iter().product()).map(|_| (stream.below(4096)) as i16 - 1024).collect();
        // Sums of equally weighted 12-bit integers are exact in float32, so their mean is too.
        let (constant, covering) = round_trip(&values, shape, window, overlap, &vec![1.0; window.iter().product()]);
        prop_assert!(constant.iter().zip(&values).all(|(&blended, &value)| blended == f32::from(value)));
        let weights = gaussian_importance(window, [0.125; 3]).unwrap();
        let (gaussian, _) = round_trip(&values, shape, window, overlap, &weights);
        // n positive terms in the numerator and in the denominator: at most (2n + 1) float32 roundings, relative to the
        // value.
        for ((&blended, &value), &n) in gaussian.iter().zip(&values).zip(&covering) {
            let value = f32::from(value);
            prop_assert!((blended - value).abs() <= (n + 1.0) * f32::EPSILON * value.abs(), "{blended} {value} {n}");
        }
    }
}

#[test]
fn channels_are_kept_apart_and_threads_change_nothing() {
    let layout = Layout { channels: 3, shape: [70, 64, 66], window: [40, 40, 40] };
    let corners = window_grid([70, 64, 66], [40, 40, 40], [0.5; 3]).unwrap();
    let count = corners.len() * 3 * 64_000;
    let predictions: Vec<f32> = (0..count).map(|n| (n / 64_000 % 3) as f32 + 1.0).collect();
    let importance = gaussian_importance([40; 3], [0.125; 3]).unwrap();
    let run = |threads| {
        let volume = 70 * 64 * 66;
        let (mut sum, mut weight) = (vec![0.0; 3 * volume], vec![0.0; volume]);
        accumulate(layout, &corners, &predictions, &importance, &mut sum, &mut weight, threads).unwrap();
        finish(&mut sum, &weight, threads).unwrap();
        for (channel, values) in sum.chunks(volume).enumerate() {
            assert!(values.iter().all(|value| (value - (channel as f32 + 1.0)).abs() < 1e-5));
        }
        sum
    };
    assert_eq!(run(Some(1)), run(Some(3)));
}

#[test]
fn a_voxel_no_window_covered_is_told_and_nothing_is_divided() {
    let mut sum = [2.0, 4.0, 6.0];
    let error = finish(&mut sum, &[2.0, 0.0, 2.0], None).unwrap_err();
    assert!(matches!(&error, Error::Window(text) if text.contains("1 of 3 voxels")), "{error}");
    assert_eq!(sum, [2.0, 4.0, 6.0]);
}

#[test]
fn grids_are_those_of_monai() {
    // monai.data.utils.dense_patch_slices with the interval of sliding_window_inference.
    let starts = |extent, window, overlap| -> Vec<i64> {
        window_grid([extent, 1, 1], [window, 1, 1], [overlap, 0.0, 0.0]).unwrap().iter().map(|c| c[0]).collect()
    };
    assert_eq!(starts(10, 4, 0.5), [0, 2, 4, 6]);
    assert_eq!(starts(11, 4, 0.5), [0, 2, 4, 6, 7]);
    assert_eq!(starts(11, 4, 0.25), [0, 3, 6, 7]);
    assert_eq!(starts(4, 4, 0.9), [0]);
    assert_eq!(starts(5, 4, 0.99), [0, 1]);
    assert_eq!(starts(5, 8, 0.5), [-1]);
    let corners = window_grid([4, 3, 2], [4, 2, 1], [0.5; 3]).unwrap();
    assert_eq!(corners, [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]);
}

#[test]
fn a_grid_that_cannot_be_is_refused() {
    assert!(window_grid([4; 3], [0, 4, 4], [0.5; 3]).is_err());
    assert!(window_grid([4; 3], [4; 3], [1.0; 3]).is_err());
    assert!(window_grid([4; 3], [4; 3], [f64::NAN; 3]).is_err());
    assert!(gaussian_importance([4; 3], [0.0; 3]).is_err());
}
