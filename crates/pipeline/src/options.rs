use i2vgen_schedulers::SchedulerOptions;
use i2vgen_vae::Tiling;

use crate::video_to_video::check_strength;
use crate::{Latents, Loras, PipelineError, Prompt, Video};

/// The arguments of diffusers' `I2VGenXLPipeline.__call__`, with its names and defaults.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// What the videos should not show, one text for each prompt or one for all, or its embeddings; only read when guidance
    /// is on.
    pub negative_prompt: Prompt,
    /// Reads weights in prompts, as in `a (red:1.3) [circle]` ([`CLIPTokenizer::encode_weighted`] has the rule).
    ///
    /// [`CLIPTokenizer::encode_weighted`]: i2vgen_clip_encoders::CLIPTokenizer::encode_weighted
    pub prompt_weighting: bool,
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
    /// Where guidance begins, as a fraction of the steps; before that only the prompt's own prediction is made.
    pub guidance_start: f64,
    /// Where guidance ends, as a fraction of the steps.
    pub guidance_end: f64,
    /// How much of the contrast that guidance adds is taken back, 0 to 1 (φ of Lin et al., 2023).
    pub guidance_rescale: f64,
    /// Every so many model evaluations are full; those between them use its deep features again (DeepCache,
    /// <https://arxiv.org/abs/2312.00858>, [`I2VGenXLUNet::forward_cached`]): faster, an approximation. 1 is off. The first
    /// evaluation is full, and so is every one where guidance begins or ends, from which on it is counted again.
    ///
    /// [`I2VGenXLUNet::forward_cached`]: i2vgen_unet3d::I2VGenXLUNet::forward_cached
    pub cache_interval: usize,
    /// Runs the two predictions of guidance one after the other instead of as one batch: less memory.
    pub split_guidance: bool,
    /// Reads the UNet's layers from disk whenever they are used: one is in memory at a time, and every step reads the file
    /// once. Components that the caller holds stay as they are.
    pub stream_unet: bool,
    /// Weight of the noise that DDIM adds in each step.
    pub eta: f64,
    /// Videos from the same picture and prompt.
    pub num_videos_per_prompt: usize,
    /// Frames decoded at once. More need more memory.
    pub decode_chunk_size: usize,
    /// Encode and decode pictures that are larger than a tile in overlapping tiles: less memory, close but not equal frames.
    pub vae_tiling: Option<VaeTiling>,
    /// Decode the frames of a chunk one after the other: less memory, the same frames.
    pub vae_slicing: bool,
    /// FreeU's factors (diffusers `enable_freeu`); its authors use 0.9, 0.2, 1.4, 1.6 for models of this family.
    pub freeu: Option<FreeU>,
    /// Another sampler than the model's own, by its short name (`unipc`) or diffusers' class, made from the model's scheduler
    /// config.
    pub scheduler: Option<String>,
    /// What to change in the sampler's config.
    pub scheduler_options: SchedulerOptions,
    /// Layers of the text encoder to leave out at its end; `None` is as 0.
    pub clip_skip: Option<usize>,
    /// Seed of all random numbers, as `torch.manual_seed`; `None` takes one from the clock. One stream serves all videos.
    pub seed: Option<u64>,
    /// A seed for each video instead, which then is the video that its seed alone gives; empty to use `seed`.
    pub seeds: Vec<u64>,
    /// Start noise instead of drawing it.
    pub latents: Option<Latents>,
    /// A video to begin with instead of noise, which is noised as far as its strength says and then denoised (SDEdit,
    /// <https://arxiv.org/abs/2108.01073>): the base model as its own second stage. An extension; diffusers has no such thing.
    pub start: Option<StartVideo>,
    /// LoRA files that are added to the UNet and the text encoder for this run.
    pub loras: Loras,
    /// Whether the picture's latents are sampled from the VAE's posterior or are its mean.
    pub image_latents: ImageLatents,
    /// Whose behaviour to follow where the reference has a defect.
    pub compat: Compat,
    /// What to make.
    pub output_type: OutputType,
    /// After every so many steps, decode what the model believes the finished frames to be ([`Event::Preview`](crate::Event)).
    pub preview_every: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            negative_prompt: Prompt::default(),
            prompt_weighting: false,
            height: 704,
            width: 1280,
            target_fps: 16.0,
            num_frames: 16,
            num_inference_steps: 50,
            guidance_scale: 9.0,
            guidance_start: 0.0,
            guidance_end: 1.0,
            guidance_rescale: 0.0,
            cache_interval: 1,
            split_guidance: false,
            stream_unet: false,
            eta: 0.0,
            num_videos_per_prompt: 1,
            decode_chunk_size: 1,
            vae_tiling: None,
            vae_slicing: false,
            freeu: None,
            scheduler: None,
            scheduler_options: SchedulerOptions::default(),
            clip_skip: Some(1),
            seed: None,
            seeds: Vec::new(),
            latents: None,
            start: None,
            loras: Loras::default(),
            image_latents: ImageLatents::Sample,
            compat: Compat::Corrected,
            output_type: OutputType::Video,
            preview_every: None,
        }
    }
}

