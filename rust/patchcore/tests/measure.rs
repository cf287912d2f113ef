//! Compares the fast implementation with a slow reference that floods every component voxel by voxel.

use std::collections::BTreeMap;

use patchcore::lesions::{Geometry, Lesion, LesionTable, measure};
use patchcore::pool::Interrupt;
use patchcore::{Components, Connectivity, Decoder, View};
use proptest::prelude::*;

type Index = [usize; 3];

fn neighbours(connectivity: Connectivity) -> Vec<[i64; 3]> {
    let most = match connectivity {
        Connectivity::Six => 1,
        Connectivity::Eighteen => 2,
        Connectivity::TwentySix => 3,
    };
    let mut steps = Vec::new();
    for i in -1i64..=1 {
        for j in -1i64..=1 {
            for k in -1i64..=1 {
                let moved = i.abs() + j.abs() + k.abs();
                if moved > 0 && moved <= most {
                    steps.push([i, j, k]);
                }
            }
        }
    }
    steps
}

/// Components as voxel lists, ordered by smallest C-order index.
fn flood(values: &[i64], shape: Index, connectivity: Connectivity) -> Vec<(i64, Vec<Index>)> {
    let at = |[i, j, k]: Index| (i * shape[1] + j) * shape[2] + k;
    let steps = neighbours(connectivity);
    let mut seen = vec![false; values.len()];
    let mut found = Vec::new();
    for i in 0..shape[0] {
        for j in 0..shape[1] {
            for k in 0..shape[2] {
                let label = values[at([i, j, k])];
                if label == 0 || seen[at([i, j, k])] {
                    continue;
                }
                seen[at([i, j, k])] = true;
                let mut voxels = vec![[i, j, k]];
                let mut next = 0;
                while next < voxels.len() {
                    let here = voxels[next];
                    next += 1;
                    for step in &steps {
                        let moved: Vec<i64> = (0..3).map(|axis| here[axis] as i64 + step[axis]).collect();
                        if (0..3).all(|axis| moved[axis] >= 0 && (moved[axis] as usize) < shape[axis]) {
                            let there = [moved[0] as usize, moved[1] as usize, moved[2] as usize];
                            if values[at(there)] == label && !seen[at(there)] {
                                seen[at(there)] = true;
                                voxels.push(there);
                            }
                        }
                    }
                }
                found.push((label, voxels));
            }
        }
    }
    found
}

