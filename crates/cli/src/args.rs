use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use i2vgen_pipeline::{Compat, GenerateOptions, ImageLatents, OutputType};

/// A picture and a sentence become a video (I2VGen-XL).
#[derive(Parser, Debug)]
#[command(name = "i2vgen", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a video with the embedded toy model; needs no files
    Demo(DemoArgs),
    /// Make a video with a model folder
    Generate(Box<GenerateArgs>),
    /// Show components, parameters, dtypes, sizes and problems of a model folder or a weight file
    Inspect(InspectArgs),
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A model folder, a component folder, or a weight file (.pth .pt .ckpt .bin .safetensors)
    pub(crate) path: PathBuf,
    /// Read all values and look for infinities and NaN
    #[arg(long)]
    pub(crate) deep: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// A picture; by default a red circle
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// What happens, like "a red circle moves left"
    #[arg(long, value_name = "TEXT", default_value = i2vgen_demo_model::PROMPT)]
    pub(crate) prompt: String,
    /// Denoising steps
    #[arg(long, default_value_t = 25)]
    pub(crate) num_inference_steps: usize,
    /// Weight of the prompt
    #[arg(long, default_value_t = 2.5, allow_negative_numbers = true)]
    pub(crate) guidance_scale: f64,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) common: OutputArgs,
    /// Where to write: .gif, .png (animated), .safetensors, or a folder
    #[arg(long, value_name = "PATH", default_value = "demo.gif")]
    pub(crate) output: PathBuf,
}

/// What every video command has.
#[derive(Args, Debug)]
pub(crate) struct OutputArgs {
    /// cpu, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Print nothing but errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// A diffusers model folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// The first frame
    #[arg(long, value_name = "FILE")]
    pub(crate) image: PathBuf,
    /// What happens
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// What should not be seen; read when guidance is on
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) negative_prompt: String,
    /// Pixels
    #[arg(long, default_value_t = 704)]
    pub(crate) height: usize,
    /// Pixels
    #[arg(long, default_value_t = 1280)]
    pub(crate) width: usize,
    /// Frames of a video
    #[arg(long, default_value_t = 16)]
    pub(crate) num_frames: usize,
    /// Denoising steps
    #[arg(long, default_value_t = 50)]
    pub(crate) num_inference_steps: usize,
    /// Weight of the prompt; guidance is on above 1
    #[arg(long, default_value_t = 9.0, allow_negative_numbers = true)]
    pub(crate) guidance_scale: f64,
    /// Frames per second
    #[arg(long, default_value_t = 16.0, allow_negative_numbers = true)]
    pub(crate) target_fps: f64,
    /// Weight of the noise that DDIM adds in each step
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) eta: f64,
    /// Last layers of the text encoder to leave out
    #[arg(long, default_value_t = 1)]
    pub(crate) clip_skip: usize,
    /// Videos to make
    #[arg(long, default_value_t = 1)]
    pub(crate) num_videos_per_prompt: usize,
    /// Frames decoded at once
    #[arg(long, default_value_t = 1)]
    pub(crate) decode_chunk_size: usize,
    /// Seed of all random numbers, as torch.manual_seed; by default from the clock
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Start noise: tensor `latents` of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) latents: Option<PathBuf>,
    /// Sample the picture's latents, or take their mean
    #[arg(long, value_enum, default_value_t)]
    pub(crate) image_latents: ImageLatentsArg,
    /// Whose behaviour to follow where the reference has a defect
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compat: CompatArg,
    /// The sampler; by default the model's own
    #[arg(long)]
    pub(crate) scheduler: Option<String>,
    /// Variant of the weights, like fp16; by default whichever is there
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// Precision of the computation
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: DtypeArg,
    /// Frames, or latents as the scheduler left them
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output_type: OutputTypeArg,
    #[command(flatten)]
    pub(crate) common: OutputArgs,
    /// Where to write: .gif, .png (animated), .safetensors, or a folder
    #[arg(long, value_name = "PATH")]
    pub(crate) output: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum ImageLatentsArg {
    #[default]
    Sample,
    Mode,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum CompatArg {
    #[default]
    Corrected,
    Diffusers,
    Vgen,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DtypeArg {
    #[default]
    F32,
    F16,
    Bf16,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum OutputTypeArg {
    #[default]
    Video,
    Latent,
}

impl GenerateArgs {
    /// All but the latents, which are in a file.
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions {
            negative_prompt: self.negative_prompt.as_str().into(),
            height: self.height,
            width: self.width,
            target_fps: self.target_fps,
            num_frames: self.num_frames,
            num_inference_steps: self.num_inference_steps,
            guidance_scale: self.guidance_scale,
            eta: self.eta,
            num_videos_per_prompt: self.num_videos_per_prompt,
            decode_chunk_size: self.decode_chunk_size,
            clip_skip: Some(self.clip_skip),
            seed: self.seed,
            latents: None,
            image_latents: match self.image_latents {
                ImageLatentsArg::Sample => ImageLatents::Sample,
                ImageLatentsArg::Mode => ImageLatents::Mode,
            },
            compat: match self.compat {
                CompatArg::Corrected => Compat::Corrected,
                CompatArg::Diffusers => Compat::Diffusers,
                CompatArg::Vgen => Compat::VGen,
            },
            output_type: match self.output_type {
                OutputTypeArg::Video => OutputType::Video,
                OutputTypeArg::Latent => OutputType::Latent,
            },
            ..Default::default()
        }
    }
}
