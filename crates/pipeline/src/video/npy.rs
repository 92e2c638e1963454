//! NumPy's array format, version 1.0 (`numpy.lib.format`): a line of Python that describes the array, then its values.

use std::io::Write;

use super::{Advice, AnyError, DEFAULT_FPS, Video};

const MAGIC: &[u8] = b"\x93NUMPY";

pub(super) fn write(video: &Video, out: &mut dyn Write) -> Result<(), AnyError> {
    let [videos, frames, height, width] = video.shape();
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({videos}, {frames}, {height}, {width}, 3), }}"
    );
    // Magic, version, length, header and line end are a multiple of 64 bytes together.
    let padding = 64 - (10 + header.len() + 1) % 64;
    header.extend(std::iter::repeat_n(' ', padding % 64));
    header.push('\n');
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for value in video.values() {
        out.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

pub(super) fn read(bytes: &[u8]) -> Result<Video, AnyError> {
    let (header, values) = split(bytes).ok_or("is no complete .npy file")?;
    let entry = |key: &str| Some(header.split_once(&format!("'{key}':"))?.1.trim_start());
    let f32s = entry("descr").is_some_and(|e| e.starts_with("'<f4'"));
    let rows = entry("fortran_order").is_some_and(|e| e.starts_with("False"));
    let shape = entry("shape").and_then(|e| e.strip_prefix('(')?.split_once(')'));
    let shape: Option<Vec<usize>> = shape.and_then(|(sides, _)| {
        let sides = sides.split(',').map(str::trim).filter(|s| !s.is_empty());
        sides.map(|s| s.parse().ok()).collect()
    });
    match shape.as_deref() {
        Some(&[videos, frames, height, width, 3]) if f32s && rows => {
            from_le_bytes(values, [videos, frames, height, width], DEFAULT_FPS)
        }
        _ => Err(Advice::error(format!(
            "holds {}; save an array of dtype float32 and shape (videos, frames, height, width, 3) in C order",
            header.trim()
        ))),
    }
}

/// Header and values.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, start) = match rest.first()? {
        1 => (
            usize::from(u16::from_le_bytes(rest.get(2..4)?.try_into().ok()?)),
            4,
        ),
        2 | 3 => (
            u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?) as usize,
            6,
        ),
        _ => return None,
    };
    let (header, values) = rest.get(start..)?.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, values))
}

/// From little-endian values of `[videos, frames, height, width, 3]`.
pub(super) fn from_le_bytes(bytes: &[u8], shape: [usize; 4], fps: f64) -> Result<Video, AnyError> {
    let expected = shape
        .iter()
        .try_fold(12, |n: usize, side| n.checked_mul(*side));
    if expected != Some(bytes.len()) {
        return Err(format!("has {} bytes for a video of shape {shape:?}", bytes.len()).into());
    }
    let values = bytes.chunks_exact(4);
    let values = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    if bytes.is_empty() {
        return Err(Advice::error("holds no frames; write it again"));
    }
    Ok(Video::new(values.collect(), shape, fps)?)
}
