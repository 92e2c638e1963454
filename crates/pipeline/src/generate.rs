//! One run, stage by stage; what a stage has loaded is gone before the next begins.

use std::{
    ops::ControlFlow,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use burn::tensor::{DType, Tensor, backend::Backend};
use i2vgen_kernels::widened;
use i2vgen_schedulers::StepArgs;

use crate::{
    Embeds, FrameProblem, GenerateOptions, Images, Latents, OutputType, PipelineError, Prompt,
    StartFrames, StartVideo, Video, check_frames, components::Source, conditioning, decode,
    deep_cache::Evaluations, generators::Generators, guidance, inputs, preview::Preview,
    video_latents, video_to_video::check_strength,
};

/// What a run reports while it works.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a, B: Backend> {
    /// A stage begins.
    Stage(&'static str),
    /// A denoising step has been done.
    Step {
        /// Steps done.
        done: usize,
        /// Steps in all.
        total: usize,
        /// Where in the noise schedule it started.
        timestep: f64,
        /// `[videos, channels, frames, h, w]` after it.
        latents: &'a Tensor<B, 5>,
    },
    /// What the model believes the finished videos to be, see [`GenerateOptions::preview_every`].
    Preview {
        /// Steps done.
        done: usize,
        /// Decoded.
        video: &'a Video,
    },
    /// Frames have been decoded.
    Decoded {
        /// Frames done.
        done: usize,
        /// Frames in all.
        total: usize,
    },
}

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The decoded frames, unless only latents were asked for.
    pub video: Option<Video>,
    /// Frames that may be wrong: of one colour, or the same twice.
    pub frame_problems: Vec<FrameProblem>,
    /// Latents as the scheduler left them.
    pub latents: Latents,
    /// The noise it began with, before the scheduler scaled it: [`GenerateOptions::latents`] of a run that gives the same.
    pub initial_latents: Latents,
    /// What the text encoder made of the prompts, a row for each.
    pub prompt_embeds: Embeds,
    /// And of the negative prompts, with guidance.
    pub negative_prompt_embeds: Option<Embeds>,
    /// The seed that was used, or one for each video.
    pub seeds: Vec<u64>,
    /// Most tokens of one prompt that the text encoder has no room for.
    pub cut_tokens: usize,
    /// Keys of LoRA files that fit nowhere, where that is allowed.
    pub unknown_lora_keys: Vec<String>,
    /// Seconds per stage, in order.
    pub timings: Vec<(&'static str, f64)>,
}

pub(crate) fn run<B: Backend>(
    source: &Source<B>,
    images: Images<'_>,
    prompt: &Prompt,
    options: &GenerateOptions,
    mut callback: impl FnMut(Event<'_, B>) -> ControlFlow<()>,
    device: &B::Device,
) -> Result<Generation, PipelineError> {
    let prompts = prompt.count();
    let (shape, unknown_lora_keys) = check(source, images, prompt, options)?;
    let mut scheduler = source.prepared_scheduler(options)?;

    let seeds = match options.seeds.is_empty() {
        true => vec![options.seed.unwrap_or_else(seed_from_clock)],
        false => options.seeds.clone(),
    };
    let mut generators = Generators::new(&seeds);
    let mut timings = Vec::new();
    let mut clock = Instant::now();
    let mut lap = |name| {
        timings.push((name, clock.elapsed().as_secs_f64()));
        clock = Instant::now();
    };
    let mut tell = |event: Event<'_, B>| report(&mut callback, event, device);

    tell(Event::Stage("text encoder"))?;
    let encoded = conditioning::encode_prompt(source, prompt, options, device)?;
    let context = encoded.context(options.num_videos_per_prompt);
    lap("text_encoder");

    tell(Event::Stage("image encoder"))?;
    let embeddings = conditioning::encode_images(source, images, prompts, options, device)?;
    lap("image_encoder");

    tell(Event::Stage("VAE encoder"))?;
    let image_latents = conditioning::encode_image_latents(
        source,
        images,
        prompts,
        options,
        &mut generators,
        device,
    )?;
    lap("vae_encode");

    let [videos, channels, frames, h, w] = shape;
    let start = match &options.start {
        Some(start) => {
            let frames = start_latents(source, start, videos, options, &mut generators, device)?;
            lap("vae_encode_start");
            Some((
                frames,
                check_strength(start.strength, options.num_inference_steps)?,
            ))
        }
        None => None,
    };
    // Latents stay in f32 whatever the model computes in: what a step rounds away, the next would not see.
    let noise: Tensor<B, 5> = match &options.latents {
        Some(given) => given.to_tensor(DType::F32, device),
        None => generators.normal(shape, device),
    };
    let initial_latents = Latents::from_tensor(noise.clone());
    // The scheduler sees every frame as a sample of its own, as in the reference.
    let frame_major = |x: Tensor<B, 5>| {
        let x: Tensor<B, 5> = x.permute([0, 2, 1, 3, 4]);
        x.reshape([videos * frames, channels, h, w])
    };
    let video_major = |x: Tensor<B, 4>| {
        let x: Tensor<B, 5> = x.reshape([videos, frames, channels, h, w]);
        x.permute([0, 2, 1, 3, 4])
    };
    let timesteps = scheduler.timesteps().to_vec();
    let (mut x, begin) = match start {
        None => (frame_major(noise * scheduler.init_noise_sigma()), 0),
        Some((frames, kept)) => {
            let begin = (options.num_inference_steps - kept) * scheduler.order();
            scheduler.set_begin_index(begin)?;
            let (frames, noise) = (frame_major(frames), frame_major(noise));
            let noisy = scheduler.add_noise(frames, noise, &timesteps[begin..=begin])?;
            (noisy, begin)
        }
    };

    tell(Event::Stage("UNet"))?;
    let unet = source.unet(options, device)?;
    lap("unet_load");
    let gain = match source.has_folded_gain()? {
        true => 1.0,
        false => options.compat.concat_gain(),
    };
    let prepared = unet.prepare(context, embeddings, image_latents, options.target_fps, gain)?;
    // With guidance the unconditional rows come first.
    let of_prompt = prepared.narrow(prepared.rows() - videos, videos);
    let of_nothing = prepared.narrow(0, videos);
    lap("unet_prepare");

    let mut preview = match options.preview_every {
        Some(every) => Some((every, Preview::new(scheduler.as_ref())?)),
        None => None,
    };
    let mut evaluations = Evaluations::new(&unet, options.cache_interval);
    let mut draw = |like: &Tensor<B, 4>| generators.normal(like.dims(), device);
    for (index, &timestep) in timesteps.iter().enumerate().skip(begin) {
        let input = video_major(scheduler.scale_model_input(x.clone(), index)?);
        let seen = preview.is_some().then(|| input.clone());
        let guided = options.guided_at(index, timesteps.len());
        evaluations.next(guided);
        let prediction = if !guided {
            widened(evaluations.forward(0, input, timestep, &of_prompt)?)
        } else {
            let (without, with) = if options.split_guidance {
                let without = evaluations.forward(0, input.clone(), timestep, &of_nothing)?;
                let with = evaluations.forward(1, input, timestep, &of_prompt)?;
                (without, with)
            } else {
                let both = evaluations.forward(0, input, timestep, &prepared)?;
                let half = |start| both.clone().narrow(0, start, videos);
                (half(0), half(videos))
            };
            guidance::combine(
                without,
                with,
                options.guidance_scale,
                options.guidance_rescale,
            )
        };
        let believed = match (&mut preview, seen) {
            (Some((every, preview)), Some(input)) if (index + 1).is_multiple_of(*every) => {
                let output = prediction.clone();
                let original = preview.original(output, input, timestep);
                let vae = preview.vae(|| source.vae(options, device))?;
                let (chunk, fps) = (options.decode_chunk_size, options.target_fps);
                Some(decode::decode(vae, original, chunk, fps, |_, _| Ok(()))?)
            }
            _ => None,
        };
        let args = StepArgs::with_noise(options.eta, &mut draw);
        x = scheduler.step(frame_major(prediction), index, x, args)?;
        tell(Event::Step {
            done: index + 1 - begin,
            total: timesteps.len() - begin,
            timestep,
            latents: &video_major(x.clone()),
        })?;
        if let Some(video) = &believed {
            tell(Event::Preview {
                done: index + 1 - begin,
                video,
            })?;
        }
    }
    drop(evaluations);
    drop((unet, prepared, of_prompt, of_nothing, preview));
    let x = video_major(x);
    let latents = Latents::from_tensor(x.clone());
    decode::check_latents(&latents, "UNet")?;
    lap("denoise");

    let video = match options.output_type {
        OutputType::Latent => None,
        OutputType::Video => {
            tell(Event::Stage("VAE decoder"))?;
            let vae = source.vae(options, device)?;
            let (chunk, fps) = (options.decode_chunk_size, options.target_fps);
            let video = decode::decode(&vae, x, chunk, fps, |done, total| {
                tell(Event::Decoded { done, total })
            })?;
            lap("vae_decode");
            Some(video)
        }
    };
    let frame_problems = match &video {
        Some(video) => check_frames(video)?,
        None => Vec::new(),
    };
    Ok(Generation {
        video,
        frame_problems,
        latents,
        initial_latents,
        prompt_embeds: Embeds::from_tensor(encoded.prompt_embeds),
        negative_prompt_embeds: encoded.negative_prompt_embeds.map(Embeds::from_tensor),
        seeds,
        cut_tokens: encoded.cut_tokens,
        unknown_lora_keys,
        timings,
    })
}

/// Tells the caller, who may end the run.
pub(crate) fn report<B: Backend>(
    callback: &mut impl FnMut(Event<'_, B>) -> ControlFlow<()>,
    event: Event<'_, B>,
    device: &B::Device,
) -> Result<(), PipelineError> {
    if let Event::Stage(_) = event {
        // A GPU's memory pool keeps what the stage before has freed, in pieces that do not fit this one.
        B::memory_cleanup(device);
    }
    match callback(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PipelineError::Cancelled),
    }
}

/// The frames that a run begins with, one video's for all if there is only one.
fn start_latents<B: Backend>(
    source: &Source<B>,
    start: &StartVideo,
    videos: usize,
    options: &GenerateOptions,
    generators: &mut Generators,
    device: &B::Device,
) -> Result<Tensor<B, 5>, PipelineError> {
    match &start.frames {
        StartFrames::Video(video) => {
            let vae = source.vae(options, device)?;
            let (chunk, kind) = (options.decode_chunk_size, options.image_latents);
            let video = video.repeated(videos);
            video_latents::encode(&vae, &video, chunk, kind, generators, device)
        }
        StartFrames::Latents(latents) => {
            let x = latents.to_tensor(DType::F32, device);
            Ok(match x.dims()[0] {
                1 => x.repeat_dim(0, videos),
                _ => x,
            })
        }
    }
}

/// Refuses whatever would fail later, before any weight is read. Returns the shape of the latents, and the keys of LoRA files
/// that fit nowhere.
fn check<B: Backend>(
    source: &Source<B>,
    images: Images<'_>,
    prompt: &Prompt,
    options: &GenerateOptions,
) -> Result<([usize; 5], Vec<String>), PipelineError> {
    let vae = source.vae_config()?;
    let (factor, channels) = (vae.scale_factor(), vae.latent_channels);
    let prompts = prompt.count();
    inputs::check(images, prompt, &options.negative_prompt, options.guided())?;
    options.check(prompts, factor, channels)?;
    check_prompts(source, prompt, options)?;
    let loras = &options.loras;
    let unknown = match loras.files.is_empty() {
        true => Vec::new(),
        false => loras.check::<B>(source.unet_config()?, source.text_config()?)?,
    };
    Ok((options.latents_shape(prompts, factor, channels), unknown))
}

/// What concerns the text encoder.
pub(crate) fn check_prompts<B: Backend>(
    source: &Source<B>,
    prompt: &Prompt,
    options: &GenerateOptions,
) -> Result<(), PipelineError> {
    let fail = |name, problem: String| Err(PipelineError::Option { name, problem });
    let layers = source.text_config()?.num_hidden_layers;
    if let Some(skip) = options.clip_skip
        && skip > layers
    {
        return fail(
            "clip_skip",
            format!("{skip} is more than the text encoder's {layers} layers"),
        );
    }
    let expected = source.unet_config()?.cross_attention_dim;
    for (name, prompt) in [
        ("prompt_embeds", prompt),
        ("negative_prompt_embeds", &options.negative_prompt),
    ] {
        let Prompt::Embeds(embeds) = prompt else {
            continue;
        };
        let [_, tokens, width] = embeds.shape;
        if width != expected || tokens < 3 {
            return fail(
                name,
                format!(
                    "shape {:?} must be [prompts, tokens, {expected}] with at least 3 tokens; they belong to another model",
                    embeds.shape
                ),
            );
        }
    }
    Ok(())
}

pub(crate) fn seed_from_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |t| t.as_nanos() as u64 % (1 << 53))
}
