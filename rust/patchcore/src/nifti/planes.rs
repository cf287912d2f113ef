//! Reads a volume from a file plane by plane. Only the requested planes are in memory.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use super::header::Header;
use super::stream::{Opened, open, read_to_checksum, read_words};
use crate::decode::Decoder;
use crate::resample::{ArrayPlanes, Planes};
use crate::slab::Slab;
use crate::view::View;
use crate::{Error, Result};

/// The planes of a file along its last axis, which is the slowest axis in a file. Axes are walked in the order 2, 1, 0.
pub(crate) struct FilePlanes {
    pub(crate) header: Header,
    reader: Mutex<Box<dyn Read + Send>>,
    /// The next plane that the reader will return.
    next: usize,
    loaded: Range<usize>,
    words: Vec<u64>,
    flipped: [bool; 3],
    nan: f32,
}

impl FilePlanes {
    /// Open a file. Rows and voxels along `flipped` axes are returned in reverse order; planes are never reversed.
    pub(crate) fn open(path: &Path, flipped: [bool; 3], nan: f32) -> Result<Self> {
        let Opened { header, reader } = open(path)?;
        Ok(Self { header, reader: Mutex::new(reader), next: 0, loaded: 0..0, words: Vec::new(), flipped, nan })
    }

    fn plane_bytes(&self) -> u64 {
        self.header.shape[0] as u64 * self.header.shape[1] as u64 * self.header.kind.size() as u64
    }

    fn reader(&mut self) -> &mut (dyn Read + Send) {
        self.reader.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read(&mut self, planes: Range<usize>) -> Result<()> {
        let plane_bytes = self.plane_bytes();
        if planes.start != self.next || planes.end > self.header.shape[2] {
            return Err(Error::Argument(format!(
                "planes {planes:?} of shape {:?}; planes must be read in order",
                self.header.shape
            )));
        }
        let (before, total) = (planes.start as u64 * plane_bytes, self.header.data_bytes());
        let mut words = std::mem::take(&mut self.words);
        read_words(self.reader(), &mut words, planes.len() as u64 * plane_bytes, || (before, total))?;
        self.words = words;
        self.next = planes.end;
        self.loaded = planes;
        Ok(())
    }

    /// Read the next plane and return its bytes as stored.
    pub(crate) fn next_bytes(&mut self) -> Result<&[u8]> {
        self.read(self.next..self.next + 1)?;
        // SAFETY: `words` hold at least the plane that was just read, and every byte of them is initialised.
        Ok(unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast::<u8>(), self.plane_bytes() as usize) })
    }

    /// A view of the loaded planes.
    fn view(&self) -> Result<View<'_>> {
        let [x, y, _] = self.header.shape;
        let size = self.header.kind.size() as isize;
        let strides = [size, size * x as isize, size * (x * y) as isize];
        let shape = [x, y, self.loaded.len()];
        // SAFETY: `words` hold the loaded planes, first axis fastest, and are aligned to 8 bytes.
        unsafe { View::from_raw(self.words.as_ptr().cast(), shape, strides, self.header.kind, self.header.swapped) }
    }

    /// Read the next plane and find its spans. Lines are numbered within the plane and not flipped.
    pub(crate) fn next_spans(&mut self, decoder: &Decoder) -> Result<Slab> {
        self.read(self.next..self.next + 1)?;
        Slab::find(&self.view()?, [2, 1, 0], 0..1, decoder)
    }

    /// Read the file to its end and compare the checksum. The values may be trusted only after this.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.skip(self.next..self.header.shape[2])?;
        read_to_checksum(self.reader())
    }
}

impl Planes for FilePlanes {
    fn load(&mut self, planes: Range<usize>) -> Result<()> {
        self.read(planes)
    }

    fn skip(&mut self, planes: Range<usize>) -> Result<()> {
        planes.into_iter().try_for_each(|plane| self.read(plane..plane + 1))
    }

    fn write(&self, plane: usize, out: &mut [f32]) {
        let Ok(mut view) = self.view() else { return out.fill(self.nan) };
        for axis in 0..2 {
            if self.flipped[axis] {
                view = view.flipped(axis);
            }
        }
        let (slope, intercept) = self.header.scaling;
        ArrayPlanes::new(view, [2, 1, 0], self.nan)
            .scaled(slope as f32, intercept as f32)
            .write(plane - self.loaded.start, out);
    }
}
