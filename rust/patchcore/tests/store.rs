//! What a store says about itself: the bytes that were written, and damage that came after a chunk was read.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use patchcore::pool::Interrupt;
use patchcore::store::{Layout, Reading, StoredArray, Wanted, read_windows, write_region};
use patchcore::{Error, View};

const SHAPE: [usize; 3] = [60, 24, 30];

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("patchcore-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn written(folder: &Folder) -> (Layout, u64, Vec<i16>) {
    let layout = Layout::new(SHAPE, [48, 48, 48]).unwrap();
    // Noise: it is stored as it is, so that a changed byte gives another value and no error of the decoder.
    let noise =
        |n: usize| (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_mul(n as u64 ^ 0xD1B5_4A32) >> 40;
    let values: Vec<i16> = (0..SHAPE.iter().product()).map(|n| noise(n) as i16).collect();
    let view = View::from_slice(&values, SHAPE).unwrap();
    let bytes = write_region(&folder.0, &layout, &view, [0, 0, 0], 0i16, &Interrupt::default()).unwrap();
    (layout, bytes, values)
}

#[test]
fn the_bytes_of_the_shards_are_counted() {
    let folder = Folder::new("bytes");
    let (_, bytes, _) = written(&folder);
    let sizes = ["c/0/0/0", "c/1/0/0"].map(|name| fs::metadata(folder.0.join(name)).unwrap().len());
    assert_eq!(bytes, sizes.iter().sum::<u64>());
}

#[test]
fn a_chunk_that_was_read_before_is_verified_again() {
    let folder = Folder::new("verify");
    let (layout, _, values) = written(&folder);
    let open = || StoredArray::<i16>::open(folder.0.clone(), layout, 0, None).unwrap();
    let (array, quiet) = (open(), Interrupt::default());
    assert_eq!(open().verify(&quiet).unwrap().shards, 2);
    let mut out = vec![0i16; values.len()];
    let wanted = [Wanted { array: &array, corner: [0, 0, 0] }];
    let reading = Reading { size: SHAPE, threads: Some(1), cache: None };
    read_windows(&wanted, &[patchcore::windows::extract::Intensity::Raw(0.0)], &mut out, None, reading).unwrap();
    assert_eq!(out, values);
    // Now a byte in the middle of the first chunk changes.
    let mut file = OpenOptions::new().read(true).write(true).open(folder.0.join("c/0/0/0")).unwrap();
    let mut byte = [0u8];
    file.seek(SeekFrom::Start(1000)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(1000)).unwrap();
    file.write_all(&[!byte[0]]).unwrap();
    drop(file);
    assert!(matches!(array.verify(&quiet), Err(Error::Corrupt(_))));
}
