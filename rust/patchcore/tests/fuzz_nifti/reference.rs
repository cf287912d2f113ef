//! A naive NIfTI reader: it reads every field at its offset in the standard, converts every voxel to a number, and
//! floods every component.

use patchcore::Connectivity;

/// The content of a file.
pub(crate) struct Reading {
    pub(crate) shape: [usize; 3],
    pub(crate) affine: [[f64; 4]; 4],
    /// Labels, first axis fastest.
    labels: Vec<i64>,
}

/// Read one number from a header.
fn number(bytes: &[u8], at: usize, kind: &str, big: bool) -> f64 {
    macro_rules! of {
        ($type:ty) => {{
            let raw = bytes[at..at + size_of::<$type>()].try_into().unwrap();
            if big { <$type>::from_be_bytes(raw) } else { <$type>::from_le_bytes(raw) }
        }};
    }
    match kind {
        "u8" => bytes[at].into(),
        "i16" => of!(i16).into(),
        "i32" => of!(i32).into(),
        "i64" => of!(i64) as f64,
        "f32" => of!(f32).into(),
        _ => of!(f64),
    }
}

fn label_of(raw: &[u8], code: i64, big: bool, slope: f64, inter: f64) -> Option<i64> {
    let mut little = raw.to_vec();
    if big {
        little.reverse();
    }
    let mut wide = [0; 8];
    wide[..little.len()].copy_from_slice(&little);
    let bits = u64::from_le_bytes(wide);
    let exact: Option<i128> = match code {
        2 | 512 | 768 | 1280 => Some(bits.into()),
        256 => Some((bits as u8 as i8).into()),
        4 => Some((bits as u16 as i16).into()),
        8 => Some((bits as u32 as i32).into()),
        1024 => Some((bits as i64).into()),
        _ => None,
    };
    let scaled = slope != 1.0 || inter != 0.0;
    if let Some(value) = exact
        && !scaled
    {
        return i64::try_from(value).ok();
    }
    let stored = exact.map_or_else(
        || if code == 16 { f64::from(f32::from_bits(bits as u32)) } else { f64::from_bits(bits) },
        |value| value as f64,
    );
    let value = stored * slope + inter;
    ((value - value.round()).abs() <= 1e-3).then(|| value.round() as i64)
}

