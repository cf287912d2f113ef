//! Checks that the fast implementation equals the naive one for every voxel kind, memory layout and window position.

#![allow(clippy::float_cmp)] // these values are exact

use proptest::prelude::*;

use super::*;
use crate::view::Element;
use crate::windows::walk::fill_any;

#[derive(Debug, Clone)]
struct Layout {
    shape: [usize; 3],
    axes: [usize; 3],
    flipped: [bool; 3],
    step: usize,
    corner: [i64; 3],
    window: [usize; 3],
    first: usize,
}

fn layouts() -> impl Strategy<Value = Layout> {
    let axes = prop::sample::select(vec![[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1]]);
    let edge = || prop_oneof![1usize..24, 120usize..140];
    (
        prop::array::uniform3(1usize..20),
        0usize..3,
        edge(),
        axes,
        prop::array::uniform3(any::<bool>()),
        1usize..3,
        prop::array::uniform3(-30i64..30),
        prop::array::uniform3(1usize..24),
    )
        .prop_map(|(mut shape, long, edge, axes, flipped, step, corner, mut window)| {
            shape[long] = edge;
            window[long] = window[long].max(edge.min(131));
            let first = window[0] / 3;
            Layout { shape, axes, flipped, step, corner, window, first }
        })
}

/// A view of values that lie in memory along `axes`, slowest first. Only every `step`-th value is used; some axes are
/// reversed.
fn view<'a, T: Element>(layout: &Layout, values: &'a [T]) -> View<'a> {
    let size = size_of::<T>() as isize;
    let mut strides = [0isize; 3];
    let mut stride = layout.step as isize * size;
    for &axis in layout.axes.iter().rev() {
        strides[axis] = stride;
        stride *= layout.shape[axis] as isize;
    }
    let mut start = 0isize;
    for (axis, stride) in strides.iter_mut().enumerate().filter(|&(axis, _)| layout.flipped[axis]) {
        start += (layout.shape[axis] as isize - 1) * *stride;
        *stride = -*stride;
    }
    assert!(values.len() >= layout.shape.iter().product::<usize>() * layout.step);
    // SAFETY: the strides address `shape` voxels `step` elements apart, and `values` contains all of them.
    unsafe {
        let data = values.as_ptr().cast::<u8>().offset(start);
        View::from_raw(data, layout.shape, strides, T::KIND, false).unwrap()
    }
}

fn values<T>(layout: &Layout, seed: u64, make: impl Fn(u64) -> T) -> Vec<T> {
    let count = layout.shape.iter().product::<usize>() * layout.step;
    let mut stream = crate::philox::Stream::new(seed, 0, 0, 0);
    (0..count).map(|_| make(stream.bits())).collect()
}

