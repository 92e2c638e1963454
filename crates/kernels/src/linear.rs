//! The affine map of the last axis.

use burn::tensor::{DType, Tensor, backend::Backend};

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
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let x = {
        let x = x.reshape([1, 1, rows, input]);
        let weight = weight.clone().reshape([out, 1, 1, input]);
        let bias = bias.clone().map(|bias| bias.unsqueeze());
        match crate::cube::try_conv2d(x, &weight, bias.as_ref(), 1, [0; 2]) {
            Ok(done) => return done.reshape(dims),
            Err(x) => x.reshape([rows, input]),
        }
    };
    let dtype = x.dtype();
    let y = matmul(x, weight.transpose(), dtype);
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y.reshape(dims)
}

/// Matrix product whose sums are in f32, of f32 values as they are: burn's own rounds them to 10 bits on a GPU with matrix
/// units.
///
/// # Shapes
/// `a [.., m, k]`, `b [.., k, n]` with the same batches → `[.., m, n]` in `dtype`, which is theirs or f32
pub fn matmul<B: Backend, const D: usize>(
    a: Tensor<B, D>,
    b: Tensor<B, D>,
    dtype: DType,
) -> Tensor<B, D> {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    if crate::cube::eligible(&a) && a.dtype() == b.dtype() {
        return crate::cube::matmul(a, b, dtype);
    }
    a.cast(dtype).matmul(b.cast(dtype))
}
