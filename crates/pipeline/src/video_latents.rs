//! Frames to latents.

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use i2vgen_vae::AutoencoderKL;

use crate::{ImageLatents, PipelineError, Video, generators::Generators};

/// Encodes frames `chunk` at a time. Noise of the posterior is drawn for all of them at once, as in the reference.
///
/// # Shapes
/// → `[videos, channels, frames, h, w]`, scaled, in f32
pub(crate) fn encode<B: Backend>(
    vae: &AutoencoderKL<B>,
    video: &Video,
    chunk: usize,
    kind: ImageLatents,
    generators: &mut Generators,
    device: &B::Device,
) -> Result<Tensor<B, 5>, PipelineError> {
    let [videos, frames, height, width] = video.shape();
    let size = height * width * 3;
    let (mut means, mut deviations) = (Vec::new(), Vec::new());
    for part in video.values().chunks(chunk * size) {
        let values: Vec<f32> = part.iter().map(|v| v * 2.0 - 1.0).collect();
        let data = TensorData::new(values, [part.len() / size, height, width, 3]);
        let pixels = Tensor::<B, 4>::from_data(data, (device, DType::F32));
        let posterior = vae.encode(pixels.permute([0, 3, 1, 2]))?;
        means.push(posterior.mode());
        deviations.push((posterior.logvar * 0.5).exp());
    }
    let mean = Tensor::cat(means, 0);
    let [_, channels, h, w] = mean.dims();
    let z = match kind {
        ImageLatents::Mode => mean,
        ImageLatents::Sample => {
            let noise = generators.normal(mean.dims(), device);
            mean + noise * Tensor::cat(deviations, 0)
        }
    };
    let z = z * vae.config.scaling_factor;
    let z: Tensor<B, 5> = z.reshape([videos, frames, channels, h, w]);
    Ok(z.permute([0, 2, 1, 3, 4]))
}