fn both<T: Element, P: Pixel<In = T, Out: PartialEq + std::fmt::Debug>>(pixel: P, layout: &Layout, values: &[T]) {
    let planes = layout.window[0] - layout.first;
    let count = planes * layout.window[1] * layout.window[2];
    let [mut fast, mut plain, mut naive] = std::array::from_fn(|_| vec![P::Out::default(); count]);
    let slab = |out| Slab {
        volume: view(layout, values),
        corner: layout.corner,
        window: layout.window,
        first: layout.first,
        out,
    };
    let accepted = fill(pixel, &mut slab(&mut fast));
    let misfit = fill_naive(pixel, &mut slab(&mut naive));
    // The form for x86-64 processors without AVX2.
    let accepted_plain = fill_any::<P, false>(pixel, &mut slab(&mut plain));
    assert_eq!([accepted, accepted_plain], [misfit.is_none(); 2]);
    assert_eq!(fast, naive);
    assert_eq!(plain, naive);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn images_equal_the_naive_walk(layout in layouts(), seed: u64) {
        let range = [-160.0, 240.0];
        macro_rules! check {
            ($($type:ty, $work:ty, $make:expr);*) => { $({
                let values: Vec<$type> = values(&layout, seed, $make);
                both(Scale::<$type, $work>::new(range), &layout, &values);
            })* };
        }
        check!(
            i8, f32, |bits| bits as i8;
            u8, f32, |bits| bits as u8;
            i16, f32, |bits| (bits % 4096) as i16 - 1024;
            u16, f32, |bits| (bits % 4096) as u16;
            i32, f64, |bits| (bits % 4096) as i32 - 1024;
            f32, f32, |bits| if bits.is_multiple_of(7) { f32::NAN } else { (bits % 4096) as f32 / 3.0 - 500.0 };
            f64, f64, |bits| if bits.is_multiple_of(7) { f64::INFINITY } else { (bits % 4096) as f64 / 3.0 - 500.0 }
        );
        let values: Vec<i16> = values(&layout, seed, |bits| bits as i16);
        both(Raw::<i16> { padding: -1024.0, voxel: PhantomData }, &layout, &values);
    }

    #[test]
    fn labels_equal_the_naive_walk(layout in layouts(), seed: u64, misfits: bool) {
        let value = |bits: u64| if misfits && bits.is_multiple_of(97) { bits } else { bits % 5 };
        macro_rules! check {
            ($($type:ty),*) => { $({
                let values: Vec<$type> = values(&layout, seed, |bits| value(bits) as $type);
                both(Label::<$type>(PhantomData), &layout, &values);
            })* };
        }
        check!(u8, i8, u16, i16, u32, i32, u64, i64);
        let values: Vec<u8> = values(&layout, seed, |bits| value(bits) as u8);
        both(Truth, &layout, &values);
    }
}

#[test]
fn corners_at_the_ends_of_the_integers_are_all_padding() {
    let values = [7i16; 27];
    let volume = View::from_slice(&values, [3, 3, 3]).unwrap();
    let corners = [[i64::MIN; 3], [i64::MAX; 3], [0, i64::MAX, 0]];
    let mut out = vec![9.0; 3 * 8];
    let images = Target { volumes: &[volume; 3], corners: &corners, out: &mut out };
    extract(images, Intensity::Raw(-5.0), None, [2, 2, 2], None).unwrap();
    assert!(out.iter().all(|&value| value == -5.0));
}

#[test]
fn a_label_that_does_not_fit_is_named() {
    let image = [0i16; 8];
    let labels = [0i32, 1, 2, 3, 4, 300, 6, 7];
    let (mut out, mut label_out) = ([0.0; 8], [0; 8]);
    let error = extract(
        Target { volumes: &[View::from_slice(&image, [2, 2, 2]).unwrap()], corners: &[[0; 3]], out: &mut out },
        Intensity::Scaled([0.0, 1.0]),
        Some(Target {
            volumes: &[View::from_slice(&labels, [2, 2, 2]).unwrap()],
            corners: &[[0; 3]],
            out: &mut label_out,
        }),
        [2, 2, 2],
        None,
    )
    .unwrap_err();
    assert!(
        matches!(&error, Error::Unsupported(text) if text.contains("label 300 at (1, 0, 1) of window 0")),
        "{error}"
    );
}

#[test]
fn results_do_not_depend_on_threads() {
    let values: Vec<i16> = (0..40 * 50 * 60).map(|n| (n % 1000) as i16).collect();
    let volume = View::from_slice(&values, [60, 50, 40]).unwrap().permuted([2, 1, 0]);
    let corners = [[-3, 5, 20], [0, 0, 0]];
    let run = |threads| {
        let mut out = vec![0.0; 2 * 37 * 32 * 33];
        let images = Target { volumes: &[volume; 2], corners: &corners, out: &mut out };
        extract(images, Intensity::Scaled([0.0, 900.0]), None, [37, 32, 33], threads).unwrap();
        out
    };
    let one = run(Some(1));
    assert_eq!(one, run(Some(2)));
    assert_eq!(one, run(Some(5)));
    assert_eq!(one, run(None));
}
