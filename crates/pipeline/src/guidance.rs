//! Classifier-free guidance (Ho and Salimans, 2022): when it acts, and how the two predictions are combined.

use burn::tensor::{Tensor, backend::Backend};
use i2vgen_kernels::widened;

use crate::GenerateOptions;

impl GenerateOptions {
    /// Whether classifier-free guidance is on in any step.
    pub(crate) fn guided(&self) -> bool {
        self.guidance_scale > 1.0 && self.guidance_start < self.guidance_end
    }

    /// Whether it acts in this of so many model evaluations.
    pub(crate) fn guided_at(&self, index: usize, count: usize) -> bool {
        let position = index as f64 / count as f64;
        self.guided() && position >= self.guidance_start && position < self.guidance_end
    }
}

/// `without + scale · (with − without)`, and of that the share `rescale` brought back to the deviation of `with` (Lin et
/// al., 2023, section 3.4). In f32 at least.
///
/// # Shapes
/// `[videos, channels, frames, h, w]`
pub(crate) fn combine<B: Backend>(
    without: Tensor<B, 5>,
    with: Tensor<B, 5>,
    scale: f64,
    rescale: f64,
) -> Tensor<B, 5> {
    let (without, with) = (widened(without), widened(with));
    let guided = without.clone() + (with.clone() - without) * scale;
    if rescale > 0.0 {
        let wanted = deviation(with) / deviation(guided.clone());
        guided.clone() * (1.0 - rescale) + guided.mul(wanted) * rescale
    } else {
        guided
    }
}

/// Standard deviation of each video, as `torch.std` (with Bessel's correction).
///
/// # Shapes
/// `[videos, channels, frames, h, w]` → `[videos, 1, 1, 1, 1]`
fn deviation<B: Backend>(x: Tensor<B, 5>) -> Tensor<B, 5> {
    let [videos, c, f, h, w] = x.dims();
    let flat: Tensor<B, 2> = x.reshape([videos, c * f * h * w]);
    flat.var(1).sqrt().reshape([videos, 1, 1, 1, 1])
}
