//! Seeded fuzzing of the NIfTI and gzip readers: whatever is done to a file, reading it ends in an error or in what a
//! slow, independent reader makes of the same bytes, and memory stays within what the file's own bytes justify.
//!
//! `PATCHCORE_FUZZ_COUNT` says how many files are mutated (20 000 by default), `PATCHCORE_FUZZ_SEED` where to begin;
//! a failure names the seed of its case, and `PATCHCORE_FUZZ_SEED=that PATCHCORE_FUZZ_COUNT=1` repeats it.

// Labels and header fields are compared as the exact numbers they are.
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

/// What reading takes for any file: chunks and read buffers, whatever the header says.
const FIXED_BYTES: usize = 256 << 10;
/// No case takes a thousandth of this; it only has to be shorter than a person's patience.
const HANG: Duration = Duration::from_secs(20);

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn read(file: &File, connectivity: Connectivity) -> patchcore::Result<(LesionTable, patchcore::nifti::Header)> {
    let interrupt = Interrupt::default();
    let (components, header) = components_of_bytes(&file.header, file.data.as_deref(), None, connectivity, &interrupt)?;
    let table = measure(&components, &header.geometry(), 0.0, Some(1), &interrupt)?;
    Ok((table, header))
}

/// Ends the process, naming the case, when one takes too long: a hang cannot be caught any other way.
fn watch(case: &Arc<AtomicU64>) {
    let case = Arc::clone(case);
    std::thread::spawn(move || {
        let mut before = u64::MAX;
        loop {
            std::thread::sleep(HANG);
            let now = case.load(Ordering::Relaxed);
            if now == before {
                eprintln!("hang: seed {now} has taken {HANG:?}");
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

/// Mutate one file and read it; what became of it, for the count.
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
    // A voxel of its own makes a span, a component and a row of the table: at most this many bytes beside the file.
    let voxels = outcome.as_ref().map_or(inflated.bytes(), |(_, header)| header.shape.iter().product());
    let justified = FIXED_BYTES + 2 * bytes + 768 * voxels;
    assert!(peak <= justified, "{peak} bytes taken, {justified} justified by {bytes} bytes of file");
    match outcome {
        Ok((table, header)) => {
            let inflated = inflated.readable().expect("read, although the reference cannot inflate it");
            let reading = reference::read(&inflated).expect("read, although the reference refuses it");
            agree(&table, &header, &reading, connectivity);
            if damage == Damage::Packed {
                // Compressed bytes have a checksum: damage there is seen, or changed nothing.
                let before = reference::read(&intact.inflated().readable().unwrap()).unwrap();
                agree(&table, &header, &before, connectivity);
            }
            (damage.name(), "read right")
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(damage != Damage::None, "an intact file is refused: {error}");
            let kind = match error {
                Error::Header(_) => "header",
                Error::Corrupt(_) => "corrupt",
                Error::Unsupported(_) => "unsupported",
                Error::NonIntegralLabel(_) => "no integer",
                Error::Memory(_) => "memory",
                // Bytes in memory cannot fail to be read, and nobody asked to stop.
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
    // A mutator that only ever made unreadable files, or only harmless ones, would say nothing.
    if count >= 1000 {
        let of = |wanted: &str| outcomes.iter().filter(|((_, o), _)| *o == wanted).map(|(_, n)| n).sum::<u64>();
        assert!(
            of("read right") > count / 20 && of("header") > count / 20 && of("corrupt") > count / 20,
            "{outcomes:?}"
        );
    }
}
