//! Parses NIfTI headers and checks every field before it is used.

use crate::lesions::{Affine, Geometry};
use crate::view::{Kind, check_shape};
use crate::{Error, Result};

/// The content of a NIfTI header of one 3D volume.
#[derive(Debug, Clone)]
pub struct Header {
    /// Voxels along each axis.
    pub shape: [usize; 3],
    /// Stored element type.
    pub kind: Kind,
    /// Whether elements are stored in the opposite byte order to this machine's.
    pub swapped: bool,
    /// Byte offset of the first voxel in the data file.
    pub data_offset: u64,
    /// `value = slope · stored + intercept`.
    pub scaling: (f64, f64),
    /// Voxel index → world mm (RAS+).
    pub affine: Affine,
    /// The transforms in the header from which the affine was chosen.
    pub forms: Forms,
    /// Whether the voxels are in the same file as the header.
    pub single_file: bool,
}

/// The two transforms that a header may contain, and the voxel size.
#[derive(Debug, Clone, Copy)]
pub struct Forms {
    /// Voxel size [mm], absolute values.
    pub pixdim: [f64; 3],
    /// The sform, if its code is positive.
    pub sform: Option<Affine>,
    /// The qform, if its code is positive and its quaternion is valid.
    pub qform: Option<Affine>,
}

impl Header {
    /// Number of bytes of all voxels.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product::<u64>() * self.kind.size() as u64
    }

    /// The geometry that the affine describes.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry::from_affine(self.affine)
    }
}

/// Reads numbers from a header in either byte order.
struct Fields<'a> {
    bytes: &'a [u8],
    swapped: bool,
}

impl Fields<'_> {
    fn take<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[offset..offset + N]);
        if self.swapped {
            taken.reverse();
        }
        taken
    }

    fn i16(&self, offset: usize) -> i16 {
        i16::from_ne_bytes(self.take(offset))
    }

    fn i32(&self, offset: usize) -> i32 {
        i32::from_ne_bytes(self.take(offset))
    }

    fn i64(&self, offset: usize) -> i64 {
        i64::from_ne_bytes(self.take(offset))
    }

    fn f32(&self, offset: usize) -> f64 {
        f64::from(f32::from_ne_bytes(self.take(offset)))
    }

    fn f64(&self, offset: usize) -> f64 {
        f64::from_ne_bytes(self.take(offset))
    }
}

/// The header fields, converted to the same types for both versions.
struct Raw {
    dim: [i64; 8],
    datatype: i16,
    bitpix: i16,
    pixdim: [f64; 8],
    vox_offset: f64,
    scaling: (f64, f64),
    qform_code: i32,
    sform_code: i32,
    quaternion: [f64; 3],
    qoffset: [f64; 3],
    srow: [[f64; 4]; 3],
    units: i32,
    single_file: bool,
    /// Machine epsilon of the type in which the quaternion is stored.
    epsilon: f64,
}

/// Parse the first bytes of a NIfTI file (348 bytes for version 1, 540 bytes for version 2).
///
/// # Errors
/// [`Error::Header`] if the bytes are not a NIfTI header or contain impossible values; [`Error::Unsupported`] if the
/// header is valid but the volume is not 3D, has colours, complex numbers or 128-bit floats, or is in metres or
/// micrometres.
pub fn parse_header(bytes: &[u8]) -> Result<Header> {
    let raw = parse_raw(bytes)?;
    let shape = check_dimensions(&raw.dim)?;
    let voxels = check_shape(shape)?;
    let swapped = is_swapped(bytes);
    let kind = kind_of(raw.datatype)?;
    // Every header contains the voxel type twice (datatype and bitpix), so damage to one field can be detected. Some
    // writers do not set bitpix and leave it 0.
    if raw.bitpix != 0 && i64::from(raw.bitpix) != 8 * kind.size() as i64 {
        return Err(Error::Header(format!(
            "datatype {} has {} bits per voxel, but bitpix is {}; the header is damaged",
            raw.datatype,
            8 * kind.size(),
            raw.bitpix
        )));
    }
    if voxels.checked_mul(kind.size() as u64).is_none() {
        return Err(Error::Header(format!("shape {shape:?} is too large")));
    }
    // 1 is metre, 3 is micrometre. 0 (not set) is read as mm, as in all other software.
    if matches!(raw.units & 7, 1 | 3) {
        let unit = if raw.units & 7 == 1 { "metres" } else { "micrometres" };
        return Err(Error::Unsupported(format!("the header states lengths in {unit}; save the file in mm")));
    }
    if !(raw.vox_offset.is_finite() && (0.0..1e15).contains(&raw.vox_offset)) {
        return Err(Error::Header(format!("vox_offset {} is impossible; the header is damaged", raw.vox_offset)));
    }
    let smallest = if !raw.single_file {
        0
    } else if is_version_2(bytes) {
        544
    } else {
        352
    };
    let (affine, forms) = affine_of(&raw, shape)?;
    let header = Header {
        shape,
        kind,
        swapped,
        data_offset: (raw.vox_offset as u64).max(smallest),
        scaling: match raw.scaling {
            (slope, _) if !slope.is_finite() || slope == 0.0 => (1.0, 0.0),
            (slope, intercept) if intercept.is_finite() => (slope, intercept),
            (slope, intercept) => {
                return Err(Error::Header(format!(
                    "scl_slope is {slope}, but scl_inter is {intercept}; expected a finite number"
                )));
            }
        },
        affine,
        forms,
        single_file: raw.single_file,
    };
    header.geometry().check_within(shape)?;
    Ok(header)
}

