//! `i2vgen refine`: the second stage alone.

use std::{ops::ControlFlow, path::PathBuf};

use burn::tensor::backend::Backend;
use clap::{Args, ValueEnum};
use i2vgen_checkpoint::Folder;
use i2vgen_kernels::device_failed;
use i2vgen_pipeline::{
    Event, Latents, PipelineError, Prompt, Refinement, SaveOptions, Vid2VidSolver, Video,
    VideoInput, VideoToVideoOptions, VideoToVideoPipeline, Windows,
};
use serde::Serialize;
use serde_json::json;

use crate::{
    choices::{DtypeArg, MemoryArg, OutputTypeArg},
    device::{Task, dispatch},
    failure::Failure,
    job,
    model::Model,
    progress::Progress,
    session::{stop_flag, warn_of_frames},
    settings::Settings,
    sidecar,
    staging::Staging,
    tensors,
};

/// Instead of a folder: the model of the first stage itself.
pub(crate) const SELF: &str = "self";

#[derive(ValueEnum, Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SolverArg {
    /// DPM-Solver++ 2M SDE, 30 steps
    Fast,
    /// Heun, 50 steps
    Normal,
}

impl From<SolverArg> for Vid2VidSolver {
    fn from(arg: SolverArg) -> Self {
        match arg {
            SolverArg::Fast => Self::Dpmpp2mSde,
            SolverArg::Normal => Self::Heun,
        }
    }
}

#[derive(Args, Debug, Serialize)]
pub(crate) struct RefineArgs {
    /// A second stage: a folder with a UNet3DConditionModel (zeroscope, a converted MS-Vid2Vid-XL), or its name on the Hub
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Where tokenizer, text encoder and VAE are, if the model's folder has only the UNet: a first-stage model
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The video: .mp4, .gif, .webp, .png (animated), .npy, .safetensors (frames or latents), or a folder of PNGs
    #[arg(long, value_name = "PATH")]
    video: PathBuf,
    /// What is to be seen
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    /// What is not to be seen [default: none; MS-Vid2Vid-XL's own]
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// Added to the prompt [default: none; MS-Vid2Vid-XL's own]
    #[arg(long, value_name = "TEXT")]
    prompt_suffix: Option<String>,
    /// How much is made anew, above 0 and at most 1 [default: 0.6; MS-Vid2Vid-XL: 1, of the 60 % that it is made for]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Steps of the whole noise schedule, of which strength says how many are made [default: 50; MS-Vid2Vid-XL: 30]
    #[arg(long, value_name = "N")]
    num_inference_steps: Option<usize>,
    /// Weight of the prompt; guidance is on above 1 [default: 15; MS-Vid2Vid-XL: 7.5]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    guidance_scale: Option<f64>,
    /// How much of the contrast that guidance adds is taken back, 0 to 1 [default: 0; MS-Vid2Vid-XL: 0.2]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    guidance_rescale: Option<f64>,
    /// The sampler, see `i2vgen generate --help`; by default the model's own
    #[arg(long, value_name = "NAME", conflicts_with = "solver")]
    scheduler: Option<String>,
    /// MS-Vid2Vid-XL's sampler [default: fast, for that model]
    #[arg(long, value_enum)]
    solver: Option<SolverArg>,
    /// Weight of the noise that DDIM adds in each step
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    eta: f64,
    /// Layers of the text encoder to leave out at its end [default: 0; MS-Vid2Vid-XL: 1]
    #[arg(long, value_name = "N")]
    clip_skip: Option<usize>,
    /// Seed of all random numbers; by default from the clock
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Resize the frames to this height first [default: as they are; MS-Vid2Vid-XL: 720]
    #[arg(long, value_name = "N", requires = "width")]
    height: Option<usize>,
    /// And to this width [default: as they are; MS-Vid2Vid-XL: 1280]
    #[arg(long, value_name = "N", requires = "height")]
    width: Option<usize>,
    /// Frames per second of the result [default: the video's; MS-Vid2Vid-XL: 8]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    fps: Option<f64>,
    /// Denoise in overlapping, blended parts of at most this many pixels a side: less memory
    #[arg(long, value_name = "N")]
    window_size: Option<usize>,
    /// And of at most this many frames
    #[arg(long, value_name = "N")]
    window_frames: Option<usize>,
    /// How much memory to spend on speed, as in `i2vgen generate`
    #[arg(long, value_enum, default_value_t)]
    memory: MemoryArg,
    /// Frames encoded and decoded at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    decode_chunk_size: usize,
    /// Encode and decode large frames in overlapping tiles
    #[arg(long)]
    vae_tiling: bool,
    /// Variant of the weights, like fp16; by default whichever is there
    #[arg(long)]
    variant: Option<String>,
    /// Branch, tag or commit of a downloaded model [default: main]
    #[arg(long)]
    revision: Option<String>,
    /// Download nothing, use what is in the cache
    #[arg(long)]
    offline: bool,
    /// cpu, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Precision of the computation
    #[arg(long, value_enum, default_value_t)]
    dtype: DtypeArg,
    /// Threads of the CPU; by default one for each core
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// A video, or latents as the scheduler leaves them
    #[arg(long, value_enum, default_value_t)]
    output_type: OutputTypeArg,
    /// Where to write: .mp4, .webp, .gif, .png (animated), .safetensors, .npy, or a folder of PNGs
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
    /// Print nothing but errors
    #[arg(long)]
    #[serde(skip)]
    quiet: bool,
}

