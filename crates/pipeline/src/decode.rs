//! Latents to frames.

use burn::tensor::{Tensor, backend::Backend};
use i2vgen_vae::AutoencoderKL;

use crate::{HostTensor, PipelineError, Video};

/// Decodes frames `chunk` at a time; `done` hears how many there are so far.
///
/// # Shapes
/// `latents [videos, channels, frames, h, w]` as a scheduler leaves them → `videos` of `frames`
pub(crate) fn decode<B: Backend>(
    vae: &AutoencoderKL<B>,
    latents: Tensor<B, 5>,
    chunk: usize,
    fps: f64,
    mut done: impl FnMut(usize, usize) -> Result<(), PipelineError>,
) -> Result<Video, PipelineError> {
    let [videos, channels, frames, h, w] = latents.dims();
    let latents: Tensor<B, 5> = latents.permute([0, 2, 1, 3, 4]);
    let z = latents.reshape([videos * frames, channels, h, w]);
    let z = z * (1.0 / vae.config.scaling_factor);
    let total = videos * frames;
    let factor = vae.config.scale_factor();
    let (height, width) = (h * factor, w * factor);
    let mut values = Vec::with_capacity(total * 3 * height * width);
    for start in (0..total).step_by(chunk) {
        let count = chunk.min(total - start);
        let pixels = vae.decode(z.clone().narrow(0, start, count))?;
        let pixels = HostTensor::from_tensor(pixels.permute([0, 2, 3, 1])).values;
        finite(&pixels, height * width * 3).map_err(|frame| PipelineError::NotFinite {
            stage: "VAE decoder",
            video: (start + frame) / frames,
            frame: (start + frame) % frames,
        })?;
        values.extend(pixels.iter().map(|v| (v * 0.5 + 0.5).clamp(0.0, 1.0)));
        done(start + count, total)?;
    }
    Video::new(values, [videos, frames, height, width], fps)
}

/// Refuses latents with values that are not finite.
pub(crate) fn check_latents(
    latents: &HostTensor<5>,
    stage: &'static str,
) -> Result<(), PipelineError> {
    let [_, channels, frames, h, w] = latents.shape;
    finite(&latents.values, h * w).map_err(|plane| PipelineError::NotFinite {
        stage,
        video: plane / (channels * frames),
        frame: plane % frames,
    })
}

/// The first block of values in which one is not finite.
fn finite(values: &[f32], block: usize) -> Result<(), usize> {
    let bad = values.chunks(block.max(1));
    let bad = bad.map(|block| block.iter().any(|v| !v.is_finite()));
    match bad.enumerate().find(|(_, bad)| *bad) {
        Some((index, _)) => Err(index),
        None => Ok(()),
    }
}
