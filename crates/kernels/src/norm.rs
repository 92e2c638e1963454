//! Group and layer normalisation over channels-last tensors.
//!
//! Statistics are taken in f32 whatever the dtype of the input: in half precision the sum of squares of a feature map
//! overflows f16 and blanks the picture.

use burn::tensor::{DType, Tensor, activation, backend::Backend};

/// Group normalisation, optionally followed by SiLU.
///
/// # Shapes
/// `x [n, s, c]`, `weight [c]`, `bias [c]` → `[n, s, c]`; the statistics of one group run over all `s` positions of its
/// `c / groups` channels. Give the frames of a video as part of `s` to share the statistics between frames.
pub fn group_norm<B: Backend>(
    x: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Tensor<B, 3> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| {
        let (weight, bias) = (
            crate::flex::widen(weight.clone()),
            crate::flex::widen(bias.clone()),
        );
        group_norm(x, weight, bias, groups, eps, silu)
    }) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_group_norm(x, &weight, &bias, groups, eps, silu) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let x = match crate::cube::try_group_norm(x, &weight, &bias, groups, eps, silu) {
        Ok(done) => return done,
        Err(x) => x,
    };
    let [n, s, c] = x.dims();
    let dtype = x.dtype();
    let x = x.cast(DType::F32).reshape([n, s, groups, c / groups]);
    let x = x.clone() - mean_of_groups(x);
    let var = mean_of_groups(x.clone().square());
    let x = x / (var + eps).sqrt();
    let y = x.reshape([n, s, c]) * weight.cast(DType::F32).unsqueeze()
        + bias.cast(DType::F32).unsqueeze();
    let y = if silu { activation::silu(y) } else { y };
    y.cast(dtype)
}

/// Mean of each image and group, over the positions in two steps: some devices keep one running sum for a whole axis, and
/// its rounding errors grow with the length.
///
/// # Shapes
/// `[n, s, groups, channels]` → `[n, 1, groups, 1]`
fn mean_of_groups<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let [n, s, groups, _] = x.dims();
    let root = s.isqrt();
    let steps = (1..=root).rev().find(|step| s.is_multiple_of(*step));
    let steps = steps.unwrap_or(1);
    let rows = x.mean_dim(3).reshape([n, steps, s / steps, groups]);
    rows.mean_dim(2).mean_dim(1).reshape([n, 1, groups, 1])
}

/// Layer normalisation of the last axis.
///
/// # Shapes
/// `x [rows, c]`, `weight [c]`, `bias [c]` → `[rows, c]`
pub fn layer_norm<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    eps: f64,
) -> Tensor<B, 2> {
    #[cfg(feature = "flex")]
    let x = match crate::flex::in_f32(x, |x| {
        let (weight, bias) = (
            crate::flex::widen(weight.clone()),
            crate::flex::widen(bias.clone()),
        );
        layer_norm(x, weight, bias, eps)
    }) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(feature = "flex")]
    let x = match crate::flex::try_layer_norm(x, &weight, &bias, eps) {
        Ok(done) => return done,
        Err(x) => x,
    };
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let x = match crate::cube::try_layer_norm(x, &weight, &bias, eps) {
        Ok(done) => return done,
        Err(x) => x,
    };
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let x = x.clone() - x.mean_dim(1);
    let var = x.clone().square().mean_dim(1);
    let y = x / (var + eps).sqrt() * weight.cast(DType::F32).unsqueeze()
        + bias.cast(DType::F32).unsqueeze();
    y.cast(dtype)
}
