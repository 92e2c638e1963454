use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::PipelineError;

/// The arguments of diffusers' `I2VGenXLPipeline.__call__`, with its names and defaults.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// What the video should not show; only read when `guidance_scale` is above 1.
    pub negative_prompt: String,
    /// Pixels; a multiple of the VAE's factor.
    pub height: usize,
    /// Pixels; a multiple of the VAE's factor.
    pub width: usize,
    /// Frames per second that the model is told to aim at.
    pub target_fps: f64,
    /// Frames of a video.
    pub num_frames: usize,
    /// Denoising steps.
    pub num_inference_steps: usize,
    /// Weight of the prompt; classifier-free guidance is on above 1.
    pub guidance_scale: f64,
    /// Weight of the noise that DDIM adds in each step.
    pub eta: f64,
    /// Videos from the same picture and prompt.
    pub num_videos_per_prompt: usize,
    /// Frames decoded at once. More need more memory.
    pub decode_chunk_size: usize,
    /// Layers of the text encoder to leave out at its end; `None` is as 0.
    pub clip_skip: Option<usize>,
    /// Seed of all random numbers, as `torch.manual_seed`; `None` takes one from the clock.
    pub seed: Option<u64>,
    /// Start noise instead of drawing it.
    pub latents: Option<Latents>,
    /// Whether the picture's latents are sampled from the VAE's posterior or are its mean.
    pub image_latents: ImageLatents,
    /// Whose behaviour to follow where the reference has a defect.
    pub compat: Compat,
    /// What to make.
    pub output_type: OutputType,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            negative_prompt: String::new(),
            height: 704,
            width: 1280,
            target_fps: 16.0,
            num_frames: 16,
            num_inference_steps: 50,
            guidance_scale: 9.0,
            eta: 0.0,
            num_videos_per_prompt: 1,
            decode_chunk_size: 1,
            clip_skip: Some(1),
            seed: None,
            latents: None,
            image_latents: ImageLatents::Sample,
            compat: Compat::Corrected,
            output_type: OutputType::Video,
        }
    }
}

/// How the picture's latents are taken from the VAE's posterior.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageLatents {
    /// A random sample, as the reference does; its noise is the first that the seed's generator draws.
    #[default]
    Sample,
    /// The mean, which draws nothing.
    Mode,
}

/// Whose behaviour to follow where the reference has a defect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// The picture is cropped without a black border.
    #[default]
    Corrected,
    /// diffusers to the bit: its cropping can leave a black line on the left or on top.
    Diffusers,
    /// The authors' VGen code: image features count twice, text is padded with id 0, and the last step goes to the
    /// first entry of the noise schedule instead of to no noise.
    VGen,
}

/// What a run makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputType {
    /// Decoded frames.
    #[default]
    Video,
    /// Latents as the scheduler leaves them; the VAE's decoder is not run.
    Latent,
}

/// Latents on the host, `[videos, channels, frames, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents {
    /// In row-major order.
    pub values: Vec<f32>,
    /// The five sizes.
    pub shape: [usize; 5],
}

impl Latents {
    /// Reads tensor `latents` of a safetensors file.
    ///
    /// # Errors
    /// If there is no such tensor of rank 5 in f32.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, PipelineError> {
        let path = path.as_ref();
        let fail = |problem: String| PipelineError::Option {
            name: "latents",
            problem: format!("'{}' {problem}", path.display()),
        };
        let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| fail(format!("is not a valid safetensors file ({e})")))?;
        let tensor = file
            .tensor("latents")
            .map_err(|_| fail("has no tensor named 'latents'".into()))?;
        let shape: [usize; 5] = tensor.shape().try_into().map_err(|_| {
            fail(format!(
                "has latents of shape {:?}; they must be [videos, channels, frames, height, width]",
                tensor.shape()
            ))
        })?;
        if tensor.dtype() != Dtype::F32 {
            return Err(fail(format!(
                "has latents in {:?}; they must be F32",
                tensor.dtype()
            )));
        }
        let (chunks, _) = tensor.data().as_chunks::<4>();
        let values = chunks.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(Self { values, shape })
    }
}

impl GenerateOptions {
    /// Refuses what could not give a video; `factor` is the VAE's pixels per latent, `channels` those of a latent.
    pub(crate) fn check(&self, factor: usize, channels: usize) -> Result<(), PipelineError> {
        let fail = |name, problem: String| Err(PipelineError::Option { name, problem });
        for (name, value) in [("height", self.height), ("width", self.width)] {
            if value == 0 || !value.is_multiple_of(factor) || value > 1 << 14 {
                let below = (value / factor * factor).clamp(factor, 1 << 14);
                return fail(
                    name,
                    format!(
                        "{value} must be a multiple of {factor}, at least {factor} and at most 16384; use {below}"
                    ),
                );
            }
        }
        for (name, value) in [
            ("num_frames", self.num_frames),
            ("num_inference_steps", self.num_inference_steps),
            ("num_videos_per_prompt", self.num_videos_per_prompt),
            ("decode_chunk_size", self.decode_chunk_size),
        ] {
            if value == 0 {
                return fail(name, "0 must be at least 1".into());
            }
        }
        if !self.guidance_scale.is_finite() {
            return fail(
                "guidance_scale",
                format!(
                    "{} must be a finite number, for example 9",
                    self.guidance_scale
                ),
            );
        }
        if !(self.eta.is_finite() && self.eta >= 0.0) {
            return fail("eta", format!("{} must be a number from 0 to 1", self.eta));
        }
        if !(self.target_fps.is_finite() && self.target_fps > 0.0) {
            return fail(
                "target_fps",
                format!(
                    "{} must be a positive number, for example 16",
                    self.target_fps
                ),
            );
        }
        let expected = self.latents_shape(factor, channels);
        if let Some(latents) = &self.latents {
            if latents.shape != expected
                || latents.values.len() != expected.iter().product::<usize>()
            {
                return fail(
                    "latents",
                    format!(
                        "shape {:?} must be {expected:?} for these options",
                        latents.shape
                    ),
                );
            }
            if latents.values.iter().any(|v| !v.is_finite()) {
                return fail("latents", "hold a value that is not finite".into());
            }
        }
        Ok(())
    }

    pub(crate) fn latents_shape(&self, factor: usize, channels: usize) -> [usize; 5] {
        [
            self.num_videos_per_prompt,
            channels,
            self.num_frames,
            self.height / factor,
            self.width / factor,
        ]
    }

    /// Whether classifier-free guidance is on.
    pub(crate) fn guided(&self) -> bool {
        self.guidance_scale > 1.0
    }
}