fn is_swapped(bytes: &[u8]) -> bool {
    let size = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    size != 348 && size != 540
}

pub(super) fn is_version_2(bytes: &[u8]) -> bool {
    let size = bytes.first_chunk().map_or(0, |&size| i32::from_ne_bytes(size));
    size == 540 || size.swap_bytes() == 540
}

fn parse_raw(bytes: &[u8]) -> Result<Raw> {
    let no_nifti = |what: &str| Error::Header(format!("not a NIfTI file: {what}"));
    if bytes.len() < 348 {
        return Err(no_nifti(&format!("the file has {} bytes, a header has 348 or 540", bytes.len())));
    }
    let size = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let fields = Fields { bytes, swapped: is_swapped(bytes) };
    let triple = |from: usize, step: usize, read: &dyn Fn(usize) -> f64| [0, 1, 2].map(|n| read(from + n * step));
    match if fields.swapped { size.swap_bytes() } else { size } {
        348 => {
            let single_file = match &bytes[344..348] {
                b"n+1\0" => true,
                b"ni1\0" => false,
                _ => return Err(no_nifti("the magic string is missing (ANALYZE 7.5 is not supported)")),
            };
            let f32 = |offset: usize| fields.f32(offset);
            Ok(Raw {
                dim: std::array::from_fn(|n| i64::from(fields.i16(40 + 2 * n))),
                datatype: fields.i16(70),
                bitpix: fields.i16(72),
                pixdim: std::array::from_fn(|n| fields.f32(76 + 4 * n)),
                vox_offset: fields.f32(108),
                scaling: (fields.f32(112), fields.f32(116)),
                qform_code: fields.i16(252).into(),
                sform_code: fields.i16(254).into(),
                quaternion: triple(256, 4, &f32),
                qoffset: triple(268, 4, &f32),
                srow: std::array::from_fn(|row| std::array::from_fn(|n| fields.f32(280 + 16 * row + 4 * n))),
                units: bytes[123].into(),
                single_file,
                epsilon: f32::EPSILON.into(),
            })
        }
        540 => {
            if bytes.len() < 540 {
                return Err(no_nifti(&format!("the file has {} bytes, a NIfTI-2 header has 540", bytes.len())));
            }
            let single_file = match &bytes[4..8] {
                b"n+2\0" => true,
                b"ni2\0" => false,
                _ => return Err(no_nifti("the magic string is missing")),
            };
            let f64 = |offset: usize| fields.f64(offset);
            Ok(Raw {
                dim: std::array::from_fn(|n| fields.i64(16 + 8 * n)),
                datatype: fields.i16(12),
                bitpix: fields.i16(14),
                pixdim: std::array::from_fn(|n| fields.f64(104 + 8 * n)),
                vox_offset: fields.i64(168) as f64,
                scaling: (fields.f64(176), fields.f64(184)),
                qform_code: fields.i32(344),
                sform_code: fields.i32(348),
                quaternion: triple(352, 8, &f64),
                qoffset: triple(376, 8, &f64),
                srow: std::array::from_fn(|row| std::array::from_fn(|n| fields.f64(400 + 32 * row + 8 * n))),
                units: fields.i32(500),
                single_file,
                epsilon: f64::EPSILON,
            })
        }
        other => Err(no_nifti(&format!("the header size is {other}; expected 348 or 540"))),
    }
}

