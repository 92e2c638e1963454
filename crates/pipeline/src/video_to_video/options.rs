use i2vgen_schedulers::{SchedulerOptions, Vid2VidSolver};

use crate::{Compat, FreeU, OutputType, PipelineError, Prompt, VaeTiling};

/// The arguments of diffusers' `VideoToVideoSDPipeline.__call__`, with its names and defaults, and what MS-Vid2Vid-XL does
/// otherwise.
#[derive(Clone, Debug)]
pub struct VideoToVideoOptions {
    /// What the video should not show, one text for each prompt or one for all; only read when guidance is on.
    pub negative_prompt: Prompt,
    /// Added to every prompt that is given as text.
    pub prompt_suffix: String,
    /// How much of the noise schedule is run: near 0 keeps the video, 1 begins with noise only.
    pub strength: f64,
    /// Steps of the whole schedule, of which the last `strength` are made.
    pub num_inference_steps: usize,
    /// Weight of the prompt; classifier-free guidance is on above 1.
    pub guidance_scale: f64,
    /// How much of the contrast that guidance adds is taken back, 0 to 1 (φ of Lin et al., 2023).
    pub guidance_rescale: f64,
    /// Runs the two predictions of guidance one after the other instead of as one batch: less memory.
    pub split_guidance: bool,
    /// Reads the UNet's layers from disk whenever they are used: least memory.
    pub stream_unet: bool,
    /// Denoises a video in overlapping parts, which are blended in every step: for videos that are larger or longer than
    /// memory allows.
    pub windows: Option<Windows>,
    /// Weight of the noise that DDIM adds in each step.
    pub eta: f64,
    /// Seed of all random numbers, as `torch.manual_seed`; `None` takes one from the clock. One stream serves all videos.
    pub seed: Option<u64>,
    /// A seed for each video instead; empty to use `seed`.
    pub seeds: Vec<u64>,
    /// Another sampler than the model's own, by its short name (`unipc`) or diffusers' class.
    pub scheduler: Option<String>,
    /// What to change in the sampler's config.
    pub scheduler_options: SchedulerOptions,
    /// MS-Vid2Vid-XL's own sampler instead of any other.
    pub vid2vid_solver: Option<Vid2VidSolver>,
    /// Layers of the text encoder to leave out at its end; `None` is as 0.
    pub clip_skip: Option<usize>,
    /// Token that fills a prompt up, instead of the tokenizer's own.
    pub pad_token_id: Option<u32>,
    /// Height and width that frames are resized to first, bilinearly.
    pub resize: Option<[usize; 2]>,
    /// Frames encoded and decoded at once. More need more memory.
    pub decode_chunk_size: usize,
    /// Encode and decode frames that are larger than a tile in overlapping tiles.
    pub vae_tiling: Option<VaeTiling>,
    /// Encode and decode the frames of a chunk one after the other.
    pub vae_slicing: bool,
    /// Cut values to 8 bits downwards instead of rounding them.
    pub truncate: bool,
    /// Frames per second of the result instead of the input's.
    pub fps: Option<f64>,
    /// FreeU's factors (diffusers `enable_freeu`).
    pub freeu: Option<FreeU>,
    /// Whose behaviour to follow where the reference has a defect: in diffusers `clip_skip` does not hold for negative prompts.
    pub compat: Compat,
    /// What to make.
    pub output_type: OutputType,
}

impl Default for VideoToVideoOptions {
    fn default() -> Self {
        Self {
            negative_prompt: Prompt::default(),
            prompt_suffix: String::new(),
            strength: 0.6,
            num_inference_steps: 50,
            guidance_scale: 15.0,
            guidance_rescale: 0.0,
            split_guidance: false,
            stream_unet: false,
            windows: None,
            eta: 0.0,
            seed: None,
            seeds: Vec::new(),
            scheduler: None,
            scheduler_options: SchedulerOptions::default(),
            vid2vid_solver: None,
            clip_skip: None,
            pad_token_id: None,
            resize: None,
            decode_chunk_size: 1,
            vae_tiling: None,
            vae_slicing: false,
            truncate: false,
            fps: None,
            freeu: None,
            compat: Compat::Corrected,
            output_type: OutputType::Video,
        }
    }
}

/// What the MS-Vid2Vid-XL release adds to every prompt.
const SUFFIX: &str = ", cinematic, High Contrast, highly detailed, unreal engine, taken using a Canon EOS R camera, hyper \
                      detailed photo - realistic maximum detail, 32k, Color Grading, ultra HD, extreme meticulous \
                      detailing, skin pore detailing, hyper sharpness, perfect without deformations, Unreal Engine 5, 4k \
                      render";

