//! Tests against sums in float64, one value at a time.

use proptest::prelude::*;

use super::Norm;

/// What the norm should give: output, gradient of x, gradient of the residual. The side of the activation's bend is
/// taken from `out`, because rounding decides it for values near 0.
fn expected(norm: Norm, x: &[f32], residual: &[f32], gradient: &[f32], out: &[f32], eps: f64) -> [Vec<f64>; 3] {
    let per_sample = x.len() / norm.samples;
    let voxels = (per_sample / norm.channels) as f64;
    let mut all = [vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; x.len()]];
    for sample in 0..norm.samples {
        for channel in 0..norm.channels {
            let places: Vec<usize> =
                (sample * per_sample..(sample + 1) * per_sample).filter(|n| n % norm.channels == channel).collect();
            let mean = places.iter().map(|&n| f64::from(x[n])).sum::<f64>() / voxels;
            let variance = places.iter().map(|&n| (f64::from(x[n]) - mean).powi(2)).sum::<f64>() / voxels;
            let scale = 1.0 / (variance + eps).sqrt();
            let normed = |n: usize| (f64::from(x[n]) - mean) * scale;
            let before = |n: usize| normed(n) + f64::from(residual[n]);
            let slope = |n: usize| if out[n] > 0.0 { 1.0 } else { f64::from(norm.slope) };
            let inner = |n: usize| f64::from(gradient[n]) * slope(n);
            let one = places.iter().map(|&n| inner(n)).sum::<f64>() / voxels;
            let two = places.iter().map(|&n| inner(n) * normed(n)).sum::<f64>() / voxels;
            for &n in &places {
                all[0][n] = before(n) * slope(n);
                all[1][n] = (inner(n) - one - normed(n) * two) * scale;
                all[2][n] = inner(n);
            }
        }
    }
    all
}

fn got(norm: Norm, x: &[f32], residual: &[f32], gradient: &[f32], eps: f64) -> [Vec<f32>; 3] {
    let mut statistics = vec![0.0; 2 * norm.samples * norm.channels];
    let mut all = [vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; x.len()]];
    let [out, of_x, of_residual] = &mut all;
    norm.forward(x, Some(residual), out, &mut statistics, eps).unwrap();
    norm.backward(x, Some(out), gradient, &statistics, of_x, Some(of_residual)).unwrap();
    all
}

/// Values between -2 and 2 that do not repeat.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let step = |n: u64| (n + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (0..count as u64).map(|n| step(n) as f32 / (1 << 22) as f32 - 2.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn it_equals_the_formula(
        samples in 1usize..4,
        channels in prop_oneof![1usize..40, Just(64), Just(130), Just(192)],
        voxels in 2usize..900,
        activated in any::<bool>(),
        offset in prop_oneof![Just(0f32), Just(100.0)],
    ) {
        let norm = Norm { samples, channels, slope: if activated { 0.01 } else { 1.0 }, threads: 2 };
        let count = samples * channels * voxels;
        let x: Vec<f32> = noise(count, 1).into_iter().map(|value| value + offset).collect();
        let (residual, gradient) = (noise(count, 2), noise(count, 3));
        // With two voxels that are nearly equal, a large scale makes rounding visible; a larger eps limits it.
        let ours = got(norm, &x, &residual, &gradient, 0.1);
        let theirs = expected(norm, &x, &residual, &gradient, &ours[0], 0.1);
        for which in 0..3 {
            for n in 0..count {
                let difference = (f64::from(ours[which][n]) - theirs[which][n]).abs();
                prop_assert!(difference < 2e-4, "{which} {n}: {} {}", ours[which][n], theirs[which][n]);
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let count = 2 * 8 * 40_000;
    let (x, residual, gradient) = (noise(count, 4), noise(count, 5), noise(count, 6));
    let with = |threads| got(Norm { samples: 2, channels: 8, slope: 0.01, threads }, &x, &residual, &gradient, 1e-5);
    let one = with(1);
    for threads in [2, 3, 64] {
        assert!(with(threads) == one, "{threads}");
    }
}

#[test]
fn without_a_residual_or_an_activation_nothing_else_changes() {
    let (channels, count) = (12, 12 * 333);
    let (x, gradient, zeros) = (noise(count, 7), noise(count, 8), vec![0.0; count]);
    for slope in [0.01, 1.0] {
        let norm = Norm { samples: 1, channels, slope, threads: 1 };
        let [with, with_gradient, _] = got(norm, &x, &zeros, &gradient, 1e-5);
        let (mut out, mut of_x, mut statistics) = (vec![0.0; count], vec![0.0; count], vec![0.0; 2 * channels]);
        norm.forward(&x, None, &mut out, &mut statistics, 1e-5).unwrap();
        let signs = (slope < 1.0).then_some(out.as_slice());
        norm.backward(&x, signs, &gradient, &statistics, &mut of_x, None).unwrap();
        assert!(out == with && of_x == with_gradient);
    }
}

#[test]
fn lengths_that_do_not_agree_are_errors() {
    let norm = Norm { samples: 2, channels: 3, slope: 0.01, threads: 1 };
    let (x, mut out, mut statistics) = (vec![1.0; 24], vec![0.0; 24], vec![0.0; 12]);
    assert!(norm.forward(&x[..23], None, &mut out[..23], &mut statistics, 0.0).is_err());
    assert!(norm.forward(&x, None, &mut out[..18], &mut statistics, 0.0).is_err());
    assert!(norm.forward(&x, Some(&x[..6]), &mut out, &mut statistics, 0.0).is_err());
    assert!(norm.forward(&x, None, &mut out, &mut statistics[..6], 0.0).is_err());
    assert!(norm.forward(&[], None, &mut [], &mut statistics, 0.0).is_err());
    assert!(norm.backward(&x, None, &x, &statistics, &mut out, None).is_err());
    assert!(norm.backward(&x, Some(&x), &x[..6], &statistics, &mut out, None).is_err());
    assert!(Norm { samples: 0, ..norm }.forward(&x, None, &mut out, &mut statistics, 0.0).is_err());
}
