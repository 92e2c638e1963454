//! The affine map of the last axis.

use burn::tensor::{DType, Tensor, backend::Backend};

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use crate::cube::Ending;
use crate::{
    conv::plus,
    geglu,
    trace::{End, Operation, note},
};

/// `x · weightᵀ (+ bias)` on the last axis.
///
/// # Shapes
/// `x [.., in]`, `weight [out, in]`, `bias [out]` → `[.., out]`
pub fn linear<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    linear_onto(x, weight, bias, None)
}

/// [`linear`] and its result added to `residual`, on a GPU with matrix units in one kernel, which rounds once.
///
/// # Shapes
/// As [`linear`], with `residual [.., out]`.
pub fn linear_add<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    residual: Tensor<B, D>,
) -> Tensor<B, D> {
    linear_onto(x, weight, bias, Some(residual))
}

/// [`linear`] and [`geglu`](crate::geglu) of its result. On a GPU with matrix units the hidden values are never written.
///
/// # Shapes
/// `x [.., in]`, `weight [2 · out, in]`, `bias [2 · out]` → `[.., out]`
pub fn linear_geglu<B: Backend>(
    x: Tensor<B, 3>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 3> {
    note_linear(&x, &weight, bias.is_some(), End::Geglu);
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let x = match crate::cube::try_linear(x, &weight, bias.as_ref(), Ending::Geglu) {
        Ok(done) => return done,
        Err(x) => x,
    };
    geglu(linear_alone(x, weight, bias))
}

/// How many values [`linear_geglu`] holds for each of its results before they are there: none where the gate is part of the
/// product's kernel, otherwise 2.
pub fn hidden_by_geglu<B: Backend>(device: &B::Device, dtype: DType) -> usize {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    if crate::cube::multiplies_half::<B>(device, dtype) {
        return 0;
    }
    let _ = (device, dtype);
    2
}

fn linear_onto<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    residual: Option<Tensor<B, D>>,
) -> Tensor<B, D> {
    let end = residual.as_ref().map_or(End::None, |_| End::Residual);
    note_linear(&x, &weight, bias.is_some(), end);
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let x = {
        let ending = residual.clone().map_or(Ending::None, Ending::Residual);
        match crate::cube::try_linear(x, &weight, bias.as_ref(), ending) {
            Ok(done) => return done,
            Err(x) => x,
        }
    };
    plus(linear_alone(x, weight, bias), residual)
}

fn note_linear<B: Backend, const D: usize>(
    x: &Tensor<B, D>,
    weight: &Tensor<B, 2>,
    bias: bool,
    end: End,
) {
    note(|| {
        let [out, input] = weight.dims();
        let out = if end == End::Geglu { out / 2 } else { out };
        Operation::Linear {
            x: [x.shape().num_elements() / input, input],
            out,
            bias,
            end,
        }
    });
}

fn linear_alone<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let mut dims = x.dims();
    let [out, input] = weight.dims();
    let rows = x.shape().num_elements() / input;
    let x = x.reshape([rows, input]);
    dims[D - 1] = out;
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