/// And what it does not want to see.
const NEGATIVE: &str = "worst quality, normal quality, low quality, low res, blurry, text, watermark, logo, banner, extra \
                        digits, cropped, jpeg artifacts, signature, username, error, sketch ,duplicate, ugly, monochrome, \
                        horror, geometry, mutation, disgusting";

impl VideoToVideoOptions {
    /// What the MS-Vid2Vid-XL release does (reference `refine.md` §3): 720×1280, its sampler from timestep 599 on, guidance 7.5
    /// with rescale, its prompts. `strength` counts from there.
    pub fn ms_vid2vid(solver: Vid2VidSolver) -> Self {
        Self {
            negative_prompt: NEGATIVE.into(),
            prompt_suffix: SUFFIX.to_owned(),
            strength: 1.0,
            num_inference_steps: solver.default_steps(),
            guidance_scale: 7.5,
            guidance_rescale: 0.2,
            vid2vid_solver: Some(solver),
            clip_skip: Some(1),
            pad_token_id: Some(0),
            resize: Some([720, 1280]),
            truncate: true,
            fps: Some(8.0),
            ..Self::default()
        }
    }

    /// Whether classifier-free guidance is on.
    pub(crate) fn guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// Refuses what could not give a video.
    pub(super) fn check(&self, videos: usize) -> Result<(), PipelineError> {
        let fail = |name, problem: String| Err(PipelineError::Option { name, problem });
        for (name, value) in [
            ("num_inference_steps", self.num_inference_steps),
            ("decode_chunk_size", self.decode_chunk_size),
        ] {
            if value == 0 {
                return fail(name, "0 must be at least 1".into());
            }
        }
        check_strength(self.strength, self.num_inference_steps)?;
        if !self.guidance_scale.is_finite() {
            return fail(
                "guidance_scale",
                format!(
                    "{} must be a finite number, for example 9",
                    self.guidance_scale
                ),
            );
        }
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            return fail(
                "guidance_rescale",
                format!("{} must be a fraction from 0 to 1", self.guidance_rescale),
            );
        }
        if !(self.eta.is_finite() && self.eta >= 0.0) {
            return fail("eta", format!("{} must be a number from 0 to 1", self.eta));
        }
        if let Some(fps) = self.fps
            && !(fps.is_finite() && fps > 0.0)
        {
            return fail("fps", format!("{fps} must be a positive number"));
        }
        if !matches!(self.seeds.len(), 0 | 1) && self.seeds.len() != videos {
            return fail(
                "seed",
                format!(
                    "{} seeds for {videos} videos; give one for each video, or one for all",
                    self.seeds.len()
                ),
            );
        }
        match &self.windows {
            Some(windows) => windows.check(),
            None => Ok(()),
        }
    }
}

/// How many of so many steps are made, as diffusers counts them.
///
/// # Errors
/// If the strength is outside of (0, 1] or too small for even one step.
pub(crate) fn check_strength(strength: f64, steps: usize) -> Result<usize, PipelineError> {
    let fail = |problem| {
        Err(PipelineError::Option {
            name: "strength",
            problem,
        })
    };
    if !(strength > 0.0 && strength <= 1.0) {
        return fail(format!(
            "{strength} must be above 0 and at most 1, for example 0.6"
        ));
    }
    match (steps as f64 * strength) as usize {
        0 => fail(format!(
            "{strength} of {steps} steps is less than one step; use at least {}, or more steps",
            1.0 / steps as f64
        )),
        kept => Ok(kept.min(steps)),
    }
}

/// Parts that a video is denoised in, in latents. A part is never larger than the video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Rows of a part, and by how many two of them overlap at least.
    pub height: [usize; 2],
    /// Columns.
    pub width: [usize; 2],
    /// Frames.
    pub frames: [usize; 2],
}

impl Windows {
    /// Parts of so many latents and frames that overlap by a quarter.
    pub fn of(side: usize, frames: usize) -> Self {
        Self {
            height: [side, side / 4],
            width: [side, side / 4],
            frames: [frames, frames / 4],
        }
    }

    fn check(&self) -> Result<(), PipelineError> {
        for (axis, [size, overlap]) in [
            ("height", self.height),
            ("width", self.width),
            ("frames", self.frames),
        ] {
            if size == 0 || overlap >= size {
                return Err(PipelineError::Option {
                    name: "windows",
                    problem: format!(
                        "{size} {axis} with an overlap of {overlap}: the size must be above 0 and the overlap below it"
                    ),
                });
            }
        }
        Ok(())
    }
}
