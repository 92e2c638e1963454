//! What keeps a predicted clean sample in range: clipping, or dynamic thresholding (Saharia et al., 2022, Imagen), where
//! each sample is cut at a quantile of its own and scaled back.

use burn::tensor::{Tensor, backend::Backend};

use crate::{PredictionType, SchedulerError, config::check};

/// How predicted clean samples are kept in range; not at all by default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limit {
    threshold: Option<(f64, f64)>,
    clip: Option<f64>,
}

impl Limit {
    /// With dynamic thresholding if `on`: the quantile to cut at, and the most to divide by.
    pub(crate) fn threshold(
        mut self,
        on: bool,
        ratio: f64,
        max: f64,
    ) -> Result<Self, SchedulerError> {
        let is_ratio = (0.0..=1.0).contains(&ratio);
        let key = "dynamic_thresholding_ratio";
        check(is_ratio, key, ratio, "between 0 and 1")?;
        check(max > 0.0, "sample_max_value", max, "above 0")?;
        self.threshold = on.then_some((ratio, max));
        Ok(self)
    }

    /// With clipping to ±`range` if `on`.
    pub(crate) fn clip(mut self, on: bool, range: f64) -> Result<Self, SchedulerError> {
        check(range > 0.0, "clip_sample_range", range, "above 0")?;
        self.clip = on.then_some(range);
        Ok(self)
    }

    pub(crate) fn apply<B: Backend>(&self, original: Tensor<B, 4>) -> Tensor<B, 4> {
        match (self.threshold, self.clip) {
            // Thresholding goes before clipping, and instead of it.
            (Some((ratio, max)), _) => dynamic_threshold(original, ratio, max),
            (None, Some(range)) => original.clamp(-range, range),
            (None, None) => original,
        }
    }

    /// Refuses epsilon prediction without signal: the clean sample is infinite there, and only a limit makes a number of it.
    pub(crate) fn check_signal(
        &self,
        kind: PredictionType,
        alphas_cumprod: &[f32],
        timesteps: &[usize],
    ) -> Result<(), SchedulerError> {
        let limited = self.threshold.is_some() || self.clip.is_some();
        if kind != PredictionType::Epsilon || limited {
            return Ok(());
        }
        match timesteps.iter().find(|t| alphas_cumprod[**t] == 0.0) {
            Some(&timestep) => Err(SchedulerError::NoSignal { timestep }),
            None => Ok(()),
        }
    }
}

/// Cuts each sample (row of axis 0) at the `ratio` quantile of its absolute values, kept between 1 and `max`, and divides by
/// it.
///
/// # Shapes
/// `[samples, ..]`, the order of the other axes does not matter.
fn dynamic_threshold<B: Backend>(original: Tensor<B, 4>, ratio: f64, max: f64) -> Tensor<B, 4> {
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
