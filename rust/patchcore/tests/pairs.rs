//! Two masks compared: the fast way gives what the definitions give, voxel by voxel.

use patchcore::pair::Pair;
use patchcore::pool::Interrupt;
use patchcore::surface::{Convention, Distances, Rows, distances};
use patchcore::{Components, Connectivity, Decoder, Kind, View};
use proptest::prelude::*;

type Shape = [usize; 3];

fn at(mask: &[u8], shape: Shape, place: [i64; 3]) -> bool {
    (0..3).all(|axis| (0..shape[axis] as i64).contains(&place[axis]))
        && mask[(place[0] as usize * shape[1] + place[1] as usize) * shape[2] + place[2] as usize] != 0
}

/// All places from −1 to the shape along each axis.
fn places(shape: Shape) -> impl Iterator<Item = [i64; 3]> {
    let [a, b, c] = shape.map(|n| n as i64 + 1);
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| [i, j, k])))
}

fn components(mask: &[u8], shape: Shape, order: [usize; 3], connectivity: Connectivity) -> Components {
    let view = View::from_slice(mask, shape).unwrap();
    let decoder = Decoder::new(Kind::U8, false, None).merged();
    Components::of_view_in(order, &view, &decoder, connectivity, Some(1), &Interrupt::default()).unwrap()
}

fn apart(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt()
}

/// An element of a surface by definition: where its points lie, the box that it takes, its weight per point.
type Element = (Vec<[f64; 3]>, [[f64; 3]; 2], f64);

fn elements(mask: &[u8], shape: Shape, spacing: [f64; 3], convention: Convention) -> Vec<Element> {
    let mm = |place: [f64; 3]| [0, 1, 2].map(|axis| place[axis] * spacing[axis]);
    let mut found = Vec::new();
    for place in places(shape) {
        match convention {
            Convention::Mesh => {
                for normal in 0..3 {
                    let mut other = place;
                    other[normal] -= 1;
                    if at(mask, shape, place) == at(mask, shape, other) {
                        continue;
                    }
                    let low = place.map(|n| n as f64 - 0.5);
                    let mut high = low.map(|n| n + 1.0);
                    high[normal] = low[normal];
                    let centres = [1.0 / 3.0, 2.0 / 3.0]
                        .map(|share| mm([0, 1, 2].map(|axis| low[axis] + if axis == normal { 0.0 } else { share })));
                    let area = spacing[(normal + 1) % 3] * spacing[(normal + 2) % 3];
                    found.push((centres.to_vec(), [mm(low), mm(high)], area / 2.0));
                }
            }
            Convention::Surfel => {
                let inside = (0..8)
                    .filter(|bits| {
                        at(mask, shape, [0, 1, 2].map(|axis| place[axis] - i64::from(bits >> axis & 1 == 0)))
                    })
                    .count();
                if !(1..8).contains(&inside) {
                    continue;
                }
                let corner = mm(place.map(|n| n as f64));
                // The weight is tested on its own; here, only distances.
                found.push((vec![corner], [corner; 2], 1.0));
            }
            Convention::Voxel => {
                let border = (0..3).any(|axis| {
                    [-1, 1].into_iter().any(|step| {
                        let mut other = place;
                        other[axis] += step;
                        !at(mask, shape, other)
                    })
                });
                if at(mask, shape, place) && border {
                    let centre = mm(place.map(|n| n as f64));
                    found.push((vec![centre], [centre; 2], 1.0));
                }
            }
        }
    }
    found
}

