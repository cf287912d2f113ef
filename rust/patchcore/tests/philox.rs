//! Tests that the generator returns the published numbers and that its draws are uniform.

use patchcore::philox::{Purpose, Stream, block, uniforms};

/// Known-answer vectors of Random123 (`kat_vectors`, philox4x32, 10 rounds).
#[test]
fn known_answers() {
    let all = u32::MAX;
    assert_eq!(block([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(block([all; 4], [all; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(
        block([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn every_coordinate_changes_the_stream() {
    let first = |seed, step, position, purpose| Stream::new(seed, step, position, purpose).bits();
    let streams = [
        first(0, 0, 0, 0),
        first(1, 0, 0, 0),
        first(1 << 40, 0, 0, 0),
        first(0, 1, 0, 0),
        first(0, 1 << 40, 0, 0),
        first(0, 0, 1, 0),
        first(0, 0, 0, Purpose::Augment as u8),
    ];
    for (n, stream) in streams.iter().enumerate() {
        assert!(!streams[..n].contains(stream), "stream {n} repeats another");
    }
}

#[test]
fn uniforms_are_the_stream_and_fill_the_unit_interval() {
    let mut values = vec![0.0; 20_000];
    uniforms(3, 7, 11, 1, &mut values);
    let mut stream = Stream::new(3, 7, 11, 1);
    assert!(values.iter().all(|&value| value.to_bits() == stream.uniform().to_bits()));
    assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    // Five standard errors of a uniform's mean.
    assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0f64).sqrt() / (values.len() as f64).sqrt(), "{mean}");
}

#[test]
fn bounded_integers_are_unbiased() {
    let (bound, draws) = (7u64, 70_000);
    let mut counts = [0f64; 7];
    let mut stream = Stream::new(5, 0, 0, 0);
    for _ in 0..draws {
        counts[stream.below(bound) as usize] += 1.0;
    }
    let expected = f64::from(draws) / bound as f64;
    let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    // The 99.9 % point of chi-square with 6 degrees of freedom.
    assert!(chi_square < 22.5, "{chi_square}");
}

/// A bound just above 2⁶³ makes the plain multiplication reject almost half of all draws.
#[test]
fn large_bounds_are_unbiased_too() {
    let bound = (1u64 << 63) + (1 << 62);
    let mut stream = Stream::new(9, 0, 0, 0);
    let low = (0..30_000).filter(|_| stream.below(bound) < bound / 3).count() as f64;
    assert!((low - 10_000.0).abs() < 5.0 * (30_000.0f64 * 2.0 / 9.0).sqrt(), "{low}");
}

#[test]
fn ranges_include_both_ends() {
    let mut stream = Stream::new(1, 2, 3, 0);
    let draws: Vec<i64> = (0..200).map(|_| stream.between(-2, 2)).collect();
    for value in -2..=2 {
        assert!(draws.contains(&value));
    }
    assert!(draws.iter().all(|value| (-2..=2).contains(value)));
    assert_eq!(stream.between(4, 4), 4);
    stream.between(i64::MIN, i64::MAX);
}
