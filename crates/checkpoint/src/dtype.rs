//! Number formats on disk and in memory.

use burn::tensor::{Bytes, DType};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;
use safetensors::Dtype;

/// Elements converted by one thread at once.
const GRAIN: usize = 1 << 16;

/// Bytes per element of a float format that weights come in.
pub(crate) fn float_size(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F16 | Dtype::BF16 => Some(2),
        Dtype::F32 => Some(4),
        Dtype::F64 => Some(8),
        _ => None,
    }
}

/// Converts little-endian weights to `target`, which is one of F32, F16, BF16.
///
/// A weight of a convolution, `[out, in, taps]`, comes out as `[out, taps, in]` when `taps > 1`: the kernels want the
/// channels last, and relaying while converting is free.
pub(crate) fn convert(
    bytes: &[u8],
    from: Dtype,
    target: DType,
    outer: usize,
    taps: usize,
) -> Bytes {
    let size = float_size(from).unwrap_or(1);
    let part = Part { size, outer, taps };
    let wide = |bytes: &[u8], out: &mut [f32]| widen(bytes, from, out);
    match (from, target) {
        (Dtype::F16, DType::F16) | (Dtype::BF16, DType::BF16) => {
            let same = |bytes: &[u8], out: &mut [u16]| each(bytes, out, u16::from_le_bytes);
            Bytes::from_elems(relay(bytes, part, same, |x| x))
        }
        (_, DType::F16) => Bytes::from_elems(relay(bytes, part, wide, f16::from_f32)),
        (_, DType::BF16) => Bytes::from_elems(relay(bytes, part, wide, bf16::from_f32)),
        _ => Bytes::from_elems(relay(bytes, part, wide, |x| x)),
    }
}

/// Bytes of a number on disk, and how a weight's numbers lie: so many outputs, so many taps.
struct Part {
    size: usize,
    outer: usize,
    taps: usize,
}

/// Reads numbers, relays a convolution's, and writes them in another format.
fn relay<S, T>(
    bytes: &[u8],
    Part { size, outer, taps }: Part,
    read: impl Fn(&[u8], &mut [S]) + Sync,
    write: fn(S) -> T,
) -> Vec<T>
where
    S: Copy + Default + Send,
    T: Copy + Default + Send + 'static,
{
    let count = bytes.len() / size;
    let mut out = vec![T::default(); count];
    // One part is one output channel of a convolution, or a run of elements otherwise.
    let part = if taps > 1 {
        count / outer.max(1)
    } else {
        GRAIN
    };
    if count == 0 {
        return out;
    }
    out.par_chunks_mut(part)
        .zip(bytes.par_chunks(part * size))
        .for_each_init(
            || vec![S::default(); part],
            |values, (out, bytes)| {
                let values = &mut values[..out.len()];
                read(bytes, values);
                if taps > 1 {
                    let inner = out.len() / taps;
                    for (i, run) in values.chunks_exact(taps).enumerate() {
                        for (tap, x) in run.iter().enumerate() {
                            out[tap * inner + i] = write(*x);
                        }
                    }
                } else {
                    for (out, x) in out.iter_mut().zip(values) {
                        *out = write(*x);
                    }
                }
            },
        );
    out
}

/// Little-endian floats of any supported format to f32.
fn widen(bytes: &[u8], from: Dtype, out: &mut [f32]) {
    match from {
        Dtype::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
            Ok(halves) => halves.convert_to_f32_slice(out),
            Err(_) => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        },
        Dtype::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        _ => each(bytes, out, f32::from_le_bytes),
    }
}

fn each<const N: usize, T>(bytes: &[u8], out: &mut [T], read: impl Fn([u8; N]) -> T) {
    for (out, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = read(*b);
    }
}
