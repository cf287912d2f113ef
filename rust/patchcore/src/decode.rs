//! Converts the bits of a stored word to a label.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::view::Kind;
use crate::{Error, Result};

/// A stored number this close to an integer is that integer: resampling and scale factors leave small errors.
const NEARLY: f64 = 1e-3;
/// Larger integers are not exact in a float64.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Converts the bits of one stored element to its label. Labels that are not selected become 0, the background.
#[derive(Debug, Clone)]
pub struct Decoder {
    kind: Kind,
    swapped: bool,
    scaling: Option<(f64, f64)>,
    selected: Option<Vec<i64>>,
    merged: bool,
    rounded: Arc<AtomicBool>,
}

impl Decoder {
    /// A decoder for elements of `kind`, byte-swapped or not. If `selected` is given, all other labels become 0.
    #[must_use]
    pub fn new(kind: Kind, swapped: bool, selected: Option<&[i64]>) -> Self {
        Self {
            kind,
            swapped,
            scaling: None,
            selected: selected.map(<[i64]>::to_vec),
            merged: false,
            rounded: Arc::default(),
        }
    }

    /// The same decoder, with `label = slope · stored + intercept`.
    #[must_use]
    pub fn scaled(mut self, slope: f64, intercept: f64) -> Self {
        self.scaling = ((slope, intercept) != (1.0, 0.0)).then_some((slope, intercept));
        self
    }

    /// The same decoder, with 1 for every label that is not background: a mask.
    #[must_use]
    pub fn merged(mut self) -> Self {
        self.merged = true;
        self
    }

    /// Whether a label without scaling was nearly an integer, and was rounded.
    #[must_use]
    pub fn rounded(&self) -> bool {
        self.rounded.load(Ordering::Relaxed)
    }

    /// The label of an element with these bits (in its low bytes).
    ///
    /// # Errors
    /// [`Error::NonIntegralLabel`] for NaN, infinities, fractions and integers beyond 2⁵³ (floats) or 2⁶³ (u64).
    pub fn label(&self, bits: u64) -> Result<i64> {
        let bits = if self.swapped { bits.swap_bytes() >> (64 - 8 * self.kind.size()) } else { bits };
        let value = match self.kind {
            Kind::Bool => i64::from(bits != 0),
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::I64 => bits as i64,
            Kind::I8 => i64::from(bits as i8),
            Kind::I16 => i64::from(bits as i16),
            Kind::I32 => i64::from(bits as i32),
            Kind::U64 => i64::try_from(bits)
                .map_err(|_| Error::NonIntegralLabel(format!("label {bits} is larger than 2^63 - 1")))?,
            Kind::F32 => return self.float(f64::from(f32::from_bits(bits as u32))),
            Kind::F64 => return self.float(f64::from_bits(bits)),
        };
        if self.scaling.is_some() { self.float(value as f64) } else { Ok(self.select(value)) }
    }

    fn float(&self, stored: f64) -> Result<i64> {
        let (slope, intercept) = self.scaling.unwrap_or((1.0, 0.0));
        let value = stored * slope + intercept;
        let nearest = value.round();
        if value.is_finite() && (value - nearest).abs() <= NEARLY && nearest.abs() <= EXACT {
            // Scale factors are stored as float32, so the labels of a scaled label map always have small errors.
            if (value - nearest).abs() > 0.0 && self.scaling.is_none() {
                self.rounded.store(true, Ordering::Relaxed);
            }
            Ok(self.select(nearest as i64))
        } else {
            Err(Error::NonIntegralLabel(format!("label value {value} is not an integer")))
        }
    }

    fn select(&self, label: i64) -> i64 {
        match &self.selected {
            Some(labels) if !labels.contains(&label) => 0,
            _ if self.merged => i64::from(label != 0),
            _ => label,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_labels() {
        assert_eq!(Decoder::new(Kind::Bool, false, None).label(255).unwrap(), 1);
        assert_eq!(Decoder::new(Kind::I8, false, None).label(0xFF).unwrap(), -1);
        assert_eq!(Decoder::new(Kind::U16, true, None).label(0x0200).unwrap(), 2);
        assert_eq!(Decoder::new(Kind::I16, true, None).label(0xFEFF).unwrap(), -2);
        let two = u64::from(2f32.to_bits());
        assert_eq!(Decoder::new(Kind::F32, false, None).label(two).unwrap(), 2);
        assert_eq!(Decoder::new(Kind::F32, false, Some(&[1])).label(two).unwrap(), 0);
        assert_eq!(Decoder::new(Kind::F64, false, None).label((-0.0f64).to_bits()).unwrap(), 0);
        assert_eq!(Decoder::new(Kind::U8, false, None).scaled(1.0, -3.0).label(3).unwrap(), 0);
    }

    #[test]
    fn what_is_nearly_an_integer_is_rounded_and_remembered() {
        for (value, rounded) in [(1.0f32, false), (0.999_999_94, true), (1.000_9, true), (-0.000_9, true)] {
            let decoder = Decoder::new(Kind::F32, false, None);
            assert_eq!(decoder.label(u64::from(value.to_bits())).unwrap(), i64::from(value > 0.5));
            assert_eq!(decoder.rounded(), rounded, "{value}");
        }
    }

    #[test]
    fn what_is_no_integer_is_refused() {
        for value in [0.5f32, 0.998, 1.002, f32::NAN, f32::INFINITY] {
            let error = Decoder::new(Kind::F32, false, None).label(u64::from(value.to_bits())).unwrap_err();
            assert!(matches!(error, Error::NonIntegralLabel(_)), "{error}");
        }
        assert!(Decoder::new(Kind::U64, false, None).label(u64::MAX).is_err());
    }
}