/// Distance and weight of every point of `from` to the nearest box of `to`, by distance.
fn directed(from: &[Element], to: &[Element]) -> Vec<(f64, f64)> {
    let mut found = Vec::new();
    for (points, _, weight) in from {
        for &point in points {
            let nearest = to
                .iter()
                .map(|(_, [low, high], _)| apart(point, [0, 1, 2].map(|a| point[a].clamp(low[a], high[a]))))
                .fold(f64::INFINITY, f64::min);
            found.push((nearest, *weight));
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

fn check(measured: &Distances, forward: &[(f64, f64)], backward: &[(f64, f64)], weighted: bool) {
    let largest = forward.last().unwrap().0.max(backward.last().unwrap().0);
    assert!(close(measured.hausdorff_mm(100.0), largest));
    for (found, expected) in [(&measured.forward, forward), (&measured.backward, backward)] {
        let total: f64 = expected.iter().map(|(_, weight)| weight).sum();
        if weighted {
            assert!(close(found.total(), total));
            let mean = expected.iter().map(|(mm, weight)| mm * weight).sum::<f64>() / total;
            assert!(close(found.mean(), mean));
            for tolerance in [0.1, 0.77, 1.9] {
                let within = expected.iter().filter(|(mm, _)| *mm <= tolerance).map(|(_, weight)| weight).sum();
                assert!(close(found.within(tolerance), within));
            }
        }
    }
}

fn masks() -> impl Strategy<Value = (Shape, Vec<u8>, Vec<u8>)> {
    (1usize..6, 1usize..6, 1usize..6).prop_flat_map(|(a, b, c)| {
        let voxels = prop::collection::vec(prop_oneof![2 => Just(0u8), 1 => Just(1u8)], a * b * c);
        (Just([a, b, c]), voxels.clone(), voxels)
    })
}

fn orders() -> impl Strategy<Value = [usize; 3]> {
    prop_oneof![Just([0, 1, 2]), Just([0, 2, 1]), Just([1, 0, 2]), Just([1, 2, 0]), Just([2, 0, 1]), Just([2, 1, 0])]
}

proptest! {
    #[test]
    fn distances_are_those_of_the_definition((shape, first, second) in masks(), order in orders()) {
        let spacing = [0.713, 1.291, 2.477];
        let (a, b) = (components(&first, shape, order, Connectivity::Six), components(&second, shape, order, Connectivity::Six));
        let (a, b) = (Rows::of(&a, |_| true), Rows::of(&b, |_| true));
        prop_assume!(!a.is_empty() && !b.is_empty());
        for convention in [Convention::Mesh, Convention::Surfel, Convention::Voxel] {
            let measured = distances(&a, &b, spacing, convention, &[1.9], Some(1), &Interrupt::default()).unwrap();
            let [own, other] = [&first, &second].map(|mask| elements(mask, shape, spacing, convention));
            check(&measured, &directed(&own, &other), &directed(&other, &own), convention != Convention::Surfel);
        }
    }

    #[test]
    fn what_two_masks_share_is_counted((shape, first, second) in masks(), order in orders()) {
        let pair = Pair::new(
            components(&first, shape, order, Connectivity::TwentySix),
            components(&second, shape, order, Connectivity::Six),
            0,
        ).unwrap();
        let numbers = |components: &Components| {
            let mut painted = vec![0u32; first.len()];
            let walk = components.order();
            components.paint(&mut painted, Some(1), &Interrupt::default()).unwrap();
            // `painted` lies in walk order: bring it to array order.
            let sizes = walk.map(|axis| shape[axis]);
            let mut out = vec![0u32; first.len()];
            for (at, &number) in painted.iter().enumerate() {
                let walked = [at / (sizes[1] * sizes[2]), at / sizes[2] % sizes[1], at % sizes[2]];
                let mut place = [0; 3];
                for (position, &axis) in walk.iter().enumerate() {
                    place[axis] = walked[position];
                }
                out[(place[0] * shape[1] + place[1]) * shape[2] + place[2]] = number;
            }
            out
        };
        let (truth, prediction) = (numbers(pair.truth()), numbers(pair.prediction()));
        let mut shared = std::collections::BTreeMap::new();
        for (&a, &b) in truth.iter().zip(&prediction) {
            if a > 0 && b > 0 {
                *shared.entry((a - 1, b - 1)).or_insert(0u64) += 1;
            }
        }
        prop_assert_eq!(pair.overlaps(), shared.into_iter().map(|((a, b), n)| (a, b, n)).collect::<Vec<_>>());

        // Voronoi regions: the nearest true voxel, and among equally near ones that with the smallest last, middle and
        // first index.
        let spacing = [1.0, 1.0, 2.0];
        let place = |at: usize| [at / (shape[1] * shape[2]), at / shape[2] % shape[1], at % shape[2]].map(|n| n as f64);
        let mut expected = vec![0u64; pair.truth().len()];
        let predicted = (0..first.len()).filter(|&at| prediction[at] > 0 && !pair.truth().is_empty());
        for at in predicted {
            let mm = |at: usize| [0, 1, 2].map(|axis| place(at)[axis] * spacing[axis]);
            let key = |&other: &usize| {
                let [i, j, k] = place(other);
                (apart(mm(at), mm(other)), k, j, i)
            };
            let nearest = (0..first.len()).filter(|&other| truth[other] > 0).min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap());
            expected[truth[nearest.unwrap()] as usize - 1] += 1;
        }
        prop_assert_eq!(pair.nearest_voxels(spacing, &Interrupt::default()).unwrap(), expected);

        // Dilation.
        for iterations in 0..3 {
            let mut grown = first.clone();
            for _ in 0..iterations {
                let before = grown.clone();
                for (at_voxel, voxel) in grown.iter_mut().enumerate() {
                    let here = place(at_voxel).map(|n| n as i64);
                    *voxel = u8::from((0..27).any(|n| {
                        let step = [n / 9 - 1, n / 3 % 3 - 1, n % 3 - 1];
                        step.iter().map(|s: &i64| s.abs()).sum::<i64>() <= 2
                            && at(&before, shape, [0, 1, 2].map(|axis| here[axis] + step[axis]))
                    }));
                }
            }
            let (groups, reached) = pair.dilated(iterations).unwrap();
            let whole = components(&grown, shape, order, Connectivity::TwentySix);
            let group = numbers(&whole);
            for (voxel, &number) in truth.iter().enumerate() {
                if number > 0 {
                    prop_assert_eq!(groups[number as usize - 1], group[voxel] - 1);
                }
            }
            let total: u64 = reached.iter().map(|&(_, _, n)| n).sum();
            prop_assert_eq!(total, group.iter().zip(&prediction).filter(|(a, b)| **a > 0 && **b > 0).count() as u64);
        }
    }

    #[test]
    fn small_components_are_dropped((shape, first, second) in masks(), least in 2u64..6) {
        let all = components(&first, shape, [0, 1, 2], Connectivity::Six);
        let expected: Vec<u64> = all.label_voxels().into_iter().map(|(_, voxels)| voxels).filter(|&n| n >= least).collect();
        // Predicted voxels on true specks are remembered.
        let pair = Pair::new(
            components(&first, shape, [0, 1, 2], Connectivity::Six),
            components(&second, shape, [0, 1, 2], Connectivity::Six),
            least,
        ).unwrap();
        let whole = Pair::new(
            components(&first, shape, [0, 1, 2], Connectivity::Six),
            components(&second, shape, [0, 1, 2], Connectivity::Six),
            0,
        ).unwrap();
        let sizes = [whole.truth(), whole.prediction()].map(Components::label_voxels);
        let shared = |kept_truth: bool| -> u64 {
            whole.overlaps().into_iter()
                .filter(|&(a, b, _)| (sizes[0][a as usize].1 >= least) == kept_truth && sizes[1][b as usize].1 >= least)
                .map(|(_, _, n)| n)
                .sum()
        };
        prop_assert_eq!(pair.on_specks().iter().sum::<u64>(), shared(false));
        prop_assert_eq!(pair.overlaps().into_iter().map(|(_, _, n)| n).sum::<u64>(), shared(true));
        let kept = all.with_at_least(least);
        prop_assert_eq!(kept.label_voxels().into_iter().map(|(_, n)| n).collect::<Vec<_>>(), expected.clone());
        let mut painted = vec![0u32; first.len()];
        kept.paint(&mut painted, Some(1), &Interrupt::default()).unwrap();
        for (number, &voxels) in expected.iter().enumerate() {
            prop_assert_eq!(painted.iter().filter(|&&n| n as usize == number + 1).count() as u64, voxels);
        }
        prop_assert_eq!(painted.iter().filter(|&&n| n > 0).count() as u64, expected.iter().sum::<u64>());
    }
}