/// A video read from a file.
enum Input {
    Frames(Video),
    Latents(Latents),
}

pub(crate) fn refine(args: RefineArgs) -> Result<(), Failure> {
    if args.model.as_os_str() == SELF {
        return Err(Failure::Input(
            "--model: 'self' refines with the first stage's model, for which its picture and prompt are needed; use i2vgen generate … --refine self"
                .into(),
        ));
    }
    let latent = args.output_type == OutputTypeArg::Latent;
    job::check_container(&args.output, latent, 1)?;
    let inputs = [&args.video, &args.model];
    for input in inputs.into_iter().chain(&args.base) {
        job::check_not_replaced(&args.output, input)?;
    }
    let input = open(&args.video)?;
    let settings = Settings {
        model: Some(args.model.clone()),
        variant: args.variant.clone(),
        revision: args.revision.clone(),
        offline: Some(args.offline),
        device: Some(args.device.clone()),
        dtype: Some(args.dtype),
        threads: args.threads,
        ..Settings::default()
    };
    let model = Model::open(&settings, false, args.quiet)?;
    let base = match &args.base {
        Some(base) => {
            let settings = Settings {
                model: Some(base.clone()),
                threads: None,
                ..settings
            };
            Some(Model::open(&settings, false, args.quiet)?.folder)
        }
        None => None,
    };
    let device = args.device.clone();
    let task = Refine {
        args,
        model,
        base,
        input,
    };
    dispatch(&device, task)
}

fn open(path: &std::path::Path) -> Result<Input, Failure> {
    if tensors::holds_latents(path) {
        return Ok(Input::Latents(Latents::read(path)?));
    }
    let video = Video::open(path).map_err(|e| Failure::Input(format!("--video: {e}")))?;
    Ok(Input::Frames(video))
}

struct Refine {
    args: RefineArgs,
    model: Model,
    base: Option<Folder>,
    input: Input,
}

