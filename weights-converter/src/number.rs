//! Number formats.

use half::{bf16, f16, slice::HalfFloatSliceExt};
use safetensors::Dtype;

/// Bytes per element of a float format.
pub(crate) fn size(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F16 | Dtype::BF16 => Some(2),
        Dtype::F32 => Some(4),
        Dtype::F64 => Some(8),
        _ => None,
    }
}

/// Little-endian floats to f32.
pub(crate) fn widen(bytes: &[u8], from: Dtype) -> Vec<f32> {
    match from {
        Dtype::F16 | Dtype::BF16 => {
            let bits = bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| u16::from_le_bytes(*b));
            let mut out = vec![0.0; bytes.len() / 2];
            if from == Dtype::F16 {
                bits.map(f16::from_bits)
                    .collect::<Vec<_>>()
                    .convert_to_f32_slice(&mut out);
            } else {
                bits.map(bf16::from_bits)
                    .collect::<Vec<_>>()
                    .convert_to_f32_slice(&mut out);
            }
            out
        }
        Dtype::F64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b) as f32)
            .collect(),
        _ => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
    }
}

/// Whether no finite value becomes infinite as f32.
pub(crate) fn fits_f32(bytes: &[u8], from: Dtype) -> bool {
    let values = bytes.as_chunks::<8>().0.iter();
    let fits = |v: f64| !v.is_finite() || (v as f32).is_finite();
    from != Dtype::F64 || values.map(|b| f64::from_le_bytes(*b)).all(fits)
}

/// f32 to little-endian floats; `None` if a finite value becomes infinite.
pub(crate) fn narrow(values: &[f32], to: Dtype) -> Option<Vec<u8>> {
    match to {
        Dtype::F16 => {
            let mut out = vec![f16::ZERO; values.len()];
            out.convert_from_f32_slice(values);
            let lost = |(v, h): (&f32, &f16)| v.is_finite() && !h.is_finite();
            let fits = !values.iter().zip(&out).any(lost);
            fits.then(|| out.iter().flat_map(|h| h.to_le_bytes()).collect())
        }
        Dtype::BF16 => {
            let mut out = vec![bf16::ZERO; values.len()];
            out.convert_from_f32_slice(values);
            let lost = |(v, h): (&f32, &bf16)| v.is_finite() && !h.is_finite();
            let fits = !values.iter().zip(&out).any(lost);
            fits.then(|| out.iter().flat_map(|h| h.to_le_bytes()).collect())
        }
        Dtype::F64 => Some(
            values
                .iter()
                .flat_map(|v| f64::from(*v).to_le_bytes())
                .collect(),
        ),
        _ => Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_seen() {
        let bytes = |v: f64| v.to_le_bytes();
        for (value, fits) in [
            (1e38, true),
            (-1e39, false),
            (f64::INFINITY, true),
            (f64::NAN, true),
        ] {
            assert_eq!(fits_f32(&bytes(value), Dtype::F64), fits, "{value}");
        }
        for (to, most) in [
            (Dtype::F16, 65504.0),
            (Dtype::BF16, 3.38e38),
            (Dtype::F32, f32::MAX),
        ] {
            assert!(narrow(&[most, -most, f32::INFINITY, f32::NAN, 0.0], to).is_some());
            assert_eq!(narrow(&[f32::MAX], to).is_some(), to == Dtype::F32);
        }
    }

    #[test]
    fn every_half_survives() {
        for bits in 0..=u16::MAX {
            for dtype in [Dtype::F16, Dtype::BF16] {
                let wide = widen(&bits.to_le_bytes(), dtype);
                let back = narrow(&wide, dtype).unwrap();
                let same = wide[0].is_nan() || back == bits.to_le_bytes();
                assert!(same, "{bits:x} {dtype:?}");
            }
        }
    }
}