fn describe(label: i64, voxels: &[Index], shape: Index, geometry: &Geometry) -> Lesion {
    let count = voxels.len() as f64;
    let low = [0, 1, 2].map(|axis| voxels.iter().map(|v| v[axis] as u64).min().unwrap());
    let high = [0, 1, 2].map(|axis| voxels.iter().map(|v| v[axis] as u64).max().unwrap());
    let centroid = [0, 1, 2].map(|axis| voxels.iter().map(|v| v[axis] as u64).sum::<u64>() as f64 / count);
    let spacing = geometry.spacing();
    let mut slices: BTreeMap<usize, Vec<Index>> = BTreeMap::new();
    for voxel in voxels {
        slices.entry(voxel[geometry.axial_axis]).or_default().push(*voxel);
    }
    let world = |v: &Index| geometry.to_world(v.map(|x| x as f64));
    let mut longest = 0.0f64;
    for slice in slices.values() {
        for a in slice {
            for b in slice {
                let (a, b) = (world(a), world(b));
                longest = longest.max((0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt());
            }
        }
    }
    let volume_mm3 = count * geometry.voxel_volume_mm3();
    Lesion {
        label,
        voxel_count: voxels.len() as u64,
        volume_mm3,
        bbox_start: low,
        bbox_stop: high.map(|last| last + 1),
        centroid_voxel: centroid,
        centroid_mm: geometry.to_world(centroid),
        extent_mm: [0, 1, 2].map(|axis| (high[axis] - low[axis] + 1) as f64 * spacing[axis]),
        equivalent_diameter_mm: (6.0 * volume_mm3 / std::f64::consts::PI).cbrt(),
        longest_axial_diameter_mm: longest,
        touches_border: (0..3).any(|axis| low[axis] == 0 || high[axis] + 1 == shape[axis] as u64),
    }
}

/// Lay the values out in memory with axis `order[0]` slowest and `order[2]` fastest. Returns the memory and the
/// strides.
fn laid_out<T: patchcore::Element>(values: &[T], shape: Index, order: [usize; 3], gap: usize) -> (Vec<T>, [isize; 3]) {
    let mut strides = [0usize; 3];
    let mut step = 1 + gap;
    for &axis in order.iter().rev() {
        strides[axis] = step;
        step *= shape[axis];
    }
    let mut memory = vec![values[0]; step.max(1)];
    for i in 0..shape[0] {
        for j in 0..shape[1] {
            for k in 0..shape[2] {
                memory[i * strides[0] + j * strides[1] + k * strides[2]] = values[(i * shape[1] + j) * shape[2] + k];
            }
        }
    }
    (memory, strides.map(|stride| (stride * size_of::<T>()) as isize))
}

fn tables_agree(found: &LesionTable, expected: &[Lesion]) {
    assert_eq!(found.lesions.len(), expected.len());
    for (a, b) in found.lesions.iter().zip(expected) {
        let (diameter_a, diameter_b) = (a.longest_axial_diameter_mm, b.longest_axial_diameter_mm);
        assert!((diameter_a - diameter_b).abs() <= 1e-9 * diameter_b.max(1.0), "{diameter_a} {diameter_b}");
        let same = Lesion { longest_axial_diameter_mm: diameter_b, ..a.clone() };
        assert_eq!(&same, b);
    }
}

fn connectivities() -> impl Strategy<Value = Connectivity> {
    prop_oneof![Just(Connectivity::Six), Just(Connectivity::Eighteen), Just(Connectivity::TwentySix)]
}

fn orders() -> impl Strategy<Value = [usize; 3]> {
    Just([0, 1, 2]).prop_shuffle()
}

/// A small label map with random density, and its shape.
fn maps() -> impl Strategy<Value = (Index, Vec<i64>)> {
    ((1usize..9, 1usize..9, 1usize..14), 0u8..=100, 1i64..4).prop_flat_map(|((a, b, c), density, labels)| {
        let voxel = (0u8..100, 1..=labels).prop_map(move |(chance, label)| if chance < density { label } else { 0 });
        (Just([a, b, c]), prop::collection::vec(voxel, a * b * c))
    })
}

fn oblique() -> Geometry {
    Geometry::from_affine([[0.7, 0.1, 0.0, -3.0], [-0.1, 0.8, 0.2, 5.0], [0.0, -0.3, 2.5, 11.0], [0.0, 0.0, 0.0, 1.0]])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn fast_equals_naive(
        (shape, values) in maps(),
        order in orders(),
        gap in 0usize..2,
        connectivity in connectivities(),
        axial_axis in 0usize..4,
    ) {
        let geometry = match axial_axis {
            3 => oblique(),
            axis => Geometry::from_spacing([0.5, 1.25, 3.0], axis),
        };
        let expected: Vec<Lesion> = flood(&values, shape, connectivity)
            .iter()
            .map(|(label, voxels)| describe(*label, voxels, shape, &geometry))
            .collect();
        macro_rules! check {
            ($type:ty) => {{
                let typed: Vec<$type> = values.iter().map(|&value| value as $type).collect();
                let (memory, strides) = laid_out(&typed, shape, order, gap);
                let kind = <$type as patchcore::Element>::KIND;
                // SAFETY: the memory was laid out for these strides.
                let view = unsafe { View::from_raw(memory.as_ptr().cast(), shape, strides, kind, false) }.unwrap();
                for threads in [Some(1), None] {
                    let quiet = Interrupt::default();
                    let decoder = Decoder::new(kind, false, None);
                    let components = Components::of_view(&view, &decoder, connectivity, threads, &quiet).unwrap();
                    tables_agree(&measure(&components, &geometry, 0.0, threads, &quiet).unwrap(), &expected);
                }
            }};
        }
        check!(u8);
        check!(i16);
        check!(f32);
        check!(i64);
    }

    #[test]
    fn the_label_image_numbers_components_by_first_voxel(
        (shape, values) in maps(),
        order in orders(),
        connectivity in connectivities(),
    ) {
        let typed: Vec<u8> = values.iter().map(|&value| value as u8).collect();
        let (memory, strides) = laid_out(&typed, shape, order, 0);
        // SAFETY: the memory was laid out for these strides.
        let view = unsafe { View::from_raw(memory.as_ptr(), shape, strides, patchcore::Kind::U8, false) }.unwrap();
        let quiet = Interrupt::default();
        let decoder = Decoder::new(patchcore::Kind::U8, false, None);
        let components = Components::of_view(&view, &decoder, connectivity, None, &quiet).unwrap();
        let mut painted = vec![0u32; values.len()];
        components.paint(&mut painted, None, &quiet).unwrap();
        let mut expected = vec![0u32; values.len()];
        let walked = components.order();
        let mut strides = [0; 3];
        let mut step = 1;
        for axis in walked.into_iter().rev() {
            strides[axis] = step;
            step *= shape[axis];
        }
        for (number, (_, voxels)) in flood(&values, shape, connectivity).iter().enumerate() {
            for voxel in voxels {
                expected[(0..3).map(|axis| voxel[axis] * strides[axis]).sum::<usize>()] = number as u32 + 1;
            }
        }
        prop_assert_eq!(painted, expected);
    }
}

/// Slabs of a large array must be joined at their seams. A staircase of voxels that share only corners crosses all
/// seams.
#[test]
fn seams_between_slabs_are_joined() {
    let shape = [64, 512, 512];
    let mut values = vec![0u8; shape.iter().product()];
    for plane in 0..64 {
        values[(plane * 512 + 100 + plane) * 512 + 200 - plane] = 1;
    }
    let view = View::from_slice(&values, shape).unwrap();
    let decoder = Decoder::new(patchcore::Kind::U8, false, None);
    let quiet = Interrupt::default();
    let count = |connectivity| Components::of_view(&view, &decoder, connectivity, None, &quiet).unwrap().len();
    assert_eq!(count(Connectivity::TwentySix), 1);
    assert_eq!(count(Connectivity::Eighteen), 64);
    assert_eq!(count(Connectivity::Six), 64);
}

#[test]
fn specks_are_dropped_and_counted() {
    let mut values = vec![0u8; 5 * 5 * 5];
    values[0] = 1;
    values[60..64].fill(1);
    let view = View::from_slice(&values, [5, 5, 5]).unwrap();
    let decoder = Decoder::new(patchcore::Kind::U8, false, None);
    let quiet = Interrupt::default();
    let components = Components::of_view(&view, &decoder, Connectivity::TwentySix, None, &quiet).unwrap();
    let geometry = Geometry::from_spacing([1.0, 1.0, 2.0], 2);
    let table = measure(&components, &geometry, 8.0, None, &quiet).unwrap();
    assert_eq!(table.lesions.iter().map(|lesion| lesion.voxel_count).collect::<Vec<_>>(), [4]);
    assert_eq!((table.speck_count, table.speck_voxel_count), (1, 1));
}

#[test]
fn a_raised_interrupt_stops() {
    let values = vec![1u8; 8];
    let view = View::from_slice(&values, [2, 2, 2]).unwrap();
    let interrupt = Interrupt::default();
    interrupt.raise();
    let decoder = Decoder::new(patchcore::Kind::U8, false, None);
    let stopped = Components::of_view(&view, &decoder, Connectivity::Six, None, &interrupt);
    assert!(matches!(stopped, Err(patchcore::Error::Interrupted)));
}

#[test]
fn impossible_spacing_is_refused() {
    let values = vec![1u8; 8];
    let view = View::from_slice(&values, [2, 2, 2]).unwrap();
    let quiet = Interrupt::default();
    let decoder = Decoder::new(patchcore::Kind::U8, false, None);
    let components = Components::of_view(&view, &decoder, Connectivity::Six, None, &quiet).unwrap();
    for spacing in [[0.0, 1.0, 1.0], [f64::NAN, 1.0, 1.0], [f64::INFINITY, 1.0, 1.0]] {
        let refused = measure(&components, &Geometry::from_spacing(spacing, 2), 0.0, None, &quiet);
        assert!(matches!(refused, Err(patchcore::Error::Header(_))), "{spacing:?}");
    }
}

#[test]
fn labels_that_are_nearly_integers_are_remembered_in_the_table() {
    for (label, rounded) in [(1.0f32, false), (0.999_999_94, true)] {
        let mut values = vec![0f32; 8];
        values[3] = label;
        let view = View::from_slice(&values, [2, 2, 2]).unwrap();
        let decoder = Decoder::new(patchcore::Kind::F32, false, None);
        let quiet = Interrupt::default();
        let components = Components::of_view(&view, &decoder, Connectivity::TwentySix, None, &quiet).unwrap();
        let geometry = Geometry::from_spacing([1.0; 3], 2);
        let table = measure(&components, &geometry, 0.0, None, &quiet).unwrap();
        assert_eq!((table.lesions.len(), table.rounded), (1, rounded));
    }
}
