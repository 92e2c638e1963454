//! Out of half precision, where a sum or a difference would lose what matters.

use burn::tensor::{DType, Tensor, backend::Backend};

/// f16 and bf16 as f32; other tensors as they are.
pub fn widened<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}
