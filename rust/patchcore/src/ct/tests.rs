//! Compares the fast implementation with a naive one.

use proptest::prelude::*;

use super::*;

fn naive_around(shape: [usize; 3], spans: &[LesionSpan], spacing: [f64; 3], radius: f64) -> (Vec<bool>, Vec<bool>) {
    let at = |i: usize, j: usize, k: usize| (k * shape[1] + j) * shape[0] + i;
    let mut within = vec![false; shape.iter().product()];
    for span in spans {
        for i in span.origin[0]..span.origin[0] + span.length {
            within[at(i, span.origin[1], span.origin[2])] = true;
        }
    }
    let mut around = within.clone();
    let voxels =
        || (0..shape[2]).flat_map(move |k| (0..shape[1]).flat_map(move |j| (0..shape[0]).map(move |i| [i, j, k])));
    for from in voxels().filter(|v| within[at(v[0], v[1], v[2])]) {
        for to in voxels() {
            let square: f64 = (0..3).map(|a| ((from[a] as f64 - to[a] as f64) * spacing[a]).powi(2)).sum();
            if square.sqrt() <= radius * (1.0 + 1e-9) {
                around[at(to[0], to[1], to[2])] = true;
            }
        }
    }
    (within, around)
}

fn naive_histogram(values: &[f64], mask: &[bool]) -> Histogram {
    let hu: Vec<i32> =
        values.iter().zip(mask).filter(|(_, inside)| **inside).map(|(v, _)| v.round_ties_even() as i32).collect();
    let Some(&start) = hu.iter().min() else { return Histogram::default() };
    let mut counts = vec![0; (hu.iter().max().unwrap() - start + 1) as usize];
    for value in hu {
        counts[(value - start) as usize] += 1;
    }
    Histogram { start, counts }
}

prop_compose! {
    fn volumes()(
        shape in [1usize..80, 1usize..7, 1usize..6],
        spacing in [0.4f64..3.0, 0.4f64..3.0, 0.4f64..3.0],
        radius in 0.0f64..9.0,
    )(
        values in prop::collection::vec(-1500i16..1500, shape[0] * shape[1] * shape[2]),
        spans in prop::collection::vec((0..shape[0], 0..shape[1], 0..shape[2], 1usize..9), 0..5),
        shape in Just(shape), spacing in Just(spacing), radius in Just(radius),
    ) -> ([usize; 3], Vec<i16>, Vec<LesionSpan>, [f64; 3], f64) {
        let spans = spans
            .into_iter()
            .map(|(i, j, k, length)| LesionSpan { origin: [i, j, k], length: length.min(shape[0] - i) })
            .collect();
        (shape, values, spans, spacing, radius)
    }
}

const LIMITS: Limits = Limits { lowest: -1000.0, highest: 900.0, sample: 50 };

proptest! {
    #[test]
    fn fast_equals_naive((shape, values, spans, spacing, radius) in volumes(), scaled in any::<bool>()) {
        let surroundings = Surroundings::new(shape, &spans, spacing, radius).unwrap();
        let (within, around) = naive_around(shape, &spans, spacing, radius);
        let hu: Vec<f64> = values.iter().map(|&v| f64::from(v) / if scaled { 2.0 } else { 1.0 }).collect();
        let floats: Vec<f32> = hu.iter().map(|&v| v as f32).collect();
        let found = if scaled {
            examine_bytes(f32::bytes(&floats), Kind::F32, shape, &surroundings, LIMITS, &Interrupt::default())
        } else {
            examine_bytes(i16::bytes(&values), Kind::I16, shape, &surroundings, LIMITS, &Interrupt::default())
        }.unwrap();
        prop_assert_eq!(&found.within, &naive_histogram(&hu, &within));
        prop_assert_eq!(&found.around, &naive_histogram(&hu, &around));
        let (low, high) = (hu.iter().copied().fold(f64::MAX, f64::min), hu.iter().copied().fold(f64::MIN, f64::max));
        prop_assert_eq!(found.range, (low, high));
        prop_assert_eq!(found.below as usize, hu.iter().filter(|&&v| v < LIMITS.lowest).count());
        prop_assert_eq!(found.above as usize, hu.iter().filter(|&&v| v > LIMITS.highest).count());
        let step = (hu.len() / LIMITS.sample).max(1) | 1;
        let sample: Vec<f64> = match found.sample {
            Sample::Int16(values) => values.into_iter().map(f64::from).collect(),
            Sample::Float32(values) => values.into_iter().map(f64::from).collect(),
        };
        prop_assert_eq!(sample, hu.iter().copied().step_by(step).collect::<Vec<_>>());
    }
}

#[test]
fn a_value_that_is_not_finite_is_counted() {
    let values = [1.0f32, f32::NAN, f32::INFINITY, -3.0];
    let nothing = Surroundings::default();
    let found = examine_bytes(f32::bytes(&values), Kind::F32, [4, 1, 1], &nothing, LIMITS, &Interrupt::default());
    assert_eq!(found.unwrap().not_finite, 2);
}

#[test]
fn the_hash_is_of_shape_type_and_voxels() {
    let nothing = Surroundings::default();
    let hash = |values: &[i16], shape| {
        let found = examine_bytes(i16::bytes(values), Kind::I16, shape, &nothing, LIMITS, &Interrupt::default());
        found.unwrap().hash
    };
    assert_eq!(hash(&[1, 2, 3, 4], [4, 1, 1]), hash(&[1, 2, 3, 4], [4, 1, 1]));
    assert_ne!(hash(&[1, 2, 3, 4], [4, 1, 1]), hash(&[1, 2, 3, 4], [2, 2, 1]));
    assert_ne!(hash(&[1, 2, 3, 4], [4, 1, 1]), hash(&[1, 2, 3, 5], [4, 1, 1]));
}

#[test]
fn a_span_outside_is_refused() {
    let span = LesionSpan { origin: [3, 0, 0], length: 2 };
    assert!(Surroundings::new([4, 1, 1], &[span], [1.0; 3], 1.0).is_err());
    assert!(Surroundings::new([5, 1, 1], &[span], [1.0, 0.0, 1.0], 1.0).is_err());
    let made = Surroundings::new([5, 1, 1], &[span], [1.0; 3], 1.0).unwrap();
    assert!(made.check([4, 1, 1]).is_err());
}
