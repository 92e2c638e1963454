//! Half precision on the CPU: values are kept in f16 or bf16 and computed with in f32.
//!
//! A CPU of today multiplies f16 no faster than f32, so the gain is memory: weights and activations take half, and only
//! what one operation works on is widened. burn's own conversion goes through f64 on one thread.

use burn::tensor::{Bytes, DType, Tensor, backend::Backend, bf16, f16};
use burn_flex::{Flex, FlexTensor};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::any::TypeId;

use super::{GRAIN, from_vec, unwrap, values, wrap};

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
    TypeId::of::<B>() == TypeId::of::<Flex>() && matches!(x.dtype(), DType::F16 | DType::BF16)
}

/// A Flex tensor in half precision as f32; any other as it is.
pub(crate) fn widen<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    if !is_half(&x) {
        return x;
    }
    let (dims, dtype) = (x.dims(), x.dtype());
    let x = unwrap(x);
    let mut wide = vec![0.0; dims.iter().product()];
    let parts = wide.par_chunks_mut(GRAIN);
    match dtype {
        DType::F16 => parts
            .zip(x.storage::<f16>().par_chunks(GRAIN))
            .for_each(|(wide, x)| x.convert_to_f32_slice(wide)),
        _ => parts
            .zip(x.storage::<bf16>().par_chunks(GRAIN))
            .for_each(|(wide, x)| x.convert_to_f32_slice(wide)),
    }
    from_vec(wide, dims)
}

/// An f32 Flex tensor in half precision.
fn round<B: Backend, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
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
            parts.for_each(|(narrow, x)| narrow.convert_from_f32_slice(x));
            Bytes::from_elems(narrow)
        }
    };
    wrap(FlexTensor::new(bytes, x.layout().clone(), dtype))
}
