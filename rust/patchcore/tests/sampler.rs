//! Windows are drawn in the declared proportions, hold what they were drawn for, and depend on nothing else.

use patchcore::Error;
use patchcore::sampler::{Case, Draw, LesionSpans, Sampler};
use proptest::prelude::*;

fn case(shape: [i64; 3], lesion: &[i32], origin: &[[i32; 3]], length: &[i32], axis: usize) -> Case {
    let lesion_count = lesion.last().map_or(0, |&last| last as usize + 1);
    Case::new(shape, LesionSpans { lesion, origin, length, axis, lesion_count }).unwrap()
}

fn two_cases() -> Vec<Case> {
    vec![
        case([40, 30, 20], &[0, 0, 1], &[[1, 2, 3], [1, 3, 3], [39, 29, 10]], &[4, 2, 10], 2),
        case([10, 90, 12], &[0, 1, 2, 3], &[[2, 5, 5], [2, 20, 5], [2, 50, 11], [9, 89, 0]], &[3, 1, 5, 1], 0),
        case([8, 8, 8], &[], &[], &[], 1),
    ]
}

fn draws(sampler: &Sampler, count: u32) -> Vec<Draw> {
    (0..count).map(|position| sampler.draw(0, position).unwrap()).collect()
}

#[test]
fn lesion_windows_hold_their_voxel_and_the_voxel_is_of_the_lesion() {
    let window = [16, 16, 16];
    let sampler = Sampler::new(two_cases(), window, 0, 1.0, 0.5).unwrap();
    let mut of_first = Vec::new();
    for draw in draws(&sampler, 4000) {
        let (lesion, voxel) = draw.target.unwrap();
        assert!((0..3).all(|axis| (draw.corner[axis]..draw.corner[axis] + window[axis]).contains(&voxel[axis])));
        if (draw.case, lesion) == (0, 0) {
            of_first.push(voxel);
        }
    }
    of_first.sort_unstable();
    of_first.dedup();
    let expected = [[1, 2, 3], [1, 2, 4], [1, 2, 5], [1, 2, 6], [1, 3, 3], [1, 3, 4]];
    assert_eq!(of_first, expected);
}

#[test]
fn proportions_are_the_declared_ones() {
    let (share, alpha, count) = (0.5, 0.5, 60_000);
    let sampler = Sampler::new(two_cases(), [4, 4, 4], 1, share, alpha).unwrap();
    let mut observed = [0f64; 9];
    for draw in draws(&sampler, count) {
        observed[match draw.target {
            Some((lesion, _)) => 2 * draw.case + lesion,
            None => 6 + draw.case,
        }] += 1.0;
    }
    let total = 2f64.sqrt() + 4f64.sqrt();
    let (first, second) = (share * 2f64.sqrt() / total / 2.0, share * 2.0 / total / 4.0);
    let uniform = (1.0 - share) / 3.0;
    let expected = [first, first, second, second, second, second, uniform, uniform, uniform];
    let chi_square: f64 = observed
        .iter()
        .zip(expected.map(|p| p * f64::from(count)))
        .map(|(observed, expected)| (observed - expected).powi(2) / expected)
        .sum();
    // The 99.9 % point of chi-square with 8 degrees of freedom.
    assert!(chi_square < 26.1, "{chi_square}: {observed:?}");
}

#[test]
fn cases_without_lesions_are_drawn_uniformly_alone() {
    let cases = || vec![case([8, 8, 8], &[], &[], &[], 0), case([20, 8, 8], &[], &[], &[], 0)];
    let sampler = Sampler::new(cases(), [10, 8, 4], 0, 1.0, 0.0).unwrap();
    let draws = draws(&sampler, 2000);
    assert!(draws.iter().all(|draw| draw.target.is_none()));
    let mut of_first: Vec<i64> = draws.iter().filter(|draw| draw.case == 0).map(|draw| draw.corner[0]).collect();
    of_first.sort_unstable();
    of_first.dedup();
    assert_eq!(of_first, [-2, -1, 0]);
}

#[test]
fn wrong_spans_are_refused() {
    let refused = |lesion: &[i32], origin: &[[i32; 3]], length: &[i32], axis, lesion_count, part: &str| {
        let spans = LesionSpans { lesion, origin, length, axis, lesion_count };
        let error = Case::new([5, 5, 5], spans).unwrap_err();
        assert!(matches!(&error, Error::Argument(text) if text.contains(part)), "{error} lacks {part:?}");
    };
    refused(&[0], &[[0, 0, 3]], &[3], 2, 1, "leaves the volume");
    refused(&[0], &[[0, 0, 3]], &[0], 2, 1, "leaves the volume");
    refused(&[0], &[[-1, 0, 3]], &[1], 2, 1, "leaves the volume");
    refused(&[1, 0], &[[0; 3]; 2], &[1, 1], 2, 2, "sorted by lesion");
    refused(&[0, 2], &[[0; 3]; 2], &[1, 1], 2, 3, "sorted by lesion");
    refused(&[0, 1], &[[0; 3]; 2], &[1, 1], 2, 1, "every lesion from 0 to 0");
    refused(&[0], &[[0; 3]], &[1], 2, 2, "lesion 1 of 2 has no span");
    refused(&[0], &[[0; 3]], &[1], 3, 1, "span axis 3");
    refused(&[0], &[[0; 3]], &[1, 1], 2, 1, "2 lengths");
}

proptest! {
    /// Whatever the sizes: a window lies in its volume, or holds all of it where the volume is smaller.
    #[test]
    fn windows_stay_with_their_volume(
        shape in prop::array::uniform3(1i64..40),
        window in prop::array::uniform3(1i64..50),
        place in prop::array::uniform3(0.0f64..1.0),
        seed: u64,
        step in 0u64..1 << 56,
    ) {
        let origin = [0, 1, 2].map(|axis| (shape[axis] as f64 * place[axis]) as i32);
        let sampler = Sampler::new(vec![case(shape, &[0], &[origin], &[1], 0)], window, seed, 0.5, 0.5).unwrap();
        for position in 0..16 {
            let draw = sampler.draw(step, position).unwrap();
            for axis in 0..3 {
                let (start, stop) = (draw.corner[axis], draw.corner[axis] + window[axis]);
                prop_assert!((start >= 0 && stop <= shape[axis]) || (start <= 0 && stop >= shape[axis]));
                if let Some((_, voxel)) = draw.target {
                    prop_assert_eq!(voxel[axis], i64::from(origin[axis]));
                    prop_assert!((start..stop).contains(&voxel[axis]));
                }
            }
        }
    }
}