/// Read the header file, and the voxel file if it is separate. `None` if a reader must reject the file.
pub(crate) fn read((header, data): &(Vec<u8>, Option<Vec<u8>>)) -> Option<Reading> {
    let version = [(348, false, 1), (348, true, 1), (540, false, 2), (540, true, 2)]
        .into_iter()
        .find(|&(size, big, _)| header.len() >= size && number(header, 0, "i32", big) == size as f64);
    let (size, big, version) = version?;
    let get = |at: usize, kind: &str| number(header, at, kind, big);
    let one = version == 1;
    let (magic, float, step) = if one { (&header[344..348], "f32", 4) } else { (&header[4..8], "f64", 8) };
    let single = match magic {
        b"n+1\0" | b"n+2\0" => true,
        b"ni1\0" | b"ni2\0" => false,
        _ => return None,
    };
    let dim = |n: usize| if one { get(40 + 2 * n, "i16") } else { get(16 + 8 * n, "i64") };
    let axes = dim(0);
    if !(3.0..=7.0).contains(&axes) || (4..=axes as usize).any(|n| dim(n) != 1.0) || (1..4).any(|n| dim(n) < 1.0) {
        return None;
    }
    let shape = [dim(1) as usize, dim(2) as usize, dim(3) as usize];
    let (code, bits) = if one { (get(70, "i16"), get(72, "i16")) } else { (get(12, "i16"), get(14, "i16")) };
    let width = match code as i64 {
        2 | 256 => 1,
        4 | 512 => 2,
        8 | 16 | 768 => 4,
        64 | 1024 | 1280 => 8,
        _ => return None,
    };
    if bits != 0.0 && bits != 8.0 * width as f64 {
        return None;
    }
    let offset = if one { get(108, "f32") } else { get(168, "i64") };
    let (mut slope, mut inter) =
        if one { (get(112, "f32"), get(116, "f32")) } else { (get(176, "f64"), get(184, "f64")) };
    if slope == 0.0 || !slope.is_finite() {
        (slope, inter) = (1.0, 0.0);
    }
    // The voxels cannot begin within the header.
    let offset = if single { offset.max(size as f64 + 4.0) } else { offset };
    let voxels = if single { header } else { data.as_ref()? };
    let bytes = voxels.get(offset as usize..)?.get(..shape.iter().product::<usize>() * width)?;
    let rest = &voxels[offset as usize + bytes.len()..];
    if rest.len() > 4096 || rest.iter().any(|&byte| byte != 0) {
        return None;
    }
    let labels = bytes.chunks(width).map(|raw| label_of(raw, code as i64, big, slope, inter)).collect::<Option<_>>()?;
    let pixdim = |n: usize| if one { get(76 + 4 * n, "f32") } else { get(104 + 8 * n, "f64") };
    let (codes, quaternion, rows) = if one {
        ((get(252, "i16"), get(254, "i16")), 256, 280)
    } else {
        ((get(344, "i32"), get(348, "i32")), 352, 400)
    };
    let mut affine = [[0.0, 0.0, 0.0, 0.0], [0.0; 4], [0.0; 4], [0.0, 0.0, 0.0, 1.0]];
    for row in 0..3 {
        for column in 0..4 {
            affine[row][column] = if codes.1 > 0.0 {
                get(rows + (row * 4 + column) * step, float)
            } else if codes.0 > 0.0 {
                let [b, c, d, x, y, z] = std::array::from_fn(|n| get(quaternion + n * step, float));
                let square = 1.0 - b * b - c * c - d * d;
                let nothing = 3.0 * if one { f64::from(f32::EPSILON) } else { f64::EPSILON };
                let a = if square.abs() < nothing { 0.0 } else { square.sqrt() };
                let length = a * a + b * b + c * c + d * d;
                let turn = [
                    [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
                    [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
                    [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - c * c - b * b],
                ];
                let handed = if pixdim(0) < 0.0 && column == 2 { -1.0 } else { 1.0 };
                if column == 3 {
                    [x, y, z][row]
                } else {
                    turn[row][column] / length * pixdim(column + 1).abs() * handed
                }
            } else {
                let edge = pixdim(row + 1).abs() * if row == 0 { -1.0 } else { 1.0 };
                match column {
                    3 => -edge * (shape[row] as f64 - 1.0) / 2.0,
                    _ if column == row => edge,
                    _ => 0.0,
                }
            };
        }
    }
    Some(Reading { shape, affine, labels })
}

/// A component: label, number of voxels, first index, and one past the last index of its bounding box.
pub(crate) type Component = (i64, u64, [u64; 3], [u64; 3]);

impl Reading {
    /// Find every component by flooding, ordered by smallest C-order index.
    pub(crate) fn components(&self, connectivity: Connectivity) -> Vec<Component> {
        let most = match connectivity {
            Connectivity::Six => 1,
            Connectivity::Eighteen => 2,
            Connectivity::TwentySix => 3,
        };
        let [x, y, z] = self.shape;
        let at = |[i, j, k]: [usize; 3]| i + x * (j + y * k);
        let mut seen = vec![false; self.labels.len()];
        let mut found = Vec::new();
        for start in (0..x).flat_map(|i| (0..y).flat_map(move |j| (0..z).map(move |k| [i, j, k]))) {
            let label = self.labels[at(start)];
            if label == 0 || seen[at(start)] {
                continue;
            }
            seen[at(start)] = true;
            let mut pending = vec![start];
            let (mut count, mut low, mut high) = (0, [u64::MAX; 3], [0; 3]);
            while let Some(here) = pending.pop() {
                count += 1;
                for axis in 0..3 {
                    low[axis] = low[axis].min(here[axis] as u64);
                    high[axis] = high[axis].max(here[axis] as u64 + 1);
                }
                for step in 0..27usize {
                    let step = [step % 3, step / 3 % 3, step / 9];
                    // Coordinates are shifted by 1, so that none is negative.
                    let moved = [0, 1, 2].map(|axis| here[axis] + step[axis]);
                    let inside = (0..3).all(|axis| moved[axis] >= 1 && moved[axis] <= self.shape[axis]);
                    if !inside || step.iter().filter(|&&s| s != 1).count() > most {
                        continue;
                    }
                    let there = moved.map(|n| n - 1);
                    if self.labels[at(there)] == label && !seen[at(there)] {
                        seen[at(there)] = true;
                        pending.push(there);
                    }
                }
            }
            found.push((label, count, low, high));
        }
        found
    }
}
