//! Out of half precision, where a sum or a difference would lose what matters.

use burn::tensor::{DType, Tensor, backend::Backend};

/// Whether [`linear`](crate::linear) and the convolutions take a weight in f16 or bf16 for an `x` in f32, and lose nothing by it:
/// on the CPU, where there is a matrix unit, whose numbers it is split into in any case.
pub fn takes_half_weights<B: Backend>() -> bool {
    #[cfg(feature = "flex")]
    return crate::flex::takes_half_weights::<B>();
    #[cfg(not(feature = "flex"))]
    false
}

/// f16 and bf16 as f32; other tensors as they are.
pub fn widened<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}
