//! Tests that windows are drawn in the declared proportions, contain their target voxel, and depend on nothing else.

use patchcore::Error;
use patchcore::sampler::{Case, Draw, HardPoint, Kind, LesionSpans, Sampler, Shares};
use proptest::prelude::*;

fn case(shape: [i64; 3], lesion: &[i32], origin: &[[i32; 3]], length: &[i32], axis: usize) -> Case {
    let lesion_count = lesion.last().map_or(0, |&last| last as usize + 1);
    Case::new(shape, LesionSpans { lesion, origin, length, axis, lesion_count }).unwrap()
}

fn sampler(cases: Vec<Case>, window: [i64; 3], seed: u64, lesion: f64, alpha: f64) -> Sampler {
    Sampler::new(cases, window, seed, Shares { lesion, ..Shares::default() }, alpha, Vec::new()).unwrap()
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
    let sampler = sampler(two_cases(), window, 0, 1.0, 0.5);
    let mut of_first = Vec::new();
    for draw in draws(&sampler, 4000) {
        let (lesion, voxel) = (draw.lesion.unwrap(), draw.voxel.unwrap());
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
    let sampler = sampler(two_cases(), [4, 4, 4], 1, share, alpha);
    let mut observed = [0f64; 9];
    for draw in draws(&sampler, count) {
        observed[match draw.lesion {
            Some(lesion) => 2 * draw.case + lesion,
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
fn every_kind_gets_its_share_and_holds_what_it_is_for() {
    let organ =
        LesionSpans { lesion: &[0, 0], origin: &[[1, 2, 3], [30, 2, 3]], length: &[9, 1], axis: 0, lesion_count: 1 };
    let mut cases = two_cases();
    let with_organ = cases.remove(0).with_organ(organ).unwrap();
    cases.insert(0, with_organ);
    let hard = |case, voxel, weight| HardPoint { case, voxel, weight };
    let points = vec![hard(1, [5, 80, 11], 1.0), hard(2, [0, 0, 0], 3.0), hard(0, [7, 7, 7], 0.0)];
    let shares = Shares { lesion: 0.3, organ: 0.2, hard: 0.1, lesion_free: 0.15 };
    let sampler = Sampler::new(cases, [4, 4, 4], 5, shares, 0.5, points).unwrap();
    let mut observed = [0f64; 5];
    let mut by_point = [0f64; 2];
    let mut organ_voxels = [0u32; 2];
    let count = 40_000;
    for draw in draws(&sampler, count) {
        observed[draw.kind as usize] += 1.0;
        if let Some(voxel) = draw.voxel {
            assert!((0..3).all(|axis| (draw.corner[axis]..draw.corner[axis] + 4).contains(&voxel[axis])), "{draw:?}");
        }
        match draw.kind {
            Kind::Organ => {
                assert_eq!(draw.case, 0);
                organ_voxels[usize::from(draw.voxel.unwrap()[0] == 30)] += 1;
            }
            Kind::Hard => by_point[draw.case - 1] += 1.0,
            Kind::LesionFree => assert_eq!(draw.case, 2),
            Kind::Lesion => assert!(draw.lesion.is_some()),
            Kind::Anywhere => assert!(draw.voxel.is_none()),
        }
    }
    let expected = [0.25, 0.3, 0.2, 0.1, 0.15].map(|share| share * f64::from(count));
    let chi_square: f64 = observed.iter().zip(expected).map(|(o, e)| (o - e).powi(2) / e).sum();
    // The 99.9 % point of chi-square with 4 degrees of freedom.
    assert!(chi_square < 18.5, "{chi_square}: {observed:?}");
    assert!((by_point[1] / by_point[0] - 3.0).abs() < 0.4, "{by_point:?}");
    assert!((f64::from(organ_voxels[0]) / f64::from(organ_voxels[1]) - 9.0).abs() < 1.5, "{organ_voxels:?}");
}

#[test]
fn shares_of_what_is_not_there_are_refused() {
    let refused = |shares: Shares, points: Vec<HardPoint>, part: &str| {
        let mut cases = two_cases();
        cases.truncate(2);
        let error = Sampler::new(cases, [4; 3], 0, shares, 0.5, points).unwrap_err();
        assert!(matches!(&error, Error::Argument(text) if text.contains(part)), "{error} lacks {part:?}");
    };
    let none = Shares::default();
    refused(Shares { organ: 0.1, ..none }, vec![], "no case has the organ");
    refused(Shares { hard: 0.1, ..none }, vec![], "no hard point");
    refused(Shares { lesion_free: 0.1, ..none }, vec![], "every case has a lesion");
    refused(Shares { lesion: 0.6, hard: 0.5, ..none }, vec![], "add up to 1.1");
    refused(Shares { lesion: -0.1, ..none }, vec![], "lesion_share -0.1");
    refused(none, vec![HardPoint { case: 2, voxel: [0; 3], weight: 1.0 }], "hard point 0");
    refused(none, vec![HardPoint { case: 0, voxel: [40, 0, 0], weight: 1.0 }], "hard point 0");
    refused(none, vec![HardPoint { case: 0, voxel: [0; 3], weight: f64::NAN }], "hard point 0");
}

#[test]
fn cases_without_lesions_are_drawn_uniformly_alone() {
    let cases = || vec![case([8, 8, 8], &[], &[], &[], 0), case([20, 8, 8], &[], &[], &[], 0)];
    let sampler = sampler(cases(), [10, 8, 4], 0, 1.0, 0.0);
    let draws = draws(&sampler, 2000);
    assert!(draws.iter().all(|draw| draw.lesion.is_none()));
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
    /// For all sizes, a window lies in its volume, or contains the whole volume if the volume is smaller.
    #[test]
    fn windows_stay_with_their_volume(
        shape in prop::array::uniform3(1i64..40),
        window in prop::array::uniform3(1i64..50),
        place in prop::array::uniform3(0.0f64..1.0),
        seed: u64,
        step in 0u64..1 << 56,
    ) {
        let origin = [0, 1, 2].map(|axis| (shape[axis] as f64 * place[axis]) as i32);
        let sampler = sampler(vec![case(shape, &[0], &[origin], &[1], 0)], window, seed, 0.5, 0.5);
        for position in 0..16 {
            let draw = sampler.draw(step, position).unwrap();
            for axis in 0..3 {
                let (start, stop) = (draw.corner[axis], draw.corner[axis] + window[axis]);
                prop_assert!((start >= 0 && stop <= shape[axis]) || (start <= 0 && stop >= shape[axis]));
                if let Some(voxel) = draw.voxel {
                    prop_assert_eq!(voxel[axis], i64::from(origin[axis]));
                    prop_assert!((start..stop).contains(&voxel[axis]));
                }
            }
        }
    }
}

#[test]
fn lesions_of_a_window_are_those_with_a_voxel_in_it() {
    let sampler = sampler(two_cases(), [4, 4, 4], 0, 0.5, 0.5);
    let seen = |case, corner| sampler.lesions_in(case, corner).unwrap();
    assert_eq!(seen(0, [0, 0, 0]), [0]);
    // Within the bounding box of the first lesion, but next to its spans.
    assert_eq!(seen(0, [1, 3, 5]), [] as [usize; 0]);
    assert_eq!(seen(0, [1, 3, 4]), [0]);
    assert_eq!(seen(0, [36, 26, 18]), [1]);
    assert_eq!(seen(0, [i64::MAX, 0, 0]), [] as [usize; 0]);
    assert_eq!(seen(1, [4, 5, 5]), [0]);
    assert_eq!(seen(2, [0, 0, 0]), [] as [usize; 0]);
    assert!(sampler.lesions_in(3, [0; 3]).is_err());
}
