//! Dynamic thresholding (Saharia et al., 2022, Imagen): each sample is cut at a quantile of its own and scaled back.

use burn::tensor::{Tensor, backend::Backend};

/// Cuts each sample (row of axis 0) at the `ratio` quantile of its absolute values, kept between 1 and `max`, and divides by
/// it.
///
/// # Shapes
/// `[samples, ..]`, the order of the other axes does not matter.
pub(crate) fn dynamic_threshold<B: Backend>(
    original: Tensor<B, 4>,
    ratio: f64,
    max: f64,
) -> Tensor<B, 4> {
    let shape = original.dims();
    let [samples, a, b, c] = shape;
    if original.shape().num_elements() == 0 {
        return original;
    }
    let flat: Tensor<B, 2> = original.reshape([samples, a * b * c]);
    // torch clamps to 1 from below first, so a maximum under 1 wins.
    let limit = quantile(flat.clone().abs(), ratio)
        .clamp_min(1.0)
        .clamp_max(max);
    let limit = limit.expand(flat.dims());
    flat.max_pair(-limit.clone())
        .min_pair(limit.clone())
        .div(limit)
        .reshape(shape)
}

/// `torch.quantile(rows, ratio, dim=1, keepdim=True)` with linear interpolation, on the device.
fn quantile<B: Backend>(rows: Tensor<B, 2>, ratio: f64) -> Tensor<B, 2> {
    let last = rows.dims()[1] - 1;
    // f32, as torch ranks in the tensor's dtype.
    let rank = ratio as f32 * last as f32;
    let below = (rank as usize).min(last);
    let above = (rank.ceil() as usize).min(last);
    let weight = rank - below as f32;
    let sorted = rows.sort(1);
    let low = sorted.clone().narrow(1, below, 1);
    let high = sorted.narrow(1, above, 1);
    let gap = high.clone() - low.clone();
    // torch.lerp: from the nearer end.
    if weight < 0.5 {
        low + gap * weight
    } else {
        high - gap * (1.0 - weight)
    }
}