/// What a run begins with instead of noise.
#[derive(Clone, Debug)]
pub struct StartVideo {
    /// The video: one, or as many as are made.
    pub frames: StartFrames,
    /// How much of the noise schedule is run: near 0 keeps the video, 1 keeps next to nothing.
    pub strength: f64,
}

/// The frames of a [`StartVideo`], of the run's size and number.
#[derive(Clone, Debug)]
pub enum StartFrames {
    /// To be encoded.
    Video(Video),
    /// As an earlier run left them: nothing is decoded and encoded in between.
    Latents(Latents),
}

/// FreeU's factors (diffusers' names): `s` scale the low frequencies of the skips, `b` half of the backbone's channels, in the
/// first and the second up block.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct FreeU {
    pub s1: f64,
    pub s2: f64,
    pub b1: f64,
    pub b2: f64,
}

/// Tiles of the VAE.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum VaeTiling {
    /// Those of its config.
    #[default]
    Config,
    /// These.
    Tiles(Tiling),
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

impl GenerateOptions {
    /// Refuses what could not give a video of so many prompts; `factor` is the VAE's pixels per latent, `channels` those of a
    /// latent.
    pub(crate) fn check(
        &self,
        prompts: usize,
        factor: usize,
        channels: usize,
    ) -> Result<(), PipelineError> {
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
            ("cache_interval", self.cache_interval),
            ("num_videos_per_prompt", self.num_videos_per_prompt),
            ("decode_chunk_size", self.decode_chunk_size),
            ("preview_every", self.preview_every.unwrap_or(1)),
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
        for (name, value) in [
            ("guidance_start", self.guidance_start),
            ("guidance_end", self.guidance_end),
            ("guidance_rescale", self.guidance_rescale),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return fail(name, format!("{value} must be a fraction from 0 to 1"));
            }
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
        let videos = prompts * self.num_videos_per_prompt;
        if !matches!(self.seeds.len(), 0 | 1) && self.seeds.len() != videos {
            return fail(
                "seed",
                format!(
                    "{} seeds for {videos} videos; give one for each video, or one for all",
                    self.seeds.len()
                ),
            );
        }
        let expected = self.latents_shape(prompts, factor, channels);
        if let Some(FreeU { s1, s2, b1, b2 }) = self.freeu
            && ![s1, s2, b1, b2].iter().all(|v| v.is_finite())
        {
            return fail(
                "freeu",
                "the four factors must be finite numbers, for example 0.9,0.2,1.4,1.6".into(),
            );
        }
        if let Some(start) = &self.start {
            check_strength(start.strength, self.num_inference_steps)?;
            let mut found = match &start.frames {
                StartFrames::Latents(latents) => {
                    latents.check("start")?;
                    latents.shape
                }
                StartFrames::Video(video) => {
                    let [videos, frames, h, w] = video.shape();
                    if [h, w] != [self.height, self.width] {
                        return fail(
                            "start",
                            format!(
                                "has frames of {w}x{h}, not of {}x{}; resize it, or change height and width",
                                self.width, self.height
                            ),
                        );
                    }
                    [videos, channels, frames, h / factor, w / factor]
                }
            };
            if found[0] == 1 {
                found[0] = expected[0];
            }
            if found != expected {
                return fail(
                    "start",
                    format!("latents {found:?} must be {expected:?} for these options"),
                );
            }
        }
        if let Some(latents) = &self.latents {
            if latents.shape != expected {
                return fail(
                    "latents",
                    format!(
                        "shape {:?} must be {expected:?} for these options",
                        latents.shape
                    ),
                );
            }
            latents.check("latents")?;
        }
        Ok(())
    }

    pub(crate) fn latents_shape(
        &self,
        prompts: usize,
        factor: usize,
        channels: usize,
    ) -> [usize; 5] {
        [
            prompts * self.num_videos_per_prompt,
            channels,
            self.num_frames,
            self.height / factor,
            self.width / factor,
        ]
    }
}