fn check_dimensions(dim: &[i64; 8]) -> Result<[usize; 3]> {
    let count = dim[0];
    if !(1..=7).contains(&count) {
        return Err(Error::Header(format!("the header states {count} dimensions; expected 1 to 7")));
    }
    let sizes = &dim[1..=count as usize];
    if let Some(axis) = sizes.iter().position(|&n| n < 1) {
        return Err(Error::Header(format!("axis {axis} has {} voxels; expected at least 1", sizes[axis])));
    }
    if count < 3 || sizes[3..].iter().any(|&n| n > 1) {
        return Err(Error::Unsupported(format!("shape {sizes:?} is not 3D")));
    }
    Ok([sizes[0] as usize, sizes[1] as usize, sizes[2] as usize])
}

fn kind_of(datatype: i16) -> Result<Kind> {
    Ok(match datatype {
        2 => Kind::U8,
        4 => Kind::I16,
        8 => Kind::I32,
        16 => Kind::F32,
        64 => Kind::F64,
        256 => Kind::I8,
        512 => Kind::U16,
        768 => Kind::U32,
        1024 => Kind::I64,
        1280 => Kind::U64,
        32 | 1792 | 2048 => return Err(Error::Unsupported("voxels are complex numbers".into())),
        128 | 2304 => return Err(Error::Unsupported("voxels are colours".into())),
        1536 => return Err(Error::Unsupported("voxels are 128-bit floats".into())),
        other => return Err(Error::Header(format!("datatype {other} is not a NIfTI datatype"))),
    })
}

fn affine_of(raw: &Raw, shape: [usize; 3]) -> Result<(Affine, Forms)> {
    let size = [raw.pixdim[1], raw.pixdim[2], raw.pixdim[3]];
    if size.iter().any(|s| !s.is_finite()) {
        return Err(Error::Header(format!(
            "spacing {size:?} mm is not finite; every axis needs a positive voxel size"
        )));
    }
    let pixdim = size.map(f64::abs);
    let qform = (raw.qform_code > 0).then(|| qform_of(raw, pixdim));
    let mut affine = [[0.0; 4]; 4];
    affine[3][3] = 1.0;
    if raw.sform_code > 0 {
        affine[..3].copy_from_slice(&raw.srow);
        // An invalid quaternion is ignored if there is an sform.
        return Ok((affine, Forms { pixdim, sform: Some(affine), qform: qform.and_then(Result::ok) }));
    }
    if size.contains(&0.0) {
        return Err(Error::Header(format!(
            "spacing {size:?} mm is impossible; every axis needs a positive voxel size"
        )));
    }
    if let Some(qform) = qform.transpose()? {
        return Ok((qform, Forms { pixdim, sform: None, qform: Some(qform) }));
    }
    for axis in 0..3 {
        // Without a transform, the first axis runs from right to left and the origin is in the middle, as in nibabel.
        let step = if axis == 0 { -pixdim[axis] } else { pixdim[axis] };
        affine[axis][axis] = step;
        affine[axis][3] = -step * (shape[axis] as f64 - 1.0) / 2.0;
    }
    Ok((affine, Forms { pixdim, sform: None, qform: None }))
}

fn qform_of(raw: &Raw, size: [f64; 3]) -> Result<Affine> {
    let rotation = rotation_of(raw.quaternion, raw.epsilon)?;
    // The sign of pixdim[0] is the direction of the third axis.
    let flip = if raw.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let mut affine = [[0.0, 0.0, 0.0, 1.0]; 4];
    for (row, turned) in rotation.iter().enumerate() {
        affine[row] = [turned[0] * size[0], turned[1] * size[1], turned[2] * (size[2] * flip), raw.qoffset[row]];
    }
    Ok(affine)
}

/// The rotation matrix of a unit quaternion, from its last three components.
fn rotation_of([b, c, d]: [f64; 3], epsilon: f64) -> Result<[[f64; 3]; 3]> {
    let square = 1.0 - (b * b + c * c + d * d);
    // If 1 - |v|² is 0 up to rounding, the first component is set to 0, as in nibabel: the square root would be far
    // larger than the rounding error.
    let a = if square.abs() < 3.0 * epsilon {
        0.0
    } else if square > 0.0 {
        square.sqrt()
    } else {
        return Err(Error::Header(format!(
            "the qform quaternion ({b}, {c}, {d}) is longer than 1; the header is damaged"
        )));
    };
    let s = 2.0 / (a * a + b * b + c * c + d * d);
    let (sb, sc, sd) = (b * s, c * s, d * s);
    Ok([
        [1.0 - (c * sc + d * sd), b * sc - a * sd, b * sd + a * sc],
        [b * sc + a * sd, 1.0 - (b * sb + d * sd), c * sd - a * sb],
        [b * sd - a * sc, c * sd + a * sb, 1.0 - (b * sb + c * sc)],
    ])
}
