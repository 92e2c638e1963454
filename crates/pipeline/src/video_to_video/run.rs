//! One run, stage by stage; what a stage has loaded is gone before the next begins.

use std::{ops::ControlFlow, time::Instant};

use burn::tensor::{DType, Tensor, backend::Backend};
use i2vgen_kernels::widened;
use i2vgen_schedulers::StepArgs;

use super::{
    VideoInput, VideoToVideoOptions, options::check_strength, source::Source, windows::Blend,
};
use crate::{
    Compat, Event, FrameProblem, ImageLatents, Latents, OutputType, PipelineError, Prompt, Video,
    check_frames, decode,
    generate::{report, seed_from_clock},
    generators::Generators,
    guidance, inputs, resize, video_latents,
};

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct Refinement {
    /// The decoded frames, unless only latents were asked for.
    pub video: Option<Video>,
    /// Frames that may be wrong: of one colour, or the same twice.
    pub frame_problems: Vec<FrameProblem>,
    /// Latents as the scheduler left them.
    pub latents: Latents,
    /// The seed that was used, or one for each video.
    pub seeds: Vec<u64>,
    /// Steps that were made.
    pub steps: usize,
    /// Most tokens of one prompt that the text encoder has no room for.
    pub cut_tokens: usize,
    /// Seconds per stage, in order.
    pub timings: Vec<(&'static str, f64)>,
}

pub(super) fn run<B: Backend>(
    source: &Source<B>,
    input: VideoInput<'_>,
    prompt: &Prompt,
    options: &VideoToVideoOptions,
    mut callback: impl FnMut(Event<'_, B>) -> ControlFlow<()>,
    device: &B::Device,
) -> Result<Refinement, PipelineError> {
    let prompts = prompt.count();
    let resized = check(source, input, prompt, options)?;
    let mut scheduler = source.scheduler(options)?;
    let steps = options.num_inference_steps;
    let kept = check_strength(options.strength, steps)?;
    let begin = (steps - kept) * scheduler.order();

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
    let (context, cut_tokens) = encode_prompts(source, prompt, options, device)?;
    lap("text_encoder");

    tell(Event::Stage("VAE encoder"))?;
    let mut fps = options.fps;
    let latents: Tensor<B, 5> = match (&resized, input) {
        (Some(video), _) | (None, VideoInput::Frames(video)) => {
            fps = fps.or(Some(video.fps));
            let vae = source.vae(options, device)?;
            let (chunk, kind) = (options.decode_chunk_size, ImageLatents::Sample);
            let video = video.repeated(prompts);
            video_latents::encode(&vae, &video, chunk, kind, &mut generators, device)?
        }
        (None, VideoInput::Latents(latents)) => {
            let x = latents.to_tensor(DType::F32, device);
            match x.dims()[0] {
                1 if prompts > 1 => x.repeat_dim(0, prompts),
                _ => x,
            }
        }
    };
    let fps = fps.unwrap_or(crate::video::DEFAULT_FPS);
    lap("vae_encode");

    let [videos, channels, frames, h, w] = latents.dims();
    // The scheduler sees every frame as a sample of its own, as in the reference.
    let frame_major = |x: Tensor<B, 5>| {
        let x: Tensor<B, 5> = x.permute([0, 2, 1, 3, 4]);
        x.reshape([videos * frames, channels, h, w])
    };
    let video_major = |x: Tensor<B, 4>| {
        let x: Tensor<B, 5> = x.reshape([videos, frames, channels, h, w]);
        x.permute([0, 2, 1, 3, 4])
    };
    let z = frame_major(latents);
    let noise = generators.normal(z.dims(), device);
    let timesteps = scheduler.timesteps().to_vec();
    scheduler.set_begin_index(begin)?;
    let mut x = scheduler.add_noise(z, noise, &timesteps[begin..=begin])?;

    tell(Event::Stage("UNet"))?;
    let unet = source.unet(options, device)?;
    lap("unet_load");
    let both = unet.prepare(context)?;
    let of_prompt = both.narrow(both.rows() - videos, videos);
    let of_nothing = both.narrow(0, videos);
    let blend = options
        .windows
        .and_then(|windows| Blend::<B>::new(windows, [frames, h, w], device));
    lap("unet_prepare");

    let mut draw = |like: &Tensor<B, 4>| generators.normal(like.dims(), device);
    let total = timesteps.len() - begin;
    for (index, &timestep) in timesteps.iter().enumerate().skip(begin) {
        let input = video_major(scheduler.scale_model_input(x.clone(), index)?);
        let predict = |x: Tensor<B, 5>, text| -> Result<Tensor<B, 5>, PipelineError> {
            let forward = |x| Ok(widened(unet.forward(x, timestep, text)?));
            match &blend {
                Some(blend) => blend.map(x, forward),
                None => forward(x),
            }
        };
        let prediction = if !options.guided() {
            predict(input, &of_prompt)?
        } else {
            let (without, with) = if options.split_guidance {
                let without = predict(input.clone(), &of_nothing)?;
                (without, predict(input, &of_prompt)?)
            } else {
                let both = predict(input, &both)?;
                let half = |start| both.clone().narrow(0, start, videos);
                (half(0), half(videos))
            };
            let (scale, rescale) = (options.guidance_scale, options.guidance_rescale);
            guidance::combine(without, with, scale, rescale)
        };
        let args = StepArgs::with_noise(options.eta, &mut draw);
        x = scheduler.step(frame_major(prediction), index, x, args)?;
        tell(Event::Step {
            done: index + 1 - begin,
            total,
            timestep,
            latents: &video_major(x.clone()),
        })?;
    }
    drop((unet, both, of_prompt, of_nothing, blend));
    let x = video_major(x);
    let latents = Latents::from_tensor(x.clone());
    decode::check_latents(&latents, "UNet")?;
    lap("denoise");

    let video = match options.output_type {
        OutputType::Latent => None,
        OutputType::Video => {
            tell(Event::Stage("VAE decoder"))?;
            let vae = source.vae(options, device)?;
            let chunk = options.decode_chunk_size;
            let video = decode::decode(&vae, x, chunk, fps, |done, total| {
                tell(Event::Decoded { done, total })
            })?;
            lap("vae_decode");
            Some(match options.truncate {
                true => video.truncated(),
                false => video,
            })
        }
    };
    let frame_problems = match &video {
        Some(video) => check_frames(video)?,
        None => Vec::new(),
    };
    Ok(Refinement {
        video,
        frame_problems,
        latents,
        seeds,
        steps: kept,
        cut_tokens,
        timings,
    })
}

/// Refuses whatever would fail later, before any weight is read. Returns the frames in the size that is asked for.
fn check<B: Backend>(
    source: &Source<B>,
    input: VideoInput<'_>,
    prompt: &Prompt,
    options: &VideoToVideoOptions,
) -> Result<Option<Video>, PipelineError> {
    let fail = |name, problem: String| Err(PipelineError::Option { name, problem });
    let prompts = prompt.count();
    inputs::check_prompts(prompt, &options.negative_prompt, options.guided())?;
    options.check(prompts)?;
    let layers = source.text_config()?.num_hidden_layers;
    if options.clip_skip.is_some_and(|skip| skip > layers) {
        return fail(
            "clip_skip",
            format!("must be at most the text encoder's {layers} layers"),
        );
    }
    let (vae, unet) = (source.vae_config()?, source.unet_config()?);
    let factor = vae.scale_factor();
    let width_of_text = unet.cross_attention_dim;
    for (name, prompt) in [
        ("prompt_embeds", prompt),
        ("negative_prompt_embeds", &options.negative_prompt),
    ] {
        if let Prompt::Embeds(embeds) = prompt
            && embeds.shape[2] != width_of_text
        {
            return fail(
                name,
                format!(
                    "shape {:?} must be [prompts, tokens, {width_of_text}]; they belong to another model",
                    embeds.shape
                ),
            );
        }
    }
    let (videos, latent) = match input {
        VideoInput::Frames(video) => {
            let [videos, frames, h, w] = video.shape();
            let [h, w] = options.resize.unwrap_or([h, w]);
            if frames == 0 || h == 0 || w == 0 {
                return fail("video", "has no frames; give another video".into());
            }
            let legal_h = unet.nearest_height((h / factor).max(1)) * factor;
            let legal_w = (w / factor).max(1) * factor;
            if [legal_h, legal_w] != [h, w] {
                return fail(
                    "video",
                    format!(
                        "has frames of {w}x{h}, which this model cannot take; resize it, the nearest size is {legal_w}x{legal_h}"
                    ),
                );
            }
            (videos, h / factor)
        }
        VideoInput::Latents(latents) => {
            latents.check("latents")?;
            let [videos, channels, _, h, _] = latents.shape;
            if channels != vae.latent_channels || latents.values.is_empty() {
                return fail(
                    "latents",
                    format!(
                        "shape {:?} must be [videos, {}, frames, h, w]",
                        latents.shape, vae.latent_channels
                    ),
                );
            }
            let legal = unet.nearest_height(h);
            if legal != h {
                return fail(
                    "latents",
                    format!(
                        "have {h} rows, which this model cannot take; the nearest number is {legal}; hand over frames instead, which can be resized"
                    ),
                );
            }
            if options
                .resize
                .is_some_and(|[height, _]| height != h * factor)
            {
                return fail(
                    "latents",
                    "cannot be resized; hand over frames instead".into(),
                );
            }
            (videos, h)
        }
    };
    if videos != 1 && videos != prompts {
        return fail(
            "video",
            format!(
                "{videos} videos for {prompts} prompts; give one video for each prompt, or one for all"
            ),
        );
    }
    if let Some(windows) = &options.windows {
        let part = windows.height[0].min(latent);
        let legal = unet.nearest_height(part);
        if legal != part {
            return fail(
                "windows",
                format!("{part} rows of latents are none that this model can take; use {legal}"),
            );
        }
    }
    Ok(match (input, options.resize) {
        (VideoInput::Frames(video), Some([height, width])) => {
            Some(resize::bilinear(video, height, width))
        }
        _ => None,
    })
}

/// Unconditional rows first, if there is guidance; and the most tokens that were cut.
fn encode_prompts<B: Backend>(
    source: &Source<B>,
    prompt: &Prompt,
    options: &VideoToVideoOptions,
    device: &B::Device,
) -> Result<(Tensor<B, 3>, usize), PipelineError> {
    let mut cut = 0;
    let mut encoder = None;
    let mut encode = |prompt: &Prompt, suffix: &str, skip| -> Result<Tensor<B, 3>, PipelineError> {
        let texts = match prompt {
            Prompt::Embeds(embeds) => return Ok(embeds.to_tensor(DType::F32, device)),
            Prompt::Texts(texts) => texts,
        };
        let (tokenizer, model) = match &mut encoder {
            Some(loaded) => loaded,
            None => {
                let mut tokenizer = source.tokenizer()?;
                if let Some(id) = options.pad_token_id {
                    tokenizer.pad_token_id = id;
                }
                encoder.insert((tokenizer, source.text_encoder(device)?))
            }
        };
        let mut rows = Vec::new();
        for text in texts {
            let encoding = tokenizer.encode(&format!("{text}{suffix}"))?;
            cut = cut.max(encoding.cut);
            let row = model.forward(encoding.to_tensor(device), skip)?;
            rows.push(widened(row));
        }
        Ok(Tensor::cat(rows, 0))
    };
    let skip = options.clip_skip;
    let with = encode(prompt, &options.prompt_suffix, skip)?;
    if !options.guided() {
        return Ok((with, cut));
    }
    let skip = match options.compat {
        Compat::Diffusers => None,
        _ => skip,
    };
    let without = encode(&options.negative_prompt, "", skip)?;
    let without = match without.dims()[0] {
        1 => without.repeat_dim(0, prompt.count()),
        _ => without,
    };
    if without.dims() != with.dims() {
        return Err(PipelineError::Option {
            name: "negative_prompt_embeds",
            problem: format!(
                "shape {:?} must be that of prompt_embeds, {:?}",
                without.dims(),
                with.dims()
            ),
        });
    }
    Ok((Tensor::cat(vec![without, with], 0), cut))
}
