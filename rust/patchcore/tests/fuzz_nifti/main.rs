//! Seeded fuzzing of the NIfTI and gzip readers. For every mutated file, reading must return an error or the same
//! result as a slow, independent reader. Memory must stay within a limit that depends on the size of the file.
//!
//! `PATCHCORE_FUZZ_COUNT` is the number of mutated files [default: 20 000], `PATCHCORE_FUZZ_SEED` is the first seed
//! [default: 1]. A failure prints its seed; `PATCHCORE_FUZZ_SEED=<seed> PATCHCORE_FUZZ_COUNT=1` repeats the case.

// Labels and header fields are exact numbers, so they are compared exactly.
#![allow(clippy::float_cmp)]

mod inflate;
mod memory;
mod mutate;
mod reference;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use patchcore::lesions::measure;
use patchcore::nifti::components_of_bytes;
use patchcore::pool::Interrupt;
use patchcore::{Connectivity, Error, LesionTable};

use mutate::{Damage, Random};
use reference::Reading;
use volumes::File;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Memory that reading any file may use: chunks and read buffers, whatever the header says.
const FIXED_BYTES: usize = 256 << 10;
/// Time after which a case counts as a hang. A normal case takes less than a thousandth of this.
const HANG: Duration = Duration::from_secs(20);

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("the environment variable must be a number"))
}

fn read(file: &File, connectivity: Connectivity) -> patchcore::Result<(LesionTable, patchcore::nifti::Header)> {
    let interrupt = Interrupt::default();
    let (components, header) = components_of_bytes(&file.header, file.data.as_deref(), None, connectivity, &interrupt)?;
    let table = measure(&components, &header.geometry(), 0.0, Some(1), &interrupt)?;
    Ok((table, header))
}

/// Print the seed and end the process if a case takes too long. A hang cannot be caught in any other way.
fn watch(case: &Arc<AtomicU64>) {
    let case = Arc::clone(case);
    std::thread::spawn(move || {
        let mut before = u64::MAX;
        loop {
            std::thread::sleep(HANG);
            let now = case.load(Ordering::Relaxed);
            if now == before {
                eprintln!("hang: seed {now} has run for more than {HANG:?}");
                std::process::exit(101);
            }
            before = now;
        }
    });
}

fn agree(table: &LesionTable, header: &patchcore::nifti::Header, reading: &Reading, connectivity: Connectivity) {
    assert_eq!(header.shape, reading.shape, "shape");
    let size = reading.affine.iter().flatten().fold(0.0f64, |most, value| most.max(value.abs()));
    for (ours, theirs) in header.affine.iter().flatten().zip(reading.affine.iter().flatten()) {
        assert!((ours - theirs).abs() <= 1e-5 * size, "affine {:?} {:?}", header.affine, reading.affine);
    }
    let expected = reading.components(connectivity);
    let found: Vec<_> = table.lesions.iter().map(|l| (l.label, l.voxel_count, l.bbox_start, l.bbox_stop)).collect();
    assert_eq!(found, expected, "lesions");
    let voxel = header.geometry().voxel_volume_mm3();
    for lesion in &table.lesions {
        assert!((lesion.volume_mm3 - lesion.voxel_count as f64 * voxel).abs() <= 1e-12 * lesion.volume_mm3.abs());
    }
}

/// Mutate one file and read it. Returns the kind of damage and the outcome, for the statistics.
fn try_one(seed: u64) -> (&'static str, &'static str) {
    let mut random = Random::new(seed);
    let intact = File::draw(&mut random);
    let (file, damage) = mutate::damaged(&intact, &mut random);
    let connectivity = [Connectivity::Six, Connectivity::Eighteen, Connectivity::TwentySix][random.below(3)];
    memory::begin();
    let outcome = read(&file, connectivity);
    let peak = memory::peak();
    let inflated = file.inflated();
    let bytes = file.header.len() + file.data.as_ref().map_or(0, Vec::len) + inflated.bytes();
    // An isolated voxel creates a span, a component and a table row: at most 768 bytes in addition to the file.
    let voxels = outcome.as_ref().map_or(inflated.bytes(), |(_, header)| header.shape.iter().product());
    let justified = FIXED_BYTES + 2 * bytes + 768 * voxels;
    assert!(peak <= justified, "peak memory of {peak} bytes; expected at most {justified} for a file of {bytes} bytes");
    match outcome {
        Ok((table, header)) => {
            let inflated = inflated.readable().expect("the file was read, although the reference cannot inflate it");
            let reading = reference::read(&inflated).expect("the file was read, although the reference rejects it");
            agree(&table, &header, &reading, connectivity);
            if damage == Damage::Packed {
                // Compressed bytes have a checksum, so damage is either detected or has changed nothing.
                let before = reference::read(&intact.inflated().readable().unwrap()).unwrap();
                agree(&table, &header, &before, connectivity);
            }
            (damage.name(), "read right")
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(damage != Damage::None, "an intact file was rejected: {error}");
            let kind = match error {
                Error::Header(_) => "header",
                Error::Corrupt(_) => "corrupt",
                Error::Unsupported(_) => "unsupported",
                Error::NonIntegralLabel(_) => "not an integer",
                Error::Memory(_) => "memory",
                // Reading bytes from memory cannot fail, and nothing raised the interrupt.
                other => panic!("unexpected error: {other:?}"),
            };
            (damage.name(), kind)
        }
    }
}

#[test]
fn mutated_files_are_refused_or_read_right() {
    let (count, first) = (setting("PATCHCORE_FUZZ_COUNT", 20_000), setting("PATCHCORE_FUZZ_SEED", 1));
    let case = Arc::new(AtomicU64::new(first));
    watch(&case);
    let mut outcomes: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for seed in first..first + count {
        case.store(seed, Ordering::Relaxed);
        let Ok(outcome) = std::panic::catch_unwind(|| try_one(seed)) else {
            panic!("case failed: PATCHCORE_FUZZ_SEED={seed} PATCHCORE_FUZZ_COUNT=1 repeats it");
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{count} mutated files:");
    for ((damage, outcome), times) in &outcomes {
        println!("  {damage:<10} {outcome:<12} {times}");
    }
    // If the mutator created only unreadable files or only harmless files, the test would prove nothing.
    if count >= 1000 {
        let of = |wanted: &str| outcomes.iter().filter(|((_, o), _)| *o == wanted).map(|(_, n)| n).sum::<u64>();
        assert!(
            of("read right") > count / 20 && of("header") > count / 20 && of("corrupt") > count / 20,
            "{outcomes:?}"
        );
    }
}
