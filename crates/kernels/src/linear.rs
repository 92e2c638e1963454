//! The affine map of the last axis.

use burn::tensor::{Tensor, backend::Backend};

use crate::trace::{Operation, note};

/// `x · weightᵀ (+ bias)` on the last axis.
///
/// # Shapes
/// `x [.., in]`, `weight [out, in]`, `bias [out]` → `[.., out]`
pub fn linear<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let mut dims = x.dims();
    let [out, input] = weight.dims();
    let rows = x.shape().num_elements() / input;
    let x = x.reshape([rows, input]);
    dims[D - 1] = out;
    note(|| Operation::Linear {
        x: [rows, input],
        out,
        bias: bias.is_some(),
    });
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_linear(x, &weight, bias.as_ref()) {
        Ok(done) => return done.reshape(dims),
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| {
        linear(
            x,
            crate::flex::widen(weight.clone()),
            bias.clone().map(crate::flex::widen),
        )
    }) {
        Ok(done) => return done.reshape(dims),
        Err(x) => x,
    };
    let y = x.matmul(weight.transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y.reshape(dims)
}
