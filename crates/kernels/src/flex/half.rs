//! Half precision on the CPU: values are kept in f16 or bf16 and computed with in f32.
//!
//! Weights and activations take half of the memory, and only what one operation works on is widened; products of bf16 alone
//! go to the matrix unit as they are, where there is one. burn's own conversion goes through f64 on one thread.

use burn::tensor::{Bytes, DType, Tensor, backend::Backend, bf16, f16};
use burn_flex::FlexTensor;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{GRAIN, is_flex, primitive, unwrap, values, wrap};

/// Runs `f` in f32 if `x` is a Flex tensor in half precision, and rounds the result; otherwise gives `x` back.
pub(crate) fn in_f32<B: Backend, const D: usize, const E: usize>(
    x: Tensor<B, D>,
    f: impl FnOnce(Tensor<B, D>) -> Tensor<B, E>,
) -> Result<Tensor<B, E>, Tensor<B, D>> {
    match is_half(&x) {
        true => {
            let dtype = x.dtype();
            Ok(round(f(widen(x)), dtype))
        }
        false => Err(x),
    }
}

fn is_half<B: Backend, const D: usize>(x: &Tensor<B, D>) -> bool {
    is_flex::<B>() && matches!(x.dtype(), DType::F16 | DType::BF16)
}

/// A Flex tensor in half precision as f32; any other as it is. Its values stay where they lie: a convolution's weight is a
/// view of channels-last values, which the kernels would otherwise have to bring back in that order.
pub(crate) fn widen<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    if !is_half(&x) {
        return x;
    }
    let dtype = x.dtype();
    let x = primitive(x);
    let covers = x.bytes().len() == x.layout().num_elements() * dtype.size();
    let x = if covers { x } else { x.to_contiguous() };
    let mut wide = vec![0.0; x.layout().num_elements()];
    let parts = wide.par_chunks_mut(GRAIN);
    match dtype {
        DType::F16 => parts
            .zip(x.storage::<f16>().par_chunks(GRAIN))
            .for_each(|(wide, x)| x.convert_to_f32_slice(wide)),
        _ => parts
            .zip(x.storage::<bf16>().par_chunks(GRAIN))
            .for_each(|(wide, x)| widen_bf16(wide, x)),
    }
    let layout = x.layout().clone();
    wrap(FlexTensor::new(Bytes::from_elems(wide), layout, DType::F32))
}

/// An f32 Flex tensor in `dtype`.
pub(super) fn round<B: Backend, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
    if dtype == DType::F32 {
        return x;
    }
    let x = unwrap(x);
    let wide = values(&x).par_chunks(GRAIN);
    let count = x.layout().num_elements();
    let bytes = match dtype {
        DType::F16 => {
            let mut narrow = vec![f16::ZERO; count];
            let parts = narrow.par_chunks_mut(GRAIN).zip(wide);
            parts.for_each(|(narrow, x)| narrow.convert_from_f32_slice(x));
            Bytes::from_elems(narrow)
        }
        _ => {
            let mut narrow = vec![bf16::ZERO; count];
            let parts = narrow.par_chunks_mut(GRAIN).zip(wide);
            parts.for_each(|(narrow, x)| round_bf16(narrow, x));
            Bytes::from_elems(narrow)
        }
    };
    wrap(FlexTensor::new(bytes, x.layout().clone(), dtype))
}

/// A bf16 is the upper half of an f32. (The `half` crate converts them one by one.)
#[multiversion(targets = "simd")]
fn widen_bf16(wide: &mut [f32], x: &[bf16]) {
    for (wide, x) in wide.iter_mut().zip(x) {
        *wide = f32::from_bits(u32::from(x.to_bits()) << 16);
    }
}

#[multiversion(targets = "simd")]
fn round_bf16(narrow: &mut [bf16], x: &[f32]) {
    for (narrow, x) in narrow.iter_mut().zip(x) {
        *narrow = nearest(*x);
    }
}

/// `x += y`, in f32 and rounded.
#[multiversion(targets = "simd")]
pub(super) fn add_bf16(x: &mut [bf16], y: &[bf16]) {
    for (x, y) in x.iter_mut().zip(y) {
        let wide = |x: &bf16| f32::from_bits(u32::from(x.to_bits()) << 16);
        *x = nearest(wide(x) + wide(y));
    }
}

/// Ties to even; what is not a number stays one.
#[inline(always)]
fn nearest(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let bits = if x.is_nan() {
        bits >> 16 | 0x40
    } else {
        rounded
    };
    bf16::from_bits(bits as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_as_the_half_crate_converts() {
        // All exponents and signs, with ties, carries, infinities, subnormal and not-a-number values.
        let low = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let x: Vec<f32> = (0..=u16::MAX)
            .flat_map(|high| low.map(|low| f32::from_bits(u32::from(high) << 16 | low)))
            .collect();
        let mut narrow = vec![bf16::ZERO; x.len()];
        round_bf16(&mut narrow, &x);
        for (x, y) in x.iter().zip(&narrow) {
            assert_eq!(y.to_bits(), bf16::from_f32(*x).to_bits(), "{x}");
        }
        let mut sum = narrow.clone();
        add_bf16(&mut sum, &narrow[1..]);
        for ((x, y), sum) in narrow.iter().zip(&narrow[1..]).zip(&sum) {
            let exact = bf16::from_f32(x.to_f32() + y.to_f32());
            assert!(exact.is_nan() && sum.is_nan() || exact.to_bits() == sum.to_bits());
        }
        let mut wide = vec![0.0; x.len()];
        widen_bf16(&mut wide, &narrow);
        for (wide, y) in wide.iter().zip(&narrow) {
            assert_eq!(wide.to_bits(), y.to_f32().to_bits());
        }
    }
}