impl Task for Refine {
    fn run<B: Backend>(self, device: &B::Device) -> Result<(), Failure> {
        let (args, model) = (&self.args, &self.model);
        model.check_dtype::<B>(device)?;
        let pipeline = VideoToVideoPipeline::<B>::from_folder(
            model.folder.clone(),
            self.base.as_ref(),
            model.variant.as_deref(),
            model.dtype.into(),
            device,
        )?;
        let options = args.options(pipeline.is_ms_vid2vid()?, pipeline.scale_factor()?);
        let stop = stop_flag()?;
        let mut progress = Progress::new(args.quiet);
        let input = match &self.input {
            Input::Frames(video) => VideoInput::Frames(video),
            Input::Latents(latents) => VideoInput::Latents(latents),
        };
        let prompt = args.prompt.as_str();
        let refinement = pipeline.run(input, prompt, &options, |event: Event<'_, B>| {
            progress.tell(&event);
            match stop.load(std::sync::atomic::Ordering::SeqCst) || device_failed() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        progress.finish();
        if !args.quiet {
            warn_of_frames(&refinement.frame_problems, refinement.cut_tokens);
        }
        let written = write(args, &options, &refinement)?;
        if !args.quiet {
            let seconds: f64 = refinement.timings.iter().map(|(_, s)| s).sum();
            eprintln!(
                "wrote {} in {seconds:.1} s (seed {})",
                written.join(", "),
                refinement.seeds[0]
            );
        }
        Ok(())
    }
}

impl RefineArgs {
    fn options(&self, is_ms_vid2vid: bool, factor: usize) -> VideoToVideoOptions {
        let solver = match (self.solver, is_ms_vid2vid && self.scheduler.is_none()) {
            (Some(solver), _) => Some(solver.into()),
            (None, true) => Some(Vid2VidSolver::default()),
            (None, false) => None,
        };
        let preset = match solver {
            Some(solver) if is_ms_vid2vid => VideoToVideoOptions::ms_vid2vid(solver),
            solver => VideoToVideoOptions {
                vid2vid_solver: solver,
                ..VideoToVideoOptions::default()
            },
        };
        let resize = self.height.zip(self.width).map(|(h, w)| [h, w]);
        let negative = self.negative_prompt.as_deref().map(Prompt::from);
        VideoToVideoOptions {
            negative_prompt: negative.unwrap_or(preset.negative_prompt),
            prompt_suffix: self.prompt_suffix.clone().unwrap_or(preset.prompt_suffix),
            strength: self.strength.unwrap_or(preset.strength),
            num_inference_steps: self
                .num_inference_steps
                .unwrap_or(preset.num_inference_steps),
            guidance_scale: self.guidance_scale.unwrap_or(preset.guidance_scale),
            guidance_rescale: self.guidance_rescale.unwrap_or(preset.guidance_rescale),
            split_guidance: self.memory != MemoryArg::Normal,
            stream_unet: self.memory == MemoryArg::Min,
            vae_slicing: self.memory != MemoryArg::Normal,
            windows: windows(self.window_size, self.window_frames, factor),
            eta: self.eta,
            seed: self.seed,
            scheduler: self.scheduler.clone(),
            clip_skip: self.clip_skip.or(preset.clip_skip),
            resize: resize.or(preset.resize),
            decode_chunk_size: self.decode_chunk_size,
            vae_tiling: self.vae_tiling.then(Default::default),
            fps: self.fps.or(preset.fps),
            output_type: self.output_type.into(),
            ..preset
        }
    }
}

/// Parts of so many pixels, `factor` of which are a latent, and frames; none if neither is limited.
fn windows(pixels: Option<usize>, frames: Option<usize>, factor: usize) -> Option<Windows> {
    /// More than any video has.
    const ALL: usize = 1 << 20;
    if pixels.is_none() && frames.is_none() {
        return None;
    }
    let side = pixels.map_or(ALL, |pixels| pixels / factor);
    Some(Windows::of(side, frames.unwrap_or(ALL)))
}

fn write(
    args: &RefineArgs,
    options: &VideoToVideoOptions,
    refinement: &Refinement,
) -> Result<Vec<String>, PipelineError> {
    let save_options = SaveOptions::default();
    let mut staging = Staging::default();
    staging.add(&args.output, |path| match &refinement.video {
        Some(video) => video.save_with(path, &save_options),
        None => {
            refinement.latents.save(path)?;
            Ok(vec![path.to_owned()])
        }
    })?;
    let written = staging.outputs();
    let names: Vec<String> = written
        .iter()
        .map(|(p, _)| p.display().to_string())
        .collect();
    let timings: std::collections::BTreeMap<_, _> = refinement.timings.iter().copied().collect();
    let record = json!({
        "command": "refine",
        "outputs": names,
        "output_bytes": written.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
        "arguments": args,
        "strength": options.strength,
        "num_inference_steps": options.num_inference_steps,
        "steps_made": refinement.steps,
        "guidance_scale": options.guidance_scale,
        "guidance_rescale": options.guidance_rescale,
        "seed": refinement.seeds[0],
        "cut_tokens": refinement.cut_tokens,
        "version": env!("CARGO_PKG_VERSION"),
        "frame_problems": refinement.frame_problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "seconds": timings,
        "peak_memory_bytes": sidecar::peak_memory(),
    });
    staging.commit(&job::sidecar(&args.output), &record)?;
    Ok(names)
}
