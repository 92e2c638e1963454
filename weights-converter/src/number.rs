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
