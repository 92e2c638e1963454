//! Element by element: SiLU, the exact (erf) GELU, the GEGLU gate and the sum of a residual.

use burn::tensor::{Tensor, activation, backend::Backend};

/// `x · sigmoid(x)`, element by element.
pub fn silu<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| silu(x)) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_unary(x, crate::flex::activation::silu) {
        Ok(done) => return done,
        Err(x) => x,
    };
    activation::silu(x)
}

/// `x · Φ(x)` with the exact Gaussian distribution function (not the tanh form), element by element.
pub fn gelu<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| gelu(x)) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_unary(x, crate::flex::activation::gelu) {
        Ok(done) => return done,
        Err(x) => x,
    };
    activation::gelu(x)
}

/// The gated unit of the transformer feed-forward: the last axis is split in `(value, gate)`, the result is
/// `value · gelu(gate)`.
///
/// # Shapes
/// `[b, n, 2·c]` → `[b, n, c]`
pub fn geglu<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| geglu(x)) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_geglu(x) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let x = match crate::cube::try_geglu(x) {
        Ok(done) => return done,
        Err(x) => x,
    };
    let [_, _, c2] = x.dims();
    let value = x.clone().narrow(2, 0, c2 / 2);
    let gate = x.narrow(2, c2 / 2, c2 / 2);
    value * activation::gelu(gate)
}

/// `x + y`, element by element, for tensors of the same shape: the end of a residual block.
///
/// burn's own addition on the CPU runs on one thread.
pub fn add<B: Backend, const D: usize>(x: Tensor<B, D>, y: Tensor<B, D>) -> Tensor<B, D> {
    #[cfg(feature = "flex")]
    let [x, y] = match crate::flex::try_add(x, y) {
        Ok(done) => return done,
        Err(both) => both,
    };
    x + y
}
